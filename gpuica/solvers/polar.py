"""The orthonormal rows nearest to those of a matrix, (M Mᵀ)^-1/2 M, the orthogonal factor of its polar decomposition.

`orthonormal` is the definition, by an eigendecomposition: on a GPU a chain of some k small steps, each waiting for the
one before, and a wait of the host.  `polar` is STEPS pairs of products, 4 k³ operations a pair, which nothing waits
for, and on a GPU one launch for k up to 64 (`python -m benchmarks.gpu` measures both).  It takes any condition number
up to 1 / REACH; beyond, it says how much it fell short, and its caller falls back on the definition.
"""

import numpy as np

from .. import kernels
from ..products import combine

TINY = float(np.finfo(np.float64).tiny)
REACH = 1e-5  # least singular value, as a part of the bound for the largest, that STEPS make 1
STEPS = 18
LOOSE = 1e-8  # a larger defect of `polar` means that it fell short


def orthonormal(W, xp=np):
    """(W Wᵀ)^-1/2 W: the orthonormal rows nearest to those of W (k, d)."""
    eigenvalues, vectors = xp.linalg.eigh(W @ W.T)
    eigenvalues = xp.maximum(eigenvalues, TINY)  # a singular W must not divide by 0
    return (vectors / xp.sqrt(eigenvalues)) @ (vectors.T @ W)


def polar(M, xp=np):
    """`orthonormal(M)` of M (k, k) by products alone, and its defect: the largest entry of |W Wᵀ - I|, 0-d.

    Newton and Schulz's iteration X ← (3 a X - a³ X Xᵀ X) / 2, a chosen so that singular values in [l, 1] come as near
    to 1 as a cubic brings them: Chen and Chow, "A stable scaling of Newton-Schulz for improving the sign function
    computation of a Hermitian matrix", Argonne National Laboratory, ANL/MCS-P5059-0114, 2014.
    """
    if (found := kernels.polar(M, SCALES_OF_A_BLOCK)) is not None:
        return found
    square = M @ M.T
    square = square @ square
    bound = xp.sqrt(xp.sqrt(xp.sqrt((square * square).sum())))  # (Σ σ⁸)^1/8, at most k^1/8 times the largest
    X = M / xp.maximum(bound, TINY)
    B, other = xp.empty(M.shape), xp.empty(M.shape)
    for a in _SCALES:
        combine(X, X.T, B)
        other[...] = X
        combine(B, X, other, -(a**3) / 2, 1.5 * a)
        X, other = other, X
    return X, xp.abs(X @ X.T - xp.eye(len(M))).max()


def _scales(least, steps):
    """a for each step: (3 / (1 + l + l²))^1/2, after which the least singular value l is a l (3 - a² l²) / 2."""
    scales = []
    for _ in range(steps):
        a = (3 / (1 + least + least**2)) ** 0.5
        scales.append(a)
        least = min(1.0, a * least * (3 - (a * least) ** 2) / 2)
    return scales


_SCALES = _scales(REACH, STEPS)
SCALES_OF_A_BLOCK = tuple(_scales(1e-3, 12))  # for a kernel that goes on where they do not suffice
