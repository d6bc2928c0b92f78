"""Sparse codes on the device: which compiled coder, and whether it needs the Gram matrix."""

from typing import Any

from ...device import array_device
from .lasso import lasso
from .matching import matching_pursuit
from .nonnegative import nonnegative
from .orthogonal import orthogonal

KERNELS: dict[str, Any] = {kernel.__name__: kernel for kernel in (lasso, nonnegative, orthogonal, matching_pursuit)}
MAX_LASSO_GRAM_BYTES = 1 << 30


def encode(X, D, gram, coder):
    """Codes (n, K) of the rows X (n, d), and the number of unfinished rows.  gram: D Dᵀ (K, K), or None.

    By the coder's definition where it has no kernel here, or the kernel needs the Gram matrix and there is none.
    """
    xp = array_device(X).xp
    gram = gram if isinstance(gram, xp.ndarray) else None  # a worker with a GPU is sent what a host prepared
    X, D = xp.ascontiguousarray(X), xp.ascontiguousarray(D)
    if coder.kernel == "lasso":
        return lasso(X, D, gram, coder)
    if coder.kernel not in KERNELS or gram is None:
        return coder.encode(X, D, xp)
    C = X @ D.T
    return C, KERNELS[coder.kernel](X, D, gram, C, coder)


def prepare(D, coder):
    """D Dᵀ (K, K) of the dictionary D (K, d), or None."""
    return D @ D.T if gram_pays(D, coder) else None


def gram_pays(D, coder):
    """Whether D Dᵀ makes a coder faster, and the memory of the device allows it.

    Pursuits read few of its rows, so that it pays at any size: 17 GB for 65,536 atoms of float32.  The lasso reads from
    it the inner products of its working sets.
    """
    size, most = len(D) ** 2 * D.dtype.itemsize, array_device(D).budget() // 2
    if coder.kernel == "lasso":
        return size <= min(MAX_LASSO_GRAM_BYTES, most)
    return coder.kernel in KERNELS and size <= most
