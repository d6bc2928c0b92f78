"""Picard on growing samples where nearly Gaussian components can be mixtures of sources with the other sign."""

import numpy as np
import pytest

from gpuica import Picard
from gpuica.contrasts import as_contrast
from gpuica.device import array_device
from gpuica.oracle import ContrastOracle
from gpuica.rows.host import HostRows
from gpuica.rows.memory import memory_rows
from gpuica.solvers import growth
from gpuica.solvers.picard import picard
from gpuica.solvers.solution import Solution
from gpuica.solvers.stochastic import StochasticResult, stochastic_picard

from .problems import amari

EXCESS = np.where(np.arange(16) < 6, 0.2, 0.01)  # of the sources of `mixture_of_uniform_sources`
OPTIONS = {"max_iter": 100, "tol": "auto", "report": None, "ortho": True, "extended": True}


def make_oracle(S):
    """The oracle of sources, whitened without a rotation."""
    S = S - S.mean(axis=0)
    S = S @ np.linalg.inv(np.linalg.cholesky(np.cov(S.T, bias=True))).T
    return ContrastOracle(HostRows(S), as_contrast("logcosh"))


def left(oracle, W, excess):
    """What `_leave_mixtures` makes of W, whose components have this distance from Gaussian; and the runs."""
    runs = growth._Runs([W], [None], [0])
    return *growth._leave_mixtures(oracle, W, excess, np.random.RandomState(0), runs), runs


@pytest.fixture
def mixture_of_uniform_sources(rng):
    """Six Laplace sources, which W separates, and ten uniform ones, which it rotates."""
    S = np.hstack([rng.laplace(size=(60_000, 6)), rng.uniform(-1, 1, size=(60_000, 10))])
    W = np.eye(16)
    W[6:, 6:] = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    return make_oracle(S), W


def test_mixtures_are_left(mixture_of_uniform_sources):
    oracle, W = mixture_of_uniform_sources
    found, n_iter, runs = left(oracle, W, EXCESS)
    assert amari(W) > 0.1
    assert amari(found) < 0.03
    assert 0 < n_iter <= growth.MAX_ITER_TO_LEAVE
    np.testing.assert_array_equal(found[:6], W[:6])
    np.testing.assert_allclose(found @ found.T, np.eye(16), atol=1e-10)
    assert runs.sampled > 0


def test_mixtures_are_left_on_a_device(mixture_of_uniform_sources, cupy):
    oracle, W = mixture_of_uniform_sources
    rows = memory_rows(cupy.asarray(oracle.rows.array), device=array_device(cupy.zeros(1)))
    found, n_iter, _ = left(ContrastOracle(rows, as_contrast("logcosh")), cupy.asarray(W), cupy.asarray(EXCESS))
    assert n_iter > 0
    assert amari(found.get()) < 0.03


def test_a_sample_of_all_rows_is_not_drawn(mixture_of_uniform_sources, monkeypatch):
    monkeypatch.setattr(ContrastOracle, "sample", None)
    assert left(*mixture_of_uniform_sources, EXCESS)[1] > 0


