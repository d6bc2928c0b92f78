"""The Hessian's diagonal in samples: against differences of the loss, textbook loops, and what it does to a fit."""

import numpy as np
import pytest
import scipy.linalg

from gpuica import FastICA, Picard
from gpuica.contrasts import as_contrast
from gpuica.device import array_device
from gpuica.oracle import ContrastOracle
from gpuica.rows.memory import MemoryRows
from gpuica.solvers import growth, quasi_newton
from gpuica.solvers.quasi_newton import DAMPED, Rotations, picard
from gpuica.solvers.restarts import solve_all

from . import naive
from .problems import amari, mixture, white


def probing(Z, weights=None):
    """An oracle whose samples are all rows."""
    oracle = ContrastOracle(MemoryRows(Z, device=array_device(Z), weights=weights), as_contrast("logcosh"))
    oracle.probe = (len(Z), np.random.RandomState(0))
    return oracle


def of_loops(Z, W, weights):
    """E w g'(y_i) y_j² / E w y_j², one row at a time."""
    top, bottom = np.zeros((len(W), len(W))), np.zeros(len(W))
    for z, w in zip(Z, weights, strict=True):
        y = W @ z
        top += w * np.outer([naive.slope["logcosh"](u) for u in y], y**2)
        bottom += w * y**2
    return top / bottom


@pytest.mark.parametrize("weighted", [False, True])
def test_of_the_rows_is_the_textbooks(weighted, rng):
    Z, W = white(500, 4), rng.normal(size=(4, 4))
    weights = rng.integers(0, 4, size=500).astype(float) if weighted else np.ones(500)
    oracle = probing(Z, weights if weighted else None)
    np.testing.assert_allclose(oracle.curvature(W), of_loops(Z, W, weights), rtol=1e-11)
    assert oracle.probed == pytest.approx(1)
    assert oracle.n_passes == 0


def test_newton_divides_by_the_second_derivative_of_the_loss(rng, monkeypatch):
    """Along a turn of the pair (i, j), by differences; and by no less than FLAT."""
    monkeypatch.setattr(quasi_newton, "FLAT", 0.005)
    Z = white(2000, 5)
    W = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    oracle = probing(Z)
    space = Rotations(oracle, extended=True, floor=0.001)
    at = oracle.likelihood(W)
    sign = np.array([1.0, -1.0, 1.0, -1.0, 1.0])
    space.look(W)
    seconds = []
    for i, j in zip(*np.triu_indices(5, 1), strict=True):
        turn = np.zeros((5, 5))
        turn[i, j], turn[j, i] = 1.0, -1.0

        def loss(t, turn=turn):
            new = scipy.linalg.expm(t * turn) @ W
            return space.loss(new, oracle.likelihood(new), sign)

        # half of it: the gradient is half the derivative of the loss along a turn, as it is Picard's
        second = (loss(3e-4) - 2 * loss(0) + loss(-3e-4)) / 9e-8 / 2
        np.testing.assert_allclose(space.newton(turn, W, at, sign)[i, j], 1 / max(second, 0.005), rtol=1e-4)
        seconds.append(second)
    assert min(seconds) < 0.005 < max(seconds)


def test_a_pair_in_a_flat_valley_is_damped(rng):
    Z, W = white(2000, 4), np.eye(4)
    oracle = probing(Z)
    space = Rotations(oracle, extended=True, floor=0.01)
    at = oracle.likelihood(W)
    sign = space.signs(W, at)
    step = rng.normal(size=(4, 4))
    step -= step.T
    assert space.pair(step, step, 3.0, at, sign) == (step, step, pytest.approx(1 / 3))  # without a look: as it is
    space.look(W)
    pairs = np.triu_indices(4, 1)
    told = 2 * (step**3 / (space.newton(step, W, at, sign) + np.eye(4)))[pairs].sum()  # step² times the curvature
    steep = 2 * told / (step * step).sum() * step
    kept = space.pair(step, steep, float((step * steep).sum()), at, sign)
    assert kept[1] is steep
    for change in (0.13 * steep, 0.01 * steep, -steep):
        _, mixed, inverse = space.pair(step, change, float((step * change).sum()), at, sign)
        assert 1 / inverse == pytest.approx(DAMPED * told)
        assert (step * mixed).sum() == pytest.approx(DAMPED * told)


