"""The atoms of a block of a dictionary, updated sequentially: see `kernels.descend`."""

import math

import numpy as np
from numba import njit

from .elementary import OPTIONS


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
        if unit and square == 0:  # no direction: the old atom stays
            continue
        norm = math.sqrt(square)
        scale = D.dtype.type(1 / norm if unit or norm > 1 else 1)
        for f in range(d):
            new = U[j, f] * scale
            steps[j, f] = new - D[j, f]
            D[j, f] = new
