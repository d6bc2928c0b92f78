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
    the largest correlation (OMP).  uncertainty: of correlations, in units of ‖x‖; rows of OMP whose choices it could
    change are ILL_CONDITIONED; 0 to ignore it."""

    n_nonzero: int
    target: float
    by_gain: bool
    uncertainty: float
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

    correlations, gains : `Searchable` of the K atoms; 0 for atoms of the support.
    outside : (K,); of ORMP, squares of the atoms' parts outside the span of the support.
    P : (n_nonzero, K).
    atoms, along, coefficients : (n_nonzero,); the support, inner products of the row with the directions.
    residual : (d,)
    """

    correlations: Searchable
    gains: Searchable
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
def _gains(h, squares, dependence, work):
    """work.gains becomes by how much each atom lowers the squared residual; zero for atoms of the support."""
    gains, outside, zero = work.gains.values, work.outside, h.dtype.type(0)
    for j in range(len(h)):
        gains[j] = h[j] * h[j] / outside[j] if outside[j] > dependence * squares[j] else zero


@njit(**INLINED)
def _is_certain(h, top, square, uncertainty):
    """Whether no other |h| can be the largest instead of `top`, given the uncertainty of h, in units of ‖x‖."""
    bound, n_near = h.dtype.type(top - 2 * uncertainty * np.sqrt(square)), np.int64(0)
    for j in range(len(h)):
        n_near += abs(h[j]) >= bound
    return n_near == 1


@njit(**INLINED)
def encode(G, q, squares, square, settings, work):
    """Choose the atoms of one row: work.atoms, work.P, and the row's inner products with the directions, work.along.

    squares (K,): of the atoms' norms.  Returns the number of atoms m, what is left of ‖x‖² = square, the product of the
    shares of the atoms' squares that were outside the span of those before them, and the status of the row.
    """
    h, outside, P, target, real = work.correlations.values, work.outside, work.P, settings.target, q.dtype.type
    K, m, left, shares, undecided = len(q), 0, square, 1.0, settings.target_tol * square
    one, dependence, rounding = real(1), real(settings.dependence), real(0)
    copy(q, h)
    if settings.by_gain:
        copy(squares, outside)
    while m < settings.n_nonzero and (left > target or target == 0):
        if target > 0 and left <= target + undecided:
            return m, left, shares, ILL_CONDITIONED
        if settings.by_gain:
            _gains(h[:K], squares, dependence, work)
            top = largest(work.gains)
            j = where_largest(work.gains)
        else:
            top = largest(work.correlations)
            j = where_largest(work.correlations)
            if settings.uncertainty > 0 and not _is_certain(h[:K], top, square, settings.uncertainty):
                return m, left, shares, ILL_CONDITIONED
            top *= top
        if m == 0 and not (settings.min_square < top < settings.max_square) and _any(h[:K]):
            return m, left, shares, ILL_CONDITIONED
        if top <= rounding:
            # atoms that depend on the support are no candidates of ORMP: are they the reason that none is left?
            if settings.by_gain and _dependent_atoms_are_left(
                h[:K], q, outside, squares, dependence, real(settings.rounding)
            ):
                return m, left, shares, ILL_CONDITIONED
            break
        rounding = max(rounding, real(settings.rounding) * top)
        part = P[m]
        copy(G[j], part)
        subtract_rows(part, P, j, m)
        if part[j] <= real(settings.gram_dependence) * squares[j]:
            return m, left, shares, ILL_CONDITIONED
        shares *= part[j] / squares[j]
        scale = one / np.sqrt(part[j])
        step = h[j] * scale
        for i in range(K):
            part[i] *= scale
            h[i] -= step * part[i]
        if settings.by_gain:
            for i in range(K):
                outside[i] -= part[i] * part[i]
            outside[j] = real(INSIDE)
        work.atoms[m], work.along[m] = j, step
        m += 1
        for i in range(m):
            h[work.atoms[i]] = 0
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
        m, left, shares, end = encode(G, q, squares, square, settings, work)
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
    status = np.empty(len(X), np.int64)
    shared = settings(Q.dtype, D.shape, coder), workspace(Q.dtype, D.shape, coder)
    _encode_rows(X, D, G, Q, status, np.diagonal(G).copy(), *shared)
    return recode_ill_conditioned(X, D, Q, status, coder)


def settings(dtype, shape, coder, uncertainty=0.0):
    """The `Settings` of a coder for a dictionary of this shape (K, d)."""
    size = dtype.itemsize
    return Settings(
        min(coder.n_nonzero, *shape),
        float(coder.target),
        coder.by_gain,
        uncertainty,
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


def workspace(dtype, shape, coder):
    """The `Workspace` for a dictionary of this shape (K, d)."""
    (K, d), most = shape, min(coder.n_nonzero, *shape)
    correlations, gains = (searchable(dtype, K, positive=False) for _ in range(2))
    along, coefficients = np.empty((2, most))
    return Workspace(
        correlations,
        gains,
        np.empty(K, dtype),
        np.empty((most, K), dtype),
        np.empty(most, np.int64),
        along,
        coefficients,
        np.empty(d, dtype),
    )
