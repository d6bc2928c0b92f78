"""Entering and leaving the support of a lasso whose atoms can be nearly dependent: inner products with the data.

The distance of an atom close to the span of the support is measured on the data; an atom that depends on the support
may replace another; the inverse M is recomputed where the support's equations do not hold.
"""

import numpy as np
from numba import njit

from ..tolerances import NEAR_DEPENDENCE
from ..workspace import COEFFICIENTS, COORDINATES, CORRELATIONS, ENTERED, INNER_PRODUCTS, SIGNS
from .support import border, drop, refine, subtract, times
from .vectors import INLINED, OPTIONS, dot, inner


@njit(**INLINED)
def dots(D, atoms, y, out, m):
    """out[i] = D[atoms[i]] · y for the first m, in the dtype of D: one load of y for four products."""
    whole = m - m % 4
    for i in range(0, whole, 4):
        x0, x1, x2, x3 = D[atoms[i]], D[atoms[i + 1]], D[atoms[i + 2]], D[atoms[i + 3]]
        t0 = t1 = t2 = t3 = D.dtype.type(0)
        for k in range(len(y)):
            t0 += x0[k] * y[k]
            t1 += x1[k] * y[k]
            t2 += x2[k] * y[k]
            t3 += x3[k] * y[k]
        out[i], out[i + 1], out[i + 2], out[i + 3] = t0, t1, t2, t3
    for i in range(whole, m):
        out[i] = dot(D[atoms[i]], y)


@njit(**OPTIONS)
def _measure(atom, square, D, support, residual, m):
    """The squared distance of an atom from the span of the support, in units of its square.

    lists[INNER_PRODUCTS]: its inner products with the support.  Its coordinates are left in lists[COORDINATES].
    """
    M, atoms, lists = support
    w, a = lists[COORDINATES], lists[INNER_PRODUCTS]
    times(M, a, w, m)
    outside = square
    for i in range(m):
        outside -= a[i] * w[i]
    if outside < NEAR_DEPENDENCE * square:
        refine(D[atom], D, support, w, 0.0, w, residual, m)
        subtract(D[atom], D, atoms, w, residual, m)
        outside = inner(residual, residual)
    return outside / square


@njit(**OPTIONS)
def _make_way(sign, support, m):
    """Change c along (-w, 1) sign, which changes no fit, until the coefficient of an atom is zero; it leaves.

    For a new atom with coordinates w in the support, on which it depends.  Returns the support's size and the new
    atom's coefficient; the size is m where no coefficient reaches zero.
    """
    lists = support.lists
    c, w, a = lists[COEFFICIENTS], lists[COORDINATES], lists[INNER_PRODUCTS]
    step, first = np.inf, m
    for i in range(m):
        if c[i] * w[i] * sign > 0 and c[i] / (w[i] * sign) < step:
            step, first = c[i] / (w[i] * sign), i
    if first == m:
        return m, 0.0
    for i in range(m):
        c[i] -= step * sign * w[i]
    a[first] = a[m - 1]
    return drop(support, first, m), step * sign


@njit(**INLINED)
def _append(support, atom, m, value, sign, correlation, now):
    """Write a new atom behind the m of the support."""
    _, atoms, lists = support
    atoms[m], lists[COEFFICIENTS, m], lists[SIGNS, m] = atom, value, sign
    lists[CORRELATIONS, m], lists[ENTERED, m] = correlation, now


@njit(**OPTIONS)
def enter_or_replace(x, atom, square, sign, exchange, dependence, now, D, support, residual, m):
    """An atom enters the support, unless it depends on it; with `exchange` another atom then leaves.

    square: its squared norm.  Returns the support's size.
    """
    M, atoms, lists = support
    a, w = lists[INNER_PRODUCTS], lists[COORDINATES]
    value = 0.0
    dots(D, atoms, D[atom], a, m)
    for attempt in range(2):
        outside = _measure(atom, square, D, support, residual, m)
        if outside > dependence and m < min(D.shape):
            border(M, w, outside * square, m)
            _append(support, atom, m, value, sign, inner(D[atom], x), now)
            return m + 1
        if attempt or not exchange:
            break
        m, value = _make_way(sign, support, m)
    return m


@njit(**OPTIONS)
def refactor(x, D, dependence, support, residual, m):
    """Recompute M and b from the atoms; those that depend on the atoms before them leave.  Returns the size."""
    M, atoms, lists = support
    a, w = lists[INNER_PRODUCTS], lists[COORDINATES]
    kept = np.int64(0)
    for i in range(m):
        atom = atoms[i]
        for j in range(kept):
            a[j] = inner(D[atom], D[atoms[j]])
        square = inner(D[atom], D[atom])
        outside = _measure(atom, square, D, support, residual, kept)
        if outside > dependence:
            border(M, w, outside * square, kept)
            value, sign, entered = lists[COEFFICIENTS, i], lists[SIGNS, i], lists[ENTERED, i]
            _append(support, atom, kept, value, sign, inner(D[atom], x), entered)
            kept += 1
    return kept


@njit(**OPTIONS)
def refine_signed(x, D, alpha, signed, support, residual, m):
    """`support.refine` of the coefficients; a coefficient that thereby changes its sign becomes 0."""
    c, s = support.lists[COEFFICIENTS], support.lists[SIGNS]
    refine(x, D, support, c, alpha, s, residual, m)
    if signed:
        for i in range(m):  # zero, up to rounding
            c[i] = max(c[i] * s[i], 0.0) * s[i]
