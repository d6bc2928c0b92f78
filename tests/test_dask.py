"""Dask arrays: results match those of the same rows in memory, for any number of partitions, and are lazy."""

import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from gpuica import (
    DictionaryLearning,
    FastICA,
    MiniBatchDictionaryLearning,
    Picard,
    SparseCoder,
    metrics,
    sparse_encode,
    stability,
)
from gpuica.device import CPU
from gpuica.rows import open_rows
from gpuica.solvers import growth

from .problems import mixture

dask = pytest.importorskip("dask", reason="needs Dask: pip install 'gpuica[dask]'")
da = pytest.importorskip("dask.array", reason="needs Dask: pip install 'gpuica[dask]'")
rows_dask = pytest.importorskip("gpuica.rows.dask")
pytestmark = pytest.mark.dask

X0, _ = mixture(5000, 6)
SIZES = (900, 0, 1, 1500, 700, 1899, 0)  # 7 partitions, of which some are empty


@pytest.fixture(autouse=True)
def several_groups_per_pass(monkeypatch):
    """A pass over the small arrays of these tests takes several tasks, and the tree reduction has several levels."""
    monkeypatch.setattr(rows_dask, "GROUP_BYTES", 1000 * 6 * 8)
    monkeypatch.setattr(rows_dask, "FAN_IN", 2)
    monkeypatch.setattr(rows_dask, "MAX_PENDING_GROUPS", 2)


