"""OMP and ORMP of many rows on the device, a block of threads for each row: `kernels.cpu.orthogonal` on the device.

As on the host, P_i (K,) holds the inner products of all atoms with direction i of an orthonormal basis of the support.
A step reads one row of the Gram matrix and the m rows of P, m K numbers that belong to the row alone.  They are in
shared memory as far as they fit, and otherwise in a workspace that the L2 holds.  From rows of the Gram matrix a step
would read m K numbers of the L2: for 60,000 rows of 32 atoms out of 1,024 in float32, 130 GB and 24 ms at 5.5 TB/s,
where shared memory needs 5 ms (132 multiprocessors, 128 bytes a clock).  Measured on an H200: 2.2 million such rows a
second, for the whole call, where reading rows of the Gram matrix in every step allowed 0.46 million.

A step is one sweep over the atoms and one barrier, in the choice of the next: the update of an atom's correlation h and
of `outside`, its square outside the span, also gives the atom's score.  A thread updates four atoms at once, which
share the loads of their coefficients.

Rows end as on the host; those that are ILL_CONDITIONED are recomputed by the coder's definition, in array code: see
`kernels.fallback`.

Barriers: all threads of a block take the same branches, because all compute what decides them (m, left, top, the atom)
from the same numbers.  In `_advance` an atom's numbers are written by one thread, always the same; other threads read
them, in the next P_i and `_correlations_are_left`, past the barrier of `_choose`, and `_begin` past that of a sum.
"""

import math

import numpy as np
from numba import cuda, float64, int32, uint32, uint64

from ...coders.support import DEPENDENCE_TOL, EPS, ROUNDING_TOL
from ...device import array_device
from ..fallback import recode_ill_conditioned
from ..status import FINISHED, ILL_CONDITIONED, NO_ROOM, UNFINISHED
from ..tolerances import GRAM_DEPENDENCE_TOL, MAX_SQUARE, MIN_SQUARE, RESIDUAL_DRIFT_TOL, SAFE_DETERMINANT, TARGET_TOL
from . import Build, launch, numba_type
from .block import LANES, first_largest_of_warp, lane, largest, warps
from .loading import resident
from .row import blocks_for, check_code, shared_memory, square_of, write

INITIAL_ROOM = 64  # directions of a row with a target; four times as many for rows that need more
INSIDE = -math.inf  # in place of the square of an atom's part outside the span: the atom is in the support
TILE = 4  # atoms that a thread updates at once
MAX_THREADS = 256
MIN_SHARERS = 2  # blocks of a multiprocessor, at least: one hides the latency of another
BLOCK_OVERHEAD = 4 << 10  # bytes of shared memory of a block beside the rows in it
HALVES = 2 * LANES  # a number for each warp, of two alternating choices
ALONG, SCALE, CODE = 0, 1, 2  # lists of a row: x along each direction, 1 / the direction's length, the coefficients


@cuda.jit(device=True)
def _better(best, index, k, h, outside, square, by_gain, dependence):
    """The better score of `best`, of atom `index`, and of atom k, if that is a candidate; and its atom."""
    if outside > dependence * square if by_gain else outside > dependence:
        score = h * h / outside if by_gain else h * h
        if score > best:
            best, index = score, int32(k)
    return best, index


@cuda.jit(device=True)
def _begin(q, squares, h, outside, by_gain, dependence):
    """The atoms before the first step.  Returns this thread's best score and its atom."""
    best, index, k = q.dtype.type(0), int32(len(q)), cuda.threadIdx.x
    while k < len(q):
        value, square = q[k], squares[k]
        h[k], outside[k] = value, square
        best, index = _better(best, index, k, value, square, square, by_gain, dependence)
        k += cuda.blockDim.x
    return best, index


@cuda.jit(device=True)
def _choose(best, index, h, outside, scores, indices, parts, turn):
    """The largest score over the threads, its atom, and that atom's h and `outside`, the same to all threads.

    One barrier: the next call writes to the other half of the arrays (turn: 0 and 1 alternately), and the one after it
    is past a barrier that follows all reads.
    """
    mine, half = index, turn * LANES
    best, index = first_largest_of_warp(best, index)
    at = half + cuda.threadIdx.x // LANES
    if lane() == 0:
        scores[at], indices[at] = best, index
    if index == mine and index < len(h):
        parts[0, at], parts[1, at] = h[index], outside[index]
    cuda.syncthreads()
    found, other, stop = half, half + 1, half + warps()
    while other < stop:
        if scores[other] > scores[found] or (scores[other] == scores[found] and indices[other] < indices[found]):
            found = other
        other += 1
    return scores[found], indices[found], parts[0, found], parts[1, found]


