"""The orthonormal rows nearest to those of a small matrix, by Newton and Schulz's products within one block.

The iteration of `solvers.orthonormal`, which has 3 launches for each of its 17 steps, in one launch that ends as soon
as the rows are orthonormal.  64 x 64: a step is 1 MFLOP in float64, 4 µs of one multiprocessor of an H200 at its full
rate; its reads from shared memory make that 20.  A matrix of condition 100 takes 0.27 ms, its eigendecomposition 1.04.
"""

import math

from numba import cuda, float64

from ...device import array_device
from . import Build, launch
from .block import largest

MAX_ROWS = 64
SIDE = 4  # of the square of numbers that a thread has: 256 threads for 64 rows
MAX_STEPS = 50  # singular values of 1e-10 of the largest are 1 after 45
LEAST_SINGULAR = 1e-3  # singular value, relative to the largest, that the first steps are scaled for
DEFECT_TOL = 1e-14  # rounding of the defect


@cuda.jit(device=True, inline="always")
def _defect_of(own, B, p, q, n, k, step, tree):
    """Write this thread's numbers of X Xᵀ to B; return the largest entry of |X Xᵀ - I|."""
    off = 0.0
    for i in range(SIDE):
        for j in range(SIDE):
            r, c = p + n * i, q + n * j
            B[r * step + c] = own[i, j]
            if r < k and c < k:
                apart = abs(own[i, j] - (1.0 if r == c else 0.0))
                off = max(off, apart if apart == apart else math.inf)  # max() ignores NaN
    return largest(off, tree)  # a barrier: all of B is written


@cuda.jit(device=True, inline="always")
def _scale_of(B, p, q, n, k, step, tree):
    """The scale that makes no singular value of X exceed 1, from B = X Xᵀ, and a lower bound of the others times it.

    The largest row sum of |B| bounds their squares from above, Gershgorin's discs from below.
    """
    size, short = 0.0, -math.inf
    if q == 0:
        for i in range(SIDE):
            r, row = p + n * i, 0.0
            if r < k:
                for c in range(k):
                    row += abs(B[r * step + c])
                size = max(size, row)
                short = max(short, row - 2 * B[r * step + r])
    size, short = largest(size, tree), largest(short, tree)
    scale = 1 / math.sqrt(size) if size > 0 else 0.0
    least = math.sqrt(-short) * scale if short < 0 else 0.0
    return scale, max(least, LEAST_SINGULAR)


@cuda.jit(device=True, inline="always")
def _newton_schulz(own, X, B, a, p, q, n, k, step):
    """X becomes 3/2 a X - a³/2 B X, where B = X Xᵀ."""
    for i in range(SIDE):
        for j in range(SIDE):
            own[i, j] = 0.0
    for m in range(k):
        for i in range(SIDE):
            for j in range(SIDE):
                own[i, j] += B[(p + n * i) * step + m] * X[m * step + q + n * j]
    cuda.syncthreads()  # all have read X
    for i in range(SIDE):
        for j in range(SIDE):
            at = (p + n * i) * step + q + n * j
            X[at] = 1.5 * a * X[at] - a**3 / 2 * own[i, j]
    cuda.syncthreads()


@cuda.jit
def _polar(M, W, defect):
    """W (k, k) becomes (M Mᵀ)^-1/2 M for M (k, k), and defect[0] the largest entry of |W Wᵀ - I|.

    The steps are scaled for singular values above a lower bound, as in `solvers.orthonormal`: that of Gershgorin's
    discs of M Mᵀ, where rows are nearly orthogonal, else LEAST_SINGULAR.  Smaller ones converge to 1 more slowly.  One
    block of n² threads, n = ⌈k / SIDE⌉: thread (p, q) has the numbers of rows p, p + n, ... and columns q, q + n, ....
    X and B = X Xᵀ are in shared memory, with an odd stride between rows, so that threads of a warp access different
    banks; entries beyond k are 0.
    """
    k = M.shape[0]
    n = (k + SIDE - 1) // SIDE
    step = (SIDE * n) | 1
    p, q = cuda.threadIdx.x // n, cuda.threadIdx.x % n
    room = cuda.shared.array(0, float64)
    tree = room[: n * n]
    X = room[n * n : n * n + SIDE * n * step]
    B = room[n * n + SIDE * n * step :]
    own = cuda.local.array((SIDE, SIDE), float64)
    for i in range(SIDE):
        for j in range(SIDE):
            r, c = p + n * i, q + n * j
            X[r * step + c] = M[r, c] if r < k and c < k else 0.0
    cuda.syncthreads()
    far, least = math.inf, 0.0
    for number in range(-1, MAX_STEPS):
        for i in range(SIDE):
            for j in range(SIDE):
                own[i, j] = 0.0
        for m in range(k):
            for i in range(SIDE):
                for j in range(SIDE):
                    own[i, j] += X[(p + n * i) * step + m] * X[(q + n * j) * step + m]
        far = _defect_of(own, B, p, q, n, k, step, tree)
        if number < 0:
            scale, least = _scale_of(B, p, q, n, k, step, tree)
            for i in range(SIDE):
                for j in range(SIDE):
                    X[(p + n * i) * step + q + n * j] *= scale
            cuda.syncthreads()
            continue
        if far < DEFECT_TOL:
            break
        a = math.sqrt(3 / (1 + least + least * least))
        least = min(1.0, a * least * (3 - a * a * least * least) / 2)
        _newton_schulz(own, X, B, a, p, q, n, k, step)
    for i in range(SIDE):
        for j in range(SIDE):
            r, c = p + n * i, q + n * j
            if r < k and c < k:
                W[r, c] = X[r * step + c]
    if cuda.threadIdx.x == 0:
        defect[0] = far if far < math.inf else math.nan


def polar(M):
    """See `kernels.polar`; None for more than MAX_ROWS rows, and where a block of the device has too little shared
    memory (64 rows need 68 KB)."""
    device, n = array_device(M), -(-len(M) // SIDE)
    shared = 8 * (n * n + 2 * SIDE * n * ((SIDE * n) | 1))
    if len(M) > MAX_ROWS or (device.kind != "cpu" and shared > device.block_memory):
        return None
    W, defect = device.xp.empty(M.shape), device.xp.empty(1)
    launch(_polar, 1, n * n, device.xp.ascontiguousarray(M), W, defect, shared=shared)
    return W, defect[0]


def builds():
    """See `gpuica.kernels.cuda`."""
    square = float64[:, ::1]
    yield Build("polar, float64", _polar.py_func, (square, square, float64[::1]))
