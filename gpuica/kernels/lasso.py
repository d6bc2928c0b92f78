"""Lasso for many rows against one dictionary: a working set per row, solved exactly on its support.

Per row, with correlations h = D (x - c D): atoms that violate |h| <= alpha enter the support; on it the minimiser for the
present signs is found exactly, and on the way there atoms whose coefficient meets zero leave (the feature-sign rule of
Lee et al., "Efficient sparse coding algorithms", NIPS 2007); h is refreshed once for all of them.  Every round lowers the
objective, so no support returns and the rounds end.
"""

import numpy as np
from numba import njit

from .support import (
    ENTRY,
    OPTIONS,
    PAD,
    any_beyond,
    clear,
    copy,
    enter,
    largest,
    leave,
    refine,
    subtract_atoms,
    times,
    workspace,
    write,
)

# What |h| may exceed alpha by, in units of the row's largest correlation: the rounding of h.
SLACK = {4: 2e-6, 8: 1e-10}
# Share of an atom's square outside the span of others below which it depends on them.
FLOOR = {4: 1e-6, 8: 1e-12}
REACH = 0.6  # atoms enter whose violation is this share of the largest one, at least
AT_ONCE = 6  # of them in a round: fewer rounds, but more atoms that leave again (measured on image patches)
ROOM = 256  # atoms of a support before more room is made


@njit(**OPTIONS)
def _drop(p, m, M, act, scratch):
    """Atom p leaves the support of m; the last takes its place.  Returns m - 1."""
    leave(M, p, scratch[6], m)
    act[p] = act[m - 1]
    for row in range(5):
        scratch[row, p] = scratch[row, m - 1]
    return m - 1


@njit(**OPTIONS)
def _settle(M, act, scratch, m, alpha, signed):
    """Minimise ½ cᵀGc - bᵀc + alpha |c| over the support; returns its size, smaller where coefficients met zero.

    c has the signs s, or is zero where atoms have just entered.  signed: whether the signs bind.
    """
    c, s, b, z, v = scratch[0], scratch[1], scratch[2], scratch[4], scratch[5]
    while m:
        for i in range(m):
            v[i] = b[i] - alpha * s[i]
        times(M, v, z, m)
        if not signed:
            copy(z[:m], c)
            break
        entered = m
        for i in range(m - 1, -1, -1):  # an atom that would leave zero to the wrong side was not needed
            if c[i] == 0 and z[i] * s[i] <= 0:
                m = _drop(i, m, M, act, scratch)
        if m < entered:
            continue
        share, meets = 1.0, m
        for i in range(m):
            if z[i] * s[i] <= 0 and c[i] / (c[i] - z[i]) < share:
                share, meets = c[i] / (c[i] - z[i]), i
        if meets == m:
            copy(z[:m], c)
            break
        for i in range(m):
            c[i] += share * (z[i] - c[i])
        m = _drop(meets, m, M, act, scratch)
    return m


@njit(**OPTIONS)
def _make_way(a, sign, M, act, scratch, m):
    """Move c along (-w, 1) sign, which changes no fit, until an atom meets zero; it leaves.

    For an atom of inner products a with coordinates w (scratch[6]) in the support, on which it depends.  Returns the
    support's size and the new atom's coefficient; the size is m where no atom meets zero.
    """
    c, w = scratch[0], scratch[6]
    step, meets = np.inf, m
    for i in range(m):
        if c[i] * w[i] * sign > 0 and c[i] / (w[i] * sign) < step:
            step, meets = c[i] / (w[i] * sign), i
    if meets == m:
        return m, 0.0
    for i in range(m):
        c[i] -= step * sign * w[i]
    a[meets] = a[m - 1]
    return _drop(meets, m, M, act, scratch), step * sign


@njit(**OPTIONS)
def _admit(h, G, least, at_once, positive, exchange, floor, now, M, act, scratch, m, most):
    """Atoms with |h| >= least enter the support, `at_once` of them at most.  Returns its size.

    exchange: whether an atom that depends on the support may take another's place.  most: no support has full rank
    beyond this size.
    """
    c, s, b, born, w, a = scratch[0], scratch[1], scratch[2], scratch[3], scratch[6], scratch[7]
    K, room, entered = len(h) - 1, len(act) - 2 * PAD, 0
    for start in range(0, K, 64):
        stop = min(start + 64, K)
        if entered == at_once or m == room < most or not any_beyond(h[start:stop], least):
            continue
        for j in range(start, stop):
            if abs(h[j]) < least or (positive and h[j] < 0) or entered == at_once or m == room < most:
                continue
            row, inner, inside = G[j], np.float64(h[j]), False
            for i in range(m):
                inside |= act[i] == j
                a[i] = row[act[i]]
                inner += a[i] * c[i]  # D_j x = h_j + G_j c
            if inside:
                continue
            sign, value = 1.0 if h[j] > 0 else -1.0, 0.0
            free = enter(M, a, w, row[j], m, floor if m < most else np.inf)
            if exchange and not free:
                left, value = _make_way(a, sign, M, act, scratch, m)
                free = left < m and enter(M, a, w, row[j], left, floor)
                m = left
            if free:
                act[m], c[m], s[m], b[m], born[m] = j, value, sign, inner, now
                m += 1
                entered += 1
    return m


