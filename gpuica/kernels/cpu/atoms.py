"""Atoms updated sequentially: those of a block of a dictionary, and from rows that use them."""

import math

import numpy as np
from numba import njit

from .elementary import OPTIONS
from .vectors import ENTRY


@njit(cache=True, **OPTIONS)
def descend(D, U, L, used, positive, unit):
    """See `kernels.descend`.  All of one dtype and in C order."""
    b, d = D.shape
    steps = np.zeros((b, d), D.dtype)
    for j in range(b):
        if not used[j]:
            continue
        for i in range(j):
            for f in range(d):
                U[j, f] -= L[j, i] * steps[i, f]
        square = D.dtype.type(0)
        for f in range(d):
            if positive:
                U[j, f] = max(U[j, f], D.dtype.type(0))
            square += U[j, f] * U[j, f]
        if unit and square == 0:  # no direction: the old atom stays
            continue
        norm = math.sqrt(square)
        scale = D.dtype.type(1 / norm if unit or norm > 1 else 1)
        for f in range(d):
            new = U[j, f] * scale
            steps[j, f] = new - D[j, f]
            D[j, f] = new


@njit(**ENTRY)
def descend_on_rows(D, R, starts, rows, values, weights, used, positive, u):
    """See `kernels.descend_on_rows`; u (d,): scratch."""
    for j in range(len(D)):
        scale = 0.0
        for t in range(len(weights)):
            for e in range(starts[t, j], starts[t, j + 1]):
                scale += weights[t] * np.float64(values[e]) * np.float64(values[e])
        if not used[j] or scale <= 0:
            continue
        for f in range(len(u)):
            u[f] = 0
        for t in range(len(weights)):
            for e in range(starts[t, j], starts[t, j + 1]):
                row, factor = R[rows[e]], u.dtype.type(weights[t] * values[e] / scale)
                for f in range(len(u)):
                    u[f] += factor * row[f]
        square = 0.0
        for f in range(len(u)):
            u[f] += D[j, f]
            if positive:
                u[f] = max(u[f], u.dtype.type(0))
            square += np.float64(u[f]) * np.float64(u[f])
        shrink = u.dtype.type(1 / math.sqrt(square) if square > 1 else 1.0)
        for f in range(len(u)):
            new = u[f] * shrink
            u[f] = new - D[j, f]
            D[j, f] = new
        for t in range(len(weights)):
            for e in range(starts[t, j], starts[t, j + 1]):
                row, value = R[rows[e]], values[e]
                for f in range(len(u)):
                    row[f] -= value * u[f]


@njit(**ENTRY)
def add_atoms(R, starts, rows, values, atoms, steps):
    """See `kernels.add_atoms`."""
    for i in range(len(atoms)):
        for t in range(len(starts)):
            for e in range(starts[t, atoms[i]], starts[t, atoms[i] + 1]):
                row, value = R[rows[e]], values[e]
                for f in range(R.shape[1]):
                    row[f] += value * steps[i, f]


@njit(**ENTRY)
def subtract_codes(R, D, counts, indices, values, squares):
    """R -= C D for compressed codes; squares (n,) becomes the squared norms of the rows of R."""
    stop = 0
    for row in range(len(R)):
        start, stop, total = stop, stop + counts[row], 0.0
        for e in range(start, stop):
            atom, value = D[indices[e]], values[e]
            for f in range(R.shape[1]):
                R[row, f] -= value * atom[f]
        for f in range(R.shape[1]):
            total += np.float64(R[row, f]) * np.float64(R[row, f])
        squares[row] = total