@cuda.jit(device=True)
def _update_atom(best, index, k, part, j, step, squares, h, outside, direction, by_gain, dependence):
    """Atom k, of inner product `part` with the new direction, after a step along it; `_better`, of this thread's best.

    direction (K,): of all atoms.  k may be beyond them.
    """
    if k < uint64(len(h)):  # of the same type, or Numba would compare in float64
        direction[k] = part
        value, left = h[k] - step * part, outside[k] - part * part
        if k == j:
            value, left = h.dtype.type(0), h.dtype.type(INSIDE)
        h[k], outside[k] = value, left
        best, index = _better(best, index, k, value, left, squares[k] if by_gain else left, by_gain, dependence)
    return best, index


@cuda.jit(device=True)
def _subtract(P, n, K, j, k, k1, k2, k3, a0, a1, a2, a3):
    """a - Σ P_ij P_ik over n rows of P, stored in sequence, for four k."""
    i, at = uint32(0), uint64(0)
    while i < n:
        fraction = P[at + j]
        a0 -= fraction * P[at + k]
        a1 -= fraction * P[at + k1]
        a2 -= fraction * P[at + k2]
        a3 -= fraction * P[at + k3]
        at, i = at + K, uint32(i + uint32(1))
    return a0, a1, a2, a3


@cuda.jit(device=True)
def _advance(G, squares, h, outside, near, n_near, far, j, m, scale, step, by_gain, dependence):
    """Direction m, that of atom j: P_m, and all atoms after a step along it.

    Returns this thread's best score and its atom.  near: P_i for i < n_near, in sequence; far: the others.
    A thread has four atoms, a warp's width apart: with a known distance they take one address.  So `near` is read,
    without use, up to three widths beyond the last atom.  Indices are unsigned: Numba tests others for negative ones.
    """
    row, best, index, position = G[j], h.dtype.type(0), int32(len(h)), uint32(cuda.threadIdx.x)
    K, last, j, width = len(h), uint64(len(h) - 1), uint32(j), uint64(LANES)
    n_first, n_second = uint32(min(m, n_near)), uint32(max(m - n_near, 0))
    direction = near[m * K : (m + 1) * K] if m < n_near else far[(m - n_near) * K : (m - n_near + 1) * K]
    what = j, step, squares, h, outside, direction, by_gain, dependence
    while position // LANES * (TILE * LANES) <= last:
        k = uint64(position // LANES * (TILE * LANES) + position % LANES)
        if k <= last:
            k1, k2, k3 = k + width, k + width + width, k + width + width + width
            l1, l2, l3 = min(k1, last), min(k2, last), min(k3, last)
            a0, a1, a2, a3 = row[k], row[l1], row[l2], row[l3]
            a0, a1, a2, a3 = _subtract(near, n_first, uint64(K), j, k, k1, k2, k3, a0, a1, a2, a3)
            a0, a1, a2, a3 = _subtract(far, n_second, uint64(K), j, k, l1, l2, l3, a0, a1, a2, a3)
            best, index = _update_atom(best, index, k, a0 * scale, *what)
            best, index = _update_atom(best, index, k1, a1 * scale, *what)
            best, index = _update_atom(best, index, k2, a2 * scale, *what)
            best, index = _update_atom(best, index, k3, a3 * scale, *what)
        position = uint32(position + uint32(cuda.blockDim.x))
    return best, index


@cuda.jit(device=True)
def _correlations_are_left(q, h, outside, squares, m, by_gain, dependence, rounding_tol, tree):
    """Whether correlations are left though no candidate is: in the first step, of any atom, which numbers of the dtype
    do not hold well; later, of atoms that depend on the support, no candidates of ORMP."""
    first, best, k = 0.0, 0.0, cuda.threadIdx.x
    while k < len(h):
        first = max(first, abs(float64(q[k])))
        if by_gain and outside[k] > INSIDE and outside[k] <= dependence * squares[k]:
            best = max(best, abs(float64(h[k])))
        k += cuda.blockDim.x
    first, best = largest(first, tree), largest(best, tree)
    return first > 0 if m == 0 else best * best > rounding_tol * first * first


@cuda.jit(device=True)
def _coefficients(near, n_near, far, act, lists, m, K):
    """lists[CODE] = c with R c = lists[ALONG], R_il = P_i at atom l of the support: least squares on it.

    By the first warp alone, whose lanes each keep their equations.
    """
    along, scale, c = lists[ALONG], lists[SCALE], lists[CODE]
    cuda.syncthreads()  # the lists are written
    if cuda.threadIdx.x < LANES:
        i = m - 1
        while i >= 0:
            atom, value = act[i], along[i] * scale[i]
            if lane() == 0:
                c[i] = value
            k = lane()
            while k < i:
                entry = near[k * K + atom] if k < n_near else far[(k - n_near) * K + atom]
                along[k] -= value * float64(entry)
                k += min(LANES, cuda.blockDim.x)
            cuda.syncwarp()
            i -= 1
    cuda.syncthreads()


@cuda.jit(device=True)
def _write(x, D, q, act, c, m, square, left, shares, target, drift, safe_determinant, eps, tree):
    """q (K,) becomes the code of m coefficients c; returns the status of the row.

    Its residual is checked where the support may be ill-conditioned (shares), or the residual decides.
    """
    write(q, act, c, m)
    end = FINISHED
    if shares < safe_determinant or target > 0 or not left <= (1 - drift) * square:  # NaN too
        end, _ = check_code(x, D, q, act, m, square, left + drift * square, target, eps, tree)
    if end == UNFINISHED and left <= target:
        end = ILL_CONDITIONED
    return end


@cuda.jit
@resident(MAX_THREADS, MIN_SHARERS)
def _orthogonal(
    X, D, G, squares, Q, rows, ends, most, target, target_tol, rounding_tol, gram_dependence, drift, safe_determinant,
    eps, by_gain, dependence, min_square, max_square, in_shared, n_near, room, atoms, fars, listss, acts,
):  # fmt: skip
    """See `orthogonal`.  Q becomes the codes, ends (rows,) the status of the rows.

    in_shared: whether h and `outside` are in shared memory, and not in atoms (blocks, 2, K); n_near rows of P follow.
    fars (blocks, room - n_near, times K): the others.  listss (blocks, 3, room + 1) and acts (blocks, room + 1).
    """
    shared = cuda.shared.array(0, Q.dtype)
    scores = cuda.shared.array(HALVES, Q.dtype)
    parts = cuda.shared.array((2, HALVES), Q.dtype)
    indices = cuda.shared.array(HALVES, int32)
    tree = cuda.shared.array(LANES, float64)
    block, at, K, number = cuda.blockIdx.x, cuda.blockIdx.x, Q.shape[1], Q.dtype.type
    far, lists, act = fars[block], listss[block], acts[block]
    h = shared[:K] if in_shared else atoms[block, 0]
    outside = shared[K : 2 * K] if in_shared else atoms[block, 1]
    near, least = shared[2 * K :], number(dependence) if by_gain else number(INSIDE)
    while at < len(rows):
        row = rows[at]
        x, q, m, shares, rounding, end = X[row], Q[row], 0, 1.0, number(0), FINISHED
        square = square_of(x, tree)
        left = square
        best, index = _begin(q, squares, h, outside, by_gain, least)
        while m < most and (left > target or target == 0):
            if target > 0 and left <= target + target_tol * square:
                end = ILL_CONDITIONED
                break
            top, j, mine, rest = _choose(best, index, h, outside, scores, indices, parts, m & 1)
            if top <= rounding or (m == 0 and not (min_square < top and top < max_square)):
                if _correlations_are_left(q, h, outside, squares, m, by_gain, least, rounding_tol, tree):
                    end = ILL_CONDITIONED
                break
            if rest <= number(gram_dependence) * squares[j]:
                end = ILL_CONDITIONED
                break
            rounding = max(rounding, number(rounding_tol) * top)
            shares *= float64(rest / squares[j])
            scale = number(1) / math.sqrt(rest)
            step = mine * scale
            if cuda.threadIdx.x == 0:
                act[m], lists[ALONG, m], lists[SCALE, m] = j, step, scale
            left -= float64(step) * float64(step)
            if m + 1 < most and (left > target or target == 0):  # else no other atom follows
                if m == room:
                    end = NO_ROOM
                    break
                best, index = _advance(G, squares, h, outside, near, n_near, far, j, m, scale, step, by_gain, least)
            m += 1
        if target > 0 and abs(left - target) <= target_tol * square and end == FINISHED:
            end = ILL_CONDITIONED
        if end == FINISHED:
            _coefficients(near, n_near, far, act, lists, m, K)
            end = _write(x, D, q, act, lists[CODE], m, square, left, shares, target, drift, safe_determinant, eps, tree)
        if cuda.threadIdx.x == 0:
            ends[at] = end
        at += cuda.gridDim.x


def orthogonal(X, D, G, Q, coder, threads=None, blocks=None, room=INITIAL_ROOM, shared=None):
    """Codes of X (n, d), as `kernels.cpu.orthogonal.orthogonal`: Q = X Dᵀ (n, K) becomes the codes.  G = D Dᵀ.

    Synchronises, to read the status of the rows.  Returns the number of unfinished rows.  room: directions of a row, at
    first.  shared: bytes of shared memory of a multiprocessor.
    """
    xp, K, real, size = array_device(X).xp, len(D), Q.dtype, Q.dtype.itemsize
    most, rows, all_ends = min(coder.n_nonzero, *D.shape), xp.arange(len(X), dtype=np.int32), xp.empty(len(X), np.int32)
    threads = threads or min(MAX_THREADS, -(-K // (TILE * LANES)) * LANES)
    last = max(most - 1, 0)  # the last atom's direction moves no other
    room = min(room, last) if coder.target > 0 else last
    settings = (
        most,
        float(coder.target),
        TARGET_TOL[size],
        ROUNDING_TOL[size] ** 2,
        GRAM_DEPENDENCE_TOL[size],
        RESIDUAL_DRIFT_TOL[size],
        SAFE_DETERMINANT[size],
        EPS[size],
        coder.by_gain,
        DEPENDENCE_TOL[size],
        MIN_SQUARE[size],
        MAX_SQUARE[size],
    )
    squares = xp.ascontiguousarray(xp.diagonal(G))
    while len(rows):
        ends = xp.empty(len(rows), dtype=np.int32)
        in_shared, near, sharers = _split(room, K * size, threads, shared or shared_memory(X))
        far = room - near
        n = blocks_for(len(rows), far * K * size + 28 * (room + 1) + 2 * K * size, blocks, X, sharers)
        arrays = (
            xp.empty((n, 2, 0 if in_shared else K), dtype=real),
            xp.empty((n, far * K), dtype=real),
            xp.empty((n, 3, room + 1), dtype=np.float64),
            xp.empty((n, room + 1), dtype=np.int32),
        )
        launch(
            _orthogonal, n, threads, X, D, G, squares, Q, rows, ends, *settings, in_shared, near, room, *arrays,
            shared=((near + 2) * K + TILE * LANES) * size if in_shared else 0,
        )  # fmt: skip
        all_ends[rows] = ends
        if room == last:
            break
        rows, room = rows[ends == NO_ROOM], min(4 * room, last)  # they start again
    return recode_ill_conditioned(X, D, Q, all_ends, coder)


def _split(room, row, threads, shared):
    """How a block uses shared memory, if K numbers take `row` bytes: whether h and `outside` are in it, how many rows
    of P are, and how many blocks share the `shared` bytes of a multiprocessor.

    As many blocks as have all numbers in shared memory, at least MIN_SHARERS: a block waits for the L2 and at barriers.
    """
    sharers = max(MIN_SHARERS, min(MIN_SHARERS * MAX_THREADS // threads, shared // ((room + 2) * row + BLOCK_OVERHEAD)))
    held = (shared // sharers - BLOCK_OVERHEAD) // row
    return held >= 2, min(max(held - 2, 0), room), sharers


def builds():
    """See `gpuica.kernels.cuda`."""
    from numba import boolean, int64

    for dtype in (np.float32, np.float64):
        real, name = numba_type(dtype), np.dtype(dtype).name
        rows, stack, whole = real[:, ::1], real[:, :, ::1], int32[::1]
        settings = int64, *[float64] * 7, boolean, *[float64] * 3, boolean, int64, int64
        spaces = stack, rows, float64[:, :, ::1], int32[:, ::1]
        signature = rows, rows, rows, real[::1], rows, whole, whole, *settings, *spaces
        yield Build(f"orthogonal, {name}", _orthogonal.py_func, signature)
