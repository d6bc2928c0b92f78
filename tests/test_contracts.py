"""Every solver on an oracle that is a few closures over a small array: the contract of `solvers.protocol` is enough.

No rows, sums or kernels of the package; expected values come from mathematics.
"""

from types import SimpleNamespace

import numpy as np
import pytest

from gpuica import solvers
from gpuica.solvers.atoms import block_descent
from gpuica.solvers.dictionary import DEAD_ATOMS, EarlyStopping, FitState, SufficientStatistics, alternate, online
from gpuica.solvers.growth import run, run_all
from gpuica.solvers.median import geometric_median
from gpuica.solvers.multistart import solve_all
from gpuica.solvers.online import RunningMoments, online_step
from gpuica.solvers.picard import picard
from gpuica.solvers.stochastic import stochastic_picard
from gpuica.solvers.whitening import WHITENERS

from .problems import SOLVERS, amari, mixture, white

FAMILY = [(True, True), (True, False), (False, True), (False, False)]  # (ortho, extended)


class ArrayOracle:
    """Means of log cosh over the rows of an array Z (n, k), as `solvers.protocol` defines them, and nothing else."""

    xp, lookahead, rounding, dtype = np, 0, 1e-14, np.dtype(float)

    def __init__(self, Z, white=True):
        self.white = white
        self.Z, self.n_passes, self.accepted, self.samples = Z, 0, [], []
        self.n_rows = self.n_effective = self.n_kish = self.weight = len(Z)

    def fixed_point(self, W, squares=None):
        _, cross, *rest = self._means(W, squares)
        return (cross, *rest) if squares else (cross, *rest[:2])

    def likelihood(self, W, squares=None):
        loss, cross, slope, square, found = self._means(W, squares)
        return SimpleNamespace(loss=loss, cross=cross @ W.T, slope=slope, square=square, squares=found)

    def _means(self, W, squares):
        self.n_passes += 1
        Y, n = self.Z @ W.T, len(self.Z)
        g = np.tanh(Y)
        kinds = {
            None: (),
            "rotation": ((g**2).T @ Y**2 / n, (g * Y).T @ (g * Y) / n),
            "matrix": ((g**2).T @ Y**2 / n, (g * Y).T @ Y**2 / n, (Y**2).T @ Y**2 / n),
        }
        return np.log(np.cosh(Y)).mean(0), g.T @ self.Z / n, (1 - g**2).mean(0), (g**2).mean(0), kinds[squares]

    def covariance(self):
        return self.Z.T @ self.Z / len(self.Z)

    def power(self, W):
        return ((self.Z @ W.T) ** 2).mean(0)

    known_power = power

    def accept(self, W):
        self.accepted.append(W)

    def copy_to_host(self, *arrays):
        return SimpleNamespace(pending=False, read=lambda: arrays)

    # ---- several W, samples and batches
    def fixed_point_batch(self, Ws, squares=None):
        self.n_passes -= len(Ws) - 1
        return [self.fixed_point(W, kind) for W, kind in zip(Ws, squares or [None] * len(Ws), strict=True)]

    def likelihood_batch(self, Ws, squares=None):
        self.n_passes -= len(Ws) - 1
        return [self.likelihood(W, kind) for W, kind in zip(Ws, squares or [None] * len(Ws), strict=True)]

    def curvature_batch(self, Ws):
        Ys = [self.Z @ W.T for W in Ws]
        return [(1 - np.tanh(Y) ** 2).T @ Y**2 / (Y**2).sum(0) for Y in Ys]

    def sample(self, n, rng):
        self.samples.append(n)
        return ArrayOracle(self.Z[rng.choice(len(self.Z), n, replace=False)], white=False)

    def subspace(self, components):
        return ArrayOracle(self.Z @ components.T, white=False)

    def in_memory(self, n, rng):
        return self

    def batches(self, size, rng):
        order = rng.permutation(len(self.Z))
        return (ArrayOracle(self.Z[order[start : start + size]], white=False) for start in range(0, len(order), size))

    def gaussian_loss(self):
        return 0.37456720749145711

    def cached_result(self, name, make, *key):
        return make()


