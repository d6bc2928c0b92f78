"""Solvers and whitening: naive iterates, and the conditions that define a solution."""

from unittest.mock import Mock

import numpy as np
import pytest
from scipy.linalg import expm

from gpuica import kernels, solvers
from gpuica.contrasts import CONTRASTS, as_contrast
from gpuica.exceptions import NotFiniteError
from gpuica.oracle import ContrastOracle, MomentOracle
from gpuica.rows.host import HostRows
from gpuica.solvers import whitening
from gpuica.solvers.fastica import parallel
from gpuica.solvers.orthonormal import MAX_DEFECT, _norm, cayley_rotation, nearly_rotated, orthonormal, polar
from gpuica.solvers.whitening import WHITENERS

from . import naive
from .problems import SOLVERS, mixture, white

EPS = {np.float32: 1.2e-7, np.float64: 2.2e-16}


def compute_spectrum(X, solver="svd", chunk_rows=None):
    oracle = MomentOracle(HostRows(X, chunk_rows=chunk_rows))
    return WHITENERS[solver](oracle, eps=EPS[X.dtype.type])


# ---- fixed point -----------------------------------------------------------------------------------------------------
def test_orthonormal_is_the_nearest_orthogonal_matrix(rng):
    W = rng.normal(size=(7, 7))
    np.testing.assert_allclose(orthonormal(W), naive.symmetric_decorrelation(W), atol=1e-10)


@pytest.mark.parametrize("k", [1, 2, 7, 64])
@pytest.mark.parametrize("condition", [1, 10, 1e3, 2e4])
@pytest.mark.parametrize("size", [1e-30, 1, 1e30])
def test_polar_is_the_nearest_orthogonal_matrix(k, condition, size, rng):
    U, _, V = np.linalg.svd(rng.normal(size=(k, k)))
    M = size * (U * np.geomspace(1, 1 / condition, k)) @ V
    W, defect = polar(M)
    np.testing.assert_allclose(W, naive.symmetric_decorrelation(M), atol=1e-15 * condition * k + 1e-13)
    np.testing.assert_allclose(W @ W.T, np.eye(k), atol=1e-13)
    assert defect < MAX_DEFECT


@pytest.mark.parametrize("smallest", [0, 1e-12, 1e-8])
def test_defect_is_large_if_products_did_not_converge(smallest, rng):
    U, _, V = np.linalg.svd(rng.normal(size=(5, 5)))
    W, defect = polar((U * [1, 0.5, 0.2, 0.1, smallest]) @ V)
    assert np.isfinite(W).all()
    assert defect > MAX_DEFECT


