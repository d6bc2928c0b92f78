"""What the coders do with the code of one row, once its support and coefficients are known."""

import numpy as np
from numba import njit

from ..status import FINISHED, ILL_CONDITIONED, UNFINISHED
from .support import subtract
from .vectors import INLINED, fill, inner


@njit(**INLINED)
def write(q, atoms, c, m):
    """q (K,) becomes the code: c (m,) on the support, and zero elsewhere."""
    fill(q, 0)
    for i in range(m):
        q[atoms[i]] = c[i]


@njit(**INLINED)
def check_code(x, D, q, atoms, c, residual, m, square, limit, target, eps):
    """The status of a row whose code q is written: FINISHED, UNFINISHED where ‖x - c D‖² misses the target, or
    ILL_CONDITIONED where it exceeds `limit` or ‖x‖² = square.  In the dtype of residual.

    c (m,) becomes the coefficients as they are stored in q, residual (d,) x - c D.
    """
    for i in range(m):
        c[i] = q[atoms[i]]
    subtract(x, D, atoms, c, residual, m)
    left = inner(residual, residual)
    if not left <= min(limit, square):
        return ILL_CONDITIONED
    return UNFINISHED if target > 0 and np.sqrt(left) > np.sqrt(target) + 4 * eps * np.sqrt(square) else FINISHED
