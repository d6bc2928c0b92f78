"""Elementary functions that the compiler can vectorise: 0.3 ns a number, where a call of the C library takes 10."""

import math
from typing import Any

import numpy as np
from numba import njit

# Sums may be reordered and products fused, so that loops vectorise; NaN and infinity keep their meaning.
# error_model: a division that can raise cannot be vectorised.
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
