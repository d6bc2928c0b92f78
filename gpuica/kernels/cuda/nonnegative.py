"""Non-negative OMP of many rows on the device, a block of threads for each row: as on the host.

Correlations are refreshed from rows of the Gram matrix, as on the host (Batch-OMP; Rubinstein, Zibulevsky and Elad,
2008): a step of a support of m atoms reads m K numbers that all blocks share, hence mostly from the L2, where a product
with the dictionary has 2 d K operations.  All coefficients change in a step, and atoms leave again, so that what
`orthogonal` keeps from step to step would not hold.  The numbers of a row that a step changes belong to one thread
each, and threads meet in the choice of the atom.  The small problem is `support`'s, in float64, in a workspace of the
block, which the L1 holds; blocks go from row to row.

Rows end as on the host; those that are ILL_CONDITIONED are left to the coder's definition, in array code: see
`kernels.definitions`.  Barriers: as in `support`.
"""

import numpy as np
from numba import cuda, float64, int32

from ...coders.support import EPS, ROUNDING_TOL
from ...device import array_device
from ..fallback import recode_ill_conditioned
from ..status import FINISHED, ILL_CONDITIONED, NO_ROOM, UNFINISHED
from ..tolerances import GRAM_DEPENDENCE_TOL, RESIDUAL_DRIFT_TOL, TARGET_TOL
from ..workspace import (
    COEFFICIENTS,
    COORDINATES,
    CORRELATIONS,
    ENTERED,
    INNER_PRODUCTS,
    N_LISTS,
    RIGHT_SIDE,
    SIGNS,
    SOLUTION,
)
from . import Build, launch, numba_type
from .block import LANES, first_largest, lane, lanes, summed_by_warp, warps
from .row import THREADS, blocks_for, check_code, combined, square_of, write
from .support import border, outside_span, settle, times

ROOM = 64  # atoms of a support before more room is made


@cuda.jit(device=True)
def _measure(j, G, square, M, lists, act, m):
    """The squared distance of atom j, of squared norm `square`, from the span of the support.

    Its coordinates in the support are left in lists[COORDINATES].
    """
    i = cuda.threadIdx.x
    while i < m:
        lists[INNER_PRODUCTS, i] = G[j, act[i]]
        i += cuda.blockDim.x
    cuda.syncthreads()
    times(M, lists[INNER_PRODUCTS], lists[COORDINATES], m)
    far = outside_span(lists[INNER_PRODUCTS], lists[COORDINATES], float64(square), m)
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
    c, v, z = lists[COEFFICIENTS], lists[RIGHT_SIDE], lists[SOLUTION]
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
    c, K = lists[COEFFICIENTS], Q.shape[1]
    at = block
    while at < len(rows):
        row = rows[at]
        x, q, m, end, least = X[row], Q[row], 0, ILL_CONDITIONED, 0.0  # ILL_CONDITIONED: when the steps are over
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
                end = FINISHED
                break
            if now == 2 * most:
                break
            if m == len(act):
                end = NO_ROOM
                break
            far = _measure(j, G, squares[j], M, lists, act, m)
            if far <= close * squares[j]:
                break
            border(M, lists[COORDINATES], far, m)
            if t == 0:
                act[m] = j
                c[m] = 0.0
                lists[SIGNS, m] = 1.0
                lists[CORRELATIONS, m] = q[j]
                lists[ENTERED, m] = now
            cuda.syncthreads()
            m = settle(M, act, lists, m + 1, 0.0, True)
            left, stays = square, False
            for i in range(m):
                left -= lists[CORRELATIONS, i] * c[i]
                stays |= act[i] == j
            if not stays:
                break
        if end == FINISHED:
            _refine(x, D, M, lists, act, rs[block], m)
            i = t
            while i < m:
                c[i] = max(c[i], 0.0)
                i += threads
            cuda.syncthreads()
            write(q, act, c, m)
            end, _ = check_code(x, D, q, act, m, square, left + drift * square, target, eps, tree)
            if end == UNFINISHED and left <= target:
                end = ILL_CONDITIONED
        if t == 0:
            ends[at] = end
        at += cuda.gridDim.x


def nonnegative(X, D, G, Q, coder, threads=THREADS, blocks=None, room=ROOM):
    """As `orthogonal.orthogonal`, by non-negative OMP.  room: atoms to begin with."""
    xp, (K, d), real, size = array_device(X).xp, D.shape, Q.dtype, Q.dtype.itemsize
    most, rows, all_ends = min(coder.n_nonzero, K, d), xp.arange(len(X), dtype=np.int32), xp.empty(len(X), np.int32)
    tolerances = TARGET_TOL, ROUNDING_TOL, GRAM_DEPENDENCE_TOL, RESIDUAL_DRIFT_TOL, EPS
    settings = float(coder.target), *(by_size[size] for by_size in tolerances)
    room, squares = min(room, most), xp.ascontiguousarray(xp.diagonal(G))
    while len(rows):
        ends = xp.empty(len(rows), dtype=np.int32)
        n = blocks_for(len(rows), 8 * room * (room + N_LISTS + 2) + 8 * d, blocks, X)
        arrays = (
            xp.empty((n, room, room), dtype=np.float64),
            xp.zeros((n, N_LISTS, room), dtype=np.float64),
            xp.empty((n, room), dtype=np.int32),
            xp.empty((n, room), dtype=real),
            xp.empty((n, d), dtype=np.float64),
        )
        launch(_nonnegative, n, threads, X, D, G, squares, Q, rows, ends, most, *settings, *arrays)
        all_ends[rows] = ends
        if room == most:
            break
        rows, room = rows[ends == NO_ROOM], min(4 * room, most)  # from the beginning
    return recode_ill_conditioned(X, D, Q, all_ends, coder)


def builds():
    """See `gpuica.kernels.cuda`."""
    from numba import int64

    for dtype in (np.float32, np.float64):
        real, name = numba_type(dtype), np.dtype(dtype).name
        rows, doubles = real[:, ::1], float64[:, ::1]
        arrays = rows, rows, rows, real[::1], rows, int32[::1], int32[::1], int64, *[float64] * 6
        spaces = float64[:, :, ::1], float64[:, :, ::1], int32[:, ::1], rows, doubles
        yield Build(f"nonnegative, {name}", _nonnegative.py_func, (*arrays, *spaces))
