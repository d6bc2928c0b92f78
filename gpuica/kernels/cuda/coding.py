"""Sparse codes on the device: which compiled coder, and when it wants the Gram matrix."""

from typing import Any

from ...device import array_device
from .lasso import lasso
from .matching import matching_pursuit
from .orthogonal import orthogonal
from .pursuit import nonnegative

PURSUITS: dict[str, Any] = {"orthogonal": orthogonal, "nonnegative": nonnegative, "matching_pursuit": matching_pursuit}
WORKING_SETS = 1 << 30  # bytes of D Dᵀ up to which the lasso takes the products of its working sets from it


def encode(X, D, gram, coder):
    """Codes (n, K) of the rows X (n, d), and how many rows were not finished; gram: D Dᵀ, or None to do without.

    By the coder's definition where it has no kernel here, or the kernel needs a Gram matrix that there is not.
    """
    xp = array_device(X).xp
    X, D = xp.ascontiguousarray(X), xp.ascontiguousarray(D)
    if coder.kernel == "lasso":
        return lasso(X, D, gram, coder)
    if coder.kernel not in PURSUITS or gram is None:
        return coder.encode(X, D, xp)
    C = X @ D.T
    return C, PURSUITS[coder.kernel](X, D, gram, C, coder)


def gram_pays(n_atoms, itemsize, coder, budget):
    """Whether a coder should be given D Dᵀ.  budget: bytes that one array may take.

    Pursuits read few of its rows, so that it pays at any size: 17 GB for 65,536 atoms of float32.
    """
    size = n_atoms**2 * itemsize
    if coder.kernel == "lasso":
        return size <= min(WORKING_SETS, budget // 2)
    return coder.kernel in PURSUITS and size <= budget // 2
