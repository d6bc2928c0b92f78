"""Orthogonal and order-recursive matching pursuit for many rows against one dictionary: one atom a step.

Batch-OMP (Rubinstein, Zibulevsky and Elad, 2008) works on rows of the Gram matrix instead of products with the
dictionary.  Here these rows are made orthonormal on the way: P_i (K,) holds the inner products of all atoms with
direction i of an orthonormal basis of the support.  So a step subtracts rows that are in the cache from one row of the
Gram matrix, and the triangular matrix that gives the coefficients is a part of P.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from ...coders.support import DEPENDENCE_TOL, EPS, ROUNDING_TOL
from ..fallback import recode_ill_conditioned
from ..status import FINISHED, ILL_CONDITIONED, UNFINISHED
from ..tolerances import (
    GRAM_DEPENDENCE_TOL,
    MAX_SQUARE,
    MIN_SQUARE,
    RESIDUAL_DRIFT_TOL,
    SAFE_DETERMINANT,
    TARGET_TOL,
)
from .row import check_code, write
from .vectors import (
    ENTRY,
    INLINED,
    OPTIONS,
    Searchable,
    copy,
    largest,
    searchable,
    subtract_rows,
    where_largest,
)

# In place of an atom's square outside the span of the support: the atom is in the support.
INSIDE = -np.inf


class Settings(NamedTuple):
    """Numbers that all rows share; by_gain: whether the atom enters that lowers the residual most (ORMP), or the one of
    the largest correlation (OMP)."""

    n_nonzero: int
    target: float
    by_gain: bool
    dependence: float
    rounding: float  # of squared correlations
    gram_dependence: float
    target_tol: float
    min_square: float
    max_square: float
    safe_determinant: float
    drift: float
    eps: float


class Workspace(NamedTuple):
    """Arrays for one row.

    h, outside : (K,); correlations, and squares of the atoms' parts outside the span of the support.
    score : `Searchable` of the K atoms.
    P : (n_nonzero, K).
    atoms, along, coefficients : (n_nonzero,); the support, inner products of the row with the directions.
    residual : (d,)
    """

    h: Any
    score: Searchable
    outside: Any
    P: Any
    atoms: Any
    along: Any
    coefficients: Any
    residual: Any


@njit(**OPTIONS)
def _dependent_atoms_are_left(h, q, outside, squares, dependence, rounding):
    """Whether an atom that depends on the support has a correlation above rounding: h² > rounding max q²."""
    first, found = h.dtype.type(0), False
    for k in range(len(q)):
        first = max(first, rounding * q[k] * q[k])
    for k in range(len(q)):
        found |= outside[k] > INSIDE and outside[k] <= dependence * squares[k] and h[k] * h[k] > first
    return found


@njit(**OPTIONS)
def _any(h):
    """Whether any h is not 0."""
    found = False
    for k in range(len(h)):
        found |= h[k] != 0
    return found


@njit(**INLINED)
def _scores(h, squares, dependence, by_gain, work):
    """work.score becomes by how much each atom lowers the squared residual (by_gain), or its squared correlation; zero
    for atoms of the support."""
    score, outside = work.score.values, work.outside
    zero, inside = h.dtype.type(0), h.dtype.type(INSIDE)
    if by_gain:
        for j in range(len(h)):
            score[j] = h[j] * h[j] / outside[j] if outside[j] > dependence * squares[j] else zero
    else:
        for j in range(len(h)):
            score[j] = h[j] * h[j] if outside[j] > inside else zero


@njit(**INLINED)
def _encode(G, q, squares, square, settings, work):
    """Choose the atoms of one row: work.atoms, work.P, and the row's inner products with the directions, work.along.

    squares (K,): of the atoms' norms.  Returns the number of atoms m, what is left of ‖x‖² = square, the product of the
    shares of the atoms' squares that were outside the span of those before them, and the status of the row.
    """
    h, outside, P, target, real = work.h, work.outside, work.P, settings.target, work.h.dtype.type
    K, m, left, shares, undecided = len(q), 0, square, 1.0, settings.target_tol * square
    one, dependence, rounding = real(1), real(settings.dependence), real(0)
    copy(q, h)
    copy(squares, outside)
    while m < settings.n_nonzero and (left > target or target == 0):
        if target > 0 and left <= target + undecided:
            return m, left, shares, ILL_CONDITIONED
        _scores(h, squares, dependence, settings.by_gain, work)
        top = largest(work.score)
        j = where_largest(work.score)
        if m == 0 and not (settings.min_square < top < settings.max_square) and _any(h):
            return m, left, shares, ILL_CONDITIONED
        if top <= rounding:
            # atoms that depend on the support are no candidates of ORMP: are they the reason that none is left?
            if settings.by_gain and _dependent_atoms_are_left(
                h, q, outside, squares, dependence, real(settings.rounding)
            ):
                return m, left, shares, ILL_CONDITIONED
            break
        if outside[j] <= real(settings.gram_dependence) * squares[j]:
            return m, left, shares, ILL_CONDITIONED
        rounding = max(rounding, real(settings.rounding) * top)
        shares *= outside[j] / squares[j]
        scale = one / np.sqrt(outside[j])
        part = P[m]
        copy(G[j], part)
        subtract_rows(part, P, j, m)
        step = h[j] * scale
        for i in range(K):
            part[i] *= scale
            h[i] -= step * part[i]
            outside[i] -= part[i] * part[i]
        h[j], outside[j] = 0, real(INSIDE)
        work.atoms[m], work.along[m] = j, step
        m += 1
        left -= np.float64(step) * np.float64(step)
    is_undecided = target > 0 and abs(left - target) <= undecided
    return m, left, shares, ILL_CONDITIONED if is_undecided else FINISHED


@njit(**INLINED)
def _coefficients(P, atoms, along, c, m):
    """c with R c = along, R_il = P_i at atom l of the support: least squares on it."""
    for i in range(m - 1, -1, -1):
        row, total = P[i], along[i]
        for j in range(i + 1, m):
            total -= row[atoms[j]] * c[j]
        c[i] = total / row[atoms[i]]


@njit(**ENTRY)
def _encode_rows(X, D, G, Q, status, squares, settings, work):
    """Q (n, K) becomes the codes, status (n,) how the rows ended."""
    atoms, c, target = work.atoms, work.coefficients, settings.target
    for row in range(len(Q)):
        q, square = Q[row], 0.0
        for i in range(X.shape[1]):
            square += np.float64(X[row, i]) * np.float64(X[row, i])
        m, left, shares, end = _encode(G, q, squares, square, settings, work)
        if end == FINISHED:
            _coefficients(work.P, atoms, work.along, c, m)
            write(q, atoms, c, m)
            drift = settings.drift
            if shares < settings.safe_determinant or target > 0 or left > (1 - drift) * square:
                limit = left + drift * square
                end = check_code(X[row], D, q, atoms, c, work.residual, m, square, limit, target, settings.eps)
            if end == UNFINISHED and left <= target:
                end = ILL_CONDITIONED
        status[row] = end


def orthogonal(X, D, G, Q, coder):
    """Codes of X (n, d) by n_nonzero atoms, or fewer where ‖x - c D‖² <= target; G = D Dᵀ, Q = X Dᵀ becomes the codes.

    coder: n_nonzero, target, by_gain.  Returns the number of unfinished rows.
    """
    dtype, size, most, status = Q.dtype, Q.dtype.itemsize, min(coder.n_nonzero, *D.shape), np.empty(len(X), np.int64)
    settings = Settings(
        most,
        float(coder.target),
        coder.by_gain,
        DEPENDENCE_TOL[size],
        ROUNDING_TOL[size] ** 2,
        GRAM_DEPENDENCE_TOL[size],
        TARGET_TOL[size],
        MIN_SQUARE[size],
        MAX_SQUARE[size],
        SAFE_DETERMINANT[size],
        RESIDUAL_DRIFT_TOL[size],
        EPS[size],
    )
    h, outside = np.empty((2, len(D)), dtype)
    along, coefficients = np.empty((2, most))
    work = Workspace(
        h,
        searchable(dtype, len(D), positive=False),
        outside,
        np.empty((most, len(D)), dtype),
        np.empty(most, np.int64),
        along,
        coefficients,
        np.empty(D.shape[1], dtype),
    )
    _encode_rows(X, D, G, Q, status, np.diagonal(G).copy(), settings, work)
    return recode_ill_conditioned(X, D, Q, status, coder)
