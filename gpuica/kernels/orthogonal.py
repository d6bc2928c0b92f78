"""Orthogonal and order-recursive matching pursuit for many rows against one dictionary: one atom a step.

Batch-OMP (Rubinstein, Zibulevsky and Elad, 2008) works on rows of the Gram matrix instead of products with the
dictionary.  Here these are made orthonormal on the way: P_i (K,) holds the inner products of all atoms with direction i
of the support.  So a step subtracts rows that are in the cache from one row of the Gram matrix, and the triangle that
gives the coefficients is a part of P.
"""

import numpy as np
from numba import njit

from .pursuit import FLOOR, NOISE
from .support import ENTRY, INLINED, copy, largest, subtract_rows, where_largest


@njit(**INLINED)
def _encode(G, q, squares, most, target, left, by_gain, floor, noise, mask, h, score, bits, outside, P, act, along):
    """Choose the atoms of one row: act, P (m, K), and the row's inner products with the m directions.  Returns m.

    by_gain: whether the atom enters that lowers the residual most, or the one of the largest correlation.
    squares (K,): of the atoms' norms.  left: of the row's.  score and bits: the same memory.  outside (K,): squares of
    the atoms' parts outside the span of the support.
    """
    K, m, real = len(q), 0, h.dtype.type
    one, least, enough = real(1), real(floor), max(target, noise * left)
    copy(q, h)
    copy(squares, outside)
    while m < most and left > enough:
        if by_gain:
            for j in range(K):
                score[j] = h[j] * h[j] / max(outside[j], least * squares[j])
        else:
            for j in range(K):
                score[j] = h[j] * h[j]
        largest(score, bits, mask)
        j = where_largest(bits, mask)
        if h[j] == 0 or outside[j] <= least * squares[j]:
            break
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
    return m


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
    X, G, Q, squares, most, target, by_gain, floor, noise, mask, h, score, bits, outside, P, act, along, c
):
    for row in range(len(Q)):
        q, left = Q[row], 0.0
        for i in range(X.shape[1]):
            left += X[row, i] * X[row, i]
        m = _encode(
            G, q, squares, most, target, left, by_gain, floor, noise, mask, h, score, bits, outside, P, act, along
        )
        _coefficients(P, act, along, c, m)
        q[:] = 0
        for i in range(m):
            q[act[i]] = c[i]


def orthogonal(X, D, G, Q, coder):
    """Codes of X (n, d) by n_nonzero atoms, or fewer where ‖x - c D‖² <= target; G = D Dᵀ, Q = X Dᵀ becomes the codes.

    coder: n_nonzero, target, by_gain.  Returns 0, as every row is finished.
    """
    dtype, size, most = Q.dtype, Q.dtype.itemsize, min(coder.n_nonzero, *D.shape)
    bits = np.empty(len(D) + 1, f"i{size}")
    mask = bits.dtype.type(np.iinfo(bits.dtype).max)
    settings = np.diagonal(G).copy(), most, float(coder.target), coder.by_gain, FLOOR[size], NOISE[size] ** 2, mask
    h, outside = np.empty((2, len(D)), dtype)
    arrays = np.empty((most, len(D)), dtype), np.empty(most, np.int64), *np.empty((2, most))
    _encode_rows(X, G, Q, *settings, h, bits.view(dtype), bits, outside, *arrays)
    return 0