def spread(X, sizes=SIZES):
    """X as a Dask array of 7 partitions, each also split into two chunks of columns."""
    return da.from_array(X, chunks=(sizes, -(-X.shape[1] // 2)))


def close(found, expected, dtype):
    """Assert equality up to 1e-10 (float64) or 1e-6 (float32) times the largest absolute entry."""
    tolerance = 1e-10 if dtype == np.float64 else 1e-6
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


ESTIMATORS = {
    "FastICA": lambda: FastICA(random_state=0, tol=1e-6),
    "deflation": lambda: FastICA(algorithm="deflation", random_state=0, n_components=4),
    "eigh": lambda: FastICA(whiten_solver="eigh", random_state=0, tol=1e-6),
    "median": lambda: FastICA(random_state=0, center="median"),
    "custom": lambda: FastICA(fun=lambda x: (x**3, (3 * x**2).mean(axis=-1)), random_state=0, tol=1e-6),
    "Picard": lambda: Picard(random_state=0, sort="variance", tol=1e-5),
    "DictionaryLearning": lambda: DictionaryLearning(8, alpha=2, max_iter=4, fit_algorithm="cd", random_state=0),
    "worst": lambda: DictionaryLearning(
        12, alpha=9, max_iter=4, fit_algorithm="cd", init="data", dead_atoms="worst", random_state=0
    ),
    "MiniBatch": lambda: MiniBatchDictionaryLearning(8, alpha=2, max_iter=1, fit_algorithm="cd", random_state=0),
}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_fit_matches_in_memory_rows(name, dtype):
    X = X0.astype(dtype)
    expected, ours, repeated = (ESTIMATORS[name]().fit(x) for x in (X, spread(X), spread(X)))
    if name == "worst":
        assert expected.n_replaced_ == ours.n_replaced_ > 0
    np.testing.assert_array_equal(ours.components_, repeated.components_)
    assert ours.components_.dtype == dtype
    close(ours.components_, expected.components_, dtype)
    if hasattr(expected, "n_passes_"):
        assert (ours.n_passes_, ours.n_iter_) == (expected.n_passes_, expected.n_iter_)


@pytest.mark.filterwarnings("ignore:There are some small singular values")
def test_fewer_rows_than_features_matches_in_memory_rows():
    X = X0[:40]
    wide = np.hstack([X, X**2, np.sin(X), np.cos(X), X**3, X[:, ::-1] * X, X * X[:, :1], abs(X)])  # 40 x 48
    weights = np.arange(40.0) % 3
    ours, memory = (FastICA(3, random_state=0, whiten_solver="eigh", max_iter=500) for _ in range(2))
    memory.fit(wide, sample_weight=weights)
    ours.fit(spread(wide, (10, 0, 5, 5, 1, 0, 19)), sample_weight=weights)
    close(ours.components_, memory.components_, np.float64)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_normalize_rows_matches_in_memory_rows():
    expected, ours = (FastICA(random_state=0, normalize_rows=True, max_iter=5).fit(x) for x in (X0, spread(X0)))
    close(ours.components_, expected.components_, np.float64)
    close(ours.transform(spread(X0)).compute(), expected.transform(X0), np.float64)


@pytest.mark.parametrize("kind", ["host", "dask"])
def test_sample_weight_matches_in_memory_rows(kind):
    w = np.arange(5000.0) % 3
    weights = w if kind == "host" else da.from_array(w, chunks=1234)
    expected = FastICA(random_state=0, tol=1e-6).fit(X0, sample_weight=w)
    ours = FastICA(random_state=0, tol=1e-6).fit(spread(X0), sample_weight=weights)
    close(ours.components_, expected.components_, np.float64)
    close(ours.whitening_, expected.whitening_, np.float64)


@pytest.mark.parametrize("fits", [True, False])
def test_growing_samples_in_memory_and_on_workers(fits, monkeypatch):
    monkeypatch.setattr(growth, "first_sample", lambda k: 700)
    expected = Picard(random_state=0, growth=2).fit(X0)
    if not fits:
        monkeypatch.setattr("gpuica.device.ALWAYS_FITS_BYTES", 0)
        monkeypatch.setattr(type(CPU), "budget", lambda self: 0)
        monkeypatch.setattr(rows_dask, "_fits", lambda size: True)
    sampled = []
    original = rows_dask.DaskRows._drawn
    monkeypatch.setattr(
        rows_dask.DaskRows, "_drawn", lambda self, rows: sampled.append(original(self, rows)) or sampled[-1]
    )
    ours = Picard(random_state=0, growth=2).fit(spread(X0))
    assert {type(rows) for rows in sampled if rows.n_rows > 64} == {rows_dask.HostRows if fits else rows_dask.DaskRows}
    assert ours.n_passes_ == expected.n_passes_
    close(ours.components_, expected.components_, np.float64)


def test_whitened_rows_are_recomputed_if_they_do_not_fit(monkeypatch):
    expected = FastICA(random_state=0).fit(spread(X0))
    monkeypatch.setattr(rows_dask, "_fits", lambda size: False)
    ours = FastICA(random_state=0).fit(spread(X0))
    assert ours.n_passes_ == expected.n_passes_ - 1
    close(ours.components_, expected.components_, np.float64)


def test_results_are_lazy_with_chunks_of_X():
    ica = FastICA(random_state=0).fit(X0)
    expected, X = ica.transform(X0), spread(X0)
    sources = ica.transform(X)
    assert isinstance(sources, da.Array)
    assert sources.chunks == (SIZES, (6,))
    assert sources.dtype == sources._meta.dtype == np.float64
    np.testing.assert_allclose(sources.compute(), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(ica.inverse_transform(sources).compute(), X0, rtol=1e-10)
    np.testing.assert_allclose(
        FastICA(random_state=0, tol=1e-6).fit_transform(X).compute(),
        FastICA(random_state=0, tol=1e-6).fit_transform(X0),
        atol=1e-8,
    )


def test_transform_is_lazy():
    def stop(block):
        raise RuntimeError("computed")

    X = spread(X0).map_blocks(stop, dtype=X0.dtype, meta=np.empty((0, 0)))
    sources = FastICA(random_state=0).fit(X0).transform(X)
    codes = SparseCoder(X0[:8]).transform(X)
    for lazy in (sources, codes):
        with pytest.raises(RuntimeError, match="computed"):
            lazy.compute()


@pytest.mark.parametrize("algorithm", ["omp", "lasso_cd", "topk"])
@pytest.mark.parametrize("split_sign", [False, True])
def test_codes_match_in_memory_rows(algorithm, split_sign):
    D = X0[:9] / np.linalg.norm(X0[:9], axis=1, keepdims=True)
    coder = SparseCoder(D, transform_algorithm=algorithm, split_sign=split_sign)
    expected, codes = coder.transform(X0), coder.transform(spread(X0))
    assert isinstance(codes, da.Array)
    assert codes.shape == expected.shape
    np.testing.assert_allclose(codes.compute(), expected, atol=1e-12)
    np.testing.assert_allclose(
        coder.fit(spread(X0)).inverse_transform(codes).compute(),
        expected[:, :9] @ D - (expected[:, 9:] @ D if split_sign else 0),
        atol=1e-10,
    )
    coder.sparse_output = True
    sparse = coder.transform(spread(X0))
    assert sparse.format == "csr"
    np.testing.assert_allclose(sparse.toarray(), expected, atol=1e-12)


def test_sparse_encode_and_score_match_in_memory_rows():
    D = X0[:9] / np.linalg.norm(X0[:9], axis=1, keepdims=True)
    np.testing.assert_allclose(sparse_encode(spread(X0), D).compute(), sparse_encode(X0, D), atol=1e-12)
    learner = MiniBatchDictionaryLearning(8, alpha=2, max_iter=1, fit_algorithm="cd", random_state=0).fit(X0)
    assert abs(learner.score(spread(X0)) / learner.score(X0) - 1) < 1e-12


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_unfinished_codes_are_counted_across_workers():
    messages = []
    for X in (X0, spread(X0)):
        with pytest.warns(ConvergenceWarning, match="of 5000 rows did not converge") as caught:
            DictionaryLearning(8, alpha=0.1, max_iter=1, fit_algorithm="cd", transform_max_iter=2, random_state=0).fit(
                X
            )
        messages.append([str(one.message) for one in caught if "5000 rows" in str(one.message)])
    assert messages[0] == messages[1]


@pytest.mark.parametrize("dtype", [np.int16, np.float16])
def test_other_dtypes_match_in_memory_rows(dtype):
    X = (X0 * 20).astype(dtype)
    expected, ours = (FastICA(random_state=0, tol=1e-6).fit(x) for x in (X, spread(X)))
    close(ours.components_, expected.components_, ours.components_.dtype)
    assert ours.transform(spread(X)).compute().dtype == expected.components_.dtype


def test_unknown_chunk_sizes_are_computed_without_modifying_input():
    X = spread(X0)
    X = X[X[:, 0] > 3]
    assert np.isnan(X.shape[0])
    expected = FastICA(random_state=0).fit(X0[X0[:, 0] > 3])
    close(FastICA(random_state=0).fit(X).components_, expected.components_, np.float64)
    assert np.isnan(X.shape[0])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_raise(value):
    bad = X0.copy()
    bad[3000, 2] = value
    ica = FastICA(random_state=0).fit(X0)
    for estimator in (FastICA(), Picard(whiten=False), DictionaryLearning(4), MiniBatchDictionaryLearning(4)):
        with pytest.raises(ValueError, match="Input X contains NaN"):
            estimator.fit(spread(bad))
    sources = ica.transform(spread(bad))
    with pytest.raises(ValueError, match="Input X contains NaN or infinity: FastICA does not accept them"):
        sources.compute()


@pytest.mark.parametrize("whiten", [True, False])
def test_nan_check_needs_no_extra_pass(whiten):
    """Dictionary learning of one iteration computes each chunk once, ICA without whitening once per pass."""
    n_computed = []

    def counted(block):
        n_computed.append(len(block))
        return block

    X = da.from_array(X0, chunks=(1000, -1)).map_blocks(counted, dtype=X0.dtype, meta=np.empty((0, 0)))
    with warnings.catch_warnings(), dask.config.set(scheduler="synchronous"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        if whiten:
            DictionaryLearning(4, init=X0[:4], max_iter=1, fit_algorithm="threshold").fit(X)
            assert sum(n_computed) == len(X0)
        else:
            ica = FastICA(whiten=False, random_state=0, max_iter=2).fit(X)
            assert sum(n_computed) == ica.n_passes_ * len(X0)


def test_invalid_input_raises():
    with pytest.raises(ValueError, match="Expected 2D array, got 1D array"):
        FastICA().fit(da.ones(10))
    with pytest.raises(ValueError, match="real numbers, got dtype complex128"):
        FastICA().fit(da.ones((10, 2), dtype=complex))
    with pytest.raises(ValueError, match="minimum of 2 sample"):
        FastICA().fit(da.ones((1, 2)))
    with pytest.raises(ValueError, match="expecting 6 features"):
        FastICA(random_state=0).fit(X0).transform(da.ones((10, 2)))
    with pytest.raises(ValueError, match=r"does not move the chunks of a Dask array.*map_blocks\(cupy.asarray\)"):
        FastICA(device="cuda").fit(spread(X0))
    with pytest.raises(TypeError, match=r"is not a Dask array; of a Dask frame, pass X.to_dask_array"):
        FastICA().fit(rows_dask.dask.delayed(1))


def test_metrics_and_stability_match_in_memory_rows():
    sources = FastICA(random_state=0).fit_transform(X0)
    for metric in (metrics.negentropy, metrics.excess_kurtosis, metrics.relative_gradient):
        np.testing.assert_allclose(metric(spread(sources)), metric(sources), rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        *(metrics.matched_correlation(x, x[:, ::-1])[0] for x in (spread(sources), sources)), rtol=1e-10
    )
    found, expected = (
        stability.stability(FastICA(tol=1e-6), x, n_runs=3, random_state=0).index for x in (spread(X0), X0)
    )
    np.testing.assert_allclose(found, expected, atol=1e-8)


def test_pass_is_one_task_per_group_of_partitions(monkeypatch):
    from dask.callbacks import Callback

    monkeypatch.setattr(rows_dask, "GROUP_BYTES", 1 << 20)
    rows = open_rows(da.from_array(X0, chunks=(10, 6)), dtype=X0.dtype, device=CPU)
    assert len(rows._groups) == 1
    monkeypatch.setattr(rows_dask, "GROUP_BYTES", 1)
    monkeypatch.setattr(rows_dask, "MAX_GROUPS", 20)
    rows = open_rows(da.from_array(X0, chunks=(10, 6)), dtype=X0.dtype, device=CPU)
    assert 15 <= len(rows._groups) <= 20
    assert [i for group in rows._groups for i in group] == list(range(500))  # consecutive partitions, each exactly once
    stored = rows.projected(X0.mean(0), np.eye(6))
    assert stored.array.numblocks == (len(rows._groups), 1)
    tasks = []
    with Callback(pretask=lambda key, *_: tasks.append(str(key))):
        stored.sum(column_sum)
    n_sums = sum(key.startswith("run_task-") for key in tasks)
    assert n_sums == len(rows._groups)


def column_sum(chunk):
    return (chunk.sum(axis=0),)


def test_chunks_on_gpu_are_processed_on_gpu(cupy):
    if cupy.ndarray.__module__ == "cupy" and not hasattr(cupy, "take"):  # the fake, which Dask does not recognise
        da.core.concatenate_lookup.register(cupy.ndarray, lambda parts, axis=0: cupy.concatenate(parts, axis=axis))

    def of_device(X):
        parts = [
            da.from_delayed(
                rows_dask.dask.delayed(cupy.asarray, pure=False)(part),
                part.shape,
                part.dtype,
                meta=cupy.asarray(np.empty((0, 0))),
            )
            for part in np.split(X, [900, 2500, 4000])
        ]
        return da.concatenate(parts)

    expected, ours = (FastICA(random_state=0, tol=1e-6).fit(x) for x in (X0, of_device(X0)))
    np.testing.assert_allclose(ours.components_, expected.components_, atol=1e-8)
    assert isinstance(ours.components_, np.ndarray)
    block = ours.transform(of_device(X0)).blocks[1].compute()
    assert isinstance(block, cupy.ndarray)
    np.testing.assert_allclose(block.get(), expected.transform(X0[900:2500]), atol=1e-7)
    learners = (DictionaryLearning(8, alpha=2, max_iter=2, tol=2, fit_algorithm="fista", random_state=0) for _ in "ab")
    one, other = (learner.fit(x) for learner, x in zip(learners, (X0, of_device(X0)), strict=True))
    np.testing.assert_allclose(other.components_, one.components_, atol=1e-6)
