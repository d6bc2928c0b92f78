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
COEFFICIENTS = np.array([1, 0], dtype=np.float32)  # of A B and of C, which cuBLAS reads by their address
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


def product(A, B, of_all=False):
    """A @ B of matrices (n, k) and (k, m), of the precision that `products` set.

    of_all: whether B is the same for all rows.  Errors of rows are independent and average out in sums over them, those
    of B do not: samples of some 100,000 rows would see them, and iterate in vain.  So in bfloat16 B is two factors.
    """
    rounding = _rounding.get()
    if rounding is None or not A.dtype == B.dtype == np.float32 or 0 in A.shape + B.shape:
        return A @ B
    C = array_device(A).xp.empty((len(A), B.shape[1]), dtype=np.float32)
    for i, part in enumerate(_parts(B) if of_all and rounding == ROUNDED["bf16"] else [B]):
        _multiply(A, part, C, rounding, add=i > 0)
    return C


def _parts(B):
    """Two matrices that add up to B, the first of 8 bits: by Veltkamp's splitting."""
    scaled = (2**16 + 1) * B
    upper = scaled - (scaled - B)
    return upper, B - upper


def _multiply(A, B, C, rounding, add):
    """C (n, m), rows first, becomes A @ B, or C + A @ B."""
    cuda, (n, m), k = array_device(A).xp.cuda, C.shape, len(B)
    A, of_A, step_A = _for_blas(A)
    B, of_B, step_B = _for_blas(B)
    one, real = COEFFICIENTS.ctypes.data, cuda.runtime.CUDA_R_32F
    first, second = (B.data.ptr, real, step_B), (A.data.ptr, real, step_A)  # columns first, C is Cᵀ = Bᵀ Aᵀ
    result = one if add else one + COEFFICIENTS.itemsize, C.data.ptr, real, m
    handle, algorithm = cuda.get_cublas_handle(), cuda.cublas.CUBLAS_GEMM_DEFAULT
    cuda.cublas.gemmEx(handle, of_B, of_A, m, n, k, one, *first, *second, *result, rounding, algorithm)


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
