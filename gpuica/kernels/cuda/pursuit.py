"""OMP, ORMP and non-negative OMP of many rows on the device, a block of threads for each row: as on the host.

Correlations are refreshed from rows of the Gram matrix, as on the host (Batch-OMP; Rubinstein, Zibulevsky and Elad,
2008): a step of a support of m atoms reads m K numbers that all blocks share, hence mostly from the L2, where a product
with the dictionary has 2 d K operations; matching pursuit reads one row.  The numbers of a row that a step changes
belong to one thread each, and threads meet in the choice of the atom.  The small problem is `support`'s, in float64, in
a workspace of the block, which the L1 holds; blocks go from row to row.

Rows end as on the host; those that are HARD are left to the coder's definition, in array code: see
`kernels.definitions`.  Barriers: as in `support`.
"""

import math

import numpy as np
from numba import cuda, float64, int32

from ...coders.support import EPS, FLOOR, NOISE
from ...device import array_device
from ..definitions import CLOSE, DONE, DOUBT, DRIFT, HARD, LARGEST, SMALLEST, UNFINISHED, finish
from . import Build, launch, numba_type
from .block import first_largest, largest, summed
from .row import THREADS, blocks_for, judged, square_of, write
from .support import BORN, LISTS, A, B, C, S, V, W, Z, border, outside_span, settle, times

ROOM = 64  # atoms of a support before more room is made
FULL = 3  # how a row ends that found no room
INSIDE = -math.inf  # in place of the square of an atom's part outside the span of the support: it is in the support


@cuda.jit(device=True)
def _measure(j, G, M, lists, act, m):
    """The squared distance of atom j from the span of the support; its coordinates in lists[W]."""
    for i in range(cuda.threadIdx.x, m, cuda.blockDim.x):
        lists[A, i] = G[j, act[i]]
    cuda.syncthreads()
    times(M, lists[A], lists[W], m)
    far = outside_span(lists[A], lists[W], float64(G[j, j]), m)
    cuda.syncthreads()  # all have read the lists
    return far


@cuda.jit(device=True)
def _refine(x, D, M, lists, act, r, tree, m):
    """Add M D_act (x - c D_act) to c: what the residual of the data still asks for.  r: (d,), float64."""
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    c, v, z = lists[C], lists[V], lists[Z]
    for f in range(t, len(r), threads):
        left = float64(x[f])
        for i in range(m):
            left -= c[i] * float64(D[act[i], f])
        r[f] = left
    cuda.syncthreads()
    for i in range(m):
        part = 0.0
        for f in range(t, len(r), threads):
            part += float64(D[act[i], f]) * r[f]
        total = summed(part, tree)
        if t == 0:
            v[i] = total
    cuda.syncthreads()
    times(M, v, z, m)
    for i in range(t, m, threads):
        c[i] += z[i]
    cuda.syncthreads()


@cuda.jit
def _orthogonal(
    X, D, G, Q, rows, ends, most, target, doubt, noise, close, drift, eps, by_gain, floor, smallest, largest_score,
    Ms, listss, acts, coefficients, rs, outsides,
):  # fmt: skip
    """See `orthogonal`.  Q becomes the codes, ends (rows,) how the rows ended.  The workspaces of a block: M, lists and
    act; the atom's coordinates in the dtype of Q (room,); a residual (d,); `outside` (K,), squares of the atoms' parts
    outside the span of the support."""
    tree = cuda.shared.array(THREADS, float64)
    places = cuda.shared.array(THREADS, int32)
    t, threads, block = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
    M, lists, act, real, outside = Ms[block], listss[block], acts[block], coefficients[block], outsides[block]
    c, w, K, number = lists[C], lists[W], Q.shape[1], Q.dtype.type
    for at in range(block, len(rows), cuda.gridDim.x):
        row = rows[at]
        x, h, m, rounding, end = X[row], Q[row], 0, 0.0, DONE
        square = square_of(x, tree)
        left, best = square, 0.0
        for k in range(t, K, threads):
            outside[k] = G[k, k]
            best = max(best, float64(h[k]) * float64(h[k]))
        least = noise * largest(best, tree)
        while m < most and (left > target or target == 0):
            if target > 0 and left <= target + doubt * square:
                end = HARD
                break
            best, place = 0.0, int32(K)
            for k in range(t, K, threads):
                if outside[k] > floor * G[k, k] if by_gain else outside[k] > INSIDE:
                    score = float64(h[k] * h[k] / outside[k] if by_gain else h[k] * h[k])
                    if score > best:
                        best, place = score, int32(k)
            top, j = first_largest(best, place, tree, places)
            if m == 0 and least > 0 and not (smallest < top and top < largest_score):
                end = HARD
                break
            if top <= rounding:
                best = 0.0  # is it for atoms that depend on the support, no candidates, that none is left?
                for k in range(t, K, threads):
                    if outside[k] > INSIDE and outside[k] <= floor * G[k, k]:
                        best = max(best, float64(h[k]) * float64(h[k]))
                if largest(best, tree) > least:
                    end = HARD
                break
            if m == len(act):
                end = FULL
                break
            rounding = max(rounding, noise * top)
            far, mine = _measure(j, G, M, lists, act, m), float64(h[j])
            cuda.syncthreads()  # all have read h_j
            if far <= close * G[j, j]:
                end = HARD
                break
            step = mine / math.sqrt(far)
            for i in range(t, m, threads):
                c[i] -= mine / far * w[i]
                real[i] = w[i]
            cuda.syncthreads()
            scale, share = number(1 / math.sqrt(far)), number(step)
            for k in range(t, K, threads):  # all atoms along the new direction of the support
                part = G[j, k]
                for i in range(m):
                    part -= real[i] * G[act[i], k]
                part *= scale
                h[k] -= share * part
                outside[k] -= part * part
                if k == j:
                    h[k] = 0
                    outside[k] = INSIDE
            border(M, w, far, m)
            if t == 0:
                act[m] = j
                c[m] = mine / far
            cuda.syncthreads()
            m += 1
            left -= step * step
        if target > 0 and abs(left - target) <= doubt * square and end == DONE:
            end = HARD
        if end == DONE:
            _refine(x, D, M, lists, act, rs[block], tree, m)
            write(h, act, c, m)
            end, _ = judged(x, D, h, act, m, square, left + drift * square, target, eps, tree)
            if end == UNFINISHED and left <= target:
                end = HARD
        if t == 0:
            ends[at] = end


