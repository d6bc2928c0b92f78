"""The contribution of one chunk of rows to each sum that an oracle needs.

Every function takes a chunk, (n_chunk, k) in the working dtype, and parameters in that dtype, and returns a tuple of
arrays that add up over chunks.  Σ is Σ w over the rows where they have `weights` w (n_chunk,).  Top-level functions, so
that they can be sent to workers.
"""

import numpy as np

from . import kernels
from .device import array_device
from .device.products import product


def identified(name):
    """Decorator that sets the identifier of a sum in checkpoints, which is independent of the function's name."""

    def mark(function):
        function.identifier = name
        return function

    return mark


N_SQUARES = {"rotation": 2, "matrix": 3}  # arrays of each kind of `squares`
STACK = 256  # rows of a stack of unmixing matrices that are processed at once: their scores stay in the cache


@identified("stacked")
def stacked(Z, W, contribution, contrast, weights=None):
    """contribution(Z, W, contrast, weights) for W (m, d) of any height, STACK rows of W at a time."""
    parts = [contribution(Z, W[i : i + STACK], contrast, weights) for i in range(0, len(W), STACK)]
    xp = array_device(Z).xp
    return tuple(xp.concatenate(part) for part in zip(*parts, strict=True))


@identified("fixed_point")
def fixed_point(Z, W, contrast, weights=None):
    """Σ g(y) zᵀ (k, d), Σ g'(y) (k,) and Σ g(y)² (k,), with y = W z.  Z: (n, d), W: (k, d)."""
    Y = product(Z, W.T, shared_operand=True)
    slope, square = kernels.score(Y, contrast, weights)
    return product(Y.T, Z), slope, square


@identified("likelihood")
def likelihood(Z, W, contrast, weights=None):
    """Σ G(y) (k,), Σ g(y) zᵀ (k, d), Σ g'(y) (k,) and Σ g(y)² (k,), with y = W z.  Z: (n, d), W: (k, d)."""
    with np.errstate(invalid="ignore", over="ignore"):  # a line search can try too long a step
        Y = product(Z, W.T, shared_operand=True)
        loss, slope, square = kernels.score_and_loss(Y, contrast, weights)
        return loss, product(Y.T, Z), slope, square


def squares(Z, W, contrast, kind, weights=None):
    """The sums from which variances of the entries of a relative gradient are computed, each (k, k), with y = W z.

    kind "rotation": Σ g(y_i)² y_j² and Σ g(y_i) y_i g(y_j) y_j.  "matrix": Σ g(y_i)² y_j², Σ g(y_i) y_i y_j² and
    Σ y_i² y_j².  Z: (n, d), W: (k, d).
    """
    Y = product(Z, W.T, shared_operand=True)
    g = Y.copy()
    kernels.score(g, contrast)
    return _squares(Y, g, kind, weights)


def _squares(Y, g, kind, weights):
    """`squares` of sources Y and g(Y), (n, k), which are overwritten."""
    middle = g * Y
    g *= g
    Y *= Y
    w = None if weights is None else weights[:, None].astype(Y.dtype, copy=False)
    if w is not None:
        g *= w
    if kind == "rotation":  # without weights a product of an array with itself, half the work
        return g.T @ Y, middle.T @ (middle if w is None else w * middle)
    power = Y if w is None else w * Y
    return g.T @ Y, middle.T @ power, Y.T @ power


def _unweighted(scores, weights):
    """g from w g (n, k), in place; 0 where w = 0."""
    if weights is not None:
        scores /= (weights + (weights == 0)).astype(scores.dtype, copy=False)[:, None]
    return scores


@identified("fixed_point_and_squares")
def fixed_point_and_squares(Z, W, contrast, kind, weights=None):
    """`fixed_point` and `squares` of the chunk."""
    Y = product(Z, W.T, shared_operand=True)
    g = Y.copy()
    slope, square = kernels.score(g, contrast, weights)
    cross = product(g.T, Z)
    return cross, slope, square, *_squares(Y, _unweighted(g, weights), kind, weights)


@identified("likelihood_and_squares")
def likelihood_and_squares(Z, W, contrast, kind, weights=None):
    """`likelihood` and `squares` of the chunk."""
    with np.errstate(invalid="ignore", over="ignore"):  # as in `likelihood`
        Y = product(Z, W.T, shared_operand=True)
        g = Y.copy()
        loss, slope, square = kernels.score_and_loss(g, contrast, weights)
        cross = product(g.T, Z)
        return loss, cross, slope, square, *_squares(Y, _unweighted(g, weights), kind, weights)


