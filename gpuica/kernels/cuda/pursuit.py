"""Non-negative OMP of many rows on the device, a block of threads for each row: as on the host.

Correlations are refreshed from rows of the Gram matrix, as on the host (Batch-OMP; Rubinstein, Zibulevsky and Elad,
2008): a step of a support of m atoms reads m K numbers that all blocks share, hence mostly from the L2, where a product
with the dictionary has 2 d K operations.  All coefficients change in a step, and atoms leave again, so that what
`orthogonal` keeps from step to step would not hold.  The numbers of a row that a step changes belong to one thread
each, and threads meet in the choice of the atom.  The small problem is `support`'s, in float64, in a workspace of the
block, which the L1 holds; blocks go from row to row.

Rows end as on the host; those that are HARD are left to the coder's definition, in array code: see
`kernels.definitions`.  Barriers: as in `support`.
"""

import numpy as np
from numba import cuda, float64, int32

from ...coders.support import EPS, NOISE
from ...device import array_device
from ..fallback import CLOSE, DONE, DOUBT, DRIFT, HARD, UNFINISHED, finish
from . import Build, launch, numba_type
from .block import LANES, first_largest, lane, lanes, summed_by_warp, warps
from .row import FULL, THREADS, blocks_for, combined, judged, square_of, write
from .support import BORN, LISTS, A, B, C, S, V, W, Z, border, outside_span, settle, times

ROOM = 64  # atoms of a support before more room is made


@cuda.jit(device=True)
def _measure(j, G, square, M, lists, act, m):
    """The squared distance of atom j, of norm² `square`, from the span of the support; its coordinates in lists[W]."""
    i = cuda.threadIdx.x
    while i < m:
        lists[A, i] = G[j, act[i]]
        i += cuda.blockDim.x
    cuda.syncthreads()
    times(M, lists[A], lists[W], m)
    far = outside_span(lists[A], lists[W], float64(square), m)
    cuda.syncthreads()  # all have read the lists
    return far


@cuda.jit(device=True)
def _among(k, act, m):
    """Whether atom k is in the support."""
    found, i = False, 0
    while i < m:
        found |= act[i] == k
        i += 1
    return found


@cuda.jit(device=True)
def _refine(x, D, M, lists, act, r, m):
    """Add M D_act (x - c D_act) to c: what the residual of the data still asks for.  r: (d,), float64."""
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    c, v, z = lists[C], lists[V], lists[Z]
    f = t
    while f < len(r):
        left = float64(x[f])
        for i in range(m):
            left -= c[i] * float64(D[act[i], f])
        r[f] = left
        f += threads
    cuda.syncthreads()
    i = t // LANES
    while i < m:  # a warp for each atom
        part, f = 0.0, lane()
        while f < len(r):
            part += float64(D[act[i], f]) * r[f]
            f += lanes()
        part = summed_by_warp(part)
        if lane() == 0:
            v[i] = part
        i += warps()
    cuda.syncthreads()
    times(M, v, z, m)
    i = t
    while i < m:
        c[i] += z[i]
        i += threads
    cuda.syncthreads()


