"""Several starts in lockstep: the solution of each start alone, in as many passes as one start."""

import gc

import numpy as np
import pytest

from gpuica import FastICA, Picard
from gpuica.contrasts import as_contrast
from gpuica.oracle import ContrastOracle
from gpuica.rows.host import HostRows
from gpuica.solvers.fastica import deflation, parallel
from gpuica.solvers.growth import fittest
from gpuica.solvers.multistart import START, FixedPoint, Likelihood, Solver, solve_all
from gpuica.solvers.picard import picard

from .problems import amari, mixture, white


def oracle(Z):
    return ContrastOracle(HostRows(Z), as_contrast("logcosh"))


@pytest.mark.parametrize("solver", [parallel, picard, deflation])
def test_each_start_has_the_same_solution_as_alone(solver, rng):
    Z = white(1500, 5)
    starts = [rng.normal(size=(5, 5)) for _ in range(7)]

    joint, separate = oracle(Z), oracle(Z)
    results = solve_all(solver, joint, starts, max_iter=300, tol=1e-8)
    alone = [solver(separate, W, max_iter=300, tol=1e-8) for W in starts]
    for one, other in zip(results, alone, strict=True):
        np.testing.assert_allclose(one.W, other.W, atol=1e-6)
        assert one.n_iter == other.n_iter
    slowest = max(n.n_iter for n in alone) * (5 if solver is deflation else 1)
    assert joint.n_passes <= 1.5 * slowest + 3 < separate.n_passes


def test_block_size_does_not_change_the_result(rng, monkeypatch):
    from gpuica import sums

    Z, Ws = white(800, 6), [rng.normal(size=(6, 6)) for _ in range(5)]
    expected = [oracle(Z).likelihood(W) for W in Ws]
    for stack in (1, 7, 256):
        monkeypatch.setattr(sums, "STACK", stack)
        for result, parts in zip(oracle(Z).likelihood_batch(Ws), expected, strict=True):
            for actual, desired in zip(result, parts, strict=True):
                np.testing.assert_allclose(actual, desired, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_error_in_one_start_stops_all_and_is_raised(error, rng):
    closed = []

    @Solver
    def failing(oracle, W):
        try:
            for i in range(100):
                yield FixedPoint(W)
                if i == 3 and W[0, 0] == 2:
                    raise error("number three")
        finally:
            closed.append(float(W[0, 0]))

    with pytest.raises(error, match="number three"):
        solve_all(failing, oracle(white(200, 3)), [np.eye(3), 2 * np.eye(3), 3 * np.eye(3)])
    gc.collect()
    assert sorted(closed) == [1, 2, 3]


def test_requests_of_a_kind_share_a_pass_and_keep_their_start():
    """Solvers alternate between the kinds of request; one finishes before the other."""
    which, numbers = oracle(white(200, 3)), []

    @Solver
    def solver(oracle, W):
        for i in range(int(W[0, 0])):
            numbers.append(START.get())
            sums = yield (FixedPoint if i % 2 else Likelihood)(W, "rotation" if W[0, 0] == 2 else None)
        oracle.accept(W)
        return sums

    two, three = solve_all(solver, which, [2 * np.eye(3), 3 * np.eye(3)])
    assert which.n_passes == 3
    assert numbers == [0, 1, 0, 1, 1]
    assert START.get() is None
    np.testing.assert_array_equal(which.accepted.iterate[0], 2 * np.eye(3))  # of the first start
    for part, desired in zip(two, which.fixed_point(2 * np.eye(3), "rotation"), strict=True):
        np.testing.assert_allclose(part, desired, rtol=1e-12)
    np.testing.assert_allclose(three.loss, which.likelihood(3 * np.eye(3)).loss, rtol=1e-12)


def test_error_in_a_pass_is_raised(monkeypatch):
    def broken(self, Ws, squares=None):
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(ContrastOracle, "fixed_point_batch", broken)
    with pytest.raises(RuntimeError, match="the device is gone"):
        solve_all(parallel, oracle(white(200, 3)), [np.eye(3), np.eye(3)], max_iter=2, tol=1e-4)


def test_starts_share_the_covariance_of_a_sample(rng):
    sample = oracle(white(4000, 4)).sample(2000, np.random.RandomState(0))
    starts = [np.linalg.qr(rng.normal(size=(4, 4)))[0] for _ in range(6)]
    results = solve_all(picard, sample, starts, max_iter=100, tol="auto")
    assert sample.n_passes <= 1.5 * max(solution.n_iter for solution in results) + 4  # one of them for the covariance


def test_n_init_keeps_the_best_start():
    """With few rows, starts converge to different solutions; n_init must not be worse than any of them."""
    rng = np.random.default_rng(0)
    X = rng.laplace(size=(400, 12)) @ rng.normal(size=(12, 12))
    run = FastICA(random_state=0, n_init=6, algorithm="picard", tol=1e-6).fit(X)
    draws = np.random.RandomState(0)
    starts = [draws.normal(size=(12, 12)) for _ in range(6)]
    singles = [FastICA(w_init=start, algorithm="picard", tol=1e-6).fit(X) for start in starts]

    def non_gaussianity(ica):
        Y = ica.transform(X)
        return np.abs(np.log(np.cosh(Y)).mean(0) - 0.374567).sum()

    assert non_gaussianity(run) >= max(map(non_gaussianity, singles)) - 1e-4


def test_fittest_selects_the_separated_solution(rng):
    Z = white(3000, 4)
    good = parallel(oracle(Z), rng.normal(size=(4, 4)), max_iter=200, tol=1e-8)
    bad = parallel(oracle(Z), rng.normal(size=(4, 4)), max_iter=1, tol=2.0)
    assert fittest(oracle(Z), [bad, good, bad])[0] == 1


@pytest.mark.parametrize(
    "estimator", [Picard(n_init=4), FastICA(n_init=4), Picard(n_init=3, ortho=False, extended=True)]
)
def test_estimators_with_n_init(estimator):
    X, A = mixture(50_000, 6, dtype=np.float32)
    ica = estimator.set_params(random_state=0).fit(X)
    assert ica.converged_
    assert amari(ica.components_ @ A) < 0.01


@pytest.mark.parametrize("estimator", [FastICA(n_init=8), Picard(n_init=8)])
def test_starts_are_compared_on_samples_and_one_uses_all_rows(estimator, monkeypatch):
    from gpuica.solvers import growth

    calls, solve_all = [], growth.solve_all

    def counted(solver, oracle, starts, numbers, **options):
        calls.append((oracle.n_rows, len(starts)))
        return solve_all(solver, oracle, starts, **options)

    monkeypatch.setattr(growth, "solve_all", counted)
    X, A = mixture(50_000, 6, dtype=np.float32)
    ica = estimator.set_params(random_state=0).fit(X)
    assert amari(ica.components_ @ A) < 0.01
    assert calls[0] == (10_000, 8)
    assert calls[-1] == (50_000, 1)
    assert [n for n, _ in calls] == sorted(n for n, _ in calls)


def test_invalid_n_init_raises():
    X, _ = mixture(100, 3)
    with pytest.raises(ValueError, match="'n_init' parameter"):
        FastICA(n_init=0).fit(X)
    with pytest.raises(ValueError, match="w_init is one starting point"):
        FastICA(n_init=2, w_init=np.eye(3)).fit(X)
    with pytest.raises(ValueError, match="n_init > 1 needs a contrast with a known G"):
        FastICA(n_init=2, fun=lambda x: (x**3, (3 * x**2).mean(-1))).fit(X)
