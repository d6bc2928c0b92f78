"""Lasso for many rows against one dictionary without its Gram matrix, and for rows that need care with it.

As `lasso`, with h = D (x - c D) of many rows by one matrix product.  A product costs more than what follows it, so a row
makes the most of each: the largest violation in every block of atoms is a candidate, and the row's problem is solved on
its support and the candidates, whose correlations are computed one by one, before the next product.

Care: the inverse M is built from the atoms themselves in float64; an atom close to the span of the support is measured
by what the support leaves of it; one that depends on the support may take another's place; M is computed anew where its
answers miss.
"""

import numpy as np
from numba import njit

from .lasso import FULL, REACH, SLACK, SOLVED, UNFINISHED, drop, settle
from .support import (
    ENTRY,
    OPTIONS,
    PAD,
    any_beyond,
    border,
    copy,
    dot,
    inner,
    largest,
    refine,
    subtract,
    times,
    write,
)

CLOSE = 1e-3  # share of an atom's square outside the span of others below which it is computed with care,
FLOOR = {4: 1e-6, 8: 1e-12}  # and below which it depends on them
AT_ONCE = 6  # atoms that enter at once
CANDIDATES = 64
ROWS = 512  # of a product
ROOM = 64  # atoms of a support before more room is made
MEMORY = 1 << 27  # bytes of the rows' inverses

GOING, RENEWED = -1, -2  # rows that need another product


@njit(**OPTIONS)
def _measure(atom, D, M, act, scratch, residual, m):
    """The squared distance of an atom from the span of the support; leaves w, its coordinates there, in scratch[6].

    scratch[7]: its inner products with the support.
    """
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
def _make_way(sign, M, act, scratch, m):
    """Move c along (-w, 1) sign, which changes no fit, until an atom meets zero; it leaves.

    For an atom with coordinates w (scratch[6]) in the support, on which it depends.  Returns the support's size and the
    new atom's coefficient; the size is m where no atom meets zero.
    """
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
def _enter(x, atom, h, exchange, lowest, floor, now, D, M, act, scratch, residual, m):
    """An atom of correlation h enters the support, unless its distance from the span is `lowest` or less; with
    `exchange` another leaves for it then.  Returns the support's size.
    """
    c, s, b, born, a = scratch[0], scratch[1], scratch[2], scratch[3], scratch[7]
    sign, value = 1.0 if h > 0 else -1.0, 0.0
    for i in range(m):
        a[i] = dot(D[atom], D[act[i]])
    outside = _measure(atom, D, M, act, scratch, residual, m)
    if outside <= lowest and exchange:
        before, lowest = m, floor
        m, value = _make_way(sign, M, act, scratch, m)
        outside = _measure(atom, D, M, act, scratch, residual, m) if m < before else 0.0
    if outside > lowest:
        border(M, scratch[6], outside * inner(D[atom], D[atom]), m)
        act[m], c[m], s[m], b[m], born[m] = atom, value, sign, inner(D[atom], x), now
        m += 1
    return m


@njit(**OPTIONS)
def _renew(x, D, floor, M, act, scratch, residual, m):
    """M and b anew from the atoms; those at `floor` or less from the span of the others leave.  Returns the new size."""
    c, s, b, born, a = scratch[0], scratch[1], scratch[2], scratch[3], scratch[7]
    kept = np.int64(0)
    for l in range(m):
        atom = act[l]
        for i in range(kept):
            a[i] = inner(D[atom], D[act[i]])
        outside = _measure(atom, D, M, act, scratch, residual, kept)
        if outside > floor:
            border(M, scratch[6], outside * inner(D[atom], D[atom]), kept)
            act[kept], c[kept], s[kept], b[kept], born[kept] = atom, c[l], s[l], inner(D[atom], x), born[l]
            kept += 1
    return kept


@njit(**OPTIONS)
def _choose(h, bar, positive, candidates):
    """The largest |h| > bar of every block of atoms; returns how many there are."""
    K, n = len(h), 0
    size = (K + len(candidates) - 1) // len(candidates)
    for start in range(0, K, size):
        best, value, stop = -1, bar, min(start + size, K)
        if not any_beyond(h[start:stop], h.dtype.type(bar)):
            continue
        for j in range(start, stop):
            size_of_h = h[j] if positive else abs(h[j])
            if size_of_h > value:
                best, value = j, size_of_h
        if best >= 0:
            candidates[n] = best
            n += 1
    return n