def relative_gradient(Z, W, *, ortho=True, extended=True):
    """E ψ(y) yᵀ - I (k, k) with ψ = s tanh (+ y if extended), or the skew part of E s tanh(y) yᵀ if ortho."""
    Y = Z @ W.T
    T, n = np.tanh(Y), len(Y)
    excess = (1 - T**2).mean(0) * (Y**2).mean(0) - (T * Y).mean(0)
    M = np.where((excess < 0) & extended, -1, 1)[:, None] * (T.T @ Y / n)
    return (M - M.T) / 2 if ortho else M + extended * (Y.T @ Y / n) - np.eye(len(W))


def rotation(rng, k):
    return np.linalg.qr(rng.normal(size=(k, k)))[0]


def laplace(n, k):
    """White rows of k Laplace sources."""
    X = np.random.default_rng(3).laplace(size=(n, k)) @ np.random.default_rng(4).normal(size=(k, k))
    X -= X.mean(0)
    eigenvalues, vectors = np.linalg.eigh(X.T @ X / n)
    return X @ vectors / np.sqrt(eigenvalues)


# ---- ICA -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_every_solver_ends_at_a_solution(name, rng):
    oracle, start = ArrayOracle(white(3000, 4)), rng.normal(size=(4, 4))
    found = solvers.SOLVERS[name](oracle, start, max_iter=500, tol=SOLVERS[name])
    assert found.converged
    gradient = relative_gradient(oracle.Z, found.W)
    if name == "deflation":  # each component is a solution orthogonal to those before it: E g(y_i) y_j = 0 for j > i
        gradient = np.triu(np.tanh(oracle.Z @ found.W.T).T @ oracle.Z @ found.W.T / 3000, 1)
    assert np.abs(gradient).max() < 1e-5
    np.testing.assert_allclose(found.W @ found.W.T, np.eye(4), atol=1e-12)
    np.testing.assert_array_equal(found.W, oracle.accepted[-1])
    assert found.n_iter == len(oracle.accepted) or name == "deflation"


@pytest.mark.parametrize("tol", [1e-9, "auto"])
@pytest.mark.parametrize(("ortho", "extended"), FAMILY)
def test_picard_finds_a_zero_of_each_gradient(ortho, extended, tol, rng):
    Z = white(3000, 4) if extended else laplace(3000, 4)
    found = picard(ArrayOracle(Z), rotation(rng, 4), max_iter=200, tol=tol, ortho=ortho, extended=extended)
    assert found.converged
    size = np.abs(relative_gradient(Z, found.W, ortho=ortho, extended=extended))
    np.testing.assert_allclose(found.gradient, size.max(1), atol=1e-12)
    assert size.max() < (0.06 if tol == "auto" else 1e-9)  # 0.06: three standard errors of a mean over 3000 rows


@pytest.mark.parametrize("name", ["parallel", "picard"])
def test_auto_measures_standard_errors(name, rng):
    oracle = ArrayOracle(white(3000, 4))
    found = solvers.SOLVERS[name](oracle, rotation(rng, 4), max_iter=100, tol="auto")
    Y = oracle.Z @ found.W.T
    T = np.tanh(Y)
    sign = np.where((1 - T**2).mean(0) < (T * Y).mean(0), -1, 1)
    entries = T[:, :, None] * Y[:, None, :]
    variance = ((entries - entries.swapaxes(1, 2)) / 2).var(0)  # of equal signs, since the rows are white
    signed = sign[:, None] * entries.mean(0)
    z = np.abs(signed - signed.T) / 2 / np.maximum((variance / 3000) ** 0.5, 1e-12)
    assert found.converged
    np.testing.assert_allclose(found.z, z.max(1), rtol=1e-6)
    assert (found.z < 3).all()


@pytest.mark.parametrize("name", solvers.SOLVERS)
def test_starts_in_lockstep_take_the_path_of_each_alone(name, rng):
    oracle, starts = ArrayOracle(white(1000, 3)), [rng.normal(size=(3, 3)) for _ in range(4)]
    together = solve_all(solvers.SOLVERS[name], oracle, starts, max_iter=50, tol=1e-7)
    n_passes, alone = oracle.n_passes, []
    for start in starts:
        oracle.n_passes = 0
        alone.append((solvers.SOLVERS[name](oracle, start, max_iter=50, tol=1e-7), oracle.n_passes))
    for one, (other, _) in zip(together, alone, strict=True):
        np.testing.assert_array_equal(one.W, other.W)
    assert n_passes == max(passes for _, passes in alone)


