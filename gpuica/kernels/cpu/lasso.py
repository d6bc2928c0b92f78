"""Lasso for many rows against one dictionary of known Gram matrix: a working set per row, solved on its support.

Per row, with correlations h = D (x - c D): atoms that violate |h| <= alpha enter the support, each time the largest of
what those before it would leave of h; on the support the minimiser for the present signs is found exactly, and on the
way there atoms whose coefficient meets zero leave (the feature-sign rule of Lee et al., "Efficient sparse coding
algorithms", NIPS 2007); then h is computed anew.  Every round lowers the objective, so no support returns and the
rounds end.

Rows that need more care, where an atom comes close to the span of others, are left to `lasso_products`.
"""

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from .lasso_products import FULL, SLACK, SOLVED, UNFINISHED, lasso_products
from .support import PAD, enter, refine, settle, workspace, write
from .vectors import ENTRY, INLINED, OPTIONS, copy, largest, subtract_atoms, where_largest

# Share of an atom's square outside the span of others below which it is close to it: the inverse of their Gram matrix
# loses the digits of that share.
CLOSE = {4: 1e-4, 8: 1e-9}
AT_ONCE = 8  # atoms that enter in a round, at most
REACH = 0.1  # they enter while a violation is left that is this share of the round's first (measured on image patches)
ROOM = 256  # atoms of a support before more room is made

HARD = 3  # how a row ends that is left to `lasso_products`


@intrinsic
def _bits(typing, x):
    """The bits of a floating point number as an integer."""
    integer = types.int64 if x == types.float64 else types.int32

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(integer))

    return integer(x), generate


@njit(**INLINED)
def _reduce(h, row, value, bits, mask, low):
    """h -= value row; returns where |h|, or h if positive, is then largest but for the last bits of it.

    The place is written over these bits, so that one maximum of integers, which the compiler vectorises, tells both.
    low: as many bits as a place needs.
    """
    best, value = bits.dtype.type(0), h.dtype.type(value)
    for j in range(len(row)):
        new = h[j] - value * row[j]
        h[j] = new
        best = max(best, bits.dtype.type((_bits(new) & mask & ~low) | j))  # type: ignore[call-arg]
    return np.int64(best & low)


@njit(**INLINED)
def _admit(h, G, q, alpha, least, at_once, positive, close, now, bits, mask, low, M, act, scratch, m, room):
    """Atoms enter the support while |h| >= least somewhere, `at_once` of them at most.  Returns its size.

    Of h remains what each of them, with the coefficient that it would have alone, leaves of it.
    """
    c, s, b, born, w, a = scratch[0], scratch[1], scratch[2], scratch[3], scratch[6], scratch[7]
    j = where_largest(bits, mask)
    for turn in range(at_once):
        row, value, inside = G[j], np.float64(h[j]), False
        sign = 1.0 if value > 0 else -1.0
        if m == room or (value if positive else abs(value)) < least:
            break
        for i in range(m):
            inside |= act[i] == j
            a[i] = row[act[i]]
        if not inside and enter(M, a, w, row[j], m, close):
            act[m], c[m], s[m], b[m], born[m] = j, 0.0, sign, q[j], now
            m += 1
        if turn + 1 < at_once:
            j = _reduce(h, row, (value - sign * alpha) / row[j], bits, mask, low)
    return m


@njit(**OPTIONS)
def _encode(G, q, alpha, positive, max_iter, slack, close, mask, low, h, bits, M, act, scratch, room):
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
        least, at_once = (top, 1) if alone else (bar + REACH * (top - bar), AT_ONCE)
        before = m
        m = _admit(h, G, q, alpha, least, at_once, positive, close, now, bits, mask, low, M, act, scratch, m, room)
        full = m == room
        m = settle(M, act, scratch, m, alpha, positive or alpha > 0)
        changed = m != before
        for i in range(m):
            changed |= born[i] == now
        if not changed and (full or alone):
            return m, FULL if full else HARD, rounding
        copy(q, h)
        subtract_atoms(h[: len(q)], G, act, scratch[0], m)
        top = largest(h, bits, mask)
        alone = not changed  # of several that entered none was right: the largest violation alone is
    return m, SOLVED if top <= bar else UNFINISHED, rounding


@njit(**ENTRY)
def _encode_rows(X, D, G, Q, ends, first, alpha, positive, max_iter, slack, close, mask, low, *arrays):
    """Rows from `first` on, until one needs more room: Q becomes the codes, ends (n,) how they ended.  Returns that
    row."""
    h, bits, M, scratch, act, residual = arrays
    c, s, missing, step = scratch[0], scratch[1], scratch[4], scratch[5]
    room, signed = len(act) - 2 * PAD, positive or alpha > 0
    for row in range(first, len(Q)):
        m, end, rounding = _encode(
            G, Q[row], alpha, positive, max_iter, slack, close, mask, low, h, bits, M, act, scratch, room
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
    integer = np.dtype(f"i{size}").type
    mask, low = integer(-1 if coder.positive else np.iinfo(integer).max), integer((1 << len(D).bit_length()) - 1)
    settings = float(coder.alpha), coder.positive, coder.max_iter, SLACK[size], CLOSE[size], mask, low
    row, room, ends = 0, min(most, ROOM), np.empty(len(X), np.int64)
    while row < len(X):
        row = _encode_rows(X, D, G, Q, ends, row, *settings, *workspace(Q.dtype, len(D), D.shape[1], room))
        room = min(most, 2 * room)
    unfinished, hard = int((ends == UNFINISHED).sum()), np.flatnonzero(ends > SOLVED)
    if len(hard):
        Q[hard], more = lasso_products(X[hard], D, coder)
        unfinished += more
    return unfinished