@cuda.jit
def _nonnegative(
    X, D, G, Q, rows, ends, most, target, doubt, noise, close, drift, eps, Ms, listss, acts, coefficients, rs
):
    """See `nonnegative`.  Workspaces as for `_orthogonal`; coefficients: of the support, in the dtype of Q."""
    tree = cuda.shared.array(THREADS, float64)
    places = cuda.shared.array(THREADS, int32)
    t, threads, block = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
    M, lists, act, real = Ms[block], listss[block], acts[block], coefficients[block]
    c, K = lists[C], Q.shape[1]
    for at in range(block, len(rows), cuda.gridDim.x):
        row = rows[at]
        x, q, m, end, least = X[row], Q[row], 0, HARD, 0.0  # HARD: when the steps are over
        square = square_of(x, tree)
        left = square
        for now in range(2 * most + 1):  # atoms may leave again
            for i in range(t, m, threads):
                real[i] = c[i]
            cuda.syncthreads()
            best, place = 0.0, int32(K)
            for k in range(t, K, threads):
                h, inside = q[k], False
                for i in range(m):
                    h -= real[i] * G[act[i], k]
                    inside |= act[i] == k
                if h > best and not inside:
                    best, place = float64(h), int32(k)
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
            far = _measure(j, G, M, lists, act, m)
            if far <= close * G[j, j]:
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
            _refine(x, D, M, lists, act, rs[block], tree, m)
            for i in range(t, m, threads):
                c[i] = max(c[i], 0.0)
            cuda.syncthreads()
            write(q, act, c, m)
            end, _ = judged(x, D, q, act, m, square, left + drift * square, target, eps, tree)
            if end == UNFINISHED and left <= target:
                end = HARD
        if t == 0:
            ends[at] = end


def orthogonal(X, D, G, Q, coder, **sizes):
    """Codes of X (n, d), as `kernels.orthogonal.orthogonal`: Q = X Dᵀ (n, K) becomes the codes.  G = D Dᵀ.

    Waits for the device to know how the rows ended.  Returns how many rows were not finished.
    """
    size = Q.dtype.itemsize
    return _in_rooms(
        _orthogonal, X, D, G, Q, coder, (coder.by_gain, FLOOR[size], SMALLEST[size], LARGEST[size]), **sizes
    )


def nonnegative(X, D, G, Q, coder, **sizes):
    """As `orthogonal`, by non-negative OMP."""
    return _in_rooms(_nonnegative, X, D, G, Q, coder, (), **sizes)


def _in_rooms(kernel, X, D, G, Q, coder, more, threads=THREADS, blocks=None, room=ROOM):
    xp, (K, d), real, size = array_device(X).xp, D.shape, Q.dtype, Q.dtype.itemsize
    most, rows, all_ends = min(coder.n_nonzero, K, d), xp.arange(len(X), dtype=np.int32), xp.empty(len(X), np.int32)
    noise, orthogonal = NOISE[size], kernel is _orthogonal
    settings = float(coder.target), DOUBT[size], noise**2 if orthogonal else noise, CLOSE[size], DRIFT[size], EPS[size]
    room = min(room, most)
    while len(rows):
        ends = xp.empty(len(rows), dtype=np.int32)
        n = blocks_for(len(rows), 8 * room * (room + LISTS) + K * real.itemsize + 8 * d, blocks, X)
        arrays: tuple = (
            xp.empty((n, room, room), dtype=np.float64),
            xp.zeros((n, LISTS, room), dtype=np.float64),
            xp.empty((n, room), dtype=np.int32),
            xp.empty((n, room), dtype=real),
            xp.empty((n, d), dtype=np.float64),
        )
        if orthogonal:
            arrays = *arrays, xp.empty((n, K), dtype=real)
        launch(kernel, n, threads, X, D, G, Q, rows, ends, most, *settings, *more, *arrays)
        all_ends[rows] = ends
        if room == most:
            break
        rows, room = rows[ends == FULL], most
        if orthogonal and len(rows):  # from the beginning
            Q[rows] = X[rows] @ D.T
    return finish(X, D, Q, all_ends, coder)


def builds():
    """See `gpuica.kernels.cuda`."""
    from numba import boolean, int64

    for dtype in (np.float32, np.float64):
        real, name = numba_type(dtype), np.dtype(dtype).name
        rows, doubles = real[:, ::1], float64[:, ::1]
        arrays = rows, rows, rows, rows, int32[::1], int32[::1], int64, *[float64] * 6
        spaces = float64[:, :, ::1], float64[:, :, ::1], int32[:, ::1], rows, doubles
        orthogonal = *arrays, boolean, float64, float64, float64, *spaces, rows
        yield Build(f"orthogonal, {name}", _orthogonal.py_func, orthogonal)
        yield Build(f"nonnegative, {name}", _nonnegative.py_func, (*arrays, *spaces))
