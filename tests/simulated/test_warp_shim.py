"""The warp primitives added to the simulator match those of CUDA."""

import numpy as np
from numba import cuda

ALL = 0xFFFFFFFF


def test_shuffles_and_votes_in_full_and_partial_warps():
    @cuda.jit
    def kernel(values, out):
        i = cuda.threadIdx.x
        v = values[i]
        out[0, i] = cuda.shfl_sync(ALL, v, 3)
        out[1, i] = cuda.shfl_up_sync(ALL, v, 1)
        out[2, i] = cuda.shfl_down_sync(ALL, v, 2)
        out[3, i] = cuda.shfl_xor_sync(ALL, v, 1)
        out[4, i] = cuda.ballot_sync(ALL, v > 30)
        out[5, i] = cuda.all_sync(ALL, v >= 0) and not cuda.all_sync(ALL, v > 0)
        out[6, i] = cuda.any_sync(ALL, v == 47)
        cuda.syncwarp()

    values, out = np.arange(48), np.zeros((7, 48), dtype=np.int64)  # a warp and a half
    kernel[1, 48](values, out)
    first, second = values[:32], values[32:]
    np.testing.assert_array_equal(out[0], [3] * 32 + [35] * 16)
    np.testing.assert_array_equal(out[1], [0, *first[:-1], 32, *second[:-1]])
    np.testing.assert_array_equal(out[2], [*first[2:], 30, 31, *second[2:], 46, 47])
    np.testing.assert_array_equal(out[3], values ^ 1)
    np.testing.assert_array_equal(out[4], [1 << 31] * 32 + [(1 << 16) - 1] * 16)
    np.testing.assert_array_equal(out[5], [1] * 32 + [0] * 16)
    np.testing.assert_array_equal(out[6], [0] * 32 + [1] * 16)


def test_butterfly_sum_over_warp(rng):
    @cuda.jit
    def kernel(values, out):
        total = values[cuda.blockIdx.x, cuda.threadIdx.x]
        step = 16
        while step:
            total += cuda.shfl_xor_sync(ALL, total, step)
            step //= 2
        out[cuda.blockIdx.x, cuda.threadIdx.x] = total

    values = rng.integers(0, 100, size=(2, 32))
    out = np.zeros_like(values)
    kernel[2, 32](values, out)
    np.testing.assert_array_equal(out, np.repeat(values.sum(1)[:, None], 32, 1))
