"""Lasso for many rows against one dictionary of known Gram matrix: a working set per row, solved on its support.

Per row, with correlations h = D (x - c D): atoms that violate |h| <= alpha enter the support; on it the minimiser for
the present signs is found exactly, and on the way there atoms whose coefficient meets zero leave (the feature-sign rule
of Lee et al., "Efficient sparse coding algorithms", NIPS 2007); h is refreshed once for all of them.  Every round
lowers the objective, so no support returns and the rounds end.

Rows that need more care, where an atom comes close to the span of others, are left to `lasso_products`.
"""

import numpy as np
from numba import njit

from .lasso_products import FULL, REACH, SLACK, SOLVED, UNFINISHED, lasso_products
from .support import (
    ENTRY,
    INLINED,
    OPTIONS,
    PAD,
    any_beyond,
    copy,
    enter,
    largest,
    refine,
    settle,
    subtract_atoms,
    workspace,
    write,
)

# Share of an atom's square outside the span of others below which it is close to it: the inverse of their Gram matrix
# loses the digits of that share.
CLOSE = {4: 1e-4, 8: 1e-9}
AT_ONCE = 6  # of them in a round: fewer rounds, but more atoms that leave again (measured on image patches)
ROOM = 256  # atoms of a support before more room is made

HARD = 3  # how a row ends that is left to `lasso_products`


@njit(**INLINED)
def _admit(h, G, least, at_once, positive, close, now, M, act, scratch, m, room):
    """Atoms with |h| >= least enter the support, `at_once` of them at most.  Returns its size."""
    c, s, b, born, w, a = scratch[0], scratch[1], scratch[2], scratch[3], scratch[6], scratch[7]
    K, entered = len(h) - 1, 0
    for start in range(0, K, 64):
        stop = min(start + 64, K)
        if entered == at_once or m == room or not any_beyond(h[start:stop], least):
            continue
        for j in range(start, stop):
            if abs(h[j]) < least or (positive and h[j] < 0) or entered == at_once or m == room:
                continue
            row, full, inside = G[j], np.float64(h[j]), False
            for i in range(m):
                inside |= act[i] == j
                a[i] = row[act[i]]
                full += a[i] * c[i]  # D_j x = h_j + G_j c
            if not inside and enter(M, a, w, row[j], m, close):
                act[m], c[m], s[m], b[m], born[m] = j, 0.0, 1.0 if h[j] > 0 else -1.0, full, now
                m += 1
                entered += 1
    return m


@njit(**OPTIONS)
def _encode(G, q, alpha, positive, max_iter, slack, close, mask, h, bits, M, act, scratch, room):
    """The lasso code of the row with correlations q = D x, in act and scratch[0].

    Returns the size of the support, how the row ended, and the rounding of its correlations.
    """
    born = scratch[3]
    copy(q, h)
    top = largest(h, bits, mask)
    rounding = slack * top
    bar = alpha + rounding
    m, alone = np.int64(0), False
    for now in range(max_iter):
        if top <= bar:
            return m, SOLVED, rounding
        least = top if alone else h.dtype.type(bar + REACH * (top - bar))
        before = m
        m = _admit(h, G, least, 1 if alone else AT_ONCE, positive, close, now, M, act, scratch, m, room)
        full = m == room
        m = settle(M, act, scratch, m, alpha, positive or alpha > 0)
        changed = m != before
        for i in range(m):
            changed |= born[i] == now
        if changed:
            copy(q, h)
            subtract_atoms(h[: len(q)], G, act, scratch[0], m)
            top = largest(h, bits, mask)
        elif full or alone:
            return m, FULL if full else HARD, rounding
        alone = not changed  # of several that entered none was right: the largest violation alone is
    return m, SOLVED if top <= bar else UNFINISHED, rounding


@njit(**ENTRY)
def _encode_rows(X, D, G, Q, ends, first, alpha, positive, max_iter, slack, close, mask, *arrays):
    """Rows from `first` on, until one needs more room: Q becomes the codes, ends (n,) how they ended.  Returns that
    row."""
    h, bits, M, scratch, act, residual = arrays
    c, s, missing, step = scratch[0], scratch[1], scratch[4], scratch[5]
    room, signed = len(act) - 2 * PAD, positive or alpha > 0
    for row in range(first, len(Q)):
        m, end, rounding = _encode(
            G, Q[row], alpha, positive, max_iter, slack, close, mask, h, bits, M, act, scratch, room
        )
        if end == FULL and room < min(D.shape):
            return row
        refine(X[row], D, act, c, alpha, s, M, missing, step, residual, m)
        for i in range(m):
            if end == SOLVED and (abs(missing[i]) > 10 * rounding or (signed and c[i] * s[i] < 0)):
                end = HARD
        write(Q[row], act, c, m)
        ends[row] = end
    return len(Q)


def lasso(X, D, G, Q, coder):
    """Codes of the rows X (n, d): argmin ½‖x - c D‖² + alpha ‖c‖₁, with c >= 0 if positive.

    G = D Dᵀ (K, K); Q = X Dᵀ (n, K), overwritten by the codes.  coder: alpha, positive, max_iter (rounds for a row).
    Returns how many rows were not finished.
    """
    size, most = Q.dtype.itemsize, min(D.shape)
    mask = np.array(-1 if coder.positive else np.iinfo(f"i{size}").max, f"i{size}")[()]
    settings = float(coder.alpha), coder.positive, coder.max_iter, SLACK[size], CLOSE[size], mask
    row, room, ends = 0, min(most, ROOM), np.empty(len(X), np.int64)
    while row < len(X):
        row = _encode_rows(X, D, G, Q, ends, row, *settings, *workspace(Q.dtype, len(D), D.shape[1], room))
        room = min(most, 2 * room)
    unfinished, hard = int((ends == UNFINISHED).sum()), np.flatnonzero(ends > SOLVED)
    if len(hard):
        Q[hard], more = lasso_products(X[hard], D, coder)
        unfinished += more
    return unfinished