@pytest.mark.parametrize("solve", [run, run_all])
@pytest.mark.parametrize("name", ["parallel", "picard"])
def test_growing_samples(solve, name, rng):
    X, A = mixture(50_000, 3, mean=0.0)
    K = np.linalg.inv(np.linalg.cholesky(X.T @ X / len(X)))
    oracle, starts = ArrayOracle(X @ K.T), [rotation(rng, 3) for _ in range(2)]
    options = {"growth": 2.0, "rng": np.random.RandomState(0), "max_iter": 100, "tol": "auto"}
    found = solve(solvers.SOLVERS[name], oracle, starts, **options)
    for solution in found if solve is run_all else [found]:
        assert solution.converged
        assert solution.sampled > 0
        assert amari(solution.W @ K @ A) < 0.02
    assert oracle.samples == [10_000, 20_000]
    assert oracle.n_passes < 12  # on all rows


def test_a_quarter_of_the_starts_continues_on_the_next_sample(rng, monkeypatch):
    n_starts = []

    def counted(solver, oracle, starts, *args, **options):
        n_starts.append(len(starts))
        return solve_all(solver, oracle, starts, *args, **options)

    monkeypatch.setattr("gpuica.solvers.growth.solve_all", counted)
    oracle = ArrayOracle(white(80_000, 3))
    options = {"growth": 2.0, "rng": np.random.RandomState(0), "max_iter": 50, "tol": "auto"}
    run(solvers.SOLVERS["parallel"], oracle, [rotation(rng, 3) for _ in range(8)], **options)
    assert n_starts == [8, 2, 1, 1]  # 10,000, 20,000, 40,000 and all rows


def test_stochastic_picard_lowers_the_loss_to_the_error_of_the_rows(rng):
    k, Z = 4, white(20_000, 4)
    oracle = ArrayOracle(Z)
    best = picard(oracle, rotation(rng, k), max_iter=100, tol=1e-8).W
    skew = 0.3 * np.triu(rng.normal(size=(k, k)), 1)
    start = np.linalg.solve(np.eye(k) - (skew - skew.T) / 2, np.eye(k) + (skew - skew.T) / 2) @ best
    (W,), _, passes, epochs = stochastic_picard(oracle, [start], rng=np.random.RandomState(0), max_epochs=4)
    assert epochs == 4
    assert passes > 0
    np.testing.assert_array_equal(W, oracle.accepted[-1])
    before, after = (np.abs(relative_gradient(Z, at)).max() * 20_000**0.5 for at in (start, W))
    assert after < 1 < 3 < before


def test_an_online_step_is_a_newton_step_at_first(rng):
    """From a rotation by a small angle, with a rate of 1/2: half of the angle is left."""
    Z = white(20_000, 2)
    best = picard(ArrayOracle(Z), rotation(rng, 2), max_iter=100, tol=1e-9).W
    angle = 1e-3
    start = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ best
    step = online_step(ArrayOracle(Z), start, np.eye(2), None, 20_000, tol=0.1)
    left = (step.W @ best.T)[0, 1]
    assert abs(left) < 0.75 * angle  # the curvature of independent sources is nearly that of the rows
    np.testing.assert_allclose(step.W @ step.W.T, np.eye(2), atol=1e-12)


def test_running_moments_are_those_of_all_rows(rng):
    X = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 3)) + 1
    first, covariance = X[:100], np.cov(X[:100].T, bias=True)
    K = np.linalg.inv(np.linalg.cholesky(covariance))
    moments = RunningMoments(100, first.mean(0), covariance, K, 100)
    moments = moments.with_batch(400, X[100:].mean(0), np.cov(X[100:].T, bias=True))
    moments, W = moments.refresh_whitening(np.eye(3), eps=1e-16)
    np.testing.assert_allclose(moments.covariance, np.cov(X.T, bias=True), rtol=1e-12)
    np.testing.assert_allclose(moments.whitening @ moments.covariance @ moments.whitening.T, np.eye(3), atol=1e-10)
    np.testing.assert_allclose(W @ W.T, np.eye(3), atol=1e-12)


