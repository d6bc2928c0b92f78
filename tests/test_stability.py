"""Icasso: sources that every run finds are stable, directions of a Gaussian are not."""

import numpy as np
import pytest

from gpuica import FastICA, Picard
from gpuica.stability import cluster, stability

from .problems import amari, mixture


def half_gaussian(n=4000, k=3):
    """k Laplace sources and k Gaussian ones, which no ICA can tell apart.  X (n, 2k), A."""
    rng = np.random.default_rng(0)
    S = np.hstack([rng.laplace(size=(n, k)), rng.normal(size=(n, k))])
    A = rng.normal(size=(2 * k, 2 * k))
    return S @ A.T, A


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("bootstrap", [False, True])
@pytest.mark.parametrize("estimator", [FastICA(max_iter=50), Picard()])
def test_sources_are_stable_and_gaussian_directions_are_not(estimator, bootstrap):
    X, A = half_gaussian()
    found = stability(estimator, X, n_runs=8, bootstrap=bootstrap, random_state=0)
    assert found.labels.shape == (8, 6)
    assert found.sizes.sum() == 48
    assert (np.diff(found.index) <= 0).all()
    assert (found.index[:3] > 0.9).all()
    assert found.index[-1] < 0.8 or not bootstrap
    P = np.abs(found.components[:3] @ A)
    P /= P.max(axis=1, keepdims=True)
    assert sorted(P.argmax(axis=1)) == [0, 1, 2]  # the Laplace sources
    assert not hasattr(estimator, "components_")


def test_the_index_of_perfect_and_of_random_runs(rng):
    base = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    shuffled = np.stack([base[rng.permutation(5)] * rng.choice([-1, 1], size=(5, 1)) for _ in range(6)])
    perfect = cluster(shuffled, np.eye(5))
    np.testing.assert_allclose(perfect.index, 1, atol=1e-9)
    np.testing.assert_array_equal(perfect.sizes, 6)
    assert amari(perfect.components @ base.T) < 1e-9
    for run in perfect.labels:
        assert sorted(run) == [0, 1, 2, 3, 4]
    chance = cluster(np.stack([np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(6)]), np.eye(5))
    assert chance.index.mean() < 0.5


def test_runs_share_their_passes(monkeypatch):
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


def test_the_same_random_state_gives_the_same_answer():
    X, _ = half_gaussian(1000)
    one, two = (stability(Picard(), X, n_runs=3, random_state=1) for _ in range(2))
    np.testing.assert_array_equal(one.components, two.components)


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    X, _ = half_gaussian(1000)
    stability(Picard(), X, n_runs=3, random_state=1).plot(tmp_path / "stability.png")
    assert (tmp_path / "stability.png").stat().st_size > 1000


def test_one_run_raises():
    with pytest.raises(ValueError, match="n_runs must be at least 2"):
        stability(Picard(), half_gaussian(100)[0], n_runs=1)
