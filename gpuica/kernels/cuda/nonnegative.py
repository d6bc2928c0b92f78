"""Non-negative OMP of many rows on the device, a block of threads for each row: as on the host.

Correlations are computed from rows of the Gram matrix, as on the host (Batch-OMP; Rubinstein, Zibulevsky and Elad,
2008): a step of a support of m atoms reads m K numbers that all blocks share, hence mostly from the L2, where a product
with the dictionary has 2 d K operations.  All coefficients change in a step, and atoms leave again, so that the inner
products that `orthogonal` keeps from step to step would not stay valid.  Each thread updates numbers of its own, and
the threads synchronise in the choice of the atom.  The small problem is that of `support`, in float64, in a workspace
of the block, which the L1 holds; blocks process one row after another.

Rows end as on the host; those that are ILL_CONDITIONED are recomputed by the coder's definition, in array code: see
`kernels.fallback`.  Barriers: as in `support`.
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
    Support,
)
from . import Build, launch, numba_type
from .block import LANES, first_largest, lane, lanes, summed_by_warp, warps
from .row import THREADS, blocks_for, check_code, combined, square_of, write
from .support import border, outside_span, settle, times

INITIAL_ROOM = 64  # atoms of a support; four times as many for rows that need more


@cuda.jit(device=True)
def _measure(j, G, square, support, m):
    """The squared distance of atom j, of squared norm `square`, from the span of the support.

    Its coordinates in the support are left in lists[COORDINATES].
    """
    M, act, lists = support
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
def _contains(act, k, m):
    """Whether atom k is in the support."""
    found, i = False, 0
    while i < m:
        found |= act[i] == k
        i += 1
    return found


@cuda.jit(device=True)
def _largest_correlation(q, G, support, real, m, tree, indices):
    """The largest correlation q - c G above 0 of the atoms outside the support, and its atom; K if there is none.

    real (m,): the coefficients c, in the dtype of q.
    """
    _, act, lists = support
    t, threads, K = cuda.threadIdx.x, cuda.blockDim.x, len(q)
    i = t
    while i < m:
        real[i] = lists[COEFFICIENTS, i]
        i += threads
    cuda.syncthreads()
    best, index = 0.0, int32(K)
    k = t
    while k < K:
        for fitted in combined(real, G, act, m, k):
            if k < K and q[k] - fitted > best and not _contains(act, k, m):
                best, index = float64(q[k] - fitted), int32(k)
            k += threads
    return first_largest(best, index, tree, indices)


@cuda.jit(device=True)
def _append(support, j, correlation, now, m):
    """Write atom j, of coefficient 0, behind the m of the support."""
    _, act, lists = support
    if cuda.threadIdx.x == 0:
        act[m] = j
        lists[COEFFICIENTS, m] = 0.0
        lists[SIGNS, m] = 1.0
        lists[CORRELATIONS, m] = correlation
        lists[ENTERED, m] = now
    cuda.syncthreads()


@cuda.jit(device=True)
def _refine(x, D, support, r, m):
    """Add M D_act (x - c D_act) to c: one step with the residual of the data.  r (d,): float64, scratch."""
    M, act, lists = support
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
        c[i] = max(c[i] + z[i], 0.0)
        i += threads
    cuda.syncthreads()


@cuda.jit(device=True, inline="always")  # a call would take up to 18 registers more
def _encode(q, G, squares, square, most, target, target_tol, rounding, gram_dependence, support, real, tree, indices):
    """Non-negative OMP of one row of correlations q (K,) and ‖x‖² = square; its coefficients are in the support.

    Returns the support's size, what is left of ‖x‖², and the status of the row.
    """
    _, act, lists = support
    m, least, left, end = 0, 0.0, square, ILL_CONDITIONED  # when the steps are exhausted
    for now in range(2 * most + 1):  # atoms may leave again
        top, j = _largest_correlation(q, G, support, real, m, tree, indices)
        if now == 0:
            least = rounding * top
        if target > 0 and abs(left - target) <= target_tol * square:
            break
        if m == most or left <= target or top <= least:
            end = FINISHED
            break
        if now == 2 * most:
            break
        if m == len(act):
            end = NO_ROOM
            break
        far = _measure(j, G, squares[j], support, m)
        if far <= gram_dependence * squares[j]:
            break
        border(support.inverse, lists[COORDINATES], far, m)
        _append(support, j, q[j], now, m)
        m = settle(support, m + 1, 0.0, True)
        left, stays = square, False
        for i in range(m):
            left -= lists[CORRELATIONS, i] * lists[COEFFICIENTS, i]
            stays |= act[i] == j
        if not stays:
            break
    return m, left, end


@cuda.jit
def _nonnegative(
    X, D, G, squares, Q, rows, ends, most, target, target_tol, rounding, gram_dependence, drift, eps,
    Ms, listss, acts, coefficients, rs,
):  # fmt: skip
    """See `nonnegative`; Q becomes the codes, ends (rows,) the status of the rows.

    The workspaces of a block: the arrays of a support; its coefficients in the dtype of Q; a residual (d,).
    """
    tree = cuda.shared.array(LANES, float64)
    indices = cuda.shared.array(LANES, int32)
    block, at = cuda.blockIdx.x, cuda.blockIdx.x
    support, real = Support(Ms[block], acts[block], listss[block]), coefficients[block]
    act, c = support.atoms, support.lists[COEFFICIENTS]
    while at < len(rows):
        row = rows[at]
        x, q = X[row], Q[row]
        square = square_of(x, tree)
        m, left, end = _encode(
            q, G, squares, square, most, target, target_tol, rounding, gram_dependence, support, real, tree, indices
        )
        if end == FINISHED:
            _refine(x, D, support, rs[block], m)
            write(q, act, c, m)
            end, _ = check_code(x, D, q, act, m, square, left + drift * square, target, eps, tree)
            if end == UNFINISHED and left <= target:
                end = ILL_CONDITIONED
        if cuda.threadIdx.x == 0:
            ends[at] = end
        at += cuda.gridDim.x


def nonnegative(X, D, G, Q, coder, threads=THREADS, blocks=None, room=INITIAL_ROOM):
    """As `orthogonal.orthogonal`, by non-negative OMP.  room: atoms of a support, at first."""
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
        rows, room = rows[ends == NO_ROOM], min(4 * room, most)  # they start again
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