@njit(**OPTIONS)
def _improve(x, D, alpha, positive, bar, floor, candidates, near, n, M, act, scratch, residual, r, m, room):
    """Solve the row on its support and n candidates of correlations `near`.  Returns the size of the support and whether
    anything changed."""
    c, born, spans = scratch[0], scratch[3], room == min(D.shape)
    alone, moved = False, False
    for now in range(10 * len(candidates)):
        top = 0.0
        for l in range(n):
            top = max(top, near[l] if positive else abs(near[l]))
        if top <= bar:
            break
        least, before, entered = top if alone else bar + REACH * (top - bar), m, 0
        for l in range(n):
            atom, violation, inside = candidates[l], near[l] if positive else abs(near[l]), False
            if violation < least or entered == (1 if alone else AT_ONCE) or (m == room and not spans):
                continue
            for i in range(m):
                inside |= act[i] == atom
            if not inside:
                lowest, exchange = floor if m < room else np.inf, alone and alpha > 0
                m = _enter(x, atom, near[l], exchange, lowest, floor, now, D, M, act, scratch, residual, m)
                entered += 1
        m = settle(M, act, scratch, m, alpha, positive or alpha > 0)
        changed = m != before
        for i in range(m):
            changed |= born[i] == now
        subtract(x, D, act, c, residual, m)
        copy(residual, r)
        for l in range(n):
            near[l] = dot(D[candidates[l]], r)
        moved |= changed
        if alone and not changed:
            break
        alone = not changed  # of several that entered none was right: the largest violation alone is
    for i in range(m):
        born[i] = -1
    return m, moved


@njit(**OPTIONS)
def _refine(x, D, act, alpha, signed, M, scratch, residual, m):
    c, s = scratch[0], scratch[1]
    refine(x, D, act, c, alpha, s, M, scratch[4], scratch[5], residual, m)
    if signed:
        for i in range(m):  # zero, but for rounding
            c[i] = max(c[i] * s[i], 0.0) * s[i]


@njit(**OPTIONS)
def _round(
    x,
    D,
    h,
    bits,
    rounding,
    alpha,
    positive,
    last,
    renewed,
    floor,
    mask,
    candidates,
    near,
    M,
    act,
    scratch,
    residual,
    r,
    m,
):
    """One round of a row of correlations h; the last only looks.  Returns the size of its support, and GOING, RENEWED or
    how it ended."""
    top, missed, room = largest(h, bits, mask), 0.0, len(act) - 2 * PAD
    bar = alpha + rounding
    for i in range(m):
        missed = max(missed, abs(h[act[i]] - alpha * scratch[1, i]))
    if top <= bar and missed <= 10 * rounding:
        return m, SOLVED
    if last:
        return m, UNFINISHED
    if missed <= 10 * rounding:
        n = _choose(h[: len(D)], bar, positive, candidates)
        for l in range(n):
            near[l] = h[candidates[l]]
        m, moved = _improve(
            x, D, alpha, positive, bar, floor, candidates, near, n, M, act, scratch, residual, r, m, room
        )
        if moved:
            _refine(x, D, act, alpha, positive or alpha > 0, M, scratch, residual, m)
            return m, GOING
        if m == room < min(D.shape):
            return m, FULL
        if top <= alpha + 10 * rounding:
            return m, SOLVED
    if renewed:
        return m, UNFINISHED
    m = _renew(x, D, floor, M, act, scratch, residual, m)
    return settle(M, act, scratch, m, alpha, positive or alpha > 0), RENEWED


