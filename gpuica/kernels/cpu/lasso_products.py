"""Lasso for many rows against one dictionary without its Gram matrix, and for rows that need care with it.

As `lasso`, with h = D (x - c D) of many rows by one matrix product.  A product costs more than what follows it, so a
row makes the most of each: the largest violation in every block of atoms is a candidate, and the row's problem is
solved on its support and the candidates, whose correlations are computed one by one, before the next product.

Care: an atom close to the span of the support is measured by what the support leaves of it; one that depends on the
support may take another's place; the inverse M is computed anew where its answers miss.

A row's support is (M, act, scratch); m is its size.  buffers: (candidates, near, residual), for one row at a time.
"""

import numpy as np
from numba import njit

from .support import PAD, border, drop, refine, settle, subtract, times, write
from .vectors import ENTRY, OPTIONS, any_beyond, copy, dot, inner, largest

# What |h| may exceed alpha by, in units of the row's largest correlation: the rounding of h.
SLACK = {4: 2e-6, 8: 1e-10}
REACH = 0.6  # atoms enter whose violation is this share of the largest one, at least
CLOSE = 1e-3  # share of an atom's square outside the span of others below which it is computed with care,
FLOOR = {4: 1e-6, 8: 1e-12}  # and below which it depends on them
WORN = 1e3  # a row is given up when its floor has risen by this factor, by ten with each new M
AT_ONCE = 6  # atoms that enter at once
CANDIDATES = 64
ROWS = 512  # of a product
ROOM = 64  # atoms of a support before more room is made
MEMORY = 1 << 27  # bytes of the supports that outgrew it

UNFINISHED, SOLVED, FULL = 0, 1, 2  # how a row ends; FULL: for want of room
GOING, RENEWED, STUCK = -1, -2, -3  # how a round ends else


@njit(**OPTIONS)
def _measure(atom, D, support, residual, m):
    """The squared distance of an atom from the span of the support, in units of its square.

    scratch[7]: its inner products with the support.  Leaves its coordinates there in scratch[6].
    """
    M, act, scratch = support
    w, a = scratch[6], scratch[7]
    times(M, a, w, m)
    square = inner(D[atom], D[atom])
    outside = square
    for i in range(m):
        outside -= a[i] * w[i]
    if outside < CLOSE * square:
        refine(D[atom], D, act, w, 0.0, w, M, scratch[4], scratch[5], residual, m)
        subtract(D[atom], D, act, w, residual, m)
        outside = inner(residual, residual)
    return outside / square


@njit(**OPTIONS)
def _make_way(sign, support, m):
    """Move c along (-w, 1) sign, which changes no fit, until an atom meets zero; it leaves.

    For an atom with coordinates w (scratch[6]) in the support, on which it depends.  Returns the support's size and the
    new atom's coefficient; the size is m where no atom meets zero.
    """
    M, act, scratch = support
    c, w, a = scratch[0], scratch[6], scratch[7]
    step, meets = np.inf, m
    for i in range(m):
        if c[i] * w[i] * sign > 0 and c[i] / (w[i] * sign) < step:
            step, meets = c[i] / (w[i] * sign), i
    if meets == m:
        return m, 0.0
    for i in range(m):
        c[i] -= step * sign * w[i]
    a[meets] = a[m - 1]
    return drop(meets, m, M, act, scratch), step * sign


@njit(**OPTIONS)
def _enter(x, atom, sign, exchange, floor, now, D, support, residual, m):
    """An atom enters the support, unless it depends on it; with `exchange` another leaves for it then.

    Returns the support's size.
    """
    M, act, scratch = support
    c, s, b, born, a = scratch[0], scratch[1], scratch[2], scratch[3], scratch[7]
    value = 0.0
    for i in range(m):
        a[i] = dot(D[atom], D[act[i]])
    for attempt in range(2):
        outside = _measure(atom, D, support, residual, m)
        if outside > floor and m < min(D.shape):
            border(M, scratch[6], outside * inner(D[atom], D[atom]), m)
            act[m], c[m], s[m], b[m], born[m] = atom, value, sign, inner(D[atom], x), now
            return m + 1
        if attempt or not exchange:
            break
        m, value = _make_way(sign, support, m)
    return m


