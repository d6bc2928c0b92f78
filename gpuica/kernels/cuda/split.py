"""Float32 numbers as sums of two that TF32 holds, for products on the tensor cores: see `products.product`."""

import numpy as np
from numba import config, cuda, float32, int64

from ...device import array_device
from . import BLOCK, Build, launch, multiprocessors

BLOCKS = 8  # for each multiprocessor

if config.ENABLE_CUDASIM:  # type: ignore[attr-defined]

    def bits_of(x):
        return int(np.float32(x).view(np.int32))

    def number_of(bits):
        return np.int32(bits).view(np.float32)

else:
    from numba.cuda import libdevice

    bits_of, number_of = libdevice.float_as_int, libdevice.int_as_float


@cuda.jit
def _split(A, parts, k):
    """parts (n, 2k) becomes [H | A - H] for A (n, k): H has A's numbers rounded to 11 bits, halves away from 0.

    The difference has 13 bits at most, which TF32 rounds to 11: what is lost is 2⁻²² of the number or less.
    """
    row, step = int64(cuda.blockIdx.x), int64(cuda.gridDim.x)
    while row < A.shape[0]:
        j = int64(cuda.threadIdx.x)
        while j < k:
            x = A[row, j]
            high = number_of((bits_of(x) + 0x1000) & ~0x1FFF)
            parts[row, j] = high
            parts[row, k + j] = x - high
            j += cuda.blockDim.x
        row += step


def split(A):
    """See `kernels.split`."""
    xp = array_device(A).xp
    A, parts = xp.ascontiguousarray(A), xp.empty((len(A), 2 * A.shape[1]), dtype=np.float32)
    blocks = min(len(A), BLOCKS * multiprocessors(array_device(A).index))
    launch(_split, blocks, min(BLOCK, -(-A.shape[1] // 32) * 32), A, parts, A.shape[1])
    return parts


def builds():
    """See `gpuica.kernels.cuda`."""
    rows = float32[:, ::1]
    yield Build("split, float32", _split.py_func, (rows, rows, int64), {}, True)
