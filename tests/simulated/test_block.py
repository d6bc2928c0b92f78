"""Sums and maxima over a block for any number of threads, including partial warps."""

import numpy as np
import pytest
from numba import cuda, float64

from gpuica.kernels.cuda.block import largest, summed


@cuda.jit
def _kernel(values, out):
    tree = cuda.shared.array(32, float64)
    t = cuda.threadIdx.x
    out[0, t] = summed(values[t], tree)
    out[1, t] = largest(values[t], tree)


@pytest.mark.parametrize("threads", [1, 3, 5, 32, 33, 36, 64, 100])
def test_block_sum_and_maximum_are_equal_in_all_threads(threads, rng):
    for index in {0, threads // 2, threads - 1}:
        values, out = -rng.integers(1, 100, size=threads).astype(float), np.zeros((2, threads))
        values[index] = -0.5
        _kernel[1, threads](values, out)
        np.testing.assert_array_equal(out, np.repeat([[values.sum()], [-0.5]], threads, axis=1))
