"""Least angle regression for many rows against one dictionary.

Efron, Hastie, Johnstone and Tibshirani, "Least angle regression", 2004.  There is no CUDA kernel for it.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from ...coders.support import DEPENDENCE_TOL, ROUNDING_TOL
from ..fallback import recode_ill_conditioned
from ..status import FINISHED, ILL_CONDITIONED
from ..tolerances import GRAM_DEPENDENCE_TOL, RESIDUAL_DRIFT_TOL
from ..workspace import COEFFICIENTS, INNER_PRODUCTS, SIGNS, SOLUTION, Support
from .matching import first_index_of
from .row import check_code, write
from .support import enter, support_workspace, times
from .vectors import ENTRY, INLINED, OPTIONS, Searchable, copy, fill, inner, largest, searchable, subtract_atoms


class Settings(NamedTuple):
    """Numbers that all rows share."""

    n_nonzero: int
    dependence: float
    gram_dependence: float
    rounding: float
    drift: float


class Workspace(NamedTuple):
    """Arrays for one row.

    correlations : `Searchable` of the K atoms.
    slopes : (K,); minus by how much a unit step along the direction lowers the correlations.
    inside : (K,); 1 for atoms of the support, -1 for others.
    residual : (d,)
    """

    correlations: Searchable
    support: Support
    slopes: Any
    inside: Any
    residual: Any


@njit(**OPTIONS)
def _next_atom(h, top, slopes, inside, dependence):
    """The smallest step after which a correlation h (K,) of an atom outside the support equals those of the support,
    which fall from top at rate 1; and that atom, -1 for none."""
    step, j = top, -1
    for k in range(len(slopes)):
        if inside[k] < 0:
            fall = -np.float64(slopes[k])  # rate at which h_k falls; duplicates of the support's atoms have rate 1
            if fall < 1 - dependence and (top - h[k]) / (1 - fall) < step:
                step, j = (top - h[k]) / (1 - fall), k
            if fall > dependence - 1 and (top + h[k]) / (1 + fall) < step:
                step, j = (top + h[k]) / (1 + fall), k
    return max(step, np.float64(0)), j


@njit(**INLINED)
def _encode(G, q, settings, work):
    """Least angle regression of one row up to n_nonzero atoms.

    Returns the size of its support, the absolute correlation that all of its atoms have, the first of those, and the
    status of the row.  work.inside is -1 before and after.
    """
    M, atoms, lists = work.support
    c, s, direction, a = lists[COEFFICIENTS], lists[SIGNS], lists[SOLUTION], lists[INNER_PRODUCTS]
    h, slopes, inside = work.correlations.values, work.slopes, work.inside
    K, m = len(q), np.int64(0)
    copy(q, h)
    top = np.float64(largest(work.correlations))
    first, end, j = top, FINISHED, first_index_of(h[:K], h.dtype.type(top))
    least = settings.rounding * top
    while m < settings.n_nonzero and top > least:
        row = G[j]
        for i in range(m):
            a[i] = row[atoms[i]]
        inside[j] = 1
        if not enter(work.support, row[j], m, settings.gram_dependence):
            end = ILL_CONDITIONED
            break
        atoms[m], c[m], s[m] = j, 0.0, 1.0 if h[j] > 0 else -1.0
        m += 1
        # all correlations of the support fall at the same rate, 1, along direction = M s
        times(M, s, direction, m)
        fill(slopes, 0)
        subtract_atoms(slopes, G, atoms, direction, m)
        step, j = _next_atom(h, top, slopes, inside, settings.dependence)
        for i in range(m):
            c[i] += step * direction[i]
        copy(q, h)
        subtract_atoms(h[:K], G, atoms, c, m)
        top -= step
        if j < 0:
            break
    for k in range(K):
        inside[k] = -1
    return m, top, first, end


@njit(**ENTRY)
def _encode_rows(X, D, G, Q, status, settings, work):
    """Q (n, K) becomes the codes, status (n,) how the rows ended."""
    _, atoms, lists = work.support
    c, s, residual = lists[COEFFICIENTS], lists[SIGNS], work.residual
    for row in range(len(Q)):
        q, x = Q[row], X[row]
        m, top, first, end = _encode(G, q, settings, work)
        if end == FINISHED:
            write(q, atoms, c, m)
            square = inner(x, x)
            end = check_code(x, D, q, atoms, c, residual, m, square, square, 0.0, 0.0)
            for i in range(m):
                if abs(inner(D[atoms[i]], residual) * s[i] - top) > settings.drift * first:
                    end = ILL_CONDITIONED
        status[row] = end


def lars(X, D, G, Q, coder):
    """Codes of X (n, d) by least angle regression up to n_nonzero atoms.

    G = D Dᵀ; Q = X Dᵀ becomes the codes.  coder: n_nonzero.  Returns the number of unfinished rows.
    """
    size, most, status = Q.dtype.itemsize, min(coder.n_nonzero, *D.shape), np.empty(len(X), np.int64)
    settings = Settings(
        most, DEPENDENCE_TOL[size], GRAM_DEPENDENCE_TOL[size], ROUNDING_TOL[size], RESIDUAL_DRIFT_TOL[size]
    )
    work = Workspace(
        searchable(Q.dtype, len(D), positive=False),
        support_workspace(most),
        np.empty(len(D), Q.dtype),
        np.full(len(D), -1),
        np.empty(D.shape[1]),
    )
    _encode_rows(X, D, G, Q, status, settings, work)
    return recode_ill_conditioned(X, D, Q, status, coder)
