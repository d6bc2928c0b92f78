"""Least squares on a growing and shrinking support, by the threads of one block: `kernels.support` on the device.

A support is m atoms, their coefficients c and M (m, m), the inverse of their Gram matrix, in float64.  Its arrays are
in shared memory or in a workspace: M, act (room,) of positions or atoms, and lists (N_LISTS, room) of what is known of
the atoms.

Every function is called by all threads of a block with the same m, ends past a barrier, and returns the same to all:
on every path, an early return too, since what a thread still reads another may overwrite after the call.  The one
exception is `outside_span`, which writes nothing; who calls it owes the barrier.  Breaks, returns and loops depend only
on what is the same for all threads of the block, so that all meet the same barriers.
Column j of M belongs to thread j (modulo the threads); what is short, all threads compute alike, since a sum over m
numbers that all can read takes less than a tree.
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
    """M with one atom more, of coordinates w in the support and squared distance `outside` from its span."""
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
    """Take atom p out of M (m, m); the last atom takes its place.  The caller moves its own lists alike."""
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
def drop(p, M, act, lists, m):
    """Atom p leaves the support of m; the last takes its place.  Returns m - 1."""
    leave(M, p, lists[COORDINATES], m)
    if cuda.threadIdx.x == 0:
        act[p] = act[m - 1]
        for row in range(N_MOVED):
            lists[row, p] = lists[row, m - 1]
    cuda.syncthreads()
    return m - 1


@cuda.jit(device=True)
def settle(M, act, lists, m, alpha, signed):
    """Minimise ½ cᵀGc - bᵀc + alpha |c| over the support; returns its size, smaller where coefficients met zero.

    c has the signs s, or is zero where atoms have just entered.  signed: whether the signs bind.
    """
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
        for i in range(m - 1, -1, -1):  # an atom that would leave zero to the wrong side was not needed
            if c[i] == 0 and z[i] * s[i] <= 0:
                m = drop(i, M, act, lists, m)
        if m < entered:
            continue
        share, meets = 1.0, m
        for i in range(m):
            if z[i] * s[i] <= 0 and c[i] / (c[i] - z[i]) < share:
                share, meets = c[i] / (c[i] - z[i]), i
        cuda.syncthreads()  # all have read c
        if meets == m:
            i = t
            while i < m:
                c[i] = z[i]
                i += threads
            break
        i = t
        while i < m:
            c[i] += share * (z[i] - c[i])
            i += threads
        cuda.syncthreads()
        m = drop(meets, M, act, lists, m)
    cuda.syncthreads()
    return m
