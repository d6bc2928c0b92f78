"""One sweep over the scores Y (n, k), in cache: w g(Y) in place of Y, and column sums of g', g² and G.

The scalar body is the contrast's own `at_point`, compiled once for float32 and once for float64 with the functions of
`elementary`.  The kernels use one thread and release the GIL; the rows distribute chunks over threads.
"""

import zlib
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit

from .elementary import ELEMENTARY, INLINED, OPTIONS

# Rows are added up in tiles: a sum of 64 numbers in the working dtype, then float64.
TILE = 64
at_point: Any = None  # that of a contrast in each compiled sweep, see `_kernel`


def _score(Y, slopes, squares, params):
    """Y (n, k) becomes g(Y); adds Σ g'(y) and Σ g(y)² to slopes and squares (k,), float64."""
    n, k = Y.shape
    tile, square = np.empty(k, Y.dtype), np.empty(k, Y.dtype)
    for start in range(0, n, TILE):
        tile[:] = 0
        square[:] = 0
        for i in range(start, min(start + TILE, n)):
            for j in range(k):
                _, g, slope = at_point(Y[i, j], *params)
                Y[i, j] = g
                tile[j] += slope
                square[j] += g * g
        slopes += tile
        squares += square


def _score_and_loss(Y, losses, slopes, squares, params):
    """Y (n, k) becomes g(Y); adds Σ G(y), Σ g'(y) and Σ g(y)² to losses, slopes and squares (k,), float64."""
    n, k = Y.shape
    loss, tile, square = np.empty(k, Y.dtype), np.empty(k, Y.dtype), np.empty(k, Y.dtype)
    for start in range(0, n, TILE):
        loss[:] = 0
        tile[:] = 0
        square[:] = 0
        for i in range(start, min(start + TILE, n)):
            for j in range(k):
                G, g, slope = at_point(Y[i, j], *params)
                Y[i, j] = g
                loss[j] += G
                tile[j] += slope
                square[j] += g * g
        losses += loss
        slopes += tile
        squares += square


def _weighted_score(Y, weights, slopes, squares, params):
    """Y (n, k) becomes w g(Y); adds Σ w g'(y) and Σ w g(y)² to slopes and squares (k,), float64.  weights: (n, k)."""
    n, k = Y.shape
    tile, square = np.empty(k, Y.dtype), np.empty(k, Y.dtype)
    for start in range(0, n, TILE):
        tile[:] = 0
        square[:] = 0
        for i in range(start, min(start + TILE, n)):
            for j in range(k):
                _, g, slope = at_point(Y[i, j], *params)
                w = weights[i, j]
                Y[i, j] = w * g
                tile[j] += w * slope
                square[j] += w * g * g
        slopes += tile
        squares += square


def _weighted_score_and_loss(Y, weights, losses, slopes, squares, params):
    """As `_weighted_score`; adds Σ w G(y) to losses (k,) too."""
    n, k = Y.shape
    loss, tile, square = np.empty(k, Y.dtype), np.empty(k, Y.dtype), np.empty(k, Y.dtype)
    for start in range(0, n, TILE):
        loss[:] = 0
        tile[:] = 0
        square[:] = 0
        for i in range(start, min(start + TILE, n)):
            for j in range(k):
                G, g, slope = at_point(Y[i, j], *params)
                w = weights[i, j]
                Y[i, j] = w * g
                loss[j] += w * G
                tile[j] += w * slope
                square[j] += w * g * g
        losses += loss
        slopes += tile
        squares += square


def score(Y, contrast, weights=None):
    """Replace Y (n, k), C order, by w g(Y); return Σ w g'(y) and Σ w g(y)² over the rows, (k,) each.

    weights w: (n,) in the dtype of Y, or all 1.
    """
    return _swept(_score if weights is None else _weighted_score, Y, contrast, 2, weights)


def score_and_loss(Y, contrast, weights=None):
    """Replace Y (n, k), C order, by w g(Y); return Σ w G(y), Σ w g'(y) and Σ w g(y)² over the rows, (k,) each."""
    return _swept(_score_and_loss if weights is None else _weighted_score_and_loss, Y, contrast, 3, weights)


def _swept(sweep, Y, contrast, n_totals, weights):
    """Run a sweep over Y, and over weights repeated for every column; return n_totals arrays (k,)."""
    n, k = Y.shape
    kind: Any = type(contrast)
    kernel = _kernel(sweep, kind, Y.dtype)
    params = tuple(Y.dtype.type(p) for p in contrast.params)
    totals = np.zeros((n_totals, k))
    fold = -(-16 // k)  # few columns: several rows are one, so that the inner loop fills the vector registers
    whole = n - n % fold
    wide = np.zeros((n_totals, fold * k))
    swept = [Y] if weights is None else [Y, np.ascontiguousarray(np.broadcast_to(weights[:, None], Y.shape))]
    kernel(*(array[:whole].reshape(-1, fold * k) for array in swept), *wide, params)
    kernel(*(array[whole:] for array in swept), *totals, params)
    return totals + wide.reshape(n_totals, fold, k).sum(axis=1)


@cache
def _kernel(sweep: Any, contrast: Any, dtype: Any):
    """The sweep compiled around the `at_point` of a contrast class.

    `at_point` reads `real`, `tanh`, `exp`, `log1p` from its globals; here they are the vectorisable ones of the dtype.

    The sweep is a copy with `at_point` among its globals.  Simpler forms, `at_point` as an argument or in a closure,
    are compiled again in every process, because Numba's cache on disk identifies a compiled function among arguments
    and closures by its address.  The cache identifies a function by its name, hence the name contains the contrast, a
    checksum of its `at_point`, and the dtype.
    """
    body = contrast.at_point
    at_point = FunctionType(body.__code__, {**body.__globals__, **ELEMENTARY[dtype]}, "at_point")
    code = body.__code__
    version = zlib.crc32(repr((code.co_code, code.co_consts, code.co_names)).encode())
    scope = {**globals(), "at_point": njit(**INLINED)(at_point)}
    kernel = FunctionType(sweep.__code__, scope, sweep.__name__)
    kernel.__qualname__ = f"{sweep.__name__}_{contrast.__name__}_{dtype.name}_{version:x}"
    return njit(cache=True, **OPTIONS)(kernel)
