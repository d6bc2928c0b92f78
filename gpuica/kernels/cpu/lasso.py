"""Lasso for many rows against one dictionary of known Gram matrix: a working set per row, solved on its support.

Per row, with correlations h = D (x - c D): atoms that violate |h| <= alpha enter the support, each time the largest of
what those before it would leave of h; on the support the minimiser for the present signs is found exactly, and on the
way there atoms whose coefficient reaches zero leave (the feature-sign rule of Lee et al., "Efficient sparse coding
algorithms", NIPS 2007); then h is recomputed.  Every round lowers the objective, so no support occurs twice and the
rounds end.

Rows in which an atom comes close to the span of others are recomputed by `lasso_products`.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from ..status import FINISHED, ILL_CONDITIONED, NO_ROOM, UNFINISHED
from ..tolerances import LASSO_DEPENDENCE_TOL, OPTIMALITY_TOL
from ..workspace import COEFFICIENTS, CORRELATIONS, ENTERED, INNER_PRODUCTS, SIGNS, SOLUTION
from .lasso_products import lasso_products
from .row import write
from .screening import screen
from .support import PAD, enter, refine, settle, support_workspace
from .vectors import ENTRY, INLINED, MERGED, copy, largest, searchable, subtract_atoms, where_largest

MAX_ENTERING = 8  # atoms that enter in a round,
ENTRY_SHARE = 0.1  # all of them with at least this share of the round's first violation (measured on image patches)
INITIAL_ROOM = 256  # atoms of a support; doubled where a row needs more


class Settings(NamedTuple):
    """Numbers that all rows share; `index_bits`: as many low bits, all 1, as an index of an atom needs."""

    alpha: float
    positive: bool
    max_iter: int
    optimality: float
    dependence: float
    index_bits: Any


@intrinsic
def _bits(typing, x):
    """The bits of a floating point number as an integer."""
    integer = types.int64 if x == types.float64 else types.int32

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], context.get_value_type(integer))

    return integer(x), generate


@njit(**INLINED)
def _reduce(correlations, row, value, index_bits):
    """h -= value row; return where |h|, or h if positive, is then largest, up to its last bits.

    The index replaces these bits, so that one maximum of integers, which the compiler vectorises, finds both.
    """
    h, bits, mask = correlations
    best, value = bits.dtype.type(0), h.dtype.type(value)
    for j in range(len(row)):
        new = h[j] - value * row[j]
        h[j] = new
        best = max(best, bits.dtype.type((_bits(new) & mask & ~index_bits) | j))  # type: ignore[call-arg]
    return np.int64(best & index_bits)


@njit(**MERGED)
def _admit(correlations, G, q, least, at_once, now, settings, support, m):
    """Atoms enter the support while |h| >= least somewhere, `at_once` of them at most.  Returns its size.

    h is reduced by each of them, with the coefficient that it would have alone.
    """
    _, atoms, lists = support
    c, s, b, entered = lists[COEFFICIENTS], lists[SIGNS], lists[CORRELATIONS], lists[ENTERED]
    a, h, room = lists[INNER_PRODUCTS], correlations.values, len(atoms) - 2 * PAD
    j = where_largest(correlations)
    for turn in range(at_once):
        row, value, inside = G[j], np.float64(h[j]), False
        sign = 1.0 if value > 0 else -1.0
        if m == room or (value if settings.positive else abs(value)) < least:
            break
        for i in range(m):
            inside |= atoms[i] == j
            a[i] = row[atoms[i]]
        if not inside and enter(support, row[j], m, settings.dependence):
            atoms[m], c[m], s[m], b[m], entered[m] = j, 0.0, sign, q[j], now
            m += 1
        if turn + 1 < at_once:
            j = _reduce(correlations, row, (value - sign * settings.alpha) / row[j], settings.index_bits)
    return m


@njit(**MERGED)
def _encode(G, q, settings, correlations, support):
    """The lasso code of the row with correlations q = D x, in the support.

    Returns the size of the support, the status of the row, and the rounding of its correlations.
    """
    _, atoms, lists = support
    h, entered, alpha = correlations.values, lists[ENTERED], settings.alpha
    signed, room = settings.positive or alpha > 0, len(atoms) - 2 * PAD
    copy(q, h)
    top = largest(correlations)
    rounding = settings.optimality * top
    bound = alpha + rounding
    m, alone = np.int64(0), False
    for now in range(settings.max_iter):
        if top <= bound:
            return m, FINISHED, rounding
        least, at_once = (top, 1) if alone else (bound + ENTRY_SHARE * (top - bound), MAX_ENTERING)
        before = m
        m = _admit(correlations, G, q, least, at_once, now, settings, support, m)
        full = m == room
        m = settle(support, m, alpha, signed)
        changed = m != before
        for i in range(m):
            changed |= entered[i] == now
        if not changed and (full or alone):
            return m, NO_ROOM if full else ILL_CONDITIONED, rounding
        copy(q, h)
        subtract_atoms(h[: len(q)], G, atoms, lists[COEFFICIENTS], m)
        top = largest(correlations)
        alone = not changed  # of several that entered none was right: the largest violation alone is
    return m, FINISHED if top <= bound else UNFINISHED, rounding


@njit(**ENTRY)
def _encode_rows(X, D, G, Q, status, start, settings, correlations, support, residual):
    """Rows from `start` on, until one needs more room: Q becomes the codes, status (n,) how they ended.

    Returns the index of the row that needs more room, or n.
    """
    _, atoms, lists = support
    c, s, missing = lists[COEFFICIENTS], lists[SIGNS], lists[SOLUTION]
    alpha, room = settings.alpha, len(atoms) - 2 * PAD
    signed = settings.positive or alpha > 0
    for row in range(start, len(Q)):
        m, end, rounding = _encode(G, Q[row], settings, correlations, support)
        if end == NO_ROOM and room < min(D.shape):
            return row
        refine(X[row], D, support, c, alpha, s, residual, m)
        for i in range(m):
            if end == FINISHED and (abs(missing[i]) > 10 * rounding or (signed and c[i] * s[i] < 0)):
                end = ILL_CONDITIONED
        write(Q[row], atoms, c, m)
        status[row] = end
    return len(Q)


def lasso(X, D, G, Q, coder):
    """Codes of the rows X (n, d): argmin ½‖x - c D‖² + alpha ‖c‖₁, with c >= 0 if positive.

    G = D Dᵀ (K, K); Q = X Dᵀ (n, K), overwritten by the codes.  coder: alpha, positive, max_iter (rounds for a row).
    Returns the number of unfinished rows.
    """
    size, most = Q.dtype.itemsize, min(D.shape)
    correlations = searchable(Q.dtype, len(D), coder.positive)
    index_bits = correlations.bits.dtype.type((1 << len(D).bit_length()) - 1)
    settings = Settings(
        float(coder.alpha),
        coder.positive,
        coder.max_iter,
        OPTIMALITY_TOL[size],
        LASSO_DEPENDENCE_TOL[size],
        index_bits,
    )
    row, room, status, residual = 0, min(most, INITIAL_ROOM), np.empty(len(X), np.int64), np.empty(D.shape[1])
    while row < len(X):
        row = _encode_rows(X, D, G, Q, status, row, settings, correlations, support_workspace(room), residual)
        room = min(most, 2 * room)
    n_unfinished = int((status == UNFINISHED).sum())
    others = np.flatnonzero((status != FINISHED) & (status != UNFINISHED))
    if len(others):
        Q[others], more = lasso_products(X[others], D, screen(D), coder, independent=False)
        n_unfinished += more
    return n_unfinished
