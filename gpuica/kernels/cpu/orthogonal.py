"""Orthogonal and order-recursive matching pursuit for many rows against one dictionary: one atom a step.

Batch-OMP (Rubinstein, Zibulevsky and Elad, 2008) works on rows of the Gram matrix instead of products with the
dictionary.  Here these are made orthonormal on the way: P_i (K,) holds the inner products of all atoms with direction i
of the support.  So a step subtracts rows that are in the cache from one row of the Gram matrix, and the triangle that
gives the coefficients is a part of P.
"""

import numpy as np
from numba import njit

from ..fallback import CLOSE, DONE, DOUBT, DRIFT, HARD, LARGEST, SAFE, SMALLEST, UNFINISHED, finish
from .pursuit import EPS, FLOOR, NOISE, judged
from .support import write
from .vectors import ENTRY, INLINED, OPTIONS, copy, largest, subtract_rows, where_largest

# No share of an atom is outside the span of the support for the atoms that are in it.
INSIDE = -np.inf


@njit(**OPTIONS)
def _would_enter(h, q, outside, squares, floor, noise):
    """Whether an atom that depends on the support has a correlation h above rounding: h² above noise max q²."""
    first, found = h.dtype.type(0), False
    for k in range(len(q)):
        first = max(first, noise * q[k] * q[k])
    for k in range(len(q)):
        found |= outside[k] > INSIDE and outside[k] <= floor * squares[k] and h[k] * h[k] > first
    return found


@njit(**OPTIONS)
def _any(h):
    """Whether any h is not 0."""
    found = False
    for k in range(len(h)):
        found |= h[k] != 0
    return found


@njit(**INLINED)
def _encode(
    G, q, squares, most, target, square, by_gain, floor, noise, close, doubt, smallest, largest_score, mask,
    h, score, bits, outside, P, act, along,
):  # fmt: skip
    """Choose the atoms of one row: act, P (m, K), and the row's inner products with the m directions.

    Returns m, what is left of ‖x‖² = square, the product of the shares of the atoms' squares that were outside the span
    of those before them, and how the row ended.

    by_gain: whether the atom enters that lowers the residual most, or the one of the largest correlation.
    squares (K,): of the atoms' norms.  score and bits: the same memory.  outside (K,): squares of the atoms' parts
    outside the span of the support.
    """
    K, m, left, shares, real = len(q), 0, square, 1.0, h.dtype.type
    zero, one, least, rounding = real(0), real(1), real(floor), real(0)
    inside = real(INSIDE)
    copy(q, h)
    copy(squares, outside)
    while m < most and (left > target or target == 0):
        if target > 0 and left <= target + doubt * square:
            return m, left, shares, HARD
        if by_gain:
            for j in range(K):
                score[j] = h[j] * h[j] / outside[j] if outside[j] > least * squares[j] else zero
        else:
            for j in range(K):
                score[j] = h[j] * h[j] if outside[j] > inside else zero
        top = largest(score, bits, mask)
        j = where_largest(bits, mask)
        if m == 0 and not (smallest < top < largest_score) and _any(h):
            return m, left, shares, HARD
        if top <= rounding:
            # atoms that depend on the support are no candidates of ORMP; is it for them that none is left?
            if by_gain and _would_enter(h, q, outside, squares, least, real(noise)):
                return m, left, shares, HARD
            break
        if outside[j] <= real(close) * squares[j]:
            return m, left, shares, HARD
        rounding = max(rounding, real(noise) * top)
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
        h[j], outside[j] = 0, inside
        act[m], along[m] = j, step
        m += 1
        left -= np.float64(step) * np.float64(step)
    return m, left, shares, HARD if target > 0 and abs(left - target) <= doubt * square else DONE


@njit(**INLINED)
def _coefficients(P, act, along, c, m):
    """c with R c = along, R_il = P_i at atom l of the support: least squares on it."""
    for i in range(m - 1, -1, -1):
        row, total = P[i], along[i]
        for j in range(i + 1, m):
            total -= row[act[j]] * c[j]
        c[i] = total / row[act[i]]


@njit(**ENTRY)
def _encode_rows(
    X, D, G, Q, ends, squares, most, target, by_gain, floor, noise, close, doubt, smallest, largest_score, mask,
    safe, drift, eps, h, score, bits, outside, P, act, along, c, residual,
):  # fmt: skip
    for row in range(len(Q)):
        q, square = Q[row], 0.0
        for i in range(X.shape[1]):
            square += np.float64(X[row, i]) * np.float64(X[row, i])
        m, left, shares, end = _encode(
            G, q, squares, most, target, square, by_gain, floor, noise, close, doubt, smallest, largest_score, mask,
            h, score, bits, outside, P, act, along,
        )  # fmt: skip
        if end == DONE:
            _coefficients(P, act, along, c, m)
            write(q, act, c, m)
            if shares < safe or target > 0 or left > (1 - drift) * square:
                end = judged(X[row], D, q, act, c, residual, m, square, left + drift * square, target, eps)
            if end == UNFINISHED and left <= target:
                end = HARD
        ends[row] = end


def orthogonal(X, D, G, Q, coder):
    """Codes of X (n, d) by n_nonzero atoms, or fewer where ‖x - c D‖² <= target; G = D Dᵀ, Q = X Dᵀ becomes the codes.

    coder: n_nonzero, target, by_gain.  Returns how many rows were not finished.
    """
    dtype, size, most = Q.dtype, Q.dtype.itemsize, min(coder.n_nonzero, *D.shape)
    bits, ends = np.empty(len(D) + 1, f"i{size}"), np.empty(len(X), np.int64)
    mask = bits.dtype.type(np.iinfo(bits.dtype).max)
    what = np.diagonal(G).copy(), most, float(coder.target), coder.by_gain
    choice = *what, FLOOR[size], NOISE[size] ** 2, CLOSE[size], DOUBT[size], SMALLEST[size], LARGEST[size], mask
    h, outside = np.empty((2, len(D)), dtype)
    arrays = (
        np.empty((most, len(D)), dtype),
        np.empty(most, np.int64),
        *np.empty((2, most)),
        np.empty(D.shape[1], dtype),
    )
    settings = *choice, SAFE[size], DRIFT[size], EPS[size]
    _encode_rows(X, D, G, Q, ends, *settings, h, bits.view(dtype), bits, outside, *arrays)
    return finish(X, D, Q, ends, coder)
