"""Least squares on a growing and shrinking support: the small problem inside the sparse coders, compiled by Numba.

A support is a list of m atoms.  Kept with it is M (m, m), the inverse of its Gram matrix, in float64.  An atom enters
by bordering M and leaves by a rank-one step, m² operations each, all in loops that vectorise; triangular factors would
need a factorisation anew after every leave, in loops that do not.  What rounding does to M does no harm: `refine`
corrects the answer with residuals of the data.

Loops run to the next multiple of 8, so arrays are longer than m by up to 8, and M is zero between m and there.
"""

import numpy as np
from numba import njit

from .vectors import INLINED, copy, fill, inner, inner_four, subtract_atoms

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
    for i in range(0, m, 8):
        R, x = M[i : i + 8], v[i : i + 8]
        x0, x1, x2, x3, x4, x5, x6, x7 = x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7]
        if i == 0:
            for j in range(e):
                first = x0 * R[0, j] + x1 * R[1, j] + x2 * R[2, j] + x3 * R[3, j]
                out[j] = first + x4 * R[4, j] + x5 * R[5, j] + x6 * R[6, j] + x7 * R[7, j]
        else:
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


@njit(**INLINED)
def enter(M, a, w, square, m, floor):
    """Border M with an atom of inner products a (m,) and squared norm `square`.

    Leaves w = M a, the atom's coordinates in the support.  False, and M as it was, where the part of the atom outside
    the span of the support is below `floor` of its square.
    """
    times(M, a, w, m)
    outside = square
    for i in range(m):
        outside -= a[i] * w[i]
    if outside <= floor * square:
        return False
    border(M, w, outside, m)
    return True


@njit(**INLINED)
def border(M, w, outside, m):
    """M with one atom more, of coordinates w in the support and squared distance `outside` from its span."""
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


@njit(**INLINED)
def leave(M, p, w, m):
    """Take atom p out of M (m, m); the last atom takes its place.  The caller moves its own lists alike."""
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


@njit(**INLINED)
def write(q, act, c, m):
    """q becomes the code: zero but for c on the support."""
    fill(q, 0)
    for i in range(m):
        q[act[i]] = c[i]


@njit(**INLINED)
def subtract(x, D, act, c, residual, m):
    """residual = x - c D_act, in float64."""
    copy(x, residual)
    subtract_atoms(residual, D, act, c, m)


@njit(**INLINED)
def refine(x, D, act, c, alpha, s, M, missing, step, residual, m):
    """Correct c so that D_act (x - c D_act) = alpha s, by one step with the data's own residual in float64.

    Leaves in `missing` by how much c missed that before.
    """
    subtract(x, D, act, c, residual, m)
    whole = m - m % 4
    for i in range(0, whole, 4):
        four = inner_four(D[act[i]], D[act[i + 1]], D[act[i + 2]], D[act[i + 3]], residual)
        missing[i], missing[i + 1], missing[i + 2], missing[i + 3] = four
    for i in range(whole, m):
        missing[i] = inner(D[act[i]], residual)
    for i in range(m):
        missing[i] -= alpha * s[i]
    times(M, missing, step, m)
    for i in range(m):
        c[i] += step[i]


@njit(**INLINED)
def drop(p, m, M, act, scratch):
    """Atom p leaves the support of m; the last takes its place.  Returns m - 1."""
    leave(M, p, scratch[6], m)
    act[p] = act[m - 1]
    for row in range(5):
        scratch[row, p] = scratch[row, m - 1]
    return m - 1


@njit(**INLINED)
def settle(M, act, scratch, m, alpha, signed):
    """Minimise ½ cᵀGc - bᵀc + alpha |c| over the support; returns its size, smaller where coefficients met zero.

    c has the signs s, or is zero where atoms have just entered.  signed: whether the signs bind.
    """
    c, s, b, z, v = scratch[0], scratch[1], scratch[2], scratch[4], scratch[5]
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
        entered = m
        for i in range(m - 1, -1, -1):  # an atom that would leave zero to the wrong side was not needed
            if c[i] == 0 and z[i] * s[i] <= 0:
                m = drop(i, m, M, act, scratch)
        if m < entered:
            continue
        share, meets = 1.0, m
        for i in range(m):
            if z[i] * s[i] <= 0 and c[i] / (c[i] - z[i]) < share:
                share, meets = c[i] / (c[i] - z[i]), i
        if meets == m:
            copy(z[:m], c)
            break
        for i in range(m):
            c[i] += share * (z[i] - c[i])
        m = drop(meets, m, M, act, scratch)
    return m


def workspace(dtype, n_atoms, n_features, room):
    """Arrays for one thread: (h, bits) of one memory (K + 1,), M, scratch (8, room + 16), support, residual (d,).

    room: largest support.
    """
    bits = np.empty(n_atoms + 1, f"i{np.dtype(dtype).itemsize}")
    cap = room + 2 * PAD
    return (
        bits.view(dtype),
        bits,
        np.empty((cap, cap)),
        np.zeros((8, cap)),
        np.empty(cap, np.int64),
        np.empty(n_features),
    )
