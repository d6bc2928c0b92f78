"""Rounds of the lasso of rows whose atoms are nearly dependent.

As `lasso_rounds`, but three things keep ill-conditioned supports accurate: the distance of an atom close to the span of
the support is measured on the data; an atom that depends on the support may replace another; the inverse M is
recomputed where the support's equations do not hold.
"""

import numpy as np
from numba import njit

from ..status import FINISHED, NO_ROOM, REFACTORED, RUNNING, STUCK, UNFINISHED
from ..tolerances import NEAR_DEPENDENCE
from ..workspace import COEFFICIENTS, COORDINATES, ENTERED, INNER_PRODUCTS, SIGNS
from .lasso_rounds import (
    append,
    choose_candidates,
    dots,
    improve,
    missed_conditions,
    refine_signed,
    take_rounds,
)
from .support import PAD, border, drop, refine, subtract, times
from .vectors import ENTRY, INLINED, MERGED, inner


@njit(**MERGED)
def _measure(atom, D, support, residual, m):
    """The squared distance of an atom from the span of the support, from the data; corrects its coordinates."""
    _, atoms, lists = support
    w = lists[COORDINATES]
    refine(D[atom], D, support, w, 0.0, w, residual, m)
    subtract(D[atom], D, atoms, w, residual, m)
    return inner(residual, residual)


@njit(**INLINED)
def _outside(atom, square, D, support, residual, m):
    """The squared distance of an atom from the span of the support, in units of its square.

    lists[INNER_PRODUCTS]: its inner products with the support.  Its coordinates are left in lists[COORDINATES].
    """
    M, _, lists = support
    w, a = lists[COORDINATES], lists[INNER_PRODUCTS]
    times(M, a, w, m)
    outside = square
    for i in range(m):
        outside -= a[i] * w[i]
    if outside < NEAR_DEPENDENCE * square:
        outside = _measure(atom, D, support, residual, m)
    return outside / square


@njit(**MERGED)
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


@njit(**MERGED)
def _enter(x, atom, square, sign, value, dependence, now, D, support, residual, m):
    """An atom, of this squared norm and coefficient, enters the support unless it depends on it; returns its size.

    lists[INNER_PRODUCTS]: its inner products with the support.
    """
    outside = _outside(atom, square, D, support, residual, m)
    if outside <= dependence or m == min(D.shape):
        return m
    border(support.inverse, support.lists[COORDINATES], outside * square, m)
    append(support, atom, m, value, sign, inner(D[atom], x), now)
    return m + 1


@njit(**MERGED)
def _replace(x, atom, square, sign, dependence, now, D, support, residual, m):
    """An atom that depends on the support replaces another; returns the size of the support."""
    m, value = _make_way(sign, support, m)
    return _enter(x, atom, square, sign, value, dependence, now, D, support, residual, m)


@njit(**MERGED)
def _enter_or_replace(x, atom, square, sign, exchange, dependence, now, D, support, residual, m):
    """An atom enters the support, unless it depends on it; with `exchange` another atom then leaves.

    square: its squared norm.  Returns the support's size.
    """
    dots(D, support.atoms, D[atom], support.lists[INNER_PRODUCTS], m)
    size = _enter(x, atom, square, sign, 0.0, dependence, now, D, support, residual, m)
    if size > m or not exchange:
        return size
    return _replace(x, atom, square, sign, dependence, now, D, support, residual, m)


@njit(**MERGED)
def _refactor(x, D, dependence, support, residual, m):
    """Recompute M and b from the atoms; those that depend on the atoms before them leave.  Returns the size."""
    M, atoms, lists = support
    a, w = lists[INNER_PRODUCTS], lists[COORDINATES]
    kept = np.int64(0)
    for i in range(m):
        atom = atoms[i]
        for j in range(kept):
            a[j] = inner(D[atom], D[atoms[j]])
        square = inner(D[atom], D[atom])
        outside = _outside(atom, square, D, support, residual, kept)
        if outside > dependence:
            border(M, w, outside * square, kept)
            value, sign, entered = lists[COEFFICIENTS, i], lists[SIGNS, i], lists[ENTERED, i]
            append(support, atom, kept, value, sign, inner(D[atom], x), entered)
            kept += 1
    return kept


@njit(**MERGED)
def _round(x, D, squares, row, r, this, settings, support, buffers, m):
    """See `lasso_rounds._round`."""
    alpha, rounding = settings.alpha, this.rounding
    residual = buffers.residual
    missed = missed_conditions(D, r, row[0], alpha, support, m)
    refactors = missed > 10 * rounding or this.previous == STUCK
    n = choose_candidates(D, r, row, alpha + rounding, settings.positive, buffers.candidates)
    if n == 0 and not refactors:
        return m, FINISHED
    if this.is_last or (refactors and not this.may_refactor):
        return m, UNFINISHED
    if refactors:
        m = _refactor(x, D, this.dependence, support, residual, m)
    bound, dependence = alpha + rounding, this.dependence
    m, changed, top = improve(
        _enter_or_replace, x, D, squares, r, n, bound, dependence, refactors, settings, support, buffers, m
    )
    if changed or refactors:
        refine_signed(x, D, alpha, settings.positive or alpha > 0, support, residual, m)
        return m, REFACTORED if refactors else RUNNING
    if m == len(support.atoms) - 2 * PAD < min(D.shape):
        return m, NO_ROOM
    return m, FINISHED if top <= alpha + 10 * rounding else STUCK


@njit(**ENTRY)
def dependent_rounds(X, D, squares, correlations, rows, settings, buffers, states):
    """`take_rounds` of rows whose atoms can be nearly dependent."""
    return take_rounds(_round, X, D, squares, correlations, rows, settings, buffers, states)
