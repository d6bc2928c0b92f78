"""Compressed codes and their moments: device kernels in the simulator."""

import numpy as np
import pytest

from gpuica.kernels.cuda import codes

SHAPES = [(1, 1, 1), (5, 3, 9), (4, 9, 2), (6, 2, 11)]


def data(n, d, K, dtype, rng):
    X, D, C = (rng.normal(size=shape).astype(dtype) for shape in ((n, d), (K, d), (n, K)))
    C[rng.random(C.shape) < 0.6] = 0
    C[n // 2] = 0
    return X, D, C


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_compressed_codes_are_nonzeros(shape, dtype, rng):
    _, _, C = data(*shape, dtype, rng)
    counts, columns, values = codes.compress(C, threads=4)
    np.testing.assert_array_equal(counts, np.count_nonzero(C, axis=1))
    np.testing.assert_array_equal(columns, np.nonzero(C)[1])
    np.testing.assert_array_equal(values, C[C != 0])
    assert (columns.dtype, values.dtype) == (np.int32, dtype)


@pytest.mark.parametrize("length", [1, None])  # rows per part: one, or all
@pytest.mark.parametrize("tile", [2, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_moments_match_dense_codes(shape, dtype, tile, length, rng):
    X, D, C = data(*shape, dtype, rng)
    A, B = np.ones((shape[2], shape[2])), np.ones(D.shape)  # the moments are added to these
    sizes = {"threads": 3, "walkers": 2, "tile": tile, "length": length}
    squares = codes.add_moments(X, D, *codes.compress(C, threads=4), A, B, **sizes)
    X, D, C = (part.astype(float) for part in (X, D, C))
    np.testing.assert_allclose(A, 1 + C.T @ C, rtol=1e-12, atol=1e-12)  # also for float32 codes: sums are in float64
    np.testing.assert_allclose(B, 1 + C.T @ X, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(squares, ((X - C @ D) ** 2).sum(axis=1), rtol=1e-12, atol=1e-12)


def test_moments_of_zero_codes(rng):
    X, D, C = data(3, 2, 4, np.float32, rng)
    A, B = np.zeros((4, 4)), np.zeros((4, 2))
    squares = codes.add_moments(X, D, *codes.compress(0 * C, threads=4), A, B, threads=3, walkers=2)
    assert not A.any()
    assert not B.any()
    np.testing.assert_allclose(squares, (X.astype(float) ** 2).sum(axis=1), rtol=1e-12)


@pytest.mark.parametrize("length", [3, 4, 100])
def test_moments_with_dense_and_unused_atoms(length, rng):
    X, D, C = data(9, 4, 6, np.float64, rng)
    C[:, [0, 4]], C[:, 2] = 0, rng.normal(size=9)
    A, B = np.zeros((6, 6)), np.zeros((6, 4))
    codes.add_moments(X, D, *codes.compress(C, threads=4), A, B, threads=3, walkers=4, length=length)
    np.testing.assert_allclose(A, C.T @ C, atol=1e-13)
    np.testing.assert_allclose(B, C.T @ X, atol=1e-13)


def test_number_of_parts_is_limited_by_memory(monkeypatch, rng):
    X, D, C = data(12, 2, 5, np.float64, rng)
    monkeypatch.setattr(codes, "MIN_PART_ROWS", 1)
    monkeypatch.setattr(codes, "MAX_PARTS_BYTES", 8 * 5 * 3)  # three parts
    launched, launch = {}, codes.launch
    monkeypatch.setattr(
        codes,
        "launch",
        lambda kernel, grid, *more, **shared: launched.update({kernel: grid}) or launch(kernel, grid, *more, **shared),
    )
    A, B = np.zeros((5, 5)), np.zeros((5, 2))
    codes.add_moments(X, D, *codes.compress(C, threads=4), A, B, threads=3, walkers=2)
    assert launched[codes._products][0] - 5 in (2, 3)
    np.testing.assert_allclose(A, C.T @ C, atol=1e-13)
