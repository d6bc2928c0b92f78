"""Rows shared by several ranks: every rank gets the result of one process with all rows."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import gpuica
from gpuica import DictionaryLearning, FastICA, Picard, SparseCoder, shared
from gpuica.comm import TorchComm, loopback
from gpuica.device import CPU
from gpuica.rows import open_rows
from gpuica.rows.shared import Shared
from gpuica.solvers import growth

from .ranks import ENDS, ESTIMATORS, X0, fit_some, on_ranks, rows_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def expect_one_answer(results, expected, dtype=np.float64):
    """Assert bitwise equality of all results, and equality with `expected` up to rounding.

    The tolerance is 1e-10 (float64) or 1e-6 (float32) times the largest absolute entry of `expected`.
    """
    for result in results:
        if isinstance(result, Exception):
            raise result
        np.testing.assert_array_equal(result, results[0])
    tolerance = 1e-10 if dtype == np.float64 else 1e-6
    np.testing.assert_allclose(results[0], expected, rtol=0, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", ENDS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_fit_matches_one_process(name, size, dtype):
    if name == "deflation" and dtype == np.float32:
        pytest.skip("one process, with the rows in other chunks, differs by 3e-6 too")
    X = X0.astype(dtype)
    expected = ESTIMATORS[name]().fit(X)
    if name in ("worst", "resample"):
        assert expected.n_replaced_
    fitted = on_ranks(size, lambda comm: ESTIMATORS[name]().fit(shared(X[rows_of(comm)], comm)))
    expect_one_answer([one.components_ for one in fitted], expected.components_, dtype)
    if hasattr(expected, "n_passes_"):
        assert {one.n_passes_ for one in fitted} == {expected.n_passes_}


BY = [
    pytest.param("torch", 2, marks=pytest.mark.torch),
    pytest.param("torch", 3, marks=pytest.mark.torch),
    pytest.param("mpi", 2, marks=pytest.mark.mpi),
]


def run_processes(kind, size, file):
    """The completed processes of `python -m tests.ranks`."""
    script = [sys.executable, "-m", "tests.ranks", kind, file]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    if kind == "mpi":
        allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        oversubscribe = {
            "OMPI_MCA_rmaps_base_oversubscribe": "1",
            "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        }
        environment |= {**allowed, **oversubscribe}
        return [subprocess.run(["mpirun", "-n", str(size), *script], env=environment, timeout=100, **pipes)]
    ranks = [{**environment, "RANK": str(rank), "WORLD_SIZE": str(size)} for rank in range(size)]
    running = [subprocess.Popen(script, env=env, **pipes) for env in ranks]
    ended = [process.communicate(timeout=100) for process in running]
    return [
        subprocess.CompletedProcess(script, process.returncode, *outputs)
        for process, outputs in zip(running, ended, strict=True)
    ]


@pytest.mark.parametrize(("kind", "size"), BY)
def test_fit_in_processes_matches_one_process(kind, size, tmp_path):
    file = str(tmp_path / "rank{}.npz")
    for result in run_processes(kind, size, file):
        assert result.returncode == 0, result.stderr
    results = [np.load(file.format(rank)) for rank in range(size)]
    for name, expected in on_ranks(1, fit_some)[0].items():
        expect_one_answer([result[name] for result in results], expected)


@pytest.mark.torch
def test_killed_process_raises_in_other_ranks(tmp_path):
    survivor, dead = run_processes("dying", 2, str(tmp_path / "rank{}.npz"))
    assert dead.returncode == 1
    assert survivor.returncode == 1
    assert "RuntimeError" in survivor.stderr


def test_results_contain_rows_of_their_rank():
    expected = FastICA(random_state=0, tol=1e-6)
    S = expected.fit_transform(X0)
    D = X0[:9] / np.linalg.norm(X0[:9], axis=1, keepdims=True)
    C = SparseCoder(D).transform(X0)

    def work(comm):
        X, mine = shared(X0[rows_of(comm)], comm), rows_of(comm)
        ica = FastICA(random_state=0, tol=1e-6)
        np.testing.assert_allclose(ica.fit_transform(X), S[mine], atol=1e-8)
        np.testing.assert_allclose(ica.transform(X), S[mine], atol=1e-8)
        np.testing.assert_allclose(
            ica.transform(X0[mine][:1000]) if len(X0[mine]) else S[mine], S[mine][:1000], atol=1e-8
        )
        np.testing.assert_allclose(ica.inverse_transform(shared(S[mine], comm)), X0[mine], atol=1e-6)
        np.testing.assert_allclose(SparseCoder(D).transform(X), C[mine], atol=1e-12)
        np.testing.assert_allclose(SparseCoder(D, sparse_output=True).transform(X).toarray(), C[mine], atol=1e-12)
        return np.zeros(1)

    expect_one_answer(on_ranks(3, work), np.zeros(1))


def test_sample_weight_matches_one_process():
    w = np.arange(5000.0) % 3
    expected = FastICA(random_state=0, tol=1e-6).fit(X0, sample_weight=w)

    def fit(comm, scale=1.0):
        mine = rows_of(comm)
        weights = w[mine] * scale
        if comm.rank == 0:
            weights = np.zeros(len(weights))
        return FastICA(random_state=0, tol=1e-6).fit(shared(X0[mine], comm), sample_weight=weights)

    w[: ENDS[2][1]] = 0  # the rows of one rank have zero weight
    expected = FastICA(random_state=0, tol=1e-6).fit(X0, sample_weight=w)
    fitted = on_ranks(2, fit)
    expect_one_answer([ica.components_ for ica in fitted], expected.components_)
    expect_one_answer([ica.whitening_ for ica in fitted], expected.whitening_)
    for error in on_ranks(2, lambda comm: fit(comm, 0.0)):
        assert "sample_weight is zero for every row" in str(error)
    for error in on_ranks(2, lambda comm: FastICA().fit(shared(X0[:9], comm), sample_weight=[None, w[:9]][comm.rank])):
        assert "on every rank or on none" in str(error)


def test_growing_samples_match_one_process(monkeypatch):
    monkeypatch.setattr(growth, "first_sample", lambda k: 700)
    expected = Picard(random_state=0, growth=2, tol=1e-8).fit(X0)
    fitted = on_ranks(3, lambda comm: Picard(random_state=0, growth=2, tol=1e-8).fit(shared(X0[rows_of(comm)], comm)))
    expect_one_answer([ica.components_ for ica in fitted], expected.components_)
    assert {ica.n_passes_ for ica in fitted} == {expected.n_passes_}
    assert expected.n_passes_ % 1


@pytest.mark.filterwarnings("ignore:There are some small singular values")
def test_fewer_rows_than_features_matches_one_process():
    X = np.hstack([f(X0[:39]) for f in (np.array, np.square, np.sin, np.cos, np.abs, np.tanh, np.sinc)])
    w = 1 + np.arange(39.0) % 2
    expected = FastICA(3, random_state=0, whiten_solver="eigh", max_iter=500).fit(X, sample_weight=w)
    fitted = on_ranks(
        3,
        lambda comm: FastICA(3, random_state=0, whiten_solver="eigh", max_iter=500).fit(
            shared(X[13 * comm.rank : 13 * comm.rank + 13], comm), sample_weight=w[13 * comm.rank : 13 * comm.rank + 13]
        ),
    )
    expect_one_answer([ica.components_ for ica in fitted], expected.components_)


@pytest.mark.parametrize("random_state", [None, "RandomState of each rank"])
def test_all_ranks_use_random_state_of_rank_0(random_state):
    def fit(comm):
        rng = np.random.RandomState(comm.rank) if random_state else None
        return FastICA(random_state=rng, tol=1e-6).fit(shared(X0[rows_of(comm)], comm)).components_

    results = on_ranks(3, fit)
    start = FastICA(random_state=np.random.RandomState(0), tol=1e-6).fit(X0).components_
    expect_one_answer(results, start if random_state else results[0])


def test_take_and_subset_use_global_row_indices():
    indices = np.random.default_rng(0).integers(0, 5000, size=50)

    def rows(comm):
        return open_rows(Shared(X0[rows_of(comm)], comm), dtype=X0.dtype, device=CPU)

    for size in ENDS:
        expect_one_answer(on_ranks(size, lambda comm: rows(comm).take(indices)), X0[indices])
        gathered = on_ranks(size, lambda comm: rows(comm).subset(np.sort(indices)).to_memory().map(np.array))
        expect_one_answer(gathered, X0[np.sort(indices)])


def test_error_of_one_rank_raises_in_all():
    def failing(x):
        if threading_name() == "rank 1":
            raise ValueError("mine alone")
        return x**3, (3 * x**2).mean(axis=-1)

    def fit(comm):
        name_thread(f"rank {comm.rank}")
        return FastICA(fun=failing, random_state=0).fit(shared(X0[rows_of(comm)], comm))

    first, second = on_ranks(2, fit)
    assert str(second) == "mine alone"
    assert "rank 1 of 2 stopped with an error, so rank 0 stops too" in str(first)


def test_invalid_rows_of_one_rank_raise_in_all():
    bad = X0.copy()
    bad[4000] = np.nan
    codes = on_ranks(2, lambda comm: SparseCoder(X0[:4]).transform(shared(bad[rows_of(comm)], comm)))
    assert "rank 1 of 2 stopped" in str(codes[0])
    assert "contains NaN" in str(codes[1])
    for error in on_ranks(2, lambda comm: FastICA().fit(shared(bad[rows_of(comm)], comm))):  # detected in the sums
        assert "NaN" in str(error)
    for error in on_ranks(2, lambda comm: FastICA().fit(shared(X0[:, : 3 + comm.rank], comm))):
        assert "all ranks must have rows of the same kind, but they have [3 4] features" in str(error)
    for error in on_ranks(2, lambda comm: FastICA().fit(shared(X0.astype(f"f{4 + 4 * comm.rank}"), comm))):
        assert "they have [4 8] bytes a number" in str(error)
    for error in on_ranks(2, lambda comm: FastICA().fit(shared(X0[:0], comm))):
        assert "0 sample(s) on all ranks together" in str(error)


def test_missing_rank_raises_in_other_ranks():
    waiting, gone = on_ranks(2, lambda comm: None if comm.rank else FastICA().fit(shared(X0, comm)), timeout=0.2)
    assert gone is None
    assert "rank 0 of 2 was aborted" in str(waiting)


def test_loopback_allreduce_sums_over_ranks():
    arrays = [np.arange(6).reshape(2, 3), np.float32(0.5), np.zeros((0, 4))]
    for sums in on_ranks(3, lambda comm: comm.allreduce([(comm.rank + 1) * array for array in arrays])):
        for total, array in zip(sums, arrays, strict=True):
            np.testing.assert_array_equal(total, 6.0 * array)
            assert total.dtype == np.float64


@pytest.mark.torch
def test_torch_comm_without_process_group_raises():
    pytest.importorskip("torch")
    with pytest.raises(RuntimeError, match=r"torch\.distributed\.init_process_group"):
        TorchComm()


def test_torch_comm_without_torch_raises(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match="TorchComm needs torch: pip install torch"):
        TorchComm()


def test_shared_dask_array_raises():
    da = pytest.importorskip("dask.array", reason="needs Dask: pip install 'gpuica[dask]'")
    with pytest.raises(TypeError, match=r"fit it without gpuica\.shared"):
        gpuica.FastICA().fit(shared(da.ones((10, 2)), loopback(1)[0]))


def name_thread(name):
    threading.current_thread().name = name


def threading_name():
    return threading.current_thread().name


@pytest.mark.parametrize("random_state", [0, None])
def test_ranks_resume_from_last_common_pass(random_state, tmp_path):
    """Ranks killed after different passes have stored different numbers of results."""

    def fit(comm):
        model = FastICA(random_state=random_state, tol=1e-9, checkpoint=tmp_path / str(comm.rank))
        return model.fit(shared(X0[rows_of(comm)], comm))

    whole = [model.components_ for model in on_ranks(3, fit)]
    first_lost = {0: 5, 1: 3, 2: 9}  # rank -> first pass without a stored result
    for rank, first in first_lost.items():
        for path in (tmp_path / str(rank)).glob("answer-*"):
            if int(path.stem[-5:]) >= first:
                path.unlink()
    resumed = on_ranks(3, fit)
    for model in resumed:
        np.testing.assert_array_equal(model.components_, whole[0])
    with pytest.raises(ValueError, match="does not support shared rows"):
        DictionaryLearning(3, checkpoint=tmp_path / "d").fit(shared(X0, loopback(1)[0]))
