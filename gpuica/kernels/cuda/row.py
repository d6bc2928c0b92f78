"""What the pursuits of `pursuit` and `matching` share: the ends of a row, and the blocks that rows are given to."""

import math

from numba import cuda, float64

from ...device import array_device
from ..definitions import DONE, HARD, UNFINISHED
from . import multiprocessors
from .block import summed

THREADS = 128
BLOCKS = 12  # for each multiprocessor
MEMORY = 1 << 30  # bytes of the workspaces


@cuda.jit(device=True)
def square_of(x, tree):
    """‖x‖², in float64."""
    part = 0.0
    for f in range(cuda.threadIdx.x, len(x), cuda.blockDim.x):
        part += float64(x[f]) * float64(x[f])
    return summed(part, tree)


@cuda.jit(device=True)
def write(q, act, c, m):
    """q becomes the code: zero but for c on the support."""
    for k in range(cuda.threadIdx.x, len(q), cuda.blockDim.x):
        q[k] = 0
    cuda.syncthreads()
    for i in range(cuda.threadIdx.x, m, cuda.blockDim.x):
        q[act[i]] = c[i]
    cuda.syncthreads()


@cuda.jit(device=True)
def judged(x, D, q, act, m, square, limit, target, eps, tree):
    """How a row ends whose code q is written, and its ‖x - c D‖²: DONE, UNFINISHED where that misses the target, HARD
    where it is more than `limit` or ‖x‖² = square."""
    part = 0.0
    for f in range(cuda.threadIdx.x, len(x), cuda.blockDim.x):
        left = float64(x[f])
        for i in range(m):
            left -= float64(q[act[i]]) * float64(D[act[i], f])
        part += left * left
    left = summed(part, tree)
    if not left <= min(limit, square * (1 + 1e-14)):
        return HARD, left
    if target > 0 and math.sqrt(left) > math.sqrt(target) + 4 * eps * math.sqrt(square):
        return UNFINISHED, left
    return DONE, left


def blocks_for(n, workspace, blocks, X):
    """How many blocks to launch for n rows, each with a workspace of so many bytes."""
    blocks = blocks or BLOCKS * multiprocessors(array_device(X).index)
    return max(1, min(n, blocks, MEMORY // workspace))
