"""Least squares on a growing and shrinking support: the small problem inside the sparse coders, compiled by Numba.

A support is m atoms and M (m, m), the inverse of their Gram matrix, in float64: see `workspace.Support`.  An atom
enters by bordering M and leaves by a rank-one step, m² operations each, in loops that vectorise; triangular factors
would need a new factorisation after every atom that leaves, in loops that do not.  Rounding errors of M are harmless:
`refine` corrects the coefficients with the residual of the data.

Loops run to the next multiple of 8, so arrays are up to 8 longer than m, and M is zero between m and that multiple.
"""

import numpy as np
from numba import njit

from ..workspace import (
    COEFFICIENTS,
    COORDINATES,
    CORRELATIONS,
    INNER_PRODUCTS,
    N_LISTS,
    N_MOVED,
    RIGHT_SIDE,
    SIGNS,
    SOLUTION,
    Support,
)
from .vectors import INLINED, MERGED, copy, fill, inner, inner_four, subtract_atoms

PAD = 8


@njit(**INLINED)
def padded(m):
    """m rounded up to a multiple of 8."""
    return (m + 7) // 8 * 8


@njit(**INLINED)
def times(M, v, out, m):
    """out = M v for the leading m.  Eight rows at a time: one store of `out` for eight products."""
    e = padded(m)
    for i in range(m, e):
        v[i] = 0
    fill(out[:e], 0)
    for i in range(0, m, 8):
        R, x = M[i : i + 8], v[i : i + 8]
        x0, x1, x2, x3, x4, x5, x6, x7 = x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]
        for j in range(e):
            first = x0 * R[0, j] + x1 * R[1, j] + x2 * R[2, j] + x3 * R[3, j]
            out[j] += first + x4 * R[4, j] + x5 * R[5, j] + x6 * R[6, j] + x7 * R[7, j]


@njit(**INLINED)
def add_outer(M, w, scale, m):
    """M += scale w wᵀ for the leading m."""
    e = padded(m)
    for i in range(m):
        x, row = scale * w[i], M[i]
        for j in range(e):
            row[j] += x * w[j]


@njit(**MERGED)
def enter(support, square, m, tolerance):
    """Border M with an atom of squared norm `square`, whose inner products with the support are in
    lists[INNER_PRODUCTS].

    Its coordinates in the support are left in lists[COORDINATES].  False, and M unchanged, where the part of the atom
    outside the span of the support is at most `tolerance` of its square.
    """
    M, a, w = support.inverse, support.lists[INNER_PRODUCTS], support.lists[COORDINATES]
    times(M, a, w, m)
    outside = square
    for i in range(m):
        outside -= a[i] * w[i]
    if outside <= tolerance * square:
        return False
    border(M, w, outside, m)
    return True


@njit(**MERGED)
def border(M, w, outside, m):
    """Extend M by an atom of coordinates w in the support and squared distance `outside` from its span."""
    w[m] = -1
    for i in range(m + 1, padded(m + 1)):
        w[i] = 0
    if m % PAD == 0:
        for i in range(m):
            row = M[i, m : m + 8]
            for j in range(8):
                row[j] = 0
        for i in range(m, m + 8):
            fill(M[i, : m + 8], 0)
    add_outer(M, w, 1 / outside, m + 1)


@njit(**MERGED)
def leave(M, p, w, m):
    """Remove atom p from M (m, m); the last atom takes its place.  w: scratch.  The caller moves its own lists."""
    e, last = padded(m), m - 1
    for j in range(e):
        w[j] = M[p, j]
    add_outer(M, w, -1 / w[p], m)
    for j in range(e):
        M[p, j] = M[last, j]
        M[last, j] = 0
    for i in range(last):
        M[i, p] = M[i, last]
        M[i, last] = 0


@njit(**MERGED)
def drop(support, p, m):
    """Remove atom p from the support of m; the last atom takes its place.  Returns m - 1."""
    M, atoms, lists = support
    leave(M, p, lists[COORDINATES], m)
    atoms[p] = atoms[m - 1]
    for row in range(N_MOVED):
        lists[row, p] = lists[row, m - 1]
    return m - 1


@njit(**MERGED)
def subtract(x, D, atoms, c, residual, m):
    """residual = x - c D[atoms], in float64."""
    copy(x, residual)
    subtract_atoms(residual, D, atoms, c, m)


@njit(**MERGED)
def refine(x, D, support, c, alpha, s, residual, m):
    """Correct c so that D_i (x - c D) = alpha s_i on the support, by one step with the residual of the data in float64.

    By how much c missed that before is left in lists[SOLUTION].  residual (d,): scratch.
    """
    M, atoms, lists = support
    missing, step = lists[SOLUTION], lists[RIGHT_SIDE]
    subtract(x, D, atoms, c, residual, m)
    whole = m - m % 4
    for i in range(0, whole, 4):
        four = inner_four(D[atoms[i]], D[atoms[i + 1]], D[atoms[i + 2]], D[atoms[i + 3]], residual)
        missing[i], missing[i + 1], missing[i + 2], missing[i + 3] = four
    for i in range(whole, m):
        missing[i] = inner(D[atoms[i]], residual)
    for i in range(m):
        missing[i] -= alpha * s[i]
    times(M, missing, step, m)
    for i in range(m):
        c[i] += step[i]


@njit(**MERGED)
def settle(support, m, alpha, signed):
    """Minimise ½ cᵀGc - bᵀc + alpha |c| over the support; return its size, smaller where coefficients reached zero.

    c has the signs s, or is zero where atoms have just entered.  signed: whether the signs are constraints.
    """
    M, _, lists = support
    c, s, b = lists[COEFFICIENTS], lists[SIGNS], lists[CORRELATIONS]
    z, v, leaves = lists[SOLUTION], lists[RIGHT_SIDE], lists[INNER_PRODUCTS]
    while m:
        for i in range(m):
            v[i] = b[i] - alpha * s[i]
        times(M, v, z, m)
        wrong = np.int64(0)
        for i in range(m):
            wrong += z[i] * s[i] <= 0
        if not signed or wrong == 0:
            copy(z[:m], c)
            break
        wrong = np.int64(0)
        for i in range(m):  # an atom that would leave zero with the wrong sign was not needed
            leaves[i] = c[i] == 0 and z[i] * s[i] <= 0
            wrong += leaves[i] > 0
        if wrong == 0:
            fraction, first = 1.0, m
            for i in range(m):
                if z[i] * s[i] <= 0 and c[i] / (c[i] - z[i]) < fraction:
                    fraction, first = c[i] / (c[i] - z[i]), i
            if first == m:
                copy(z[:m], c)
                break
            for i in range(m):
                c[i] += fraction * (z[i] - c[i])
            leaves[first] = 1
        for i in range(m - 1, -1, -1):
            if leaves[i]:
                m = drop(support, i, m)
    return m


def support_workspace(room):
    """A `Support` with room for so many atoms."""
    size = room + 2 * PAD
    return Support(np.empty((size, size)), np.empty(size, np.int64), np.zeros((N_LISTS, size)))
