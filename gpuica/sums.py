"""What one chunk of rows contributes to each sum that a solver asks for.

Every function takes a chunk, (n_chunk, k) in the working dtype, and parameters in that dtype, and returns a tuple of
arrays that add up over chunks.  Top-level functions, so that they can be sent to workers.
"""

import numpy as np

from . import kernels
from .device import array_device, to_host

STACK = 256  # rows of a stack of unmixing matrices that are worked on at once: their scores stay in the cache


def stacked(Z, W, contribution, contrast):
    """contribution(Z, W, contrast) for W (m, d) of any height, STACK rows of W at a time."""
    parts = [contribution(Z, W[i : i + STACK], contrast) for i in range(0, len(W), STACK)]
    xp = array_device(Z).xp
    return tuple(xp.concatenate(part) for part in zip(*parts, strict=True))


def fixed_point(Z, W, contrast):
    """Σ g(y) zᵀ (k, d), Σ g'(y) (k,) and Σ g(y)² (k,), with y = W z.  Z: (n, d), W: (k, d)."""
    Y = Z @ W.T
    slope, square = kernels.score(Y, contrast)
    return Y.T @ Z, slope, square


def likelihood(Z, W, contrast):
    """Σ G(y) (k,), Σ g(y) zᵀ (k, d), Σ g'(y) (k,) and Σ g(y)² (k,), with y = W z.  Z: (n, d), W: (k, d)."""
    Y = Z @ W.T
    loss, slope, square = kernels.score_and_loss(Y, contrast)
    return loss, Y.T @ Z, slope, square


def moments(X, shift):
    """Σ (x - shift) (d,) and Σ (x - shift)(x - shift)ᵀ (d, d), in float64 whatever the dtype of X.

    Products in float64: their error, not the data's, would else decide which small directions exist.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity show in the totals, where they are refused
        D = X.astype(np.float64)
        D -= shift
        return kernels.column_sums(D), D.T @ D


def total(X):
    """Σ x (d,), in float64."""
    return (kernels.column_sums(X.astype(np.float64, copy=False)),)


def centered(X, mean):
    """x - mean, (n, d), in the dtype of X.  To be mapped over rows, not added up."""
    return (X - mean).astype(X.dtype, copy=False)


def projected_moments(X, mean, components):
    """Σ z (k,) and Σ z zᵀ (k, k) of z = components (x - mean), in float64.  components: (k, d)."""
    Z = (X.astype(np.float64, copy=False) - mean) @ components.T
    return kernels.column_sums(Z), Z.T @ Z


def gram(D):
    """D Dᵀ (K, K) of a dictionary D (K, d), or None where coders do better without it."""
    return D @ D.T if kernels.gram_pays(*D.shape, D.dtype.itemsize) else None


def codes(X, D, gram, coder, unfinished):
    """Codes (n, K) of X (n, d) by a coder.  To be mapped over rows.  unfinished: a list that takes a count a chunk."""
    C, left = kernels.encode(X, D, gram, coder)
    unfinished.append(left)
    return C


def sparse_codes(X, D, gram, coder, unfinished):
    """(non-zeros a row (n,), their columns, their values) of `codes`, on the host."""
    return kernels.compress(to_host(codes(X, D, gram, coder, unfinished)))


def coded(X, D, gram, coder, unfinished):
    """X, and its codes as `add_code_moments` takes them: compressed on the host, dense on a device."""
    C = codes(X, D, gram, coder, unfinished)
    return X, coder.penalty(C), kernels.compress(C) if isinstance(C, np.ndarray) else C


def add_code_moments(X, D, C, A, B):
    """Add Σ c cᵀ to A (K, K) and Σ c xᵀ to B (K, d); return ‖x - c D‖² of every row, (n,).  C: of `coded`."""
    if isinstance(C, tuple):
        return kernels.add_code_moments(X, D, *C, A, B)
    A += C.T @ C
    B += C.T @ X
    R = X - C @ D
    return (R * R).sum(axis=1)
