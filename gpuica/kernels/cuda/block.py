"""What the threads of one block do together: sums, the largest of their numbers, where it is.

By fixed trees in shared memory, for any number of threads, so that two runs agree bit for bit.  Every function is
called by all threads of a block and ends with all of them past a barrier; what it returns is the same for all.
tree, places: (blockDim.x,) at least, float64 and int32, in shared memory of the kernel (of a device function's own it
would be linked twice where two others call it, which is invalid).
"""

import numpy as np
from numba import cuda


@cuda.jit(device=True)
def summed(value, tree):
    """Σ value over the threads, in float64."""
    t, left = cuda.threadIdx.x, cuda.blockDim.x
    tree[t] = value
    cuda.syncthreads()
    while left > 1:
        upper = (left + 1) // 2
        if t < left - upper:
            tree[t] += tree[t + upper]
        left = upper
        cuda.syncthreads()
    total = tree[0]
    cuda.syncthreads()  # before the next sum overwrites it
    return total


@cuda.jit(device=True)
def largest(value, tree):
    """The largest value over the threads, in float64."""
    t, left = cuda.threadIdx.x, cuda.blockDim.x
    tree[t] = value
    cuda.syncthreads()
    while left > 1:
        upper = (left + 1) // 2
        if t < left - upper:
            tree[t] = max(tree[t], tree[t + upper])
        left = upper
        cuda.syncthreads()
    top = tree[0]
    cuda.syncthreads()
    return top


@cuda.jit(device=True)
def first_largest(value, place, tree, places):
    """The largest value over the threads, in float64, and its place; the smallest place of several."""
    t, left = cuda.threadIdx.x, cuda.blockDim.x
    tree[t] = value
    places[t] = place
    cuda.syncthreads()
    while left > 1:
        upper = (left + 1) // 2
        if t < left - upper:
            other, where = tree[t + upper], places[t + upper]
            if other > tree[t] or (other == tree[t] and where < places[t]):
                tree[t] = other
                places[t] = where
        left = upper
        cuda.syncthreads()
    top, best = tree[0], places[0]
    cuda.syncthreads()
    return top, best


@cuda.jit(device=True)
def place_among(flag, places):
    """How many threads before this one raised their flag (0 or 1), and how many did in all.

    By doubling steps (Hillis and Steele).
    """
    t, n = cuda.threadIdx.x, cuda.blockDim.x
    places[t] = flag
    cuda.syncthreads()
    reach = 1
    while reach < n:
        before = places[t - reach] if t >= reach else np.int32(0)
        cuda.syncthreads()
        places[t] += before
        reach *= 2
        cuda.syncthreads()
    mine, total = places[t] - flag, places[n - 1]
    cuda.syncthreads()
    return mine, total
