"""Matrix products, on a GPU in float32 or with rounded factors, for sums that need fewer digits.

cuBLAS rounds float32 factors when it loads them into the tensor cores, so no converted copy is stored.  CuPy can enable
TF32 only for all threads at once, and cannot enable bfloat16 for float32 arrays.
"""

from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np

from . import CPU, Device, array_device, log_once
from .threads import run_in_threads

ROUNDED_PRECISIONS = {"tf32": 77, "bf16": 75}  # cublasComputeType_t of float32 arrays with factors of 11 and 8 bits
UNIT_ROUNDOFF = {
    "float32": 0.0,
    "tf32": 2.0**-11,
    "bf16": 2.0**-8,
}  # of factors, where it exceeds that of the rows
# OpenBLAS's kernels for AVX-512 add all terms of a product of at most NARROW rows and columns in sequence: with 8,192
# terms of float32 the error was 4e-6 of the largest entry, from blocks of 512 it is 1e-7.
NARROW, TERMS = 12, 512
MIN_WORK_FOR_THREADS = 5e8  # operations of `threaded_product`, 4 ms of one core
BLOCK_ROWS, MIN_BLOCKS = 256, 4  # with fewer rows BLAS spends its time on copies of B
FLOAT64_COMPUTE = 70  # cublasComputeType_t of float64 arrays
_rounding: ContextVar[int | None] = ContextVar("_rounding", default=None)


@contextmanager
def matmul_precision(xp, precision):
    """Set the precision of `product` of float32 arrays in this thread inside the `with` block.

    precision: "float32", or "tf32", with factors of 11 bits, or "bf16", with factors of 8 bits.  GPUs of compute
    capability below 8.0 and CPUs always use "float32".
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
    """A @ B of matrices (n, k) and (k, m), in the precision set by `matmul_precision`.

    shared_operand: whether B is the same for all rows.  Rounding errors of rows are independent and average out in sums
    over rows, those of B do not: on samples of some 100,000 rows a solver would not converge.  So in bfloat16 B is
    split into two factors.
    """
    rounding = _rounding.get()
    if rounding is None or not A.dtype == B.dtype == np.float32 or 0 in A.shape + B.shape:
        is_narrow = max(len(A), B.shape[1]) <= NARROW and len(B) > TERMS
        return _narrow_product(A, B) if is_narrow and A.dtype == np.float32 and array_device(A) == CPU else A @ B
    C = array_device(A).xp.empty((len(A), B.shape[1]), dtype=np.float32)
    for i, part in enumerate(_parts(B) if shared_operand and rounding == ROUNDED_PRECISIONS["bf16"] else [B]):
        _multiply(A, part, C, rounding, beta=float(i > 0))
    return C


def threaded_product(A, B):
    """A @ B of matrices (n, k) and (k, m), large ones on the host by several threads, each of which computes some rows.

    For products between passes, where BLAS has one thread, see `Device.active`.  The blocks of rows, and so the bits
    of the result, do not depend on the number of threads.
    """
    n = len(A)
    if 2.0 * A.size * B.shape[1] < MIN_WORK_FOR_THREADS or array_device(A) != CPU:
        return A @ B
    n_blocks = max(MIN_BLOCKS, n // BLOCK_ROWS)
    ends = [i * n // n_blocks for i in range(n_blocks + 1)]
    product = np.empty((n, B.shape[1]), np.result_type(A, B))

    def multiply(i):
        rows = slice(ends[i], ends[i + 1])
        np.matmul(A[rows], B, out=product[rows])

    run_in_threads(n_blocks, multiply)
    return product


def _narrow_product(A, B):
    """A @ B, from sums of TERMS terms that are added in float64."""
    n_blocks = len(B) // TERMS
    first, last = A[:, : n_blocks * TERMS], B[: n_blocks * TERMS]
    blocks = first.reshape(len(A), n_blocks, TERMS).transpose(1, 0, 2) @ last.reshape(n_blocks, TERMS, -1)
    total = blocks.sum(axis=0, dtype=np.float64)
    return (total + A[:, n_blocks * TERMS :] @ B[n_blocks * TERMS :]).astype(np.float32)


def combine(A, B, C, alpha=1.0, beta=0.0):
    """C ← alpha A B + beta C for float64 matrices, in place; on a device by one launch instead of three."""
    if array_device(A) == CPU:
        np.copyto(C, alpha * (A @ B) + beta * C if beta else alpha * (A @ B))
    else:
        _multiply(A, B, C, FLOAT64_COMPUTE, alpha, beta)


def _parts(B):
    """Two matrices whose sum is B, the first rounded to 8 bits: Veltkamp splitting."""
    scaled = (2**16 + 1) * B
    upper = scaled - (scaled - B)
    return upper, B - upper


def _multiply(A, B, C, compute, alpha=1.0, beta=0.0):
    """C ← alpha A B + beta C, (n, m) in C order, in float64 if compute is FLOAT64_COMPUTE, else float32."""
    cuda, (n, m), k = array_device(A).xp.cuda, C.shape, len(B)
    A, of_A, step_A = _for_blas(A)
    B, of_B, step_B = _for_blas(B)
    real = cuda.runtime.CUDA_R_64F if compute == FLOAT64_COMPUTE else cuda.runtime.CUDA_R_32F
    coefficients = np.array([alpha, beta], dtype=C.dtype)  # cuBLAS takes their addresses
    first, second = (
        (B.data.ptr, real, step_B),
        (A.data.ptr, real, step_A),
    )  # in column-major order the product is Cᵀ = Bᵀ Aᵀ
    times, plus = coefficients.ctypes.data, coefficients.ctypes.data + coefficients.itemsize
    handle, algorithm = cuda.get_cublas_handle(), cuda.cublas.CUBLAS_GEMM_DEFAULT
    result = plus, C.data.ptr, real, m
    cuda.cublas.gemmEx(handle, of_B, of_A, m, n, k, times, *first, *second, *result, compute, algorithm)


def _for_blas(M):
    """(M, operation, leading dimension) for Mᵀ as an operand of column-major BLAS; M is copied if need be.

    operation: 0 if the memory holds Mᵀ in column-major order, 1 if it holds M, which BLAS then transposes.
    """
    down, across = (stride // M.itemsize for stride in M.strides)
    if across == 1 and down >= M.shape[1]:
        return M, 0, down
    if down == 1 and across >= M.shape[0]:
        return M, 1, across
    return M.copy(order="C"), 0, M.shape[1]
