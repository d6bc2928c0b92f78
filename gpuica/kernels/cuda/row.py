"""What the pursuits of `pursuit` and `matching` share: the ends of a row, and the blocks that rows are given to."""

import math
from functools import cache

from numba import cuda, float64

from ...device import array_device
from ..status import FINISHED, ILL_CONDITIONED, UNFINISHED
from . import multiprocessors
from .block import summed

THREADS = 128
BLOCKS = 12  # for each multiprocessor
MEMORY = 1 << 30  # bytes of workspaces that need no asking
SHARED = 96 << 10  # bytes of shared memory of a multiprocessor, where that is not known


@cuda.jit(device=True)
def square_of(x, tree):
    """‖x‖², in float64."""
    part = 0.0
    f = cuda.threadIdx.x
    while f < len(x):
        part += float64(x[f]) * float64(x[f])
        f += cuda.blockDim.x
    return summed(part, tree)


@cuda.jit(device=True)
def write(q, act, c, m):
    """q becomes the code: zero but for c on the support."""
    k = cuda.threadIdx.x
    while k < len(q):
        q[k] = 0
        k += cuda.blockDim.x
    cuda.syncthreads()
    i = cuda.threadIdx.x
    while i < m:
        q[act[i]] = c[i]
        i += cuda.blockDim.x
    cuda.syncthreads()


@cuda.jit(device=True)
def combined(c, G, act, m, k):
    """Σ c_i G_i over the support, at atom k and the three that come threads, 2 threads and 3 threads after it.

    Four at once, because loads in flight are what hides the L2's latency, and they share those of c_i and act_i.  Past
    the last atom: that of the last.
    """
    threads, last, number = cuda.blockDim.x, G.shape[1] - 1, G.dtype.type
    k1, k2, k3 = min(k + threads, last), min(k + 2 * threads, last), min(k + 3 * threads, last)
    a0, a1, a2, a3, i = number(0), number(0), number(0), number(0), 0
    while i < m:
        share, row = c[i], G[act[i]]
        a0 += share * row[k]
        a1 += share * row[k1]
        a2 += share * row[k2]
        a3 += share * row[k3]
        i += 1
    return a0, a1, a2, a3


@cuda.jit(device=True)
def check_code(x, D, q, act, m, square, limit, target, eps, tree):
    """The status of a row whose code q is written, and its ‖x - c D‖².

    FINISHED, UNFINISHED where that misses the target, or ILL_CONDITIONED where it exceeds `limit` or ‖x‖² = square.
    """
    part = 0.0
    f = cuda.threadIdx.x
    while f < len(x):
        left = float64(x[f])
        for i in range(m):
            left -= float64(q[act[i]]) * float64(D[act[i], f])
        part += left * left
        f += cuda.blockDim.x
    left = summed(part, tree)
    if not left <= min(limit, square * (1 + 1e-14)):
        return ILL_CONDITIONED, left
    if target > 0 and math.sqrt(left) > math.sqrt(target) + 4 * eps * math.sqrt(square):
        return UNFINISHED, left
    return FINISHED, left


def blocks_for(n, workspace, blocks, X, each=BLOCKS):
    """How many blocks to launch for n rows, each with a workspace of so many bytes.  each: for a multiprocessor."""
    return at_once(min(n, blocks or each * multiprocessors(array_device(X).index)), workspace, X)


def at_once(n, size, X):
    """How many of n workspaces of `size` bytes to have at once: all that fit into MEMORY, or else into a quarter of the
    device's free memory."""
    memory = MEMORY if n * size <= MEMORY else max(MEMORY, array_device(X).budget() // 2)
    return max(1, min(n, memory // max(size, 1)))


def shared_memory(X):
    """Bytes of shared memory of a multiprocessor of the device where X is."""
    return _shared_memory(X.device.id) if hasattr(X, "__cuda_array_interface__") else SHARED


@cache
def _shared_memory(index):
    return cuda.get_current_device().MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
