"""Matching and gradient pursuit for many rows against one dictionary, with correlations updated from rows of the Gram
matrix."""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from ...coders.support import EPS, RESIDUAL_TOL, ROUNDING_TOL
from ..fallback import recode_ill_conditioned
from ..status import FINISHED, ILL_CONDITIONED, UNFINISHED
from .row import check_code, write
from .vectors import (
    ENTRY,
    INLINED,
    OPTIONS,
    Searchable,
    any_at_least,
    copy,
    fill,
    inner,
    largest,
    searchable,
    subtract_atoms,
)


class Settings(NamedTuple):
    """Numbers that all rows share."""

    n_steps: int
    target: float
    gradient: bool
    rounding: float
    residual_tol: float
    eps: float


class Workspace(NamedTuple):
    """Arrays for one row.

    correlations : `Searchable` of the K atoms.
    atoms, coefficients, changes : (n_steps,); the support, and by how much a step changes its coefficients.
    position : (K,); of an atom in the support, -1 for atoms outside of it.
    residual, image : (d,); x - c D, and the direction of a step.
    """

    correlations: Searchable
    atoms: Any
    coefficients: Any
    changes: Any
    position: Any
    residual: Any
    image: Any


@njit(**OPTIONS)
def first_index_of(h, top):
    """The first index with |h| = top, the largest of them."""
    for start in range(0, len(h), 64):
        stop = min(start + 64, len(h))
        if any_at_least(h[start:stop], top):
            for j in range(start, stop):
                if abs(h[j]) >= top:
                    return j
    return 0


@njit(**INLINED)
def _encode(x, D, G, q, settings, work):
    """Matching pursuit, or gradient pursuit, of one row in n_steps steps; returns the size of its support.

    The step is the best one along the image of the direction, with the residual of the data: whatever rounding does to
    h, which only chooses the direction, the residual cannot grow.  work.position is -1 again on return.
    """
    _, atoms, c, changes, position, residual, image = work
    h, target = work.correlations.values, settings.target
    K, m, left = len(q), np.int64(0), inner(x, x)
    copy(q, h)
    copy(x, residual)
    top = largest(work.correlations)
    least = settings.rounding * top
    for _ in range(settings.n_steps):
        if left <= target or top <= least:
            break
        j = first_index_of(h[:K], top)
        if position[j] < 0:
            position[j], atoms[m], c[m] = m, j, 0.0
            m += 1
        if settings.gradient:  # all coefficients of the support change (Blumensath and Davies, 2008)
            fill(image, 0)
            for i in range(m):
                changes[i] = -h[atoms[i]]
            subtract_atoms(image, D, atoms, changes, m)
            square = inner(image, image)
            if not square > 0:
                break
            step = inner(image, residual) / square
            for k in range(len(image)):
                residual[k] -= step * image[k]
            for i in range(m):
                changes[i] *= -step
                c[i] += changes[i]
            subtract_atoms(h[:K], G, atoms, changes, m)
        else:
            row, atom = G[j], D[j]
            if not row[j] > 0:
                break
            step = inner(atom, residual) / row[j]
            for k in range(len(atom)):
                residual[k] -= step * atom[k]
            c[position[j]] += step
            real = h.dtype.type(step)
            for k in range(K):
                h[k] -= real * row[k]
        if target > 0:
            left = inner(residual, residual)
        top = largest(work.correlations)
    for i in range(m):
        position[atoms[i]] = -1
    return m


@njit(**ENTRY)
def _encode_rows(X, D, G, Q, status, settings, work):
    """Q (n, K) becomes the codes, status (n,) how the rows ended."""
    atoms, c, residual, target = work.atoms, work.coefficients, work.residual, settings.target
    for row in range(len(Q)):
        q, x = Q[row], X[row]
        m = _encode(x, D, G, q, settings, work)
        write(q, atoms, c, m)
        square, left, size, end = inner(x, x), inner(residual, residual), 0.0, FINISHED
        for i in range(m):
            size += abs(c[i]) * np.sqrt(G[atoms[i], atoms[i]])
        if target > 0 or np.sqrt(left) + settings.eps * size > np.sqrt(square):  # as the coefficients are rounded
            end = check_code(x, D, q, atoms, c, residual, m, square, square, target, settings.eps)
        if end == ILL_CONDITIONED:  # worse than zeros
            fill(q, 0)
            missed = target > 0 and square > target
            exceeds = inner(residual, residual) > (1 + settings.residual_tol) * square
            end = UNFINISHED if missed or exceeds else FINISHED
        status[row] = end


def matching_pursuit(X, D, G, Q, coder):
    """Codes of X (n, d) by n_nonzero steps of matching or gradient pursuit, or fewer where ‖x - c D‖² <= target.

    G = D Dᵀ; Q = X Dᵀ becomes the codes.  coder: n_nonzero, target, gradient.  Returns the number of unfinished rows.
    """
    size, n_steps, status = Q.dtype.itemsize, coder.n_nonzero, np.empty(len(X), np.int64)
    settings = Settings(n_steps, float(coder.target), coder.gradient, ROUNDING_TOL[size], RESIDUAL_TOL[size], EPS[size])
    coefficients, changes = np.zeros((2, n_steps))
    residual, image = np.empty((2, D.shape[1]))
    work = Workspace(
        searchable(Q.dtype, len(D), positive=False),
        np.empty(n_steps, np.int64),
        coefficients,
        changes,
        np.full(len(D), -1),
        residual,
        image,
    )
    _encode_rows(X, D, G, Q, status, settings, work)
    return recode_ill_conditioned(X, D, Q, status, coder)