@cuda.jit
def _nonnegative(
    X, D, G, squares, Q, rows, ends, most, target, doubt, noise, close, drift, eps, Ms, listss, acts, coefficients, rs
):
    """See `nonnegative`.  The workspaces of a block: M, lists and act; coefficients of the support, in Q's dtype; a
    residual (d,)."""
    tree = cuda.shared.array(LANES, float64)
    places = cuda.shared.array(LANES, int32)
    t, threads, block = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
    M, lists, act, real = Ms[block], listss[block], acts[block], coefficients[block]
    c, K = lists[C], Q.shape[1]
    at = block
    while at < len(rows):
        row = rows[at]
        x, q, m, end, least = X[row], Q[row], 0, HARD, 0.0  # HARD: when the steps are over
        square = square_of(x, tree)
        left = square
        for now in range(2 * most + 1):  # atoms may leave again
            i = t
            while i < m:
                real[i] = c[i]
                i += threads
            cuda.syncthreads()
            best, place = 0.0, int32(K)
            k = t
            while k < K:
                for fitted in combined(real, G, act, m, k):
                    if k < K and q[k] - fitted > best and not _among(k, act, m):
                        best, place = float64(q[k] - fitted), int32(k)
                    k += threads
            top, j = first_largest(best, place, tree, places)
            if now == 0:
                least = noise * top
            if target > 0 and abs(left - target) <= doubt * square:
                break
            if m == most or left <= target or top <= least:
                end = DONE
                break
            if now == 2 * most:
                break
            if m == len(act):
                end = FULL
                break
            far = _measure(j, G, squares[j], M, lists, act, m)
            if far <= close * squares[j]:
                break
            border(M, lists[W], far, m)
            if t == 0:
                act[m] = j
                c[m] = 0.0
                lists[S, m] = 1.0
                lists[B, m] = q[j]
                lists[BORN, m] = now
            cuda.syncthreads()
            m = settle(M, act, lists, m + 1, 0.0, True)
            left, stays = square, False
            for i in range(m):
                left -= lists[B, i] * c[i]
                stays |= act[i] == j
            if not stays:
                break
        if end == DONE:
            _refine(x, D, M, lists, act, rs[block], m)
            i = t
            while i < m:
                c[i] = max(c[i], 0.0)
                i += threads
            cuda.syncthreads()
            write(q, act, c, m)
            end, _ = judged(x, D, q, act, m, square, left + drift * square, target, eps, tree)
            if end == UNFINISHED and left <= target:
                end = HARD
        if t == 0:
            ends[at] = end
        at += cuda.gridDim.x


def nonnegative(X, D, G, Q, coder, threads=THREADS, blocks=None, room=ROOM):
    """As `orthogonal.orthogonal`, by non-negative OMP.  room: atoms to begin with."""
    xp, (K, d), real, size = array_device(X).xp, D.shape, Q.dtype, Q.dtype.itemsize
    most, rows, all_ends = min(coder.n_nonzero, K, d), xp.arange(len(X), dtype=np.int32), xp.empty(len(X), np.int32)
    settings = float(coder.target), DOUBT[size], NOISE[size], CLOSE[size], DRIFT[size], EPS[size]
    room, squares = min(room, most), xp.ascontiguousarray(xp.diagonal(G))
    while len(rows):
        ends = xp.empty(len(rows), dtype=np.int32)
        n = blocks_for(len(rows), 8 * room * (room + LISTS + 2) + 8 * d, blocks, X)
        arrays = (
            xp.empty((n, room, room), dtype=np.float64),
            xp.zeros((n, LISTS, room), dtype=np.float64),
            xp.empty((n, room), dtype=np.int32),
            xp.empty((n, room), dtype=real),
            xp.empty((n, d), dtype=np.float64),
        )
        launch(_nonnegative, n, threads, X, D, G, squares, Q, rows, ends, most, *settings, *arrays)
        all_ends[rows] = ends
        if room == most:
            break
        rows, room = rows[ends == FULL], min(4 * room, most)  # from the beginning
    return finish(X, D, Q, all_ends, coder)


def builds():
    """See `gpuica.kernels.cuda`."""
    from numba import int64

    for dtype in (np.float32, np.float64):
        real, name = numba_type(dtype), np.dtype(dtype).name
        rows, doubles = real[:, ::1], float64[:, ::1]
        arrays = rows, rows, rows, real[::1], rows, int32[::1], int32[::1], int64, *[float64] * 6
        spaces = float64[:, :, ::1], float64[:, :, ::1], int32[:, ::1], rows, doubles
        yield Build(f"nonnegative, {name}", _nonnegative.py_func, (*arrays, *spaces))
