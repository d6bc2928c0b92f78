"""Products of matrices, on a GPU in float32 or with rounded factors, for the sums that can do with fewer digits.

cuBLAS rounds float32 factors on their way to the tensor cores, so nothing is converted or stored.  CuPy can ask it for
TF32, but for all threads at once, and not for bfloat16 (its setting of that name changes nothing for float32 arrays).
"""

from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from . import CPU, Device, array_device, log_once

ROUNDED_PRECISIONS = {"tf32": 77, "bf16": 75}  # cublasComputeType_t of float32 arrays with factors of 11 and 8 bits
UNIT_ROUNDOFF = {
    "float32": 0.0,
    "tf32": 2.0**-11,
    "bf16": 2.0**-8,
}  # rounding units of factors, where coarser than the rows'
EXACT = 70  # cublasComputeType_t of float64 arrays
_rounding: ContextVar[int | None] = ContextVar("_rounding", default=None)


@contextmanager
def matmul_precision(xp, precision):
    """`product` of float32 arrays in the `with` block, in this thread, is of this precision.

    "float32", or with factors of 11 bits, "tf32", or of 8, "bf16", on a GPU of compute capability 8.0 or more; on
    others, and on the CPU, always "float32".
    """
    if xp is np or precision == "float32":
        yield
        return
    if Device("cuda", xp.cuda.runtime.getDevice()).generation < 8:
        log_once(f"This GPU has no units for precision={precision!r}: products are float32's.")
        yield
        return
    before = _rounding.set(ROUNDED_PRECISIONS[precision])
    try:
        yield
    finally:
        _rounding.reset(before)


def product(A, B, shared_operand=False):
    """A @ B of matrices (n, k) and (k, m), of the precision that `matmul_precision` set.

    of_all: whether B is the same for all rows.  Errors of rows are independent and average out in sums over them, those
    of B do not: samples of some 100,000 rows would see them, and iterate in vain.  So in bfloat16 B is two factors.
    """
    rounding = _rounding.get()
    if rounding is None or not A.dtype == B.dtype == np.float32 or 0 in A.shape + B.shape:
        return A @ B
    C = array_device(A).xp.empty((len(A), B.shape[1]), dtype=np.float32)
    for i, part in enumerate(_parts(B) if shared_operand and rounding == ROUNDED_PRECISIONS["bf16"] else [B]):
        _multiply(A, part, C, rounding, beta=float(i > 0))
    return C


def combine(A, B, C, alpha=1.0, beta=0.0):
    """C becomes alpha A B + beta C, float64 matrices; on a device by one launch in place of three."""
    if array_device(A) == CPU:
        np.copyto(C, alpha * (A @ B) + beta * C if beta else alpha * (A @ B))
    else:
        _multiply(A, B, C, EXACT, alpha, beta)


def _parts(B):
    """Two matrices that add up to B, the first of 8 bits: by Veltkamp's splitting."""
    scaled = (2**16 + 1) * B
    upper = scaled - (scaled - B)
    return upper, B - upper


def _multiply(A, B, C, compute, alpha=1.0, beta=0.0):
    """C (n, m), rows first, becomes alpha A B + beta C, float64 where compute is EXACT, else float32."""
    cuda, (n, m), k = array_device(A).xp.cuda, C.shape, len(B)
    A, of_A, step_A = _for_blas(A)
    B, of_B, step_B = _for_blas(B)
    real = cuda.runtime.CUDA_R_64F if compute == EXACT else cuda.runtime.CUDA_R_32F
    coefficients = np.array([alpha, beta], dtype=C.dtype)  # cuBLAS reads them by their address
    first, second = (B.data.ptr, real, step_B), (A.data.ptr, real, step_A)  # columns first, C is Cᵀ = Bᵀ Aᵀ
    times, plus = coefficients.ctypes.data, coefficients.ctypes.data + coefficients.itemsize
    handle, algorithm = cuda.get_cublas_handle(), cuda.cublas.CUBLAS_GEMM_DEFAULT
    result = plus, C.data.ptr, real, m
    cuda.cublas.gemmEx(handle, of_B, of_A, m, n, k, times, *first, *second, *result, compute, algorithm)


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
