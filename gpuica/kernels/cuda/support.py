"""Least squares on a growing and shrinking support, by the threads of one block: `kernels.cpu.support` on the device.

A support is m atoms and M (m, m), the inverse of their Gram matrix, in float64: see `workspace.Support`.  Its arrays
are in shared memory or in a workspace in global memory.

Every function is called by all threads of a block with the same m, ends past a barrier, and returns the same to all:
on every path, early returns included, because a thread may overwrite after the call what another still reads.  The one
exception is `outside_span`, which writes nothing; its caller adds the barrier.  Breaks, returns and loops depend only
on what is the same for all threads of the block, so that all pass the same barriers.
Thread j (modulo the threads) updates column j of M; short sums over m are computed by all threads, since a sum over m
numbers that all can read takes less time than a tree.
"""

from numba import cuda

from ..workspace import COEFFICIENTS, COORDINATES, CORRELATIONS, N_MOVED, RIGHT_SIDE, SIGNS, SOLUTION


@cuda.jit(device=True)
def times(M, v, out, m):
    """out = M v for the leading m."""
    j = cuda.threadIdx.x
    while j < m:
        total = 0.0
        for i in range(m):
            total += M[i, j] * v[i]
        out[j] = total
        j += cuda.blockDim.x
    cuda.syncthreads()


@cuda.jit(device=True)
def outside_span(a, w, square, m):
    """square - a w: the squared distance of an atom from the span of the support, w = M a its coordinates there."""
    left = square
    for i in range(m):
        left -= a[i] * w[i]
    return left


@cuda.jit(device=True)
def border(M, w, outside, m):
    """Extend M by an atom of coordinates w in the support and squared distance `outside` from its span."""
    j = cuda.threadIdx.x
    while j < m + 1:
        mine = (w[j] if j < m else -1.0) / outside
        for i in range(m):
            M[i, j] = w[i] * mine + (M[i, j] if j < m else 0.0)
        M[m, j] = -mine
        j += cuda.blockDim.x
    cuda.syncthreads()


@cuda.jit(device=True)
def leave(M, p, w, m):
    """Remove atom p from M (m, m); the last atom takes its place.  w: scratch.  The caller moves its own lists."""
    last = m - 1
    j = cuda.threadIdx.x
    while j < m:
        w[j] = M[p, j]
        j += cuda.blockDim.x
    cuda.syncthreads()
    j = cuda.threadIdx.x
    while j < m:
        mine = w[j] / w[p]
        for i in range(m):
            M[i, j] -= w[i] * mine
        j += cuda.blockDim.x
    cuda.syncthreads()
    if p < last:
        j = cuda.threadIdx.x
        while j < last:
            if j == p:
                M[p, p] = M[last, last]
            else:
                M[p, j] = M[last, j]
                M[j, p] = M[j, last]
            j += cuda.blockDim.x
    cuda.syncthreads()


@cuda.jit(device=True)
def drop(support, p, m):
    """Remove atom p from the support of m; the last atom takes its place.  Returns m - 1."""
    M, act, lists = support
    leave(M, p, lists[COORDINATES], m)
    if cuda.threadIdx.x == 0:
        act[p] = act[m - 1]
        for row in range(N_MOVED):
            lists[row, p] = lists[row, m - 1]
    cuda.syncthreads()
    return m - 1


@cuda.jit(device=True)
def settle(support, m, alpha, signed):
    """Minimise ½ cᵀGc - bᵀc + alpha |c| over the support; return its size, smaller where coefficients reached zero.

    c has the signs s, or is zero where atoms have just entered.  signed: whether the signs are constraints.
    """
    M, _, lists = support
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    c, s, b, z, v = lists[COEFFICIENTS], lists[SIGNS], lists[CORRELATIONS], lists[SOLUTION], lists[RIGHT_SIDE]
    while m > 0:
        i = t
        while i < m:
            v[i] = b[i] - alpha * s[i]
            i += threads
        cuda.syncthreads()
        times(M, v, z, m)
        if not signed:
            i = t
            while i < m:
                c[i] = z[i]
                i += threads
            break
        entered = m
        for i in range(m - 1, -1, -1):  # an atom that would leave zero with the wrong sign was not needed
            if c[i] == 0 and z[i] * s[i] <= 0:
                m = drop(support, i, m)
        if m < entered:
            continue
        fraction, first = 1.0, m
        for i in range(m):
            if z[i] * s[i] <= 0 and c[i] / (c[i] - z[i]) < fraction:
                fraction, first = c[i] / (c[i] - z[i]), i
        cuda.syncthreads()  # all have read c
        if first == m:
            i = t
            while i < m:
                c[i] = z[i]
                i += threads
            break
        i = t
        while i < m:
            c[i] += fraction * (z[i] - c[i])
            i += threads
        cuda.syncthreads()
        m = drop(support, first, m)
    cuda.syncthreads()
    return m