@njit(**OPTIONS)
def _renew(x, D, floor, support, residual, m):
    """M and b anew from the atoms; those at `floor` or less from the span of the others leave.  Returns the size."""
    M, act, scratch = support
    c, s, b, born, a = scratch[0], scratch[1], scratch[2], scratch[3], scratch[7]
    kept = np.int64(0)
    for i in range(m):
        atom = act[i]
        for j in range(kept):
            a[j] = inner(D[atom], D[act[j]])
        outside = _measure(atom, D, support, residual, kept)
        if outside > floor:
            border(M, scratch[6], outside * inner(D[atom], D[atom]), kept)
            act[kept], c[kept], s[kept], b[kept], born[kept] = atom, c[i], s[i], inner(D[atom], x), born[i]
            kept += 1
    return kept


@njit(**OPTIONS)
def _refine(x, D, alpha, signed, support, residual, m):
    M, act, scratch = support
    c, s = scratch[0], scratch[1]
    refine(x, D, act, c, alpha, s, M, scratch[4], scratch[5], residual, m)
    if signed:
        for i in range(m):  # zero, but for rounding
            c[i] = max(c[i] * s[i], 0.0) * s[i]


@njit(**OPTIONS)
def _choose(h, bar, positive, candidates, near):
    """The largest |h| > bar of every block of atoms, and those h; returns how many there are."""
    K, n = len(h), 0
    size = (K + len(candidates) - 1) // len(candidates)
    for start in range(0, K, size):
        best, largest, stop = -1, bar, min(start + size, K)
        if any_beyond(h[start:stop], h.dtype.type(bar)):
            for j in range(start, stop):
                violation = h[j] if positive else abs(h[j])
                if violation > largest:
                    best, largest = j, violation
        if best >= 0:
            candidates[n], near[n] = best, h[best]
            n += 1
    return n


@njit(**OPTIONS)
def _improve(x, D, h, r, alpha, positive, bar, floor, anew, support, buffers, m):
    """Solve the row on its support and the candidates that h tells.  Returns the size of the support and whether it
    changed.  anew: whether M is new.  r: scratch in the dtype of x."""
    M, act, scratch = support
    candidates, near, residual = buffers
    c, born, room, most = scratch[0], scratch[3], len(act) - 2 * PAD, min(D.shape)
    n, alone, moved = _choose(h, bar, positive, candidates, near), False, False
    for now in range(10 * len(candidates)):
        top = 0.0
        for k in range(n):
            top = max(top, near[k] if positive else abs(near[k]))
        if top <= bar and not (anew and now == 0):
            break
        least, before, entered = top if alone else bar + REACH * (top - bar), m, 0
        for k in range(n):
            atom, violation, inside = candidates[k], near[k] if positive else abs(near[k]), False
            if violation < least or entered == (1 if alone else AT_ONCE) or m == room < most:
                continue
            for i in range(m):
                inside |= act[i] == atom
            if not inside:
                exchange, sign = alone and alpha > 0, 1.0 if near[k] > 0 else -1.0
                m = _enter(x, atom, sign, exchange, floor, now, D, support, residual, m)
                entered += 1
        m = settle(M, act, scratch, m, alpha, positive or alpha > 0)
        changed = m != before
        for i in range(m):
            changed |= born[i] == now
        subtract(x, D, act, c, residual, m)
        copy(residual, r)
        for k in range(n):
            near[k] = dot(D[candidates[k]], r)
        moved |= changed
        if alone and not changed:
            break
        alone = not changed  # of several that entered none was right: the largest violation alone is
    for i in range(m):
        born[i] = -1
    return m, moved


@njit(**OPTIONS)
def _round(x, D, h, r, top, rounding, was, last, floor, worn, alpha, positive, support, buffers, m):
    """One round of a row of correlations h, the largest of them top; the last round only looks.

    was: how the round before ended.  Returns the size of the support, and how this one ended.
    """
    _, act, scratch = support
    missed, room = 0.0, len(act) - 2 * PAD
    for i in range(m):
        missed = max(missed, abs(h[act[i]] - alpha * scratch[1, i]))
    anew = missed > 10 * rounding or was == STUCK
    if top <= alpha + rounding and not anew:
        return m, SOLVED
    if last or (anew and worn):
        return m, UNFINISHED
    if anew:
        m = _renew(x, D, floor, support, buffers[2], m)
    m, moved = _improve(x, D, h, r, alpha, positive, alpha + rounding, floor, anew, support, buffers, m)
    if moved or anew:
        _refine(x, D, alpha, positive or alpha > 0, support, buffers[2], m)
        return m, RENEWED if anew else GOING
    if m == room < min(D.shape):
        return m, FULL
    return m, SOLVED if top <= alpha + 10 * rounding else STUCK


