"""Correlations of rows with all atoms of a dictionary, to two digits and with a bound of their error.

They decide which atoms need exact correlations.  Atoms and rows are rounded to integers of 8 bits, whose products
processors with AVX-512 VNNI compute at five times the rate of float32; elsewhere they are products of float32.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from .int8 import ATOMS, MAX_FEATURES, ROWS, has_int8_products, multiply_tile
from .vectors import ENTRY, INLINED, inner, search_mask

FLOAT32_EPS = float(np.finfo(np.float32).eps)
TINY = 1e-300  # the scale of a row of zeros


class Screen(NamedTuple):
    """A rounded dictionary.

    panels : (n_panels, bytes) uint8, ATOMS atoms each in the order of `int8.multiply_tile`, or (K, d) float32.
    scales : (n_panels * ATOMS,) float32; a rounded atom is its integers times its scale, in units of `unit`.
    unit : the unit of the scales.
    squares : (K,) float64; the squared norms of the atoms.
    norm, error : the largest norm of an atom, and of the difference between an atom and its rounded form.
    """

    panels: Any
    scales: Any
    squares: Any
    unit: float
    norm: float
    error: float

    @property
    def is_int8(self):
        """Whether the atoms are integers."""
        return self.panels.dtype == np.uint8


class Screened(NamedTuple):
    """Approximate correlations of n rows, and memory for them.

    values : (n, n_panels * ATOMS) float32; times `units` (n,), the correlations.
    tops : (n, n_panels) float32; the largest of the values of a panel, in absolute value unless codes are positive.
    errors : (n,); bounds of the errors of the correlations.
    rounded, offsets : the rows as integers, and 128 times the sums of these.
    """

    values: Any
    tops: Any
    units: Any
    errors: Any
    rounded: Any
    offsets: Any


def screen(D):
    """The `Screen` of a dictionary D (K, d)."""
    n_atoms, n_features = D.shape
    n_panels, squares = -(-n_atoms // ATOMS), np.empty(n_atoms)
    _write_squares(D, squares)
    norm = float(np.sqrt(squares.max()))
    unit = norm or 1.0
    scales = np.zeros(n_panels * ATOMS, np.float32)
    if not has_int8_products() or n_features > MAX_FEATURES:
        return Screen((D / unit).astype(np.float32), scales, squares, unit, norm, (n_features + 4) * FLOAT32_EPS * norm)
    n_words, (bits, mask) = -(-n_features // 4), _bits(D)
    panels, rounded = np.full((n_panels, 4 * n_words * ATOMS), 128, np.uint8), np.full(4 * n_words, 128, np.uint8)
    words = panels.view(np.int32), rounded.view(np.int32)
    error = 1.000001 * _round_atoms(D, bits, mask, unit, words[0], scales, rounded, words[1])
    return Screen(panels, scales, squares, unit, norm, float(error))


@njit(**ENTRY)
def _write_squares(D, squares):
    """The squared norms of the atoms."""
    for j in range(len(D)):
        squares[j] = inner(D[j], D[j])


@njit(**ENTRY)
def _round_atoms(D, bits, mask, unit, panels, scales, rounded, words):
    """Write the atoms, as words of four features, into panels, and their scales; return the largest norm of an error.

    bits: those of D.  rounded: scratch for an atom, whose memory is that of words.
    """
    worst = 0.0
    for j in range(len(D)):
        scale = np.float64(np.float32(_largest(D, bits, j, mask) / (127 * unit)))
        scales[j] = scale
        worst = max(worst, scale * unit * np.sqrt(_round_row(D[j], scale * unit, rounded, 128)[1]))
        for k in range(len(words)):
            panels[j // ATOMS, k * ATOMS + j % ATOMS] = words[k]
    return worst


@njit(**INLINED)
def _largest(A, bits, i, mask):
    """The largest absolute value of row i, found by its bits: maxima of integers vectorise, those of floats do not."""
    top, at = bits.dtype.type(0), np.int64(0)
    for k in range(A.shape[1]):
        top = max(top, bits[i, k] & mask)
    for k in range(A.shape[1]):
        at = max(at, np.int64(k) if bits[i, k] & mask == top else at)
    return abs(np.float64(A[i, at]))


@njit(**INLINED)
def _round_row(row, scale, rounded, shift):
    """Write the row, in units of scale, as integers, plus shift.

    Returns their sum without shift, and in units of scale the squared norms of the rounding error and of the row.
    """
    inverse = 1 / scale if scale > 0 else 0.0
    total, missed, square = np.int32(0), 0.0, 0.0
    for k in range(len(row)):
        exact = row[k] * inverse
        value = min(max(np.rint(exact), -127.0), 127.0)
        integer = np.int32(value)
        rounded[k] = integer + np.int32(shift)
        total += integer
        missed += (exact - value) * (exact - value)
        square += exact * exact
    return total, missed, square


def _bits(A):
    """The bits of a float array, and the mask of all but the sign."""
    return A.view(f"i{A.itemsize}"), search_mask(A.dtype, False)


def screened(screen, n_rows, n_features):
    """Memory for the approximate correlations of n_rows rows."""
    n, n_values = -(-n_rows // ROWS) * ROWS, len(screen.scales)
    floats = np.empty((n, n_values), np.float32), np.empty((n, n_values // ATOMS), np.float32)
    rounded = np.zeros((n, -(-n_features // 4) * 4), np.int8)
    return Screened(*floats, np.empty(n), np.empty(n), rounded, np.zeros(n, np.int32))


def correlate(screen, residuals, rows, positive, out):
    """Approximate correlations of some rows of residuals (n, d), into the first rows of a `Screened`."""
    mask = search_mask(np.float32, positive)
    if screen.is_int8:
        _correlate(screen, residuals, *_bits(residuals), rows, mask, out)
        return
    n = len(rows)
    units = np.maximum(abs(residuals[rows]).max(axis=1), np.finfo(residuals.dtype).tiny)
    scaled = (residuals[rows] / units[:, None]).astype(np.float32)
    np.matmul(scaled, screen.panels.T, out=out.values[:n, : len(screen.panels)])
    out.values[:n, len(screen.panels) :] = 0
    out.units[:n] = units * screen.unit
    out.errors[:n] = screen.error * np.sqrt(np.einsum("jk,jk->j", scaled, scaled)) * units
    _find_tops(out.values[:n].view(np.int32), mask, out.tops.view(np.int32))


@njit(**INLINED)
def _top(bits, mask):
    """The largest of numbers, by their bits: as `vectors.largest`."""
    top = bits.dtype.type(0)
    for j in range(len(bits)):
        top = max(top, bits[j] & mask)
    return top


@njit(**ENTRY)
def _find_tops(bits, mask, tops):
    """Write the largest value of every panel into tops; both as bits."""
    for i in range(len(bits)):
        for p in range(tops.shape[1]):
            tops[i, p] = _top(bits[i, p * ATOMS : (p + 1) * ATOMS], mask)


@njit(**ENTRY)
def _correlate(screen, residuals, bits, absolute, rows, mask, out):
    """See `correlate`.  bits: those of residuals.  absolute: the mask of all but the sign."""
    panels, scales, _, unit, norm, error = screen
    n, n_bytes, last = len(rows), out.rounded.shape[1], out.values.shape[1]
    for i in range(n):
        scale = max(_largest(residuals, bits, rows[i], absolute) / 127, TINY)
        total, missed, square = _round_row(residuals[rows[i]], scale, out.rounded[i], 0)
        out.offsets[i] = 128 * total
        out.units[i] = scale * unit
        out.errors[i] = scale * (1.000001 * norm * np.sqrt(missed) + (error + 1e-6 * norm) * np.sqrt(square))
    for p in range(len(panels)):
        panel, factors = panels[p].ctypes.data, scales[p * ATOMS :].ctypes.data
        for i in range(0, n, ROWS):
            values, tops = out.values[i, p * ATOMS :].ctypes.data, out.tops[i, p:].ctypes.data
            rounded, offsets = out.rounded[i].ctypes.data, out.offsets[i:].ctypes.data
            sizes, steps = (n_bytes, n_bytes // 4), (4 * last, 4 * len(panels))
            multiply_tile(panel, rounded, sizes, offsets, factors, mask, values, tops, steps)  # type: ignore[call-arg]
