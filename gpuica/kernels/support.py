"""Least squares on a growing and shrinking support: the small problem inside the sparse coders, compiled by Numba.

A support is a list of m atoms.  Kept with it is M (m, m), the inverse of its Gram matrix, in float64.  An atom enters
by bordering M and leaves by a rank-one step, m² operations each, all in loops that vectorise; triangular factors would
need a factorisation anew after every leave, in loops that do not.  What rounding does to M does no harm: `refine`
corrects the answer with residuals of the data.

Loops run to the next multiple of 8, so arrays are longer than m by up to 8, and M is zero between m and there.

What a first call waits for is the compiler, hence loops in place of assignments to slices (whose error messages alone
compile for 2 s), and counters that start as np.int64(0) (a literal 0 would compile every function that it is passed to
once more).
"""

from typing import Any

import numpy as np
from numba import njit

# Only finite numbers come here.  error_model: a division that could raise cannot be vectorised.
ENTRY: dict[str, Any] = {  # called from Python
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
    "error_model": "numpy",
    "nogil": True,
    "cache": True,
}
OPTIONS: dict[str, Any] = {**ENTRY, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # called from kernels alone
# A call with its arrays costs as much as a loop of twenty numbers: without calls the lasso is 1.5 times as fast.
INLINED: dict[str, Any] = {**OPTIONS, "forceinline": True}

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
        r0, r1, r2, r3, r4, r5, r6, r7 = M[i], M[i + 1], M[i + 2], M[i + 3], M[i + 4], M[i + 5], M[i + 6], M[i + 7]
        x0, x1, x2, x3, x4, x5, x6, x7 = v[i], v[i + 1], v[i + 2], v[i + 3], v[i + 4], v[i + 5], v[i + 6], v[i + 7]
        if i == 0:
            for j in range(e):
                first = x0 * r0[j] + x1 * r1[j] + x2 * r2[j] + x3 * r3[j]
                out[j] = first + x4 * r4[j] + x5 * r5[j] + x6 * r6[j] + x7 * r7[j]
        else:
            for j in range(e):
                first = x0 * r0[j] + x1 * r1[j] + x2 * r2[j] + x3 * r3[j]
                out[j] += first + x4 * r4[j] + x5 * r5[j] + x6 * r6[j] + x7 * r7[j]


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
        for i in range(m + PAD):
            for j in range(m if i < m else 0, m + PAD):
                M[i, j] = 0
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
def copy(source, target):
    """The first numbers of target become those of source."""
    for j in range(len(source)):
        target[j] = source[j]


@njit(**INLINED)
def fill(A, value):
    for j in range(len(A)):
        A[j] = value


@njit(**INLINED)
def write(q, act, c, m):
    """q becomes the code: zero but for c on the support."""
    fill(q, 0)
    for i in range(m):
        q[act[i]] = c[i]


@njit(**INLINED)
def inner(x, y):
    """x · y in float64."""
    total = 0.0
    for j in range(len(x)):
        total += np.float64(x[j]) * np.float64(y[j])
    return total


@njit(**OPTIONS)
def dot(x, y):
    """x · y in their own dtype: twice as fast for float32."""
    total = x.dtype.type(0)
    for j in range(len(x)):
        total += x[j] * y[j]
    return total


@njit(**OPTIONS)
def subtract(x, D, act, c, residual, m):
    """residual = x - c D_act, in float64."""
    copy(x, residual)
    for i in range(m):
        atom, value = D[act[i]], c[i]
        for j in range(len(residual)):
            residual[j] -= value * atom[j]


@njit(**OPTIONS)
def refine(x, D, act, c, alpha, s, M, missing, step, residual, m):
    """Correct c so that D_act (x - c D_act) = alpha s, by one step with the data's own residual in float64.

    Leaves in `missing` by how much c missed that before.
    """
    subtract(x, D, act, c, residual, m)
    for i in range(m):
        missing[i] = inner(D[act[i]], residual) - alpha * s[i]
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
        if not signed:
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


@njit(**INLINED)
def subtract_atoms(h, G, act, c, m):
    """h -= c G_act, four rows of G at a time: one store of h for four products."""
    real = h.dtype.type
    whole = m - m % 4
    for i in range(0, whole, 4):
        c0, c1, c2, c3 = real(c[i]), real(c[i + 1]), real(c[i + 2]), real(c[i + 3])
        _subtract_four(h, G[act[i]], G[act[i + 1]], G[act[i + 2]], G[act[i + 3]], c0, c1, c2, c3)
    for i in range(whole, m):
        row, value = G[act[i]], real(c[i])
        for j in range(len(h)):
            h[j] -= value * row[j]


@njit(**INLINED)
def subtract_rows(h, P, j, m):
    """h -= Σ P_i[j] P_i over the first m rows of P, four at a time."""
    whole = m - m % 4
    for i in range(0, whole, 4):
        _subtract_four(h, P[i], P[i + 1], P[i + 2], P[i + 3], P[i, j], P[i + 1, j], P[i + 2, j], P[i + 3, j])
    if m - whole >= 2:
        _subtract_two(h, P[whole], P[whole + 1], P[whole, j], P[whole + 1, j])
        whole += 2
    if m > whole:
        row, value = P[whole], P[whole, j]
        for i in range(len(h)):
            h[i] -= value * row[i]


@njit(**INLINED)
def _subtract_two(h, g0, g1, c0, c1):
    for j in range(len(h)):
        h[j] -= c0 * g0[j] + c1 * g1[j]


@njit(**INLINED)
def _subtract_four(h, g0, g1, g2, g3, c0, c1, c2, c3):
    for j in range(len(h)):
        h[j] -= c0 * g0[j] + c1 * g1[j] + c2 * g2[j] + c3 * g3[j]


@njit(**INLINED)
def largest(h, bits, mask):
    """max |h|, or max(h, 0) with the mask -1.  h, bits: the same memory, one cell longer than what is searched.

    The compiler vectorises maxima of integers, not of floats; numbers above zero are in the order of their bits.
    """
    last = len(bits) - 1
    bits[last] = 0
    top = bits[last]
    for j in range(last):
        top = max(top, bits[j] & mask)
    bits[last] = top
    return h[last]


@njit(**INLINED)
def where_largest(bits, mask):
    """Where what `largest` found is; the first such place."""
    last = len(bits) - 1
    top, back = bits[last], 0
    for j in range(last):
        back = max(back, last - j if bits[j] & mask == top else 0)
    return last - back


@njit(**INLINED)
def any_beyond(h, bar):
    """Whether any |h| >= bar.  Without an early exit, so that it vectorises."""
    found = False
    for j in range(len(h)):
        found |= abs(h[j]) >= bar
    return found


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
