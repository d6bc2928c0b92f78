"""Compressed codes: the non-zeros of each row, row after row, and what dictionary learning sums over them."""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from .vectors import ENTRY, copy, fill, plain


def compress(C):
    """(non-zeros a row (n,), their columns, their values) of codes C (n, K)."""
    counts = np.empty(len(C), np.int64)
    total = _count(C, counts)
    indices, values = np.empty(total + 1, np.int32), np.empty(total + 1, C.dtype)
    _compress(C, indices, values)
    return counts, indices[:-1], values[:-1]


@njit(**ENTRY)
def _count(C, counts):
    """Non-zeros of each row; returns their total."""
    for row in range(len(C)):
        n = 0
        for j in range(C.shape[1]):
            n += C[row, j] != 0
        counts[row] = n
    return counts.sum()


@njit(**ENTRY)
def _compress(C, indices, values):
    """Every number is written to the place of the next non-zero, which advances only past non-zeros: no branch that can
    be mispredicted."""
    slot = 0
    for row in range(len(C)):
        for j in range(C.shape[1]):
            indices[slot], values[slot] = j, C[row, j]
            slot += C[row, j] != 0


class PaddedCodes(NamedTuple):
    """The non-zeros of the codes of n rows, in rows of equal width.

    counts : (n,); non-zeros of each row.
    indices, values : (n, width), int32 and floats; of which the first `counts` are used.
    """

    counts: Any
    indices: Any
    values: Any


def padded_codes(n_rows, width, dtype):
    """`PaddedCodes` without non-zeros, with room for `width` of them in a row."""
    return PaddedCodes(
        np.zeros(n_rows, np.int64), np.empty((n_rows, width), np.int32), np.empty((n_rows, width), dtype)
    )


def widened(codes, width):
    """The `PaddedCodes` with room for at least `width` non-zeros in a row."""
    counts, *arrays = codes
    more = width - arrays[0].shape[1]
    return codes if more <= 0 else PaddedCodes(counts, *(np.pad(array, ((0, 0), (0, more))) for array in arrays))


@njit(**ENTRY)
def scatter(counts, indices, values, C):
    """C (n, K) becomes the codes, of `PaddedCodes`."""
    for row in range(len(C)):
        fill(C[row], 0)
        for i in range(counts[row]):
            C[row, indices[row, i]] = values[row, i]


def gather(counts, indices, values):
    """The columns and values of `PaddedCodes`, row after row."""
    used = np.arange(indices.shape[1]) < counts[:, None]
    return indices[used], values[used]


def add_moments(X, D, counts, indices, values, A, B):
    """Add Σ c cᵀ to A (K, K) and Σ c xᵀ to B (K, d); return ‖x - c D‖² of every row, (n,) float64.

    Atom by atom of each row: a row has few, and the product of dense codes would be K² for each.
    """
    X, D = plain(X), plain(D)
    squares = np.empty(len(X))
    _add_moments(X, D, counts, indices, values, A, B, squares, np.empty(X.shape[1]))
    return squares


@njit(**ENTRY)
def _add_moments(X, D, counts, indices, values, A, B, squares, residual):
    """See `add_moments`; residual (d,): scratch."""
    stop = 0
    for row in range(len(X)):
        start, stop = stop, stop + counts[row]
        copy(X[row], residual)
        for i in range(start, stop):
            atom, value = indices[i], values[i]
            for k in range(start, stop):
                A[atom, indices[k]] += value * values[k]
            for k in range(len(residual)):
                B[atom, k] += value * X[row, k]
                residual[k] -= value * D[atom, k]
        total = 0.0
        for k in range(len(residual)):
            total += residual[k] * residual[k]
        squares[row] = total
