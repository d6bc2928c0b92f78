"""Orthogonal and order-recursive matching pursuit for many rows against one dictionary: one atom a step.

Batch-OMP (Rubinstein, Zibulevsky and Elad, 2008) works on rows of the Gram matrix instead of products with the
dictionary.  Here these are made orthonormal on the way: P_i (K,) holds the inner products of all atoms with direction i
of the support.  So a step subtracts rows that are in the cache from one row of the Gram matrix, and the triangle that
gives the coefficients is a part of P.
"""

import numpy as np
from numba import njit

from .pursuit import FLOOR, NOISE
from .support import subtract, write
from .vectors import ENTRY, INLINED, OPTIONS, copy, inner, largest, subtract_rows, where_largest

# Share of an atom's square outside the span of others below which coefficients are corrected by the data's residual.
CLOSE = {4: 1e-2, 8: 1e-6}


@njit(**INLINED)
def _encode(G, q, squares, most, target, left, by_gain, floor, noise, mask, h, score, bits, outside, P, act, along):
    """Choose the atoms of one row: act, P (m, K), and the row's inner products with the m directions.

    Returns m, and the least share of an atom's square that was outside the span of those before it.

    by_gain: whether the atom enters that lowers the residual most, or the one of the largest correlation.
    squares (K,): of the atoms' norms.  left: of the row's.  score and bits: the same memory.  outside (K,): squares of
    the atoms' parts outside the span of the support.
    """
    K, m, nearest, real = len(q), 0, 1.0, h.dtype.type
    zero, one, least, rounding = real(0), real(1), real(floor), real(0)
    copy(q, h)
    copy(squares, outside)
    while m < most and (left > target or target == 0):
        if by_gain:
            for j in range(K):
                score[j] = h[j] * h[j] / outside[j] if outside[j] > least * squares[j] else zero
        else:
            for j in range(K):
                score[j] = h[j] * h[j] if outside[j] > least * squares[j] else zero
        top = largest(score, bits, mask)
        j = where_largest(bits, mask)
        if top <= rounding:
            break
        rounding = max(rounding, real(noise) * top)
        nearest = min(nearest, outside[j] / squares[j])
        scale = one / np.sqrt(outside[j])
        part = P[m]
        copy(G[j], part)
        subtract_rows(part, P, j, m)
        step = h[j] * scale
        for i in range(K):
            part[i] *= scale
            h[i] -= step * part[i]
            outside[i] -= part[i] * part[i]
        h[j], outside[j] = 0, 0
        act[m], along[m] = j, step
        m += 1
        left -= np.float64(step) * np.float64(step)
    return m, nearest


@njit(**INLINED)
def _coefficients(P, act, along, c, m):
    """c with R c = along, R_il = P_i at atom l of the support: least squares on it."""
    for i in range(m - 1, -1, -1):
        row, total = P[i], along[i]
        for j in range(i + 1, m):
            total -= row[act[j]] * c[j]
        c[i] = total / row[act[i]]


@njit(**OPTIONS)
def _correct(x, D, P, act, c, missing, step, residual, m):
    """Add to c what the residual of the data still asks for, (RᵀR)⁻¹ D_act (x - c D_act), twice."""
    for _ in range(2):
        subtract(x, D, act, c, residual, m)
        for i in range(m):
            total = inner(D[act[i]], residual)
            for j in range(i):
                total -= P[j, act[i]] * missing[j]
            missing[i] = total / P[i, act[i]]
        _coefficients(P, act, missing, step, m)
        for i in range(m):
            c[i] += step[i]


@njit(**ENTRY)
def _encode_rows(
    X, D, G, Q, squares, most, target, by_gain, floor, noise, close, mask, h, score, bits, outside, P, act, *of_support
):
    along, c, missing, step, residual = of_support
    for row in range(len(Q)):
        q, left = Q[row], 0.0
        for i in range(X.shape[1]):
            left += X[row, i] * X[row, i]
        m, nearest = _encode(
            G, q, squares, most, target, left, by_gain, floor, noise, mask, h, score, bits, outside, P, act, along
        )
        _coefficients(P, act, along, c, m)
        if nearest < close:
            _correct(X[row], D, P, act, c, missing, step, residual, m)
        write(q, act, c, m)


def orthogonal(X, D, G, Q, coder):
    """Codes of X (n, d) by n_nonzero atoms, or fewer where ‖x - c D‖² <= target; G = D Dᵀ, Q = X Dᵀ becomes the codes.

    coder: n_nonzero, target, by_gain.  Returns 0, as every row is finished.
    """
    dtype, size, most = Q.dtype, Q.dtype.itemsize, min(coder.n_nonzero, *D.shape)
    bits = np.empty(len(D) + 1, f"i{size}")
    mask = bits.dtype.type(np.iinfo(bits.dtype).max)
    what = np.diagonal(G).copy(), most, float(coder.target), coder.by_gain
    settings = *what, FLOOR[size], NOISE[size] ** 2, CLOSE[size], mask
    h, outside = np.empty((2, len(D)), dtype)
    arrays = np.empty((most, len(D)), dtype), np.empty(most, np.int64), *np.empty((4, most))
    _encode_rows(X, D, G, Q, *settings, h, bits.view(dtype), bits, outside, *arrays, np.empty(D.shape[1]))
    return 0
