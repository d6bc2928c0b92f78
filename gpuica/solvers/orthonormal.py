"""The orthonormal rows nearest to those of a matrix, (M Mᵀ)^-1/2 M, the orthogonal factor of its polar decomposition.

`orthonormal` is the definition, by an eigendecomposition: on a GPU a chain of some k small steps, each of which depends
on the one before, and a wait of the host.  `polar` takes 17 pairs of products, 4 k³ operations a pair, without a wait,
and on a GPU one launch for k up to 64 (`python -m benchmarks.gpu` measures both).  It converges for condition numbers
up to 1 / MIN_SINGULAR; beyond, its defect shows that it did not, and its caller falls back on the definition.
"""

from functools import cache

import numpy as np
from scipy.linalg import lapack

from .. import kernels
from ..device.products import combine, threaded_product

TINY = float(np.finfo(np.float64).tiny)
MIN_SINGULAR = 1e-5  # least singular value, as a fraction of the bound for the largest, that `polar` brings to 1
MIN_SINGULAR_NEAR_ROTATION = 0.1  # the same for a matrix that is nearly orthonormal
NORM_MARGIN = 1.2  # of ‖D²‖ over its estimate
MAX_EXCESS, MAX_LEFT = 2.0, 0.2  # |δ|⁴/4 of `nearly_rotated`: above which it is Cayley's, and by 5 products
MAX_ROW_ERROR = 0.25  # of the squared norm of a row after `nearly_rotated`
MAX_DEFECT = 1e-8  # a larger defect of `polar` means that it did not converge


def orthonormal(W, xp=np):
    """(W Wᵀ)^-1/2 W: the orthonormal rows nearest to those of W (k, d)."""
    eigenvalues, vectors = xp.linalg.eigh(W @ W.T)
    eigenvalues = xp.maximum(eigenvalues, TINY)  # a singular W must not divide by 0
    return (vectors / xp.sqrt(eigenvalues)) @ (vectors.T @ W)


def polar(M, xp=np, least=MIN_SINGULAR):
    """`orthonormal(M)` of M (k, k) by products alone, and its defect: the largest entry of |W Wᵀ - I|, 0-d.

    least: the least singular value, as a fraction of the bound for the largest, that converges to 1.

    Newton and Schulz's iteration X ← (3 a X - a³ X Xᵀ X) / 2, a chosen so that singular values in [l, 1] come as near
    to 1 as a cubic brings them: Chen and Chow, "A stable scaling of Newton-Schulz for improving the sign function
    computation of a Hermitian matrix", Argonne National Laboratory, ANL/MCS-P5059-0114, 2014.
    """
    if (found := kernels.polar(M)) is not None:
        return found
    square = M @ M.T
    square = square @ square
    bound = xp.sqrt(xp.sqrt(xp.sqrt((square * square).sum())))  # (Σ σ⁸)^1/8, at most k^1/8 times the largest
    X = M / xp.maximum(bound, TINY)
    B, other = xp.empty(M.shape), xp.empty(M.shape)
    for a in _scales(least):
        combine(X, X.T, B)
        other[...] = X
        combine(B, X, other, -(a**3) / 2, 1.5 * a)
        X, other = other, X
    return X, xp.abs(X @ X.T - xp.eye(len(M))).max()


def cayley_rotation(W, D, xp=np):
    """Orthonormal W (k, k) rotated by a skew matrix D (k, k), by Cayley's transform: (I - D/2)^-1 (I + D/2) W.

    To second order it is the exponential of D times W.  It is also the nearest rotation to (I + D/2)² W, where
    (I + D/2)² has singular values 1 + |δ|²/4 for the eigenvalues δ of D, and so nearly 1: on a device, where a solve is
    slow, `polar` computes it by products.  On the host in the dtype of W, by LAPACK from SciPy: for k = 383 a solve in
    float64 takes 7.6 ms on one core, in float32 3.6 ms; NumPy's, which copies both matrices, 10 ms in either.
    """
    if kernels.products_pay(W):
        return polar(W + D @ (W + D @ W / 4), xp, MIN_SINGULAR_NEAR_ROTATION)[0]
    half = (D / 2).astype(W.dtype, copy=False)
    matrix, right = (
        np.asfortranarray(np.eye(len(W), dtype=W.dtype) - half),
        np.asfortranarray(W + threaded_product(half, W)),
    )
    solve = lapack.sgesv if W.dtype == np.float32 else lapack.dgesv
    return np.ascontiguousarray(solve(matrix, right, overwrite_a=True, overwrite_b=True)[2])


def nearly_rotated(W, D, xp=np):
    """Nearly orthonormal W (k, k) rotated by a skew matrix D (k, k): nearly `cayley_rotation`.

    On the host by 3 products, (I + D + D²/2 + (I - W Wᵀ)/2) W: the exponential of D to second order, whose squared
    singular values are 1 + |δ|⁴/4 for the eigenvalues δ of D, and at the same time a step of Newton and Schulz, see
    `polar`, for what earlier calls left.  By 5 products, of which two are such a step, where that is too far from 1.
    Singular values stay between 0.85 and 1.15.
    """
    if kernels.products_pay(W):
        return cayley_rotation(W, D, xp)
    square = threaded_product(D, D.T)
    excess = (NORM_MARGIN * _norm(square)) ** 2 / 4
    if excess > MAX_EXCESS:
        return cayley_rotation(W, D)
    factor = square
    factor += threaded_product(W, W.T)
    factor *= -0.5
    factor += D
    factor.flat[:: len(W) + 1] += 1.5
    M = threaded_product(factor, W)
    if excess > MAX_LEFT:  # scaled so that the squares of singular values are about 1 on average
        M *= W.dtype.type((1 + excess / 2) ** -0.5)
        M = _newton_schulz(M)
    is_near = (abs((M * M).sum(axis=1) - 1) < MAX_ROW_ERROR).all()  # not where ‖D‖ is far larger than estimated
    return M if is_near else cayley_rotation(W, D)


def _norm(M):
    """A lower bound for ‖M‖ of a positive semidefinite M (k, k), mostly 0.9 of it: six steps of the power method."""
    v = np.random.default_rng(0).standard_normal(len(M)).astype(M.dtype)
    for _ in range(6):
        v = M @ v
        size = float(np.linalg.norm(v))
        if size < TINY:
            return 0.0
        v /= size
    return size


def _newton_schulz(W):
    """(3 I - W Wᵀ) W / 2 of W (k, k) on the host."""
    factor = threaded_product(W, W.T)
    factor *= -0.5
    factor.flat[:: len(W) + 1] += 1.5
    return threaded_product(factor, W)


def corrected(W):
    """Rows nearer to orthonormal than those of W (k, k), on the host and in float64.

    An entry e of W Wᵀ - I becomes about e².  One step of Newton and Schulz, see `polar`.
    """
    return _newton_schulz(W.astype(np.float64, copy=False))


@cache
def _scales(least):
    """The scales a of the steps of `polar`, until the least singular value l is 1 but for rounding.

    a = (3 / (1 + l + l²))^1/2 takes l to a l (3 - a² l²) / 2; the last step has a = 1.
    """
    scales: list[float] = []
    while not scales or least < 1:
        a = (3 / (1 + least + least**2)) ** 0.5
        scales.append(a)
        least = min(1.0, a * least * (3 - (a * least) ** 2) / 2)
        least = 1.0 if least > 1 - 1e-9 else least
    return (*scales, 1.0)
