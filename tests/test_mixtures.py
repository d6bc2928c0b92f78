"""Picard on growing samples where nearly Gaussian components can be mixtures of sources with the other sign."""

import numpy as np
import pytest

from gpuica import Picard
from gpuica.contrasts import as_contrast
from gpuica.oracle import ContrastOracle
from gpuica.rows.host import HostRows
from gpuica.solvers import growth
from gpuica.solvers.picard import picard
from gpuica.solvers.solution import Solution

from .problems import amari

OPTIONS = {"max_iter": 100, "tol": "auto", "report": None, "ortho": True, "extended": True}


def make_oracle(S):
    """The oracle of sources, whitened without a rotation."""
    S = S - S.mean(axis=0)
    S = S @ np.linalg.inv(np.linalg.cholesky(np.cov(S.T, bias=True))).T
    return ContrastOracle(HostRows(S), as_contrast("logcosh"))


def left(oracle, W, excess):
    """What `_leave_mixtures` makes of a solution W whose components have this distance from Gaussian; and the runs."""
    zeros = np.zeros(len(W))
    solution = Solution(W, 7, zeros, True, zeros == 0, zeros, excess=excess)
    runs = growth._Runs([W], [None], [0])
    return solution, growth._leave_mixtures(picard, oracle, solution, np.random.RandomState(0), runs, 0, OPTIONS), runs


@pytest.fixture
def mixture_of_uniform_sources(rng):
    """Six Laplace sources, which W separates, and ten uniform ones, which it rotates."""
    S = np.hstack([rng.laplace(size=(60_000, 6)), rng.uniform(-1, 1, size=(60_000, 10))])
    W = np.eye(16)
    W[6:, 6:] = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    return make_oracle(S), W


def test_mixtures_are_left(mixture_of_uniform_sources):
    oracle, W = mixture_of_uniform_sources
    excess = np.where(np.arange(16) < 6, 0.2, 0.01)
    solution, found, runs = left(oracle, W, excess)
    assert amari(W) > 0.1
    assert amari(found.W) < 0.02
    assert found.converged
    assert found.n_iter > solution.n_iter
    assert runs.sampled > 0


@pytest.mark.parametrize("n_nearly_gaussian", [0, 1])
def test_other_solutions_take_no_pass(n_nearly_gaussian, mixture_of_uniform_sources):
    oracle, W = mixture_of_uniform_sources
    solution, found, _ = left(oracle, W, np.where(np.arange(16) < n_nearly_gaussian, 0.01, 0.2))
    assert found is solution
    assert oracle.n_passes == 0


def test_gaussian_components_stay(rng):
    """Gaussian sources cannot be told from their mixtures: no rotation of them is farther from Gaussian."""
    S = np.hstack([rng.laplace(size=(60_000, 3)), rng.normal(size=(60_000, 5))])
    solution, found, _ = left(make_oracle(S), np.eye(8), np.where(np.arange(8) < 3, 0.2, 0.0))
    assert found is solution


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
