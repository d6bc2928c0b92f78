"""Loops over vectors inside the sparse coders, and the options that they are compiled with.

The first call waits for the compiler, hence loops in place of assignments to slices (whose error messages alone take
2 s to compile), and counters that start as np.int64(0) (a literal 0 would compile every function that it is passed to
once more).
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

# All numbers are finite.  error_model: a division that can raise cannot be vectorised.  _nrt: no arrays are allocated,
# and without Numba's runtime a view of a row does not count as a reference to its array, by an atomic instruction; that
# was half of the time of a lasso of 13 non-zeros.
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
# For functions of more than a loop or two: Numba copies their statements into the caller.  An INLINED function is
# optimised and translated once for itself, and again in every function around it, which took 3 of the 7 s of the lasso.
MERGED: dict[str, Any] = {**OPTIONS, "inline": "always"}


def plain(A):
    """A, or a copy of the one kind that kernels are compiled for: C order and writeable."""
    return A if A.flags.carray else np.array(A, order="C")


class Searchable(NamedTuple):
    """Numbers whose maximum is found through their bits, see `largest`.

    values, bits : (K + 1,); the same memory, as floats and as integers; the last number is scratch.
    mask : of the bits; -1 to search max(h, 0), all bits but the sign to search |h|.
    """

    values: Any
    bits: Any
    mask: Any


def searchable(dtype, n, positive):
    """A `Searchable` of n numbers."""
    bits = np.empty(n + 1, f"i{np.dtype(dtype).itemsize}")
    return Searchable(bits.view(dtype), bits, search_mask(dtype, positive))


def search_mask(dtype, positive):
    """The mask of a `Searchable`."""
    integer = np.dtype(f"i{np.dtype(dtype).itemsize}").type
    return integer(-1 if positive else np.iinfo(integer).max)


@njit(**INLINED)
def largest(searchable):
    """max |h|, or max(h, 0) where the mask is -1.

    The compiler vectorises maxima of integers, not of floats; positive numbers are in the order of their bits.
    """
    h, bits, mask = searchable
    last = len(bits) - 1
    bits[last] = 0
    top = bits[last]
    for j in range(last):
        top = max(top, bits[j] & mask)
    bits[last] = top
    return h[last]


@njit(**INLINED)
def where_largest(searchable):
    """The first index of the maximum that `largest` has just found."""
    _, bits, mask = searchable
    last = len(bits) - 1
    top, back = bits[last], 0
    for j in range(last):
        back = max(back, last - j if bits[j] & mask == top else 0)
    return last - back


@njit(**INLINED)
def any_at_least(h, bound):
    """Whether any |h| >= bound.  Without an early exit, so that it vectorises."""
    found = False
    for j in range(len(h)):
        found |= abs(h[j]) >= bound
    return found


@njit(**INLINED)
def copy(source, target):
    """target[: len(source)] = source."""
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
def subtract_atoms(h, G, atoms, c, m):
    """h -= Σ c_i G[atoms_i] over the first m, four rows of G at a time: one store of h for four products."""
    real = h.dtype.type
    whole = m - m % 4
    for i in range(0, whole, 4):
        c0, c1, c2, c3 = real(c[i]), real(c[i + 1]), real(c[i + 2]), real(c[i + 3])
        _subtract_four(h, G[atoms[i]], G[atoms[i + 1]], G[atoms[i + 2]], G[atoms[i + 3]], c0, c1, c2, c3)
    for i in range(whole, m):
        row, value = G[atoms[i]], real(c[i])
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