@njit(**ENTRY)
def _rounds(X, D, H, bits, rows, alpha, positive, max_iter, slack, floor, mask, buffers, state):
    """One round of some rows, of correlations H (rows, K): those that go on come first in rows.  Returns how many."""
    R, ends, ages, roundings, floors, sizes, scratches, acts, Ms = state
    going, residual = 0, buffers[2]
    for i in range(len(rows)):
        row, h = rows[i], H[i]
        top, support = largest(h, bits[i], mask), (Ms[row], acts[row], scratches[row])
        if ages[row] == 0:
            roundings[row], floors[row] = slack * top, floor
        last, worn = ages[row] == max_iter, floors[row] > WORN * floor
        m, end = _round(
            X[row], D, h[: len(D)], R[row], top, roundings[row], ends[row], last, floors[row], worn, alpha, positive,
            support, buffers, sizes[row]
        )  # fmt: skip
        ages[row] += 1
        sizes[row], ends[row] = m, end
        if end == RENEWED:
            floors[row] *= 10
        if end < 0 or end == FULL:
            subtract(X[row], D, acts[row], scratches[row, 0], residual, m)
            copy(residual, R[row])
        if end < 0:
            rows[going] = row
            going += 1
    return going


@njit(**ENTRY)
def _write(X, D, C, alpha, signed, residual, state):
    """C becomes the codes of the rows that ended."""
    _, ends, _, _, _, sizes, scratches, acts, Ms = state
    for row in range(len(X)):
        if ends[row] != FULL:
            _refine(X[row], D, alpha, signed, (Ms[row], acts[row], scratches[row]), residual, sizes[row])
            write(C[row], acts[row], scratches[row, 0], sizes[row])


def lasso_products(X, D, coder):
    """Codes C (n, K) of the rows X (n, d), and how many were not finished: as `lasso`, without Gram matrix."""
    size, C, unfinished = X.dtype.itemsize, np.empty((len(X), len(D)), X.dtype), 0
    mask = np.array(-1 if coder.positive else np.iinfo(f"i{size}").max, f"i{size}")[()]
    settings = float(coder.alpha), coder.positive, coder.max_iter, SLACK[size], FLOOR[size], mask
    buffers = np.empty(CANDIDATES, np.int64), np.empty(CANDIDATES, X.dtype), np.empty(X.shape[1])
    bits = np.empty((min(len(X), ROWS), len(D) + 1), f"i{size}")
    for start in range(0, len(X), ROWS):
        x, code = X[start : start + ROWS], C[start : start + ROWS]
        state = x.copy(), *np.zeros((2, len(x)), np.int64), *np.empty((2, len(x))), np.zeros(len(x), np.int64)
        state = *state, *_room(len(x), min(ROOM, *D.shape))
        unfinished += _solve(x, D, code, bits, settings, buffers, state)
    return C, unfinished


def _room(n, room):
    """Arrays for n supports of up to `room` atoms: what is known of their atoms, which they are, and the inverses."""
    cap = room + 2 * PAD
    return np.zeros((n, 8, cap)), np.empty((n, cap), np.int64), np.empty((n, cap, cap))


def _solve(X, D, C, bits, settings, buffers, state):
    """C becomes the codes of the rows X, from the state they are in; returns how many were not finished."""
    R, ends, *_, scratches, acts, Ms = state
    alpha, positive, *_ = settings
    H, rows = bits.view(X.dtype), np.arange(len(X))
    while len(rows):
        np.matmul(R[rows], D.T, out=H[: len(rows), :-1])
        rows = rows[: _rounds(X, D, H, bits, rows, *settings, buffers, state)]
    _write(X, D, C, alpha, positive or alpha > 0, buffers[2], state)
    unfinished, full = int((ends == UNFINISHED).sum()), np.flatnonzero(ends == FULL)
    room = min(2 * (acts.shape[1] - 2 * PAD), *D.shape)
    at_once = max(1, MEMORY // (8 * room**2))
    for start in range(0, len(full), at_once):  # rows that need more room go on where they are
        some = full[start : start + at_once]
        moved, code = _room(len(some), room), np.empty((len(some), len(D)), X.dtype)
        for new, old in zip(moved, (scratches, acts, Ms), strict=True):
            new[tuple(map(slice, (len(some), *old.shape[1:])))] = old[some]
        more = *(part[some] for part in state[:-3]), *moved
        unfinished += _solve(X[some], D, code, bits, settings, buffers, more)
        C[some] = code
    return unfinished
