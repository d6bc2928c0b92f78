"""One round of the lasso of one row, by one block of threads: see `lasso`.

The working set is n atoms, see `Workspace`; `act` holds the support as places in the working set.

Barriers, which the simulator does not test: all threads of the block call each function and take the same branches in
it, because all compute what decides them (m, n, the sizes of `outside`, violations and steps) from the same numbers,
which no thread may overwrite before all have read them.  Hence

- a function ends past a barrier, on each of its returns, so that its caller may overwrite what it read.  The exception,
  which writes nothing, is `outside_span`, hence `_outside`: `_enter` adds the barrier, in `border`, in `_make_way` or
  before its last return;
- `_make_way` returns early past the barrier after which c is overwritten, `_enter` past that of the entered atom or of
  the rejected one; `settle` leaves its loop by breaks to a barrier; `_improve` past `largest`, or past the barrier
  after h and ids are written;
- `solve` returns early, and ends, without one: nothing follows but the end of the kernel.  So `_write` needs none.
"""

import math
from typing import Any, NamedTuple

from numba import boolean, cuda, float64, int64

from ..status import FINISHED, NO_ROOM, RUNNING
from ..tolerances import ENTRY_SHARE, MAX_ENTERING, NEAR_DEPENDENCE
from ..workspace import (
    COEFFICIENTS,
    COORDINATES,
    CORRELATIONS,
    ENTERED,
    INNER_PRODUCTS,
    RIGHT_SIDE,
    SIGNS,
    SOLUTION,
    Support,
)
from .block import LANES, lane, lanes, largest, summed, warps
from .row import correlations, subtract
from .support import border, drop, outside_span, settle, times

CANDIDATES = 16  # atoms of a working set beside the support


class Workspace(NamedTuple):
    """The arrays of one row's working set of n atoms: see the docstring of the module.

    support : its `atoms` are ids[2].
    gram : (n, n).
    wide : (3, wide), float64; b = D_j x, the correlations h, and scratch.
    ids : (3, wide); the atoms, whether each is in the support, and the support as places in the working set.
    residual : (d,), scratch.
    tree : (threads,), in shared memory; see `block`.
    """

    support: Support
    gram: Any
    wide: Any
    ids: Any
    residual: Any
    tree: Any


@cuda.jit(device=True)
def _outside(D, k, work, m):
    """The squared distance of atom k of the working set from the span of the support.

    lists[INNER_PRODUCTS]: its inner products with the support.  Its coordinates are left in lists[COORDINATES]; where
    the atom is close to the span, they are corrected with the residual of the atom, r (d,), scratch.
    """
    (M, act, lists), G, _, ids, r, tree = work
    w, v, z = lists[COORDINATES], lists[RIGHT_SIDE], lists[SOLUTION]
    times(M, lists[INNER_PRODUCTS], w, m)
    outside = outside_span(lists[INNER_PRODUCTS], w, G[k, k], m)
    if m > 0 and outside < NEAR_DEPENDENCE * G[k, k]:
        atom = D[ids[0, k]]
        subtract(atom, D, ids, act, w, m, r)
        correlations(D, ids, act, r, m, v)
        times(M, v, z, m)
        i = cuda.threadIdx.x
        while i < m:
            w[i] += z[i]
            i += cuda.blockDim.x
        cuda.syncthreads()
        part = 0.0
        f = cuda.threadIdx.x
        while f < len(r):
            left = float64(atom[f])
            for i in range(m):
                left -= w[i] * float64(D[ids[0, act[i]], f])
            part += left * left
            f += cuda.blockDim.x
        outside = summed(part, tree)
    return outside


@cuda.jit(device=True)
def _make_way(sign, support, m):
    """Change c along (-w, 1) sign, which changes no fit, until the coefficient of an atom is zero; it leaves.

    For an atom of coordinates w in the support, on which it depends.  Returns the support's size, which is m where no
    coefficient reaches zero, and the new atom's coefficient.
    """
    lists = support.lists
    c, w, a = lists[COEFFICIENTS], lists[COORDINATES], lists[INNER_PRODUCTS]
    step, first = math.inf, m
    for i in range(m):
        if c[i] * w[i] * sign > 0 and c[i] / (w[i] * sign) < step:
            step, first = c[i] / (w[i] * sign), i
    cuda.syncthreads()  # all have read c
    if first == m:
        return m, 0.0
    i = cuda.threadIdx.x
    while i < m:
        c[i] -= step * sign * w[i]
        i += cuda.blockDim.x
    if cuda.threadIdx.x == 0:
        a[first] = a[m - 1]
    cuda.syncthreads()
    return drop(support, first, m), step * sign