@identified("stacked_and_squares")
def stacked_and_squares(Z, W, contribution, contrast, requested, weights=None):
    """`stacked`, and the `squares` of some of the matrices in W.  requested: (first row, end, kind) of each."""
    parts = stacked(Z, W, contribution, contrast, weights)
    for first, end, kind in requested:
        parts += squares(Z, W[first:end], contrast, kind, weights)
    return parts


@identified("curvature")
def curvature(Z, W, contrast, weights=None):
    """Σ g'(y_i) y_j² (k, k) and Σ y_j² (k,), with y = W z.  Z: (n, d), W: (k, d)."""
    Y = Z @ W.T
    slope = contrast.at(Y, array_device(Z).xp)[1]
    Y *= Y
    if weights is not None:
        Y *= weights[:, None].astype(Y.dtype, copy=False)
    return slope.T @ Y, kernels.column_sums(Y)


@identified("moments")
def moments(X, shift, weights=None):
    """Σ (x - shift) (d,) and Σ (x - shift)(x - shift)ᵀ (d, d), in float64 whatever the dtype of X.

    Products are in float64: otherwise their rounding would hide small directions that the data resolve.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity propagate to the totals, which are checked
        D = X.astype(np.float64)
        D -= shift
        return _first_and_second(D, weights)


@identified("projected_moments")
def projected_moments(X, mean, components, weights=None):
    """Σ z (k,) and Σ z zᵀ (k, k) of z = components (x - mean), in float64.  components: (k, d)."""
    return _first_and_second((X.astype(np.float64, copy=False) - mean) @ components.T, weights)


def _first_and_second(D, weights):
    """Σ d and Σ d dᵀ over the rows d of D, which is overwritten."""
    if weights is None:
        return kernels.column_sums(D), D.T @ D
    root = weights.astype(np.float64) ** 0.5  # on both sides: BLAS halves the work of a product Dᵀ D
    D *= root[:, None]
    return kernels.column_sums(D, root), D.T @ D


@identified("moments_and_norms")
def moments_and_norms(X, shift, weights=None):
    """`moments` and `norms` of the chunk."""
    return *moments(X, shift, weights), norms(X, shift, weights)


def norms(X, shift, weights=None):
    """Σ r, Σ r² and Σ 1 (3,) of r = |x - shift| over some 64 rows of positive weight, in float64.

    A cheap estimate of the typical norm of a row; rare rows of enormous norm contribute to the trace of the second
    moments, which are over all rows.  The step is odd, because sequences of tokens have even lengths.
    """
    xp = array_device(X).xp
    if weights is None:
        some = slice(None, None, _odd_step(len(X)))
    else:
        some = xp.nonzero(weights)[0]
        some = some[:: _odd_step(len(some))]
        weights = weights[some]
    with np.errstate(invalid="ignore", over="ignore"):
        D = X[some] - shift
        square = (D * D).sum(axis=1, keepdims=True)
        powers = xp.concatenate([square**0.5, square, xp.ones_like(square)], axis=1)
        return kernels.column_sums(powers, weights)


def _odd_step(n):
    """The step at which n rows have some 64 samples, an odd number."""
    return 1 + 2 * (n // 128)


@identified("total")
def total(X, weights=None):
    """Σ x (d,), in float64."""
    return (kernels.column_sums(X.astype(np.float64, copy=False), weights),)


@identified("pull")
def weiszfeld_sums(X, center, weights=None):
    """Σ (x - c) / r (d,), Σ 1 / r (1,) over rows with r = |x - c| > 0; Σ 1 (1,) over those with r = 0; in float64."""
    with np.errstate(invalid="ignore", over="ignore"):
        D = X.astype(np.float64) - center
        r = (D * D).sum(axis=1) ** 0.5
        w = array_device(X).xp.ones_like(r) if weights is None else weights.astype(np.float64)
        at_c = r == 0
        inverse = ~at_c * w / (r + at_c)
        return inverse @ D, inverse.sum(keepdims=True), (w * at_c).sum(keepdims=True)


def centered(X, mean):
    """x - mean, (n, d), in the dtype of X.  For `Rows.map`; it is not a sum."""
    return (X - mean).astype(X.dtype, copy=False)


def as_float64(X):
    """The chunk in float64.  For `Rows.map`."""
    return X.astype(np.float64, copy=False)
