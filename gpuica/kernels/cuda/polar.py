"""The orthonormal rows nearest to those of a small matrix, by Newton and Schulz's products within one block.

What `solvers.polar` does by launches, 3 for each of its 17 steps, is one launch here, which ends as soon as rows are
orthonormal.  64 x 64: a step is 1 MFLOP in float64, 4 µs of one multiprocessor of an H200 at its full rate; its reads
from shared memory make that 20.  A matrix of condition 100 takes 0.27 ms, its eigendecomposition 1.04.
"""

import math

from numba import cuda, float64

from ...device import array_device
from . import Build, launch
from .block import largest

LARGEST = 64  # rows
SIDE = 4  # of the square of numbers that a thread has: 256 threads for 64 rows
MOST = 50  # steps; singular values of 1e-10 of the largest are 1 after 45
LEAST = 1e-3  # singular value, as a part of the largest, that the first steps are scaled for
DONE = 1e-14  # a defect that rounding leaves


@cuda.jit
def _polar(M, W, defect):
    """W (k, k) becomes (M Mᵀ)^-1/2 M for M (k, k), and defect[0] the largest entry of |W Wᵀ - I|.

    The steps are scaled for singular values from the least on, as in `solvers.polar`: from that which Gershgorin's
    discs of M Mᵀ allow, where rows are nearly orthogonal, else from LEAST.  Smaller ones come to 1 more slowly.  One
    block of n² threads, n = ⌈k / SIDE⌉: thread (p, q) has the numbers of rows p, p + n, ... and columns q, q + n, ....
    X and B = X Xᵀ are in shared memory, rows an odd number of places apart, so that threads of a warp reach different
    banks; what is beyond k is 0.
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
    for number in range(-1, MOST):
        for i in range(SIDE):
            for j in range(SIDE):
                own[i, j] = 0.0
        for m in range(k):
            for i in range(SIDE):
                for j in range(SIDE):
                    own[i, j] += X[(p + n * i) * step + m] * X[(q + n * j) * step + m]
        off = 0.0
        for i in range(SIDE):
            for j in range(SIDE):
                r, c = p + n * i, q + n * j
                B[r * step + c] = own[i, j]
                if r < k and c < k:
                    apart = abs(own[i, j] - (1.0 if r == c else 0.0))
                    off = max(off, apart if apart == apart else math.inf)  # max() takes the number beside NaN
        far = largest(off, tree)  # and all of B is there
        if number < 0:  # so that no singular value is above 1: the largest sum over a row of |B| bounds their squares
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
            least = max(least, LEAST)
            for i in range(SIDE):
                for j in range(SIDE):
                    X[(p + n * i) * step + q + n * j] *= scale
            cuda.syncthreads()
            continue
        if far < DONE:
            break
        a = math.sqrt(3 / (1 + least + least * least))
        least = min(1.0, a * least * (3 - a * a * least * least) / 2)
        for i in range(SIDE):
            for j in range(SIDE):
                own[i, j] = 0.0
        for m in range(k):
            for i in range(SIDE):
                for j in range(SIDE):
                    own[i, j] += B[(p + n * i) * step + m] * X[m * step + q + n * j]
        cuda.syncthreads()  # X has been read
        for i in range(SIDE):
            for j in range(SIDE):
                at = (p + n * i) * step + q + n * j
                X[at] = 1.5 * a * X[at] - a**3 / 2 * own[i, j]
        cuda.syncthreads()
    for i in range(SIDE):
        for j in range(SIDE):
            r, c = p + n * i, q + n * j
            if r < k and c < k:
                W[r, c] = X[r * step + c]
    if cuda.threadIdx.x == 0:
        defect[0] = far if far < math.inf else math.nan


def polar(M):
    """See `kernels.polar`; None for more than LARGEST rows, and where a block of the device has too little shared
    memory (64 rows need 68 KB)."""
    device, n = array_device(M), -(-len(M) // SIDE)
    shared = 8 * (n * n + 2 * SIDE * n * ((SIDE * n) | 1))
    if len(M) > LARGEST or (device.kind != "cpu" and shared > device.block_memory):
        return None
    W, defect = device.xp.empty(M.shape), device.xp.empty(1)
    launch(_polar, 1, n * n, device.xp.ascontiguousarray(M), W, defect, shared=shared)
    return W, defect[0]


def builds():
    """See `gpuica.kernels.cuda`."""
    square = float64[:, ::1]
    yield Build("polar, float64", _polar.py_func, (square, square, float64[::1]))
