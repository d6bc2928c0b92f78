"""Non-negative OMP for many rows against one dictionary.

One atom a step; correlations are updated from rows of the Gram matrix (Rubinstein, Zibulevsky and Elad, 2008) instead
of a product with the dictionary.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from ...coders.support import EPS, ROUNDING_TOL
from ..fallback import recode_ill_conditioned
from ..status import FINISHED, ILL_CONDITIONED, UNFINISHED
from ..tolerances import GRAM_DEPENDENCE_TOL, RESIDUAL_DRIFT_TOL, TARGET_TOL
from ..workspace import COEFFICIENTS, CORRELATIONS, ENTERED, INNER_PRODUCTS, SIGNS, SOLUTION
from .row import check_code, write
from .support import enter, refine, settle, support_workspace
from .vectors import ENTRY, INLINED, OPTIONS, copy, inner, largest, searchable, subtract_atoms


class Settings(NamedTuple):
    """Numbers that all rows share."""

    n_nonzero: int
    target: float
    gram_dependence: float
    target_tol: float
    rounding: float
    drift: float
    eps: float


@njit(**OPTIONS)
def _first_at_least(h, top):
    """The first index with h >= top."""
    for j in range(len(h)):
        if h[j] >= top:
            return j
    return 0


@njit(**INLINED)
def _encode(x, D, G, q, settings, correlations, support):
    """Non-negative orthogonal matching pursuit of one row: its support and coefficients.

    Returns the support's size, what is left of ‖x‖², and the status of the row.
    Ends with n_nonzero atoms, at a squared residual of `target`, or when what is left is rounding.
    """
    _, atoms, lists = support
    c, s, b, entered = lists[COEFFICIENTS], lists[SIGNS], lists[CORRELATIONS], lists[ENTERED]
    a, h, most, target = lists[INNER_PRODUCTS], correlations.values, settings.n_nonzero, settings.target
    K, m, square = len(q), np.int64(0), inner(x, x)
    copy(q, h)
    top = largest(correlations)
    least, left = settings.rounding * top, square
    for now in range(2 * most):  # atoms may leave again
        if target > 0 and abs(left - target) <= settings.target_tol * square:
            return m, left, ILL_CONDITIONED
        if m == most or left <= target or top <= least:
            return m, left, FINISHED
        j = _first_at_least(h[:K], top)
        row = G[j]
        for i in range(m):
            a[i] = row[atoms[i]]
        if not enter(support, row[j], m, settings.gram_dependence):
            return m, left, ILL_CONDITIONED
        atoms[m], c[m], s[m], b[m], entered[m] = j, 0.0, 1.0, inner(x, D[j]), now
        m = settle(support, m + 1, 0.0, True)
        stays = False
        for i in range(m):
            stays |= atoms[i] == j
        if not stays:
            return m, left, ILL_CONDITIONED
        copy(q, h)
        subtract_atoms(h[:K], G, atoms, c, m)
        left = square
        for i in range(m):
            h[atoms[i]] = 0  # up to rounding
            left -= b[i] * c[i]
        top = largest(correlations)
    return m, left, FINISHED if m == most or left <= target or top <= least else ILL_CONDITIONED


@njit(**ENTRY)
def _encode_rows(X, D, G, Q, status, settings, correlations, support, residual):
    """Q (n, K) becomes the codes, status (n,) how the rows ended."""
    _, atoms, lists = support
    c, s, missing, target = lists[COEFFICIENTS], lists[SIGNS], lists[SOLUTION], settings.target
    for row in range(len(Q)):
        q, x = Q[row], X[row]
        m, left, end = _encode(x, D, G, q, settings, correlations, support)
        if end == FINISHED:
            top = np.float64(q[0])
            for j in range(len(q)):
                top = max(top, np.float64(q[j]))
            refine(x, D, support, c, 0.0, s, residual, m)
            for i in range(m):
                c[i] = max(c[i], 0.0)
                if abs(missing[i]) > 100 * settings.rounding * top:
                    end = ILL_CONDITIONED
        if end == FINISHED:
            write(q, atoms, c, m)
            square = inner(x, x)
            limit = left + settings.drift * square
            end = check_code(x, D, q, atoms, c, residual, m, square, limit, target, settings.eps)
            if end == UNFINISHED and left <= target:
                end = ILL_CONDITIONED
        status[row] = end


def nonnegative(X, D, G, Q, coder):
    """Codes of X (n, d) by non-negative OMP: n_nonzero atoms, or fewer where ‖x - c D‖² <= target.

    G = D Dᵀ; Q = X Dᵀ becomes the codes.  coder: n_nonzero, target.  Returns the number of unfinished rows.
    """
    size, most, status = Q.dtype.itemsize, min(coder.n_nonzero, *D.shape), np.empty(len(X), np.int64)
    settings = Settings(
        most,
        float(coder.target),
        GRAM_DEPENDENCE_TOL[size],
        TARGET_TOL[size],
        ROUNDING_TOL[size],
        RESIDUAL_DRIFT_TOL[size],
        EPS[size],
    )
    correlations = searchable(Q.dtype, len(D), positive=True)
    _encode_rows(X, D, G, Q, status, settings, correlations, support_workspace(most), np.empty(D.shape[1]))
    return recode_ill_conditioned(X, D, Q, status, coder)
