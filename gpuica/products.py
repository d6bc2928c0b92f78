"""Products of matrices, on a GPU in float32 or with rounded factors, for the sums that can do with fewer digits.

cuBLAS rounds float32 factors on their way to the tensor cores, so nothing is converted or stored.  CuPy can ask it for
TF32, but for all threads at once, and not for bfloat16 (its setting of that name changes nothing for float32 arrays).
"""

from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from .device import Device, array_device, say_once

ROUNDED = {"tf32": 77, "bf16": 75}  # cublasComputeType_t of float32 arrays with factors of 11 and 8 bits
UNITS = {"float32": 0.0, "tf32": 2.0**-11, "bf16": 2.0**-8}  # rounding units of factors, where coarser than the rows'
COEFFICIENTS = np.array([1, 0], dtype=np.float32)  # cuBLAS reads them by their address: A B + 0 C
_rounding: ContextVar[int | None] = ContextVar("_rounding", default=None)


@contextmanager
def products(xp, precision):
    """`product` of float32 arrays in the `with` block, in this thread, is of this precision.

    "float32", or with factors of 11 bits, "tf32", or of 8, "bf16", on a GPU of compute capability 8.0 or more; on
    others, and on the CPU, always "float32".
    """
    if xp is np or precision == "float32":
        yield
        return
    if Device("cuda", xp.cuda.runtime.getDevice()).generation < 8:
        say_once(f"This GPU has no units for precision={precision!r}: products are float32's.")
        yield
        return
    before = _rounding.set(ROUNDED[precision])
    try:
        yield
    finally:
        _rounding.reset(before)


def product(A, B):
    """A @ B of matrices (n, k) and (k, m), of the precision that `products` set."""
    rounding = _rounding.get()
    if rounding is None or not A.dtype == B.dtype == np.float32 or 0 in A.shape + B.shape:
        return A @ B
    xp, (n, k), m = array_device(A).xp, A.shape, B.shape[1]
    cublas, real, one = xp.cuda.cublas, xp.cuda.runtime.CUDA_R_32F, COEFFICIENTS.ctypes.data
    C = xp.empty((n, m), dtype=np.float32)
    A, of_A, step_A = _for_blas(A)
    B, of_B, step_B = _for_blas(B)
    first, second = (B.data.ptr, real, step_B), (A.data.ptr, real, step_A)  # columns first, C is Cᵀ = Bᵀ Aᵀ
    result = one + COEFFICIENTS.itemsize, C.data.ptr, real, m
    handle, algorithm = xp.cuda.get_cublas_handle(), cublas.CUBLAS_GEMM_DEFAULT
    cublas.gemmEx(handle, of_B, of_A, m, n, k, one, *first, *second, *result, rounding, algorithm)
    return C


def _for_blas(M):
    """(M, operation, step between columns) as BLAS, which reads columns first, takes Mᵀ; a copy where it cannot.

    operation: 0 where what it reads is Mᵀ, 1 where it is M and has to be transposed.
    """
    down, across = (stride // M.itemsize for stride in M.strides)
    if across == 1 and down >= M.shape[1]:
        return M, 0, down
    if down == 1 and across >= M.shape[0]:
        return M, 1, across
    return M.copy(order="C"), 0, M.shape[1]
