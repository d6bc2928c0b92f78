"""Loops over vectors inside the sparse coders, and how Numba compiles all that they are made of.

What a first call waits for is the compiler, hence loops in place of assignments to slices (whose error messages alone
compile for 2 s), and counters that start as np.int64(0) (a literal 0 would compile every function that it is passed to
once more).
"""

from typing import Any

import numpy as np
from numba import njit

# Only finite numbers come here.  error_model: a division that could raise cannot be vectorised.  _nrt: no arrays are
# made here, and without Numba's runtime their rows are not counted as references to them, atomically; that was half of
# the time of a lasso of 13 non-zeros.
ENTRY: dict[str, Any] = {  # called from Python
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
    "error_model": "numpy",
    "_nrt": False,
    "nogil": True,
    "cache": True,
}
OPTIONS: dict[str, Any] = {**ENTRY, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # called from kernels alone
# A call with its arrays costs as much as a loop of twenty numbers: without calls the lasso is 1.5 times as fast.
INLINED: dict[str, Any] = {**OPTIONS, "forceinline": True}


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
def inner(x, y):
    """x · y in float64."""
    total = 0.0
    for j in range(len(x)):
        total += np.float64(x[j]) * np.float64(y[j])
    return total


@njit(**INLINED)
def inner_four(x0, x1, x2, x3, y):
    """x0 · y, ..., x3 · y in float64: one load of y for four products."""
    t0, t1, t2, t3 = 0.0, 0.0, 0.0, 0.0
    for j in range(len(y)):
        t0 += np.float64(x0[j]) * np.float64(y[j])
        t1 += np.float64(x1[j]) * np.float64(y[j])
        t2 += np.float64(x2[j]) * np.float64(y[j])
        t3 += np.float64(x3[j]) * np.float64(y[j])
    return t0, t1, t2, t3


@njit(**OPTIONS)
def dot(x, y):
    """x · y in their own dtype: twice as fast for float32."""
    total = x.dtype.type(0)
    for j in range(len(x)):
        total += x[j] * y[j]
    return total


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