@cuda.jit(device=True)
def _enter(D, k, sign, exchange, dependence, now, most, work, m):
    """Atom k of the working set enters the support, unless it depends on it; with `exchange` another atom then leaves.

    Returns the support's size.
    """
    support, G, wide = work.support, work.gram, work.wide
    M, act, lists = support
    i = cuda.threadIdx.x
    while i < m:
        lists[INNER_PRODUCTS, i] = G[k, act[i]]
        i += cuda.blockDim.x
    cuda.syncthreads()
    value = 0.0
    for attempt in range(2):
        outside = _outside(D, k, work, m)
        if outside > dependence * G[k, k] and m < most:
            border(M, lists[COORDINATES], outside, m)
            if cuda.threadIdx.x == 0:
                act[m] = k
                lists[COEFFICIENTS, m] = value
                lists[SIGNS, m] = sign
                lists[CORRELATIONS, m] = wide[0, k]
                lists[ENTERED, m] = now
            cuda.syncthreads()
            return m + 1
        if attempt == 1 or not exchange:
            break
        m, value = _make_way(sign, support, m)
    cuda.syncthreads()  # all have read lists[INNER_PRODUCTS] and lists[COORDINATES], which the next atom overwrites
    return m


@cuda.jit(device=True)
def _improve(D, n, alpha, positive, bound, dependence, most, work, m):
    """Solve the row on its working set of n atoms.  Returns the support's size, whether it changed, and whether it
    needs more room."""
    support, G, wide, ids, _, tree = work
    M, act, lists = support
    t, threads, room = cuda.threadIdx.x, cuda.blockDim.x, M.shape[0]
    b, h = wide[0], wide[1]
    alone, changed_at_all, full = False, False, False
    for now in range(10 * CANDIDATES):
        best = 0.0
        k = t
        while k < n:
            violation = h[k] if positive else abs(h[k])
            if ids[1, k] == 0:
                best = max(best, violation)
            k += threads
        top = largest(best, tree)
        if top <= bound and now > 0:
            break
        before, entered = m, 0
        if top > bound:
            least = top if alone else bound + ENTRY_SHARE * (top - bound)
            for k in range(n):
                violation = h[k] if positive else abs(h[k])
                if ids[1, k] == 0 and violation >= least and entered < (1 if alone else MAX_ENTERING):
                    if m == room and room < most:
                        full = True
                        break
                    sign = 1.0 if h[k] > 0 else -1.0
                    m = _enter(D, k, sign, alone and alpha > 0, dependence, now, most, work, m)
                    entered += 1
        m = settle(support, m, alpha, positive or alpha > 0)
        changed = m != before
        for i in range(m):
            changed |= lists[ENTERED, i] == now
        cuda.syncthreads()  # all have read h and which atoms are inside
        k = t
        while k < n:
            total, inside = b[k], 0
            for i in range(m):
                total -= G[act[i], k] * lists[COEFFICIENTS, i]
                if act[i] == k:
                    inside = 1
            h[k] = total
            ids[1, k] = inside
            k += threads
        cuda.syncthreads()
        changed_at_all |= changed
        if alone and not changed:
            break
        alone = not changed  # of several that entered none was right: the largest violation alone is
    return m, changed_at_all, full


@cuda.jit(device=True)
def _begin(D, h, row_codes, n, size, dependence, most, work):
    """M and the lists of the support of `size` atoms, which come first in the working set.  Returns how many are kept:
    those that depend on others before them leave."""
    (_, _, lists), G, wide, ids, _, _ = work
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    k = t
    while k < n:
        total = float64(h[ids[0, k]])
        wide[1, k] = total
        for i in range(size):
            total += G[i, k] * row_codes[i]  # along rows of G, which is symmetric: no two threads in one bank
        wide[0, k] = total  # b = D_j x = h_j + G_j c
        ids[1, k] = 0
        k += threads
    cuda.syncthreads()
    m, now, exchange = int64(0), int64(-1), boolean(False)  # of the types that they have in `_improve`
    for i in range(size):
        value = row_codes[i]
        before, sign = m, 1.0 if value > 0 else -1.0
        m = _enter(D, i, sign, exchange, dependence, now, most, work, m)
        if m > before and t == 0:
            lists[COEFFICIENTS, before] = value
            ids[1, i] = 1
        cuda.syncthreads()
    return m


