"""Mini-batches of dictionaries of many atoms: the codes of the last rows in place of Σ c cᵀ."""

import pickle

import numpy as np
import pytest

from gpuica import MiniBatchDictionaryLearning
from gpuica.code_oracle import CodeOracle
from gpuica.coders import Lasso
from gpuica.device import CPU
from gpuica.estimators import _checkpoint, _learning
from gpuica.rows import open_rows
from gpuica.solvers import recent_codes
from gpuica.solvers.atoms import block_descent
from gpuica.solvers.dictionary import SufficientStatistics
from gpuica.solvers.recent_codes import RecentCodes

K, d, N = 60, 6, 400


@pytest.fixture
def X(rng):
    A = rng.normal(size=(2 * K, d))
    codes = rng.laplace(size=(N, len(A))) * (rng.random((N, len(A))) < 0.05)
    return codes @ A + 0.05 * rng.normal(size=(N, d))


def learner(**settings):
    defaults = {"alpha": 0.3, "fit_algorithm": "cd", "init": "data", "batch_size": 50, "max_iter": 2, "tol": 0}
    return MiniBatchDictionaryLearning(K, random_state=0, max_no_improvement=None, **defaults | settings)


@pytest.fixture
def with_dense_statistics(monkeypatch):
    """A function that fits an estimator with Σ c cᵀ."""

    def fit(estimator, X):
        with monkeypatch.context() as patch:
            patch.setattr(_learning, "MAX_ATOMS_PER_FEATURE", 1e9)
            estimator.fit(X)
        assert isinstance(estimator._statistics, SufficientStatistics)
        return estimator

    return fit


SETTINGS = {
    "default": {},
    "positive": {"positive_dict": True},
    "memory": {"memory": 150},
    "worst": {"dead_atoms": "worst"},
    "keep": {"dead_atoms": "keep"},
    "threshold": {"fit_algorithm": "threshold", "alpha": 1.0},
    "omp": {"fit_algorithm": "omp", "transform_n_nonzero_coefs": 3},
    "last batch smaller": {"batch_size": 70},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fit_is_that_of_dense_statistics_while_all_rows_are_kept(
    settings, dtype, X, with_dense_statistics, monkeypatch
):
    monkeypatch.setattr(recent_codes, "ROWS_PER_ATOM", 100)
    monkeypatch.setattr(recent_codes, "NEGLIGIBLE", 0.0)
    X = X.astype(dtype)
    expected = with_dense_statistics(learner(**settings), X)
    found = learner(**settings).fit(X)
    assert isinstance(found._statistics, RecentCodes)
    assert found.n_replaced_ == expected.n_replaced_
    np.testing.assert_allclose(found.costs_, expected.costs_, rtol=1e-3 if dtype == np.float32 else 1e-10)
    if dtype == np.float64:  # in float32 later batches amplify the rounding of earlier ones
        np.testing.assert_allclose(found.components_, expected.components_, atol=1e-9)
    assert found.components_.dtype == dtype


def test_one_update_is_block_descent_on_the_sums(X, rng):
    D = rng.normal(size=(K, d))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    oracle = CodeOracle(open_rows(X, dtype=X.dtype, device=CPU), Lasso(0.3))
    moments = oracle.moments(D)
    expected, unused = block_descent(D, moments.A / N, moments.B / N)
    statistics = RecentCodes((K, d), float)
    coded = statistics.collect(oracle, D, 7, 0)
    found, found_unused = statistics.update(D, None)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    np.testing.assert_array_equal(found_unused, unused)
    assert coded.costs[0] == pytest.approx(moments.cost, rel=1e-12)
    np.testing.assert_allclose(coded.worst, oracle.moments(D, 7).worst)


def dense_codes(statistics, t):
    """The codes (n, K) of batch t that statistics hold, and the numbers of their rows among all kept ones."""
    first = statistics.sizes[:t].sum()
    C = np.zeros((statistics.sizes[t], K))
    for j in range(K):
        for e in range(statistics.starts[t, j], statistics.starts[t, j + 1]):
            C[statistics.rows[e] - first, j] = statistics.values[e]
    return C, slice(first, first + len(C))


def test_residuals_are_those_of_the_last_rows(X, monkeypatch):
    """After many batches, and after the caller changed atoms, the last rows, their codes and x - c D are kept."""
    monkeypatch.setattr(recent_codes, "ROWS_PER_ATOM", 3)  # 180 rows: three batches of 50
    estimator = learner(shuffle=False, max_iter=1)
    for start in range(0, N, 50):
        estimator.partial_fit(X[start : start + 50])
        if start == 250:
            estimator.components_ = np.roll(estimator.components_, 1, axis=0)
    statistics = estimator._statistics
    assert statistics.sizes.tolist() == [50, 50, 50]
    rows = []
    for t in range(3):
        C, kept = dense_codes(statistics, t)
        rows.append(statistics.residuals[kept] + C @ statistics.D)
    np.testing.assert_allclose(np.concatenate(rows), X[-150:], atol=1e-12)
    assert estimator.n_replaced_ > 0


def test_rows_of_negligible_weight_are_dropped(X):
    estimator = learner(memory=60, batch_size=20, max_iter=1).fit(X)
    sizes = estimator._statistics.sizes
    assert 0 < sizes.sum() < 20 * 80  # a batch has (2/3)^t of the weight: 1e-6 after 34 batches
    assert (estimator._statistics.weights > 0.9e-6 / 20).all()


def test_statistics_of_atoms_are_reset(X):
    estimator = learner(max_iter=1).fit(X)
    statistics = estimator._statistics
    atoms = np.arange(K) % 3 == 0
    before = [dense_codes(statistics, t)[0] for t in range(len(statistics.sizes))]
    statistics.reset(atoms)
    assert not statistics.use[atoms].any()
    for t, C in enumerate(before):
        np.testing.assert_array_equal(dense_codes(statistics, t)[0], C * ~atoms)


def test_fit_resumes_from_a_checkpoint(X, tmp_path, monkeypatch):
    monkeypatch.setattr(_checkpoint, "SNAPSHOT_INTERVAL", 0.0)
    expected, path, batches = learner().fit(X), tmp_path / "checkpoint", []

    def stop(variables):
        if variables["i"] == 6:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        learner(checkpoint=path, callback=stop).fit(X)
    found = learner(checkpoint=path, callback=lambda variables: batches.append(variables["i"])).fit(X)
    np.testing.assert_array_equal(found.components_, expected.components_)
    assert batches[0] == 7


def test_partial_fit_continues_after_pickling(X):
    expected, found = learner(), learner()
    for start in range(0, N, 100):
        expected.partial_fit(X[start : start + 100])
        found = pickle.loads(pickle.dumps(found.partial_fit(X[start : start + 100])))
    np.testing.assert_array_equal(found.components_, expected.components_)


def test_least_squares_keeps_dense_statistics(X):
    assert isinstance(learner(update="least_squares", max_iter=1).fit(X)._statistics, SufficientStatistics)