def test_stochastic_steps_separate_super_gaussian_sources_from_mixtures_of_others(rng):
    """With the sign of its κ, which is nearly random, a mixture of both kinds remains one."""
    k = 64
    S = np.hstack([rng.laplace(size=(50_000, k // 2)), rng.uniform(-1, 1, size=(50_000, k // 2))])
    start = np.linalg.qr(rng.normal(size=(k, k)))[0]
    found = stochastic_picard(make_oracle(S), [start], rng=np.random.RandomState(0))
    of_laplace = found.excesses[0] > 0.15
    assert of_laplace.sum() == k // 2
    assert (found.Ws[0][of_laplace, : k // 2] ** 2).sum(axis=1).min() > 0.99


@pytest.mark.parametrize("n_nearly_gaussian", [0, 1])
def test_other_solutions_take_no_pass(n_nearly_gaussian, mixture_of_uniform_sources):
    oracle, W = mixture_of_uniform_sources
    found, n_iter, _ = left(oracle, W, np.where(np.arange(16) < n_nearly_gaussian, 0.01, 0.2))
    assert found is W
    assert n_iter == oracle.n_passes == 0


def test_gaussian_components_stay(rng):
    """Gaussian sources cannot be told from their mixtures: no rotation of them is farther from Gaussian."""
    S = np.hstack([rng.laplace(size=(60_000, 3)), rng.normal(size=(60_000, 5))])
    W = np.eye(8)
    found, n_iter, _ = left(make_oracle(S), W, np.where(np.arange(8) < 3, 0.2, 0.0))
    assert found is W
    assert n_iter == 0


@pytest.fixture
def starts_of_picard(monkeypatch):
    """The starting points of all calls of Picard, which returns them as solutions: not converged on samples."""
    solve_all, calls = growth.solve_all, []

    def solved(solver, oracle, starts, numbers=None, *, final=True, **options):
        if solver is growth.parallel:
            return solve_all(solver, oracle, starts, numbers, final=final, **options)
        calls.append(starts[0])
        zeros = np.zeros(len(starts[0]))
        return [Solution(starts[0], 1, zeros, final, zeros == 0, zeros, excess=EXCESS if len(calls) < 3 else 1 + zeros)]

    monkeypatch.setattr(growth, "solve_all", solved)
    return calls


def test_mixtures_of_a_solution_are_left_and_solved_again(mixture_of_uniform_sources, starts_of_picard):
    oracle, W = mixture_of_uniform_sources
    options = {**OPTIONS, "growth": 10.0, "rng": np.random.RandomState(0)}
    (solution,) = growth.run_all(picard, oracle, [W], **options)
    on_all_rows, again = starts_of_picard
    assert on_all_rows is W
    assert amari(again) < 0.03 < amari(W)
    assert 2 < solution.n_iter <= 2 + growth.MAX_ITER_TO_LEAVE
    starts_of_picard.clear()
    growth.run_all(picard, oracle, [W], **{**options, "extended": False})
    assert len(starts_of_picard) == 1


def test_mixtures_of_stochastic_steps_are_left_before_the_solution(mixture_of_uniform_sources, starts_of_picard):
    oracle, W = mixture_of_uniform_sources

    def steps(oracle, starts, **options):
        return StochasticResult(starts, [EXCESS], 2.5, 3)

    options = {**OPTIONS, "growth": 2.0, "rng": np.random.RandomState(0), "stochastic": steps}
    (solution,) = growth.run_all(picard, oracle, [W], **options)
    on_sample, on_all_rows = starts_of_picard[:2]
    assert on_sample is W
    assert amari(on_all_rows) < 0.03 < amari(W)
    assert solution.sampled > 2.5


def test_stochastic_steps_return_the_distance_from_gaussian(rng):
    y = np.column_stack([rng.laplace(size=200_000), rng.uniform(-1, 1, 200_000), rng.normal(size=200_000)])
    oracle = make_oracle(y)
    expected = picard(oracle, np.eye(3), max_iter=0, tol=1e-9).excess
    (excess,) = stochastic_picard(oracle, [np.eye(3)], rng=np.random.RandomState(0)).excesses
    np.testing.assert_allclose(excess, expected, atol=0.02)


def test_picard_returns_the_distance_from_gaussian(rng):
    """s κ / E g'(y) of a Laplace and a uniform source, by their definition on many rows, and 0 for a Gaussian one."""
    y = np.column_stack([rng.laplace(size=200_000), rng.uniform(-1, 1, 200_000), rng.normal(size=200_000)])
    y /= y.std(axis=0)
    g, slope = np.tanh(y), 1 - np.tanh(y) ** 2
    kappa = slope.mean(axis=0) - (g * y).mean(axis=0)
    solution = picard(make_oracle(y), np.eye(3), max_iter=0, tol=1e-9)
    np.testing.assert_allclose(solution.excess, abs(kappa) / slope.mean(axis=0), atol=2e-3)


def test_sources_of_both_signs_are_separated():
    """Without the check of nearly Gaussian components, five of six random states left uniform sources mixed."""
    rng = np.random.default_rng(0)
    n, k = 100_000, 128
    S = np.hstack([rng.laplace(size=(n, k // 2)), 2.45 * rng.uniform(-1, 1, size=(n, k // 2))]).astype(np.float32)
    A = rng.normal(size=(k, k)).astype(np.float32)
    ica = Picard(random_state=0).fit(S @ A)
    assert ica.converged_
    assert amari(ica.components_ @ A.T) < 0.01
