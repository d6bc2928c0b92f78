"""Contrast kernels and sums over rows against reference loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuica import kernels, sums
from gpuica.contrasts import CONTRASTS, LogCosh, as_contrast
from gpuica.kernels.cpu import contrast as sweeps

from . import naive

TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fun", CONTRASTS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (67, 1), (65, 2), (64, 16), (129, 7), (200, 33)])
def test_compiled_sweeps_match_reference(shape, fun, dtype, rng):
    contrast = as_contrast(fun)
    Y = (2 * rng.normal(size=shape)).astype(dtype)
    Y.flat[0] = 0
    expected = [[[f(float(u)) for u in row] for row in Y] for f in (naive.G[fun], naive.g[fun], naive.slope[fun])]
    G, g, slope = (np.array(part) for part in expected)
    swept, scored = Y.copy(), Y.copy()
    loss, slopes, squares = sweeps.score_and_loss(swept, contrast)
    tolerance = TOLERANCE[dtype] * (1 + np.abs(G).max())
    np.testing.assert_allclose(swept, g, atol=tolerance)
    np.testing.assert_allclose(loss, G.sum(0), atol=tolerance * len(Y))
    np.testing.assert_allclose(slopes, slope.sum(0), atol=tolerance * len(Y))
    np.testing.assert_allclose(squares, (g * g).sum(0), rtol=4 * TOLERANCE[dtype])
    for alone, together in zip(sweeps.score(scored, contrast), (slopes, squares), strict=True):
        np.testing.assert_allclose(alone, together, atol=tolerance * len(Y))
    np.testing.assert_allclose(scored, swept, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_compiled_sweeps_are_accurate_for_extreme_values(dtype):
    Y = np.array([[0.0, 1e-30, -1e-3, 8.0, -9.0, 20.0, -100.0, 1e4, -1e30]], dtype=dtype).T.copy()
    exact = np.tanh(Y.astype(np.longdouble))
    sweeps.score(Y, LogCosh())
    np.testing.assert_allclose(Y, exact, rtol=4e-7 if dtype == np.float32 else 1e-13, atol=1e-16)
    E = np.array([[0.0, 1.0, 12.0, -14.0, 40.0, 1e3]], dtype=dtype).T.copy()
    x = E.astype(np.longdouble)
    sweeps.score(E, as_contrast("exp"))
    np.testing.assert_allclose(E, x * np.exp(-x * x / 2), rtol=2e-5 if dtype == np.float32 else 1e-12, atol=1e-34)


@pytest.mark.parametrize("fun", CONTRASTS)
def test_sweep_propagates_nan(fun):
    Y = np.array([[1.0, np.nan]])
    assert np.isnan(sweeps.score(Y, as_contrast(fun))[0][1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_array_implementation_matches_kernel(dtype, rng, monkeypatch):
    Y = rng.normal(size=(500, 5)).astype(dtype)
    results = []
    for min_size in (0, 1 << 60):
        monkeypatch.setattr(kernels, "WORTH_COMPILING", min_size)
        work = Y.copy()
        results.append([*kernels.score_and_loss(work, LogCosh(1.3)), work])
    for compiled, array in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, array, rtol=1e-6 if dtype == np.float32 else 1e-13, atol=1e-6)


def test_kernel_is_as_accurate_as_numpy_float32(rng):
    """The error of the compiled loop relative to float64 is at most twice that of NumPy in float32."""
    Y = rng.normal(size=(4000, 32)).astype(np.float32)
    exact = (1 - np.tanh(Y.astype(np.float64)) ** 2).sum(0)
    t = np.tanh(Y)
    plain = np.abs((1 - t * t).sum(0) - exact).max()
    assert np.abs(sweeps.score(Y.copy(), LogCosh())[0] - exact).max() <= 2 * plain


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 40), d=st.integers(1, 6), k=st.integers(1, 6), fun=st.sampled_from(list(CONTRASTS)))
def test_contributions_match_reference(n, d, k, fun):
    rng = np.random.default_rng(n + 41 * d + 300 * k)
    Z, W = rng.normal(size=(n, d)), rng.normal(size=(k, d))
    for ours, reference in ((sums.fixed_point, naive.fixed_point), (sums.likelihood, naive.likelihood)):
        for found, expected in zip(ours(Z, W, as_contrast(fun)), reference(Z, W, fun), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    for found, expected in zip(sums.moments(Z, Z[0]), naive.moments(Z, Z[0]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