# ---- moments ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("shape", [(400, 5), (4, 6)])
@pytest.mark.parametrize("name", WHITENERS)
def test_whitening(name, shape, rng):
    X = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) + 5
    n, d = shape
    mean = X.mean(0)
    oracle = SimpleNamespace(
        xp=np,
        n_rows=n,
        n_features=d,
        weight=n,
        moments=lambda: (mean, np.cov(X.T, bias=True)),
        projected_moments=lambda center, C: (C @ (mean - center), C @ ((X - center).T @ (X - center) / n) @ C.T),
        centered=lambda: (mean, X - mean),
    )
    spectrum = WHITENERS[name](oracle, eps=2.2e-16)
    Z = (X - spectrum.mean) @ spectrum.whitening.T
    assert spectrum.rank == min(n - 1, d)
    np.testing.assert_allclose(Z.T @ Z / n, np.eye(spectrum.rank), atol=1e-8)


def test_the_geometric_median_of_a_cross(rng):
    """Unit vectors from the center of a cross sum to 0, whatever the lengths of its arms."""
    X = np.array([[1.0, 2.0], [101.0, 2.0], [0.0, 2.0], [0.5, 2.0], [0.75, -7.0], [0.75, 2.5]])

    def sums(c):
        r = np.linalg.norm(X - c, axis=1)
        far = r > 0
        return ((X - c)[far] / r[far, None]).mean(0) * far.mean(), (1 / r[far]).sum(keepdims=True) / 6, np.zeros(1)

    oracle = SimpleNamespace(xp=np, mean=lambda: X.mean(0), weiszfeld_sums=sums)
    np.testing.assert_allclose(geometric_median(oracle, tol=1e-9, max_iter=5000), [0.75, 2.0], atol=1e-6)


# ---- dictionaries ----------------------------------------------------------------------------------------------------
class SignOracle:
    """Rows that are multiples of one atom each, coded by the atom with the largest |inner product|."""

    xp = np

    def __init__(self, X):
        self.X, self.n_rows = X, len(X)

    def moments(self, D, n_worst=0):
        H = self.X @ D.T
        C = np.where(np.abs(H) == np.abs(H).max(1, keepdims=True), H, 0) / (D**2).sum(1)
        A, B, squares = C.T @ C, C.T @ self.X, ((self.X - C @ D) ** 2).sum(1)
        return SimpleNamespace(
            A=A,
            B=B,
            costs=squares.sum(keepdims=True) / 2,
            worst=self.X[np.argsort(-squares)[:n_worst]],
            n_unfinished=0,
            cost_at=lambda new, old: float(((self.X - C @ new) ** 2).sum() / 2),
        )

    def row(self, index):
        return self.X[index]


@pytest.fixture
def one_atom_each(rng):
    """Rows X (600, 4), multiples of the four orthonormal atoms that are returned with them."""
    atoms = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    return rng.normal(size=(600, 1)) * atoms[rng.integers(4, size=600)], atoms


def cosines(D, atoms):
    return D @ atoms.T / np.linalg.norm(D, axis=1, keepdims=True)


@pytest.mark.parametrize("policy", DEAD_ATOMS)
def test_alternating_updates(policy, one_atom_each, rng):
    X, atoms = one_atom_each
    states, start = [], np.vstack([atoms[:3] + 0.2 * rng.normal(size=(3, 4)), 1e-3 * rng.normal(size=(1, 4))])
    state = alternate(
        SignOracle(X),
        FitState(start),
        max_iter=200,
        tol=1e-9,
        update=block_descent,
        dead_atoms=DEAD_ATOMS[policy](np.random.RandomState(0), False),
        report=lambda state: states.append(state.n_iter),
    )
    assert state.converged
    assert states == list(range(1, state.n_iter + 1))
    assert (np.diff(state.costs) <= 1e-9).all()
    if policy != "keep":  # an atom that no row uses leaves a direction of the rows without an atom
        np.testing.assert_allclose(np.abs(cosines(state.D, atoms)).max(1), 1, atol=1e-6)
        assert state.costs[-1] < 1e-9


def test_online_updates(one_atom_each, rng):
    X, atoms = one_atom_each
    batches = (SignOracle(X[i : i + 100]) for _ in range(50) for i in range(0, 600, 100))
    state = online(
        FitState(atoms + 0.2 * rng.normal(size=(4, 4))),
        SufficientStatistics((4, 4), float, memory=300),
        batches,
        max_steps=300,
        update=block_descent,
        dead_atoms=DEAD_ATOMS["resample"](np.random.RandomState(0), False),
        stop=EarlyStopping(600, 4, 1e-10, None),
        report=lambda state: None,
    )
    assert state.converged
    assert 6 < state.n_iter < 300
    np.testing.assert_allclose(np.diag(cosines(state.D, atoms)), 1, atol=1e-6)
