"""Fused contrast sweep against reference loops, with blocks so small that all boundary cases occur."""

import numpy as np
import pytest

from gpuica.contrasts import CONTRASTS, LogCosh, as_contrast
from gpuica.kernels.cuda import contrast as sweep

from .. import naive

SHAPES = [(1, 1), (3, 1), (70, 2), (41, 3), (64, 5), (9, 8), (13, 9), (40, 20), (5, 33), (2, 70)]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(sweep, "THREADS_PER_BLOCK", 10)  # so that sums over 5 and 3 lanes occur
    monkeypatch.setattr(sweep, "multiprocessors", lambda index: 1)
    monkeypatch.setattr(sweep, "BLOCKS", 6)
    sweep._kernel.cache_clear()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fun", CONTRASTS)
@pytest.mark.parametrize("shape", SHAPES)
def test_sweep_matches_reference(shape, fun, dtype, weighted, rng):
    Y = (2 * rng.normal(size=shape)).astype(dtype)
    w = rng.integers(0, 4, size=len(Y)).astype(dtype) if weighted else None
    times = np.ones((len(Y), 1)) if w is None else w[:, None].astype(float)
    G, g, slope = (
        np.array([[f(float(u)) for u in row] for row in Y]) for f in (naive.G[fun], naive.g[fun], naive.slope[fun])
    )
    tolerance = (1e-6 if dtype == np.float32 else 1e-14) * (1 + np.abs(G).max())
    swept = Y.copy()
    loss, slopes, squares = sweep.score_and_loss(swept, as_contrast(fun), w)
    np.testing.assert_allclose(swept, times * g, atol=4 * tolerance)
    for found, expected in ((loss, times * G), (slopes, times * slope), (squares, times * g * g)):
        assert found.dtype == np.float64
        np.testing.assert_allclose(found, expected.sum(0), rtol=4e-6, atol=tolerance * len(Y))
    swept = Y.copy()
    for alone, together in zip(sweep.score(swept, as_contrast(fun), w), (slopes, squares), strict=True):
        np.testing.assert_array_equal(alone, together)
    np.testing.assert_allclose(swept, times * g, atol=4 * tolerance)


def test_contrast_parameters_are_passed_to_kernel(rng):
    Y = rng.normal(size=(20, 3))
    swept = Y.copy()
    loss, slopes, _ = sweep.score_and_loss(swept, LogCosh(1.7))
    np.testing.assert_allclose(swept, np.tanh(1.7 * Y), atol=1e-14)
    np.testing.assert_allclose(slopes, (1.7 * (1 - np.tanh(1.7 * Y) ** 2)).sum(0), rtol=1e-13)
    np.testing.assert_allclose(loss, (np.log(np.cosh(1.7 * Y)) / 1.7).sum(0), rtol=1e-12)


def test_sweep_propagates_nan():
    Y = np.array([[1.0, np.nan], [2.0, 3.0]])
    slopes, squares = sweep.score(Y, LogCosh())
    assert np.isnan([slopes[1], squares[1], Y[0, 1]]).all()
    assert np.isfinite([slopes[0], squares[0]]).all()


@pytest.mark.parametrize(("n", "k"), [(1, 1), (10, 3), (1000, 64), (77, 257), (4_000_000, 512), (12, 5000), (3, 256)])
def test_layout_has_no_idle_blocks(n, k):
    for block, most in ((256, 528), (8, 6)):
        columns, tiles, blocks = sweep.layout(n, k, block, most)
        assert columns <= block
        assert columns * (tiles - 1) < k <= columns * tiles
        assert 1 <= blocks * tiles <= max(most, tiles)
        assert (blocks - 1) * (block // columns) < n
