"""Numba kernels for the CPU: one sweep over a chunk that is still in cache.

The scalar body is the contrast's own `at_point`, compiled once for float32 and once for float64 with elementary
functions that the compiler can vectorise (calls of the C library it cannot: 10 ns a number against 0.3).  The kernels
use one thread and release the GIL; the rows share chunks out to threads.
"""

import math
import zlib
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from numba import njit

# Sums may be reordered and products fused, so that loops vectorise; NaN and infinity keep their meaning.
# error_model: a division that could raise cannot be vectorised.
OPTIONS: dict[str, Any] = {"fastmath": {"reassoc", "contract", "nsz"}, "error_model": "numpy", "nogil": True}

INLINED = {**OPTIONS, "forceinline": True}  # a call left in the loop would stop it from being vectorised

f4 = np.float32


# ---- elementary functions, float32: relative error below 3e-7 -------------------------------------------------------
@njit(**INLINED)
def _tanh4(x):
    """x P(x²) / Q(x²), an odd rational approximation of degree 13 over 6; ±1 to rounding beyond 7.9."""
    x = min(max(x, f4(-7.90531110763549805)), f4(7.90531110763549805))
    s = x * x
    p = f4(-2.76076847742355e-16)
    p = p * s + f4(2.00018790482477e-13)
    p = p * s + f4(-8.60467152213735e-11)
    p = p * s + f4(5.12229709037114e-08)
    p = p * s + f4(1.48572235717979e-05)
    p = p * s + f4(6.37261928875436e-04)
    p = p * s + f4(4.89352455891786e-03)
    q = f4(1.19825839466702e-06)
    q = q * s + f4(1.18534705686654e-04)
    q = q * s + f4(2.26843463243900e-03)
    q = q * s + f4(4.89352518554385e-03)
    return x * p / q


@njit(**INLINED)
def _exp4(x):
    """2ⁿ exp(r), x = n log 2 + r, |r| <= log(2)/2, by Taylor's series; for x <= 88, 0 below -87."""
    scaled = max(x, f4(-87)) * f4(1.4426950408889634)
    n = np.floor(scaled + f4(0.5))
    r = (scaled - n) * f4(0.6931471805599453)
    p = f4(1 / 5040)
    p = p * r + f4(1 / 720)
    p = p * r + f4(1 / 120)
    p = p * r + f4(1 / 24)
    p = p * r + f4(1 / 6)
    p = p * r + f4(1 / 2)
    p = p * r + f4(1)
    p = p * r + f4(1)
    return p * np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(f4)


@njit(**INLINED)
def _log1p4(x):
    """log(1 + x) = 2 artanh(x / (2 + x)), by its series; for x in [0, 1]."""
    z = x / (x + f4(2))
    s = z * z
    p = f4(2 / 13)
    p = p * s + f4(2 / 11)
    p = p * s + f4(2 / 9)
    p = p * s + f4(2 / 7)
    p = p * s + f4(2 / 5)
    p = p * s + f4(2 / 3)
    p = p * s + f4(2)
    return p * z


# ---- elementary functions, float64: absolute error below 1e-15 -------------------------------------------------------
@njit(**INLINED)
def _exp8(x):
    """As `_exp4`; for x <= 709, 0 below -708.  log 2 in two parts, so that n log 2 takes no digits of r."""
    x = max(x, -708.0)
    n = np.floor(x * 1.4426950408889634 + 0.5)
    r = (x - n * 6.93145751953125e-1) - n * 1.42860682030941723212e-6
    p = 1 / 6227020800
    p = p * r + 1 / 479001600
    p = p * r + 1 / 39916800
    p = p * r + 1 / 3628800
    p = p * r + 1 / 362880
    p = p * r + 1 / 40320
    p = p * r + 1 / 5040
    p = p * r + 1 / 720
    p = p * r + 1 / 120
    p = p * r + 1 / 24
    p = p * r + 1 / 6
    p = p * r + 1 / 2
    p = p * r + 1.0
    p = p * r + 1.0
    return p * np.int64((np.int64(n) + 1023) << 52).view(np.float64)


@njit(**INLINED)
def _tanh8(x):
    """(1 - e) / (1 + e), e = exp(-2|x|), with the sign of x."""
    e = _exp8(-2.0 * abs(x))
    return math.copysign((1.0 - e) / (1.0 + e), x)


@njit(**INLINED)
def _log1p8(x):
    """As `_log1p4`."""
    z = x / (x + 2.0)
    s = z * z
    p = 2 / 31
    p = p * s + 2 / 29
    p = p * s + 2 / 27
    p = p * s + 2 / 25
    p = p * s + 2 / 23
    p = p * s + 2 / 21
    p = p * s + 2 / 19
    p = p * s + 2 / 17
    p = p * s + 2 / 15
    p = p * s + 2 / 13
    p = p * s + 2 / 11
    p = p * s + 2 / 9
    p = p * s + 2 / 7
    p = p * s + 2 / 5
    p = p * s + 2 / 3
    p = p * s + 2.0
    return p * z


ELEMENTARY = {
    np.dtype(np.float32): {"real": np.float32, "tanh": _tanh4, "exp": _exp4, "log1p": _log1p4, "math": math},
    np.dtype(np.float64): {"real": np.float64, "tanh": _tanh8, "exp": _exp8, "log1p": _log1p8, "math": math},
}


# ---- sweeps ----------------------------------------------------------------------------------------------------------
# Rows are added up in tiles: a sum of 64 numbers in the working dtype, then float64.
TILE = 64
at_point: Any = None  # each compiled sweep has its own, see `_kernel`


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
    """Run a sweep over Y, and over weights repeated for every column; n_totals arrays (k,) come back."""
    n, k = Y.shape
    kind: Any = type(contrast)
    kernel = _kernel(sweep, kind, Y.dtype)
    params = tuple(Y.dtype.type(p) for p in contrast.params)
    totals = np.zeros((n_totals, k))
    fold = -(-16 // k)  # few columns: take several rows as one, so that the inner loop fills the vector registers
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
    Numba keeps compiled code on disk under a function's name, so the name tells the body, its version and the dtype.
    """
    body = contrast.at_point
    at_point = FunctionType(body.__code__, {**body.__globals__, **ELEMENTARY[dtype]}, "at_point")
    code = body.__code__
    version = zlib.crc32(repr((code.co_code, code.co_consts, code.co_names)).encode())
    scope = {**globals(), "at_point": njit(**INLINED)(at_point)}
    kernel = FunctionType(sweep.__code__, scope, sweep.__name__)
    kernel.__qualname__ = f"{sweep.__name__}_{contrast.__name__}_{dtype.name}_{version:x}"
    return njit(cache=True, **OPTIONS)(kernel)


# ---- atoms -----------------------------------------------------------------------------------------------------------
@njit(cache=True, **OPTIONS)
def descend(D, U, L, used, positive, unit):
    """See `kernels.descend`.  All of one dtype and in C order."""
    b, d = D.shape
    steps = np.zeros((b, d), D.dtype)
    for j in range(b):
        if not used[j]:
            continue
        for i in range(j):
            for f in range(d):
                U[j, f] -= L[j, i] * steps[i, f]
        square = D.dtype.type(0)
        for f in range(d):
            if positive:
                U[j, f] = max(U[j, f], D.dtype.type(0))
            square += U[j, f] * U[j, f]
        if unit and square == 0:  # no direction: the old one stays
            continue
        norm = math.sqrt(square)
        scale = D.dtype.type(1 / norm if unit or norm > 1 else 1)
        for f in range(d):
            new = U[j, f] * scale
            steps[j, f] = new - D[j, f]
            D[j, f] = new
