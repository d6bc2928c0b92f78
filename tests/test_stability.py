"""Icasso: sources found in every run are stable, Gaussian directions are not."""

import numpy as np
import pytest

from gpuica import FastICA, Picard
from gpuica.stability import cluster, stability

from .problems import amari, mixture


def half_gaussian(n=4000, k=3):
    """k Laplace sources and k Gaussian ones, which ICA cannot identify.  Returns X (n, 2k) and A."""
    rng = np.random.default_rng(0)
    S = np.hstack([rng.laplace(size=(n, k)), rng.normal(size=(n, k))])
    A = rng.normal(size=(2 * k, 2 * k))
    return S @ A.T, A


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("estimator", [FastICA(max_iter=50), Picard()])
def test_sources_are_stable_and_gaussian_directions_are_not(estimator, bootstrap):
    X, A = half_gaussian()
    result = stability(estimator, X, n_runs=8, bootstrap=bootstrap, random_state=0)
    assert result.labels.shape == (8, 6)
    assert result.sizes.sum() == 48
    assert (np.diff(result.index) <= 0).all()
    assert (result.index[:3] > 0.9).all()
    assert result.index[-1] < 0.8 or not bootstrap
    P = np.abs(result.components[:3] @ A)
    P /= P.max(axis=1, keepdims=True)
    assert sorted(P.argmax(axis=1)) == [0, 1, 2]  # the Laplace sources
    assert not hasattr(estimator, "components_")


def test_index_of_identical_and_random_runs(rng):
    base = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    shuffled = np.stack([base[rng.permutation(5)] * rng.choice([-1, 1], size=(5, 1)) for _ in range(6)])
    identical = cluster(shuffled, np.eye(5))
    np.testing.assert_allclose(identical.index, 1, atol=1e-9)
    np.testing.assert_array_equal(identical.sizes, 6)
    assert amari(identical.components @ base.T) < 1e-9
    for run in identical.labels:
        assert sorted(run) == [0, 1, 2, 3, 4]
    unrelated = cluster(np.stack([np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(6)]), np.eye(5))
    assert unrelated.index.mean() < 0.5


def test_runs_share_passes(monkeypatch):
    from gpuica.rows.host import HostRows

    calls = []
    original = HostRows.sum
    monkeypatch.setattr(HostRows, "sum", lambda self, *args: calls.append(self.n_rows) or original(self, *args))
    X, _ = mixture(3000, 5)
    ica = FastICA(random_state=0).fit(X)
    alone = len(calls)
    calls.clear()
    stability(FastICA(), X, n_runs=10, random_state=0)
    assert len(calls) < 4 * alone < 10 * ica.n_iter_


def test_results_are_reproducible_with_random_state():
    X, _ = half_gaussian(1000)
    one, two = (stability(Picard(), X, n_runs=3, random_state=1) for _ in range(2))
    np.testing.assert_array_equal(one.components, two.components)


def test_plot_writes_a_file(tmp_path):
    pytest.importorskip("matplotlib")
    X, _ = half_gaussian(1000)
    stability(Picard(), X, n_runs=3, random_state=1).plot(tmp_path / "stability.png")
    assert (tmp_path / "stability.png").stat().st_size > 1000


def test_one_run_raises():
    with pytest.raises(ValueError, match="n_runs must be at least 2"):
        stability(Picard(), half_gaussian(100)[0], n_runs=1)