@njit(**OPTIONS)
def _refresh(h, q, G, slack, alpha, M, act, scratch, m):
    """h = q - c G.  Where that misses alpha s on the support by more than slack, M is the inverse to a few digits only,
    since nearly dependent atoms came and went: it is computed anew, c is corrected with h, and h follows."""
    c, s, step, v, w, a = scratch[0], scratch[1], scratch[4], scratch[5], scratch[6], scratch[7]
    for attempt in range(3):
        copy(q, h)
        subtract_atoms(h[: len(q)], G, act, c, m)
        missed = False
        for i in range(m):
            v[i] = h[act[i]] - alpha * s[i]
            missed |= abs(v[i]) > slack
        if not missed or attempt == 2:
            break
        if attempt == 0:
            clear(M, m)
            for i in range(m):
                for l in range(i):
                    a[l] = G[act[i], act[l]]
                enter(M, a, w, G[act[i], act[i]], i, 0.0)
        times(M, v, step, m)
        for i in range(m):
            c[i] += step[i]


@njit(**OPTIONS)
def _encode(G, q, alpha, positive, max_iter, slack, floor, most, mask, h, bits, M, act, scratch):
    """The lasso code of the row with correlations q = D x, in act and scratch[0].

    Returns the size of the support and whether it holds the solution.
    """
    born = scratch[3]
    copy(q, h)
    first = top = largest(h, bits, mask)
    bar = alpha + slack * first
    m, alone = np.int64(0), False
    for now in range(max_iter):
        if top <= bar:
            return m, True
        least = top if alone else h.dtype.type(bar + REACH * (top - bar))
        before, at_once, exchange = m, 1 if alone else AT_ONCE, alone and alpha > 0
        m = _admit(h, G, least, at_once, positive, exchange, floor, now, M, act, scratch, m, most)
        m = _settle(M, act, scratch, m, alpha, positive or alpha > 0)
        changed = m != before
        for i in range(m):
            changed |= born[i] == now
        if changed:
            _refresh(h, q, G, slack * first, alpha, M, act, scratch, m)
            top = largest(h, bits, mask)
        elif alone:  # the violation is rounding
            return m, True
        alone = not changed  # of several that entered none was right: the largest violation alone is
    return m, top <= bar


@njit(**ENTRY)
def _encode_rows(X, D, G, Q, first, alpha, positive, max_iter, slack, floor, mask, h, bits, M, scratch, act, residual):
    """Rows from `first` on, until one needs more room: Q becomes the codes.  Returns that row and how many of the rows
    before it were not finished."""
    n, K = Q.shape
    c, s, target, g, step = scratch[0], scratch[1], scratch[2], scratch[4], scratch[5]
    unfinished, room, most = 0, len(act) - 2 * PAD, min(K, X.shape[1])
    for row in range(first, n):
        m, solved = _encode(G, Q[row], alpha, positive, max_iter, slack, floor, most, mask, h, bits, M, act, scratch)
        if m == room < most:
            return row, unfinished
        unfinished += not solved
        for i in range(m):
            target[i] = alpha * s[i]
        refine(X[row], D, act, c, target, M, g, step, residual, m)
        if positive or alpha > 0:
            for i in range(m):  # zero, but for rounding
                c[i] = max(c[i] * s[i], 0.0) * s[i]
        clear(M, m)
        write(Q[row], act, c, m)
    return n, unfinished


def lasso(X, D, G, Q, coder):
    """Codes of the rows X (n, d): argmin ½‖x - c D‖² + alpha ‖c‖₁, with c >= 0 if positive.

    G = D Dᵀ (K, K); Q = X Dᵀ (n, K), overwritten by the codes.  coder: alpha, positive, max_iter (rounds for a row).
    Returns how many rows were not finished.
    """
    size, most = Q.dtype.itemsize, min(D.shape)
    mask = np.array(-1 if coder.positive else np.iinfo(f"i{size}").max, f"i{size}")[()]
    settings = float(coder.alpha), coder.positive, coder.max_iter, SLACK[size], FLOOR[size], mask
    row, unfinished, room = 0, 0, min(most, ROOM)
    while row < len(X):
        arrays = workspace(Q.dtype, len(D), D.shape[1], room)
        row, more = _encode_rows(X, D, G, Q, row, *settings, *arrays)
        unfinished += more
        room = min(most, 2 * room)
    return unfinished