@pytest.mark.parametrize("size", [1e-3, 1, 3])
def test_cayley_rotation_by_products_is_exact(size, monkeypatch, rng):
    W, D = orthonormal(rng.normal(size=(6, 6))), rng.normal(size=(6, 6))
    D = (D - D.T) * size / np.linalg.norm(D - D.T, 2)
    monkeypatch.setattr(kernels, "products_pay", lambda M: True)
    expected = np.linalg.inv(np.eye(6) - D / 2) @ (np.eye(6) + D / 2) @ W
    np.testing.assert_allclose(cayley_rotation(W, D), expected, atol=1e-13)
    monkeypatch.undo()
    np.testing.assert_allclose(cayley_rotation(W, D), expected, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("k", [2, 3, 40])
@pytest.mark.parametrize("size", [0, 1e-3, 0.7, 1.5, 3.5, 6, 50])
def test_repeated_rotations_by_few_products(size, k, dtype, rng):
    """Near the exponential of D; D = 0 then removes what is left."""
    W, D = np.linalg.qr(rng.normal(size=(k, k)))[0], rng.normal(size=(k, k))
    D = (D - D.T) * size / np.linalg.norm(D - D.T, 2)
    found = nearly_rotated(W.astype(dtype), D.astype(dtype))
    assert found.dtype == dtype
    values = np.linalg.svd(found.astype(float))[1]
    assert 0.85 < values.min() <= values.max() < 1.15
    by_solve = size > 2
    expected = cayley_rotation(W, D) if by_solve else orthonormal(W + D @ W + D @ D @ W / 2)
    if not by_solve:
        assert np.linalg.norm(expected - expm(D) @ W, 2) < size**3 / 6 + 1e-14
    for _ in range(7):
        found = nearly_rotated(found, np.zeros_like(found))
    np.testing.assert_allclose(found, expected, atol=1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("size", [0.3, 0.6, 0.9, 1.3, 1.5])
def test_errors_of_rotations_by_few_products_do_not_add_up(size, rng):
    W = np.linalg.qr(rng.normal(size=(40, 40)))[0]
    for _ in range(100):
        D = rng.normal(size=(40, 40))
        W = nearly_rotated(W, (D - D.T) * size / np.linalg.norm(D - D.T, 2))
        assert abs(np.linalg.svd(W)[1] - 1).max() < 0.15


@pytest.mark.parametrize("size", [0.1, 1, 1.5])
def test_moderate_rotations_need_no_solve(size, monkeypatch, rng):
    monkeypatch.setattr("gpuica.solvers.orthonormal.cayley_rotation", None)
    W, D = np.linalg.qr(rng.normal(size=(40, 40)))[0], rng.normal(size=(40, 40))
    nearly_rotated(W, (D - D.T) * size / np.linalg.norm(D - D.T, 2))


def test_rotation_by_few_products_whose_norm_is_underestimated(monkeypatch, rng):
    monkeypatch.setattr("gpuica.solvers.orthonormal._norm", lambda M: 0.0)
    W, D = np.linalg.qr(rng.normal(size=(5, 5)))[0], np.zeros((5, 5))
    D[0, 1], D[1, 0] = 3.0, -3.0
    np.testing.assert_allclose(nearly_rotated(W, D), cayley_rotation(W, D), atol=1e-14)


@pytest.mark.parametrize("k", [2, 7, 60])
def test_estimated_norm(k, rng):
    D = rng.normal(size=(k, k))
    D -= D.T
    norm = np.linalg.norm(D, 2) ** 2
    assert norm / 1.3 < _norm(D @ D.T) < norm * (1 + 1e-12)
    assert _norm(np.zeros((k, k))) == 0
    ones = np.eye(k) - 1 / k  # D with D 1 = 0
    assert _norm(ones @ D @ ones @ D.T @ ones) > 0 or k == 2


def test_every_solver_is_tested():
    assert SOLVERS.keys() == solvers.SOLVERS.keys()


def test_orthonormal_of_a_singular_matrix_is_finite():
    assert np.isfinite(orthonormal(np.ones((3, 3)))).all()


def test_parallel_iterates_match_naive(as_rows, rng):
    Z, W = white(3000, 5), rng.normal(size=(5, 5))
    oracle = ContrastOracle(as_rows(Z), as_contrast("logcosh"))
    for n_iter in (1, 2, 5):
        result = parallel(oracle, W, max_iter=n_iter, tol=0)
        np.testing.assert_allclose(result.W, naive.fastica(Z, W, n_iter), atol=1e-9)
        assert result.n_iter == n_iter
        assert not result.converged


@pytest.mark.parametrize("fun", CONTRASTS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_solution_is_a_fixed_point(as_rows, solver, fun, rng):
    """E g(y) yᵀ, rows signed by E g' - E g y, is symmetric; by deflation, its upper triangle is 0 (Gram-Schmidt)."""
    Z = white(4000, 4)
    oracle = ContrastOracle(as_rows(Z), as_contrast(fun))
    result = solvers.SOLVERS[solver](oracle, rng.normal(size=(4, 4)), max_iter=500, tol=SOLVERS[solver])
    assert result.converged
    assert (result.delta < 1e-9).all()
    assert (result.z < 1e-2).all()
    np.testing.assert_allclose(result.W @ result.W.T, np.eye(4), atol=1e-12)
    _, cross, slope, _ = naive.likelihood(Z, result.W, fun)
    cross = cross @ result.W.T
    signed = np.sign(slope - np.diag(cross))[:, None] * cross / len(Z)
    asymmetry = np.triu(cross / len(Z), 1) if solver == "deflation" else signed - signed.T
    assert np.abs(asymmetry).max() < 1e-5


def test_deflation_n_iter_is_that_of_slowest_component(rng):
    counts = []
    oracle = ContrastOracle(HostRows(white(2000, 3)), as_contrast("logcosh"))
    result = solvers.SOLVERS["deflation"](
        oracle,
        rng.normal(size=(3, 3)),
        max_iter=200,
        tol=1e-8,
        report=lambda n_iter, delta, converged_components, n_rows: counts.append((len(delta), n_iter)),
    )
    assert result.n_iter == max(n_iter for _, n_iter in counts)
    assert [j for j, n_iter in counts if n_iter == 1] == [1, 2, 3]


# ---- whitening -------------------------------------------------------------------------------------------------------
@pytest.fixture(params=["host", "device"])
def decomposition(request, monkeypatch):
    """The host, and a device, on which an eigendecomposition is much faster than a singular value decomposition."""
    monkeypatch.setattr(whitening.kernels, "products_pay", lambda M: request.param == "device")


def test_device_uses_eigenvalues_if_as_accurate_as_svd(monkeypatch, rng):
    monkeypatch.setattr(whitening.kernels, "products_pay", lambda M: True)
    X = rng.normal(size=(3000, 30)) @ rng.normal(size=(30, 30)) * np.geomspace(1, 30, 30) + 3
    low = rng.normal(size=(3000, 5)) @ rng.normal(size=(5, 30))
    uneven = rng.normal(size=(3000, 30)) * np.geomspace(1, 1e-9, 30)
    svd = np.linalg.svd
    for rows, expected in ((X, 0), (low, 0), (uneven, 1)):
        counted = Mock(wraps=svd)
        monkeypatch.setattr(np.linalg, "svd", counted)
        spectrum = compute_spectrum(rows.astype(np.float32))
        monkeypatch.setattr(np.linalg, "svd", svd)
        assert counted.call_count == expected
        assert spectrum.rank == (5 if rows is low else 30)
        Z = (rows.astype(np.float32) - spectrum.mean) @ spectrum.whitening.T
        np.testing.assert_allclose(Z.T @ Z / 3000, np.eye(spectrum.rank), atol=1e-4)


@pytest.mark.usefixtures("decomposition")
@pytest.mark.parametrize("solver", WHITENERS)
@pytest.mark.parametrize(("n", "d"), [(500, 6), (30, 30), (20, 50), (2, 5)])
def test_whitened_rows_are_white(n, d, solver, rng):
    X = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 10
    spectrum = compute_spectrum(X, solver)
    assert spectrum.rank == min(n - 1, d)
    Z = (X - spectrum.mean) @ spectrum.whitening.T
    np.testing.assert_allclose(Z.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(Z.T @ Z / n, np.eye(spectrum.rank), atol=1e-6 if solver == "eigh" else 1e-8)


@pytest.mark.usefixtures("decomposition")
@pytest.mark.parametrize("solver", WHITENERS)
def test_spectrum_matches_svd(solver, rng):
    X = rng.normal(size=(400, 5)) * [100, 10, 3, 1, 0.1] @ np.linalg.qr(rng.normal(size=(5, 5)))[0] + 7
    spectrum = compute_spectrum(X, solver, chunk_rows=33)
    u, s, _ = np.linalg.svd((X - X.mean(0)).T, full_matrices=False)
    np.testing.assert_allclose(spectrum.mean, X.mean(0), rtol=1e-12)
    np.testing.assert_allclose(spectrum.deviations, s / 20, rtol=1e-9)
    np.testing.assert_allclose(spectrum.directions, u * np.sign(u[0]), atol=1e-8)
    C = rng.normal(size=(3, 5))
    np.testing.assert_allclose(spectrum.variances(C), ((X - X.mean(0)) @ C.T).var(0), rtol=1e-9)


@pytest.mark.usefixtures("decomposition")
@pytest.mark.parametrize("smallest", [1e-5, 1e-9, 1e-12])
def test_svd_resolves_directions_below_covariance_precision(smallest, rng):
    """Deviations down to 1e-12 of the largest in rotated coordinates; covariance eigenvalues resolve 1e-8."""
    scales = np.array([1, 1e-2, 1e-4, smallest])
    Z = np.linalg.qr(rng.normal(size=(5000, 4)) - 0.0)[0]
    Z -= Z.mean(0)
    X = (Z * scales) @ np.linalg.qr(rng.normal(size=(4, 4)))[0].T
    exact = np.linalg.svd(X - X.mean(0), compute_uv=False) / 5000**0.5
    spectrum = compute_spectrum(X)
    assert spectrum.rank == 4
    np.testing.assert_allclose(spectrum.deviations, exact, rtol=1e-3)


@pytest.mark.usefixtures("decomposition")
def test_features_of_very_different_scales_are_all_kept(rng):
    X = rng.normal(size=(3000, 3)) * [1e-12, 1, 1e6]
    for dtype in (np.float64, np.float32):
        spectrum = compute_spectrum(X.astype(dtype))
        assert spectrum.rank == 3
        np.testing.assert_allclose(np.sort(spectrum.deviations), np.sort(X.std(0)), rtol=1e-2)


@pytest.mark.usefixtures("decomposition")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", WHITENERS)
def test_numerical_rank(solver, dtype, rng):
    low = rng.normal(size=(2000, 5)) @ rng.normal(size=(5, 40))
    assert compute_spectrum(low.astype(dtype), solver).rank == 5
    doubled = np.hstack([low[:, :5], low[:, :5], np.ones((2000, 1))]).astype(dtype)
    assert compute_spectrum(doubled, solver).rank == 5
    normed = rng.normal(size=(2000, 40)) @ np.diag(np.geomspace(1, 1e-2, 40))
    normed -= normed.mean(1, keepdims=True)  # as LayerNorm does: one null direction
    assert compute_spectrum(normed.astype(dtype), solver).rank == 39


@pytest.mark.usefixtures("decomposition")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_of_large_features_does_not_hide_small_ones(dtype, rng):
    large, small = rng.normal(size=(3000, 3)) * 1e6, rng.normal(size=(3000, 2)) * 1e-5
    X = np.hstack([large, large, np.full((3000, 1), 0.1), small]).astype(dtype)
    spectrum = compute_spectrum(X)
    assert spectrum.rank == 5
    Z = (X - spectrum.mean) @ spectrum.whitening.T
    np.testing.assert_allclose(Z.T @ Z / 3000, np.eye(5), atol=1e-3)


@pytest.mark.usefixtures("decomposition")
@pytest.mark.parametrize("solver", WHITENERS)
def test_unresolved_directions_are_dropped(solver, rng):
    """As in the last LayerNorm of MiniLM: gains of 1e-33 and 1e-9 beside ordinary ones, and features that sum to 0."""
    X = rng.laplace(size=(3000, 30))
    X -= X.mean(1, keepdims=True)
    X[:, [3, 17, 20]] *= [5e-33, 6e-33, 1.5e-9]
    spectrum = compute_spectrum(X.astype(np.float32), solver)
    assert spectrum.rank in (27, 28)  # 27 ordinary features, and the one of 1e-9 if it is resolved
    Z = (X - spectrum.mean) @ spectrum.whitening.T
    np.testing.assert_allclose(Z.T @ Z / 3000, np.eye(len(spectrum.whitening)), atol=1e-3)


@pytest.mark.usefixtures("decomposition")
def test_constant_rows_have_rank_0():
    assert compute_spectrum(np.ones((10, 3))).rank == 0
    assert compute_spectrum(np.ones((2, 3))).rank == 0


@pytest.mark.usefixtures("decomposition")
@pytest.mark.parametrize("scale", [1e-100, 1e-20, 1e20, 1e100])
def test_spectrum_is_scale_equivariant(scale):
    X, _ = mixture(1000, 3)
    np.testing.assert_allclose(
        compute_spectrum(X * scale).deviations / scale, compute_spectrum(X).deviations, rtol=1e-9
    )


@pytest.mark.usefixtures("decomposition")
def test_spectrum_of_sorted_rows(rng):
    X = np.sort(rng.normal(size=(5000, 3)), axis=0) * 10  # moments are summed about the mean of the first rows
    spectrum = compute_spectrum(X)
    np.testing.assert_allclose(spectrum.mean, X.mean(0), atol=1e-12)
    np.testing.assert_allclose(spectrum.variances(np.eye(3)), X.var(0), rtol=1e-10)


@pytest.mark.usefixtures("decomposition")
def test_large_mean_does_not_lose_precision(rng):
    X = rng.normal(size=(4000, 3))
    far = X + 1e8
    exact = np.linalg.svd(far - far.mean(0), compute_uv=False) / 4000**0.5
    np.testing.assert_allclose(compute_spectrum(far).deviations, exact, rtol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200])
@pytest.mark.parametrize("n", [2000, 3])
def test_non_finite_rows_raise(value, n, rng):
    X = rng.normal(size=(n, 4))
    X[n - 1, 2] = value
    if value == 1e200 and n == 3:
        pytest.skip("few rows are decomposed directly, without squaring")
    with pytest.raises(NotFiniteError, match="NaN, infinity, or values too large"):
        compute_spectrum(X, chunk_rows=100)