@njit(**ENTRY)
def _rounds(X, D, H, bits, rows, alpha, positive, max_iter, slack, floor, mask, candidates, near, residual, *state):
    """One round of some rows, of correlations H (rows, K): those that go on come first in rows.  Returns how many."""
    R, ends, ages, roundings, floors, sizes, scratches, acts, Ms = state
    going = 0
    for i in range(len(rows)):
        row, h = rows[i], H[i]
        M, act, scratch = Ms[row], acts[row], scratches[row]
        if ages[row] == 0:
            roundings[row], floors[row] = slack * largest(h, bits[i], mask), floor
        sizes[row], end = _round(
            X[row],
            D,
            h,
            bits[i],
            roundings[row],
            alpha,
            positive,
            ages[row] == max_iter,
            ends[row] == RENEWED,
            floors[row],
            mask,
            candidates,
            near,
            M,
            act,
            scratch,
            residual,
            R[row],
            sizes[row],
        )
        ages[row] += 1
        ends[row] = end
        if end == RENEWED:
            floors[row] *= 10
        if end < 0 or end == FULL:
            subtract(X[row], D, act, scratch[0], residual, sizes[row])
            copy(residual, R[row])
        if end < 0:
            rows[going] = row
            going += 1
    return going


@njit(**ENTRY)
def _write(X, D, C, alpha, signed, residual, *state):
    """C becomes the codes of the rows that ended."""
    _, ends, _, _, _, sizes, scratches, acts, Ms = state
    for row in range(len(X)):
        M, act, scratch, m = Ms[row], acts[row], scratches[row], sizes[row]
        if ends[row] != FULL:
            _refine(X[row], D, act, alpha, signed, M, scratch, residual, m)
            write(C[row], act, scratch[0], m)


def lasso_products(X, D, coder):
    """Codes C (n, K) of the rows X (n, d), and how many were not finished: as `lasso`, without Gram matrix."""
    size, C = X.dtype.itemsize, np.empty((len(X), len(D)), X.dtype)
    mask = np.array(-1 if coder.positive else np.iinfo(f"i{size}").max, f"i{size}")[()]
    settings = float(coder.alpha), coder.positive, coder.max_iter, SLACK[size], FLOOR[size], mask
    settings = *settings, np.empty(CANDIDATES, np.int64), np.empty(CANDIDATES, X.dtype), np.empty(X.shape[1])
    bits = np.empty((min(len(X), ROWS), len(D) + 1), f"i{size}")
    unfinished = 0
    for start in range(0, len(X), ROWS):
        x = X[start : start + ROWS]
        state = x.copy(), *np.zeros((2, len(x)), np.int64), *np.empty((2, len(x))), np.zeros(len(x), np.int64)
        unfinished += _solve(
            x, D, C[start : start + ROWS], bits, settings, (*state, *_room(len(x), min(ROOM, *D.shape)))
        )
    return C, unfinished


def _room(n, room):
    """Arrays for n supports of up to `room` atoms: what is known of their atoms, the atoms, and the inverses."""
    cap = room + 2 * PAD
    return np.zeros((n, 8, cap)), np.empty((n, cap), np.int64), np.empty((n, cap, cap))


def _solve(X, D, C, bits, settings, state):
    """C becomes the codes of the rows X, from the state they are in; returns how many were not finished."""
    R, ends, *_, sizes, scratches, acts, Ms = state
    H, rows = bits.view(X.dtype), np.arange(len(X))
    while len(rows):
        np.matmul(R[rows], D.T, out=H[: len(rows), :-1])
        rows = rows[: _rounds(X, D, H, bits, rows, *settings, *state)]
    alpha, positive, *_, residual = settings
    _write(X, D, C, alpha, positive or alpha > 0, residual, *state)
    unfinished, full, room = int((ends == UNFINISHED).sum()), np.flatnonzero(ends == FULL), acts.shape[1] - 2 * PAD
    larger = min(2 * room, *D.shape)
    at_once = max(1, MEMORY // (8 * larger**2))
    for start in range(0, len(full), at_once):
        some = full[start : start + at_once]
        moved = _room(len(some), larger)
        for new, old in zip(moved, (scratches, acts, Ms), strict=True):
            new[tuple(map(slice, (len(some), *old.shape[1:])))] = old[some]
        code = np.empty((len(some), len(D)), X.dtype)
        unfinished += _solve(X[some], D, code, bits, settings, (*(part[some] for part in state[:6]), *moved))
        C[some] = code
    return unfinished
