"""Dask arrays on clusters of 1, 2 and 4 workers, and with a worker that is killed during a pass."""

import os
import signal
from dataclasses import dataclass

import numpy as np
import pytest

from gpuica import DictionaryLearning, FastICA, MiniBatchDictionaryLearning
from gpuica.contrasts import LogCosh

from .problems import mixture

da = pytest.importorskip("dask.array", reason="needs Dask: pip install 'gpuica[dask]'")
distributed = pytest.importorskip("distributed", reason="needs Dask: pip install 'gpuica[dask]'")
rows_dask = pytest.importorskip("gpuica.rows.dask")
pytestmark = pytest.mark.dask

X0, _ = mixture(5000, 6)
SIZES = (900, 0, 1, 1500, 700, 1899, 0)
ESTIMATORS = {
    "FastICA": lambda: FastICA(random_state=0, tol=1e-6),
    "DictionaryLearning": lambda: DictionaryLearning(
        12, alpha=9, max_iter=3, fit_algorithm="cd", init="data", dead_atoms="worst", random_state=0
    ),
    "MiniBatch": lambda: MiniBatchDictionaryLearning(
        8, alpha=2, max_iter=1, fit_algorithm="cd", batch_size=1024, random_state=0
    ),
}


# Per worker. Workers in this process also count memory of other tests; with this limit whitened rows always fit.
LIMIT = "8GiB"


@pytest.fixture(autouse=True)
def several_groups_per_pass(monkeypatch):
    monkeypatch.setattr(rows_dask, "GROUP_BYTES", 1000 * 6 * 8)
    monkeypatch.setattr(rows_dask, "FAN_IN", 2)


def client_of(n_workers, **options):
    return distributed.Client(
        n_workers=n_workers, threads_per_worker=1, dashboard_address=":0", memory_limit=LIMIT, **options
    )


@pytest.fixture(scope="module", params=[1, 2, 4])
def client(request):
    with client_of(request.param, processes=False) as client:
        yield client


def spread(X):
    return da.from_array(X, chunks=(SIZES, 3))


found_before: dict = {}


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_results_are_independent_of_number_of_workers(client, name, dtype):
    X = X0.astype(dtype)
    expected = ESTIMATORS[name]().fit(X).components_
    found, repeated = (ESTIMATORS[name]().fit(spread(X).persist()).components_ for _ in range(2))
    np.testing.assert_array_equal(found, repeated)
    np.testing.assert_array_equal(found, found_before.setdefault((name, dtype), found))  # other numbers of workers
    tolerance = 1e-10 if dtype == np.float64 else 1e-6
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * abs(expected).max())


def test_whitened_rows_are_stored_on_workers_if_they_fit(client, monkeypatch):
    assert rows_dask._client() is client
    assert rows_dask._fits(1 << 20)
    assert not rows_dask._fits(1 << 36)
    rows = rows_dask.DaskRows(spread(X0), dtype=X0.dtype)
    stored = rows.projected(X0.mean(0), np.eye(6))
    distributed.wait(stored.array)
    held = client.who_has(stored.array)
    assert len(held) == stored.array.npartitions
    assert all(held.values())


def test_large_parameters_are_broadcast_to_workers(client, monkeypatch):
    expected = FastICA(random_state=0).fit(spread(X0))
    calls = []
    scatter = client.scatter
    monkeypatch.setattr(rows_dask, "MAX_GRAPH_BYTES", 100)
    monkeypatch.setattr(client, "scatter", lambda *args, **options: calls.append(options) or scatter(*args, **options))
    ours = FastICA(random_state=0).fit(spread(X0))
    assert len(calls) >= ours.n_iter_
    assert all(options["broadcast"] for options in calls)
    np.testing.assert_array_equal(ours.components_, expected.components_)
    np.testing.assert_allclose(ours.transform(spread(X0)).compute(), expected.transform(X0), atol=1e-12)


@dataclass(frozen=True)
class Deadly(LogCosh):
    """LogCosh whose evaluation kills the first worker that finds `file`."""

    file: str = ""

    at_point = None  # forces the array implementation, which calls `at`

    def at(self, u, xp=np):
        try:
            os.remove(self.file)
        except FileNotFoundError:
            return super().at(u, xp)
        os.kill(os.getpid(), signal.SIGKILL)


del Deadly.at_point  # without it, no kernel is compiled for this contrast


def test_results_are_unaffected_by_killed_worker(tmp_path, monkeypatch):
    file = tmp_path / "now"
    expected = FastICA(random_state=0, tol=1e-6).fit(spread(X0))
    n_sums = 0
    original = rows_dask.DaskRows.sum

    def sum_with_kill(self, contribution, *params):
        nonlocal n_sums
        n_sums += 1
        if n_sums == 4:  # the first sum computes the moments: this is the third iteration
            file.touch()
        return original(self, contribution, *params)

    with client_of(2, processes=True) as client:
        X = spread(X0).persist()
        distributed.wait(X)
        before = set(client.run(os.getpid).values())
        monkeypatch.setattr(rows_dask.DaskRows, "sum", sum_with_kill)
        ours = FastICA(random_state=0, tol=1e-6, fun=Deadly(file=str(file))).fit(X)
        client.wait_for_workers(2)
        after = set(client.run(os.getpid).values())
    assert not file.exists()
    assert len(before & after) == 1, "one worker was killed, and another came in its place"
    assert ours.n_iter_ == expected.n_iter_ > 3
    np.testing.assert_array_equal(ours.components_, expected.components_)
