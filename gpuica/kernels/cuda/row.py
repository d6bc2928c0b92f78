"""What several coders do with one row, and how many blocks work on rows at a time."""

import math
from functools import cache

from numba import cuda, float64

from ...device import array_device
from ..status import FINISHED, ILL_CONDITIONED, UNFINISHED
from . import multiprocessors
from .block import LANES, lane, lanes, summed, summed_by_warp, warps

THREADS = 128
BLOCKS_PER_MULTIPROCESSOR = 12
WORKSPACE_BYTES = 1 << 30  # of all blocks, where the memory budget of the device is not queried
DEFAULT_SHARED_BYTES = 96 << 10  # of a multiprocessor, without a device


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
def subtract(x, D, ids, act, c, m, r):
    """r = x - c D over the support of a working set, summed in float64.  x, r: (d,).

    ids[0]: the atoms of the working set; act: the support, as places in it.
    """
    f = cuda.threadIdx.x
    while f < len(r):
        left = float64(x[f])
        for i in range(m):
            left -= c[i] * float64(D[ids[0, act[i]], f])
        r[f] = left
        f += cuda.blockDim.x
    cuda.syncthreads()


@cuda.jit(device=True)
def correlations(D, ids, act, r, m, out):
    """out_i = D_i r over the support of a working set, summed in float64; a warp for each atom."""
    i = cuda.threadIdx.x // LANES
    while i < m:
        atom, part, f = ids[0, act[i]], 0.0, lane()
        while f < len(r):
            part += float64(D[atom, f]) * float64(r[f])
            f += lanes()
        part = summed_by_warp(part)
        if lane() == 0:
            out[i] = part
        i += warps()
    cuda.syncthreads()


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

    Four at once, because loads in flight hide the latency of the L2, and they share those of c_i and act_i.  Beyond
    the last atom: that of the last.
    """
    threads, last, number = cuda.blockDim.x, G.shape[1] - 1, G.dtype.type
    k1, k2, k3 = min(k + threads, last), min(k + 2 * threads, last), min(k + 3 * threads, last)
    a0, a1, a2, a3, i = number(0), number(0), number(0), number(0), 0
    while i < m:
        fraction, row = c[i], G[act[i]]
        a0 += fraction * row[k]
        a1 += fraction * row[k1]
        a2 += fraction * row[k2]
        a3 += fraction * row[k3]
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


def blocks_for(n, workspace, blocks, X, per_multiprocessor=BLOCKS_PER_MULTIPROCESSOR):
    """The number of blocks to launch for n rows, each with a workspace of so many bytes.  each: per multiprocessor."""
    return at_once(min(n, blocks or per_multiprocessor * multiprocessors(array_device(X).index)), workspace, X)


def at_once(n, size, X):
    """How many of n workspaces of `size` bytes to allocate at once: as many as fit into WORKSPACE_BYTES, or else into
    half of the memory budget of the device."""
    memory = WORKSPACE_BYTES if n * size <= WORKSPACE_BYTES else max(WORKSPACE_BYTES, array_device(X).budget() // 2)
    return max(1, min(n, memory // max(size, 1)))


def shared_memory(X):
    """Bytes of shared memory of a multiprocessor of the device where X is."""
    return _shared_memory(X.device.id) if hasattr(X, "__cuda_array_interface__") else DEFAULT_SHARED_BYTES


@cache
def _shared_memory(index):
    return cuda.get_current_device().MAX_SHARED_MEMORY_PER_MULTIPROCESSOR