def test_a_sample_without_a_source_tells_no_nan():
    Z = np.zeros((100, 2))
    Z[:, 0] = 1.0
    assert np.isfinite(probing(Z).curvature(np.eye(2))).all()


@pytest.mark.parametrize("estimator", [Picard(), FastICA(algorithm="picard", growth="auto", tol="auto")])
def test_late_stages_look_and_count_it(estimator, monkeypatch):
    looks, original = [], ContrastOracle.curvature_of_all

    def counted(self, Ws):
        looks.append((self.n_rows, self.probe[0]))
        return original(self, Ws)

    X, A = mixture(200_000, 20)
    monkeypatch.setattr(ContrastOracle, "curvature_of_all", counted)
    estimator.set_params(random_state=0).fit(X.astype(np.float32))
    assert estimator.converged_
    assert amari(estimator.components_ @ A) < 0.01
    assert not looks  # independent sources: no late stage takes PROBED iterations
    loud = X * np.exp(np.random.default_rng(0).normal(size=(len(X), 1)))  # all sources at once
    ica = estimator.fit(loud.astype(np.float32))
    assert ica.converged_
    assert {n for n, _ in looks} == {80_000, 200_000}  # not the samples of 10,000, 20,000 and 40,000 rows
    assert {n for _, n in looks} == {20_000}
    n_passes = ica.n_passes_
    monkeypatch.setattr(growth, "PROBE", 4)  # the same question to twice the rows: more is counted
    assert estimator.fit(loud.astype(np.float32)).n_passes_ > n_passes


def test_no_look_without_growth(monkeypatch):
    monkeypatch.setattr(ContrastOracle, "curvature_of_all", None)
    X, _ = mixture(60_000, 4, dtype=np.float32)
    assert Picard(growth=None, random_state=0).fit(X).converged_
    assert Picard(growth=None, n_init=3, random_state=0).fit(X).converged_
    assert Picard(growth=2.0, random_state=0).fit(X[:30_000]).converged_  # too few rows for a small part to tell


def test_starts_in_step_look_together(rng):
    """As many looks as of one, and the answers of each start alone, where the sample is all rows."""
    Z = white(3000, 4)
    starts = [np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(3)]

    def solve(oracle, W):
        return picard(oracle, W, max_iter=30, tol=1e-8)

    together = solve_all(solve, probing(Z), starts)
    for start, found in zip(starts, together, strict=True):
        alone = solve(probing(Z), start)
        np.testing.assert_allclose(found.W, alone.W, atol=1e-9)
        assert found.converged


def test_two_fits_agree_to_the_bit():
    X, _ = mixture(60_000, 5, dtype=np.float32)
    a, b = (Picard(random_state=3).fit(X) for _ in range(2))
    np.testing.assert_array_equal(a.components_, b.components_)


def test_on_a_device_as_on_the_host(cupy, rng):
    Z, W = white(600, 4), rng.normal(size=(4, 4))
    weights = rng.integers(0, 3, size=600).astype(float)
    for w in (None, weights):
        oracle = probing(cupy.asarray(Z), None if w is None else cupy.asarray(w))
        np.testing.assert_allclose(oracle.curvature(cupy.asarray(W)).get(), probing(Z, w).curvature(W), rtol=1e-10)
    found = picard(probing(cupy.asarray(Z)), cupy.asarray(W), max_iter=50, tol=1e-8)
    alone = picard(probing(Z), W, max_iter=50, tol=1e-8)
    assert found.converged
    np.testing.assert_allclose(found.W.get(), alone.W, atol=1e-9)