@cuda.jit(device=True)
def _polish(alpha, signed, work, m):
    """Correct the rounding of c: add M (D r - alpha s), with D r of the data in wide[2]."""
    (M, act, lists), _, wide, _, _, _ = work
    c, s, v, z = lists[COEFFICIENTS], lists[SIGNS], lists[RIGHT_SIDE], lists[SOLUTION]
    i = cuda.threadIdx.x
    while i < m:
        v[i] = wide[2, act[i]] - alpha * s[i]
        i += cuda.blockDim.x
    cuda.syncthreads()
    times(M, v, z, m)
    i = cuda.threadIdx.x
    while i < m:
        c[i] += z[i]
        if signed and c[i] * s[i] < 0:  # zero, but for rounding
            c[i] = 0.0
        i += cuda.blockDim.x
    cuda.syncthreads()


@cuda.jit(device=True)
def _write(row, m, signed, lists, ids, act, state, codes, acts):
    """Store the support of m atoms, without zeros, as that of the row; act holds places in the working set."""
    kept = 0
    for i in range(m):
        if lists[COEFFICIENTS, i] != 0 or not signed:
            if i % cuda.blockDim.x == cuda.threadIdx.x:
                acts[row, kept] = ids[0, act[i]]
                codes[row, kept] = lists[COEFFICIENTS, i]
            kept += 1
    if cuda.threadIdx.x == 0:
        state[row, 0] = kept


@cuda.jit(device=True)
def _load(row, block, Gram, pairs, acts, picks, G, ids, size):
    """The working set's numbers and Gram matrix; the support, of `size` atoms, comes first.  Returns how many."""
    t, threads, by_gram, n = cuda.threadIdx.x, cuda.blockDim.x, pairs.shape[1] == 1, 0
    for k in range(picks.shape[1]):
        n += picks[block, k] >= 0
    k = t
    while k < n:
        ids[0, k] = picks[block, k]
        ids[2, k] = k
        k += threads
    cuda.syncthreads()
    i = t // LANES  # a warp for each row, or two: no division
    while i < n:
        j, two = lane(), i + warps()
        while j < n:
            other = min(two, n - 1)
            first = Gram[ids[0, i], ids[0, j]] if by_gram else pairs[block, i, j]
            second = Gram[ids[0, other], ids[0, j]] if by_gram else pairs[block, other, j]
            G[i, j] = first
            if two < n:
                G[two, j] = second
            j += lanes()
        i += 2 * warps()
    cuda.syncthreads()
    return n


@cuda.jit(device=True)
def solve(
    X, D, Gram, pairs, H, R, live, state, levels, acts, codes, picks, out, alpha, positive, dependence,
    M, G, lists, wide, ids, tree,
):  # fmt: skip
    """One round of row live[block]: its support, residual R and status; `out`, the code, where that is final.

    levels (n, 3): of the row's correlations, their rounding, the largest violation, and what the support misses.
    pairs (rows, wide, wide): inner products of the working sets; (1, 1, 1) where Gram is D Dᵀ.
    """
    t, threads, block = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
    row, act, signed, most = live[block], ids[2], positive or alpha > 0, min(D.shape[0], D.shape[1])
    size, misses, end, r = int64(state[row, 0]), state[row, 2], state[row, 3], R[row]
    rounding, top, missed = levels[row, 0], levels[row, 1], levels[row, 2]
    work = Workspace(Support(M, act, lists), G, wide, ids, r, tree)
    n = _load(row, block, Gram, pairs, acts, picks, G, ids, size)
    if end != RUNNING:
        correlations(D, ids, act, r, size, wide[2])
    for _ in range(misses - 2):
        dependence *= 10
    m = _begin(D, H[block], codes[row], n, size, dependence, most, work)
    if end != RUNNING:
        if m == size:
            _polish(alpha, signed, work, m)
            i = t
            while i < m:
                codes[row, i] = lists[COEFFICIENTS, i]
                i += threads
        cuda.syncthreads()
        i = t
        while i < size:
            out[row, picks[block, i]] = codes[row, i]
            i += threads
        return
    bound = alpha + rounding
    m, changed_at_all, full = _improve(D, n, alpha, positive, bound, dependence, most, work, m)
    subtract(X[row], D, ids, act, lists[COEFFICIENTS], m, r)
    _write(row, m, signed, lists, ids, act, state, codes, acts)
    if not changed_at_all and missed <= 10 * rounding:
        end = NO_ROOM if full else FINISHED
        if end == FINISHED and top > alpha + 10 * rounding:
            end = RUNNING  # stuck: as a support that misses its equations
            misses += 1
    if end == FINISHED:
        i = t
        while i < m:
            out[row, ids[0, act[i]]] = lists[COEFFICIENTS, i]
            i += threads
    if t == 0:
        state[row, 2] = misses
        state[row, 3] = end
