"""The sets of unmixing matrices that ICA optimises over: loss, relative gradient, its standard error, and curvature.

With y = W z, contrast G and its derivative g, means over the rows: M = E g(y) yᵀ, and the excess
κ_i = E g'(y_i) E y_i² - M_ii, positive for super-Gaussian sources.  "extended" gives every source the sign s_i of its
κ_i, so that sub-Gaussian sources are found too; otherwise s_i = 1.
"""

from typing import Any

import numpy as np

from .orthonormal import cayley_rotation, orthonormal
from .protocol import LikelihoodOracle


def rotation_gradient(cross, slope, sign=None, xp=np):
    """The relative gradient (k, k) of FastICA's and Picard-O's loss over rotations: the skew part of s M.

    cross: M = E g(y) yᵀ (k, k); slope: E g'(y) (k,).  sign: s (k,), by default 1 for super-Gaussian sources,
    E g'(y) > E g(y) y, and -1 for sub-Gaussian.  0 at a solution.
    """
    if sign is None:
        sign = xp.where(slope < xp.diagonal(cross), -1.0, 1.0)
    signed = sign[:, None] * cross
    return (signed - signed.T) / 2


def rotation_error(cross, square, power, sign, n_rows, xp=np, squares=None):
    """The standard error (k, k) of `rotation_gradient`: sqrt(Var(s_i g(y_i) y_j - s_j g(y_j) y_i) / 4n).

    square: E g(y)²; power: E y², (k,).  squares: E g(y_i)² y_j² and E g(y_i) y_i g(y_j) y_j (k, k), as measured on the
    rows, or None: for independent sources they follow from the rest.  sign: None where y is white on these n rows.  The
    mean of y_i y_j then has no error, and what is left of 4 n times the variance is, for independent sources,
    E g_i² - (E g_i y_i)² + E g_j² - (E g_j y_j)², whatever the signs: nearly the whole of a pair of equal signs, which
    is taken for all pairs.  (For a Laplace and a uniform source the whole is 27 times as much.)
    """
    sign = xp.ones(len(cross)) if sign is None else sign
    diagonal = sign * xp.diagonal(cross)
    products = square[:, None] * power
    least = 0.01 * (products + products.T) / 4
    if squares is None:
        variance = (products + products.T) / 4 - diagonal[:, None] * diagonal / 2
    else:
        products, middles = squares
        gradient = (sign[:, None] * cross - (sign[:, None] * cross).T) / 2
        variance = (products + products.T) / 4 - sign[:, None] * sign * middles / 2 - gradient**2
    # two sources of two values each have g(y) = cy and so no variance at all; rounding must not decide then
    return xp.sqrt(xp.maximum(variance, least) / n_rows)


class Manifold:
    """A set of unmixing matrices W (k, k) with the loss that Picard minimises on it.

    at: `likelihood(W)` of the oracle.  sign: (k,) of `signs`.  A gradient is relative: the loss at `retract(W, D)` is
    the loss at W plus Σ gradient * D, to first order in D (k, k).
    """

    squares: str  # the kind of second moments that `error` is computed from, see `sums.squares`

    def __init__(self, oracle: LikelihoodOracle, *, extended, min_curvature):
        self.oracle, self.xp, self.extended, self.min_curvature = oracle, oracle.xp, extended, min_curvature

    def project(self, W) -> Any:
        """The nearest element of the manifold."""
        raise NotImplementedError

    def signs(self, W, at) -> Any:
        """The sign s of each source, (k,)."""
        raise NotImplementedError

    def loss(self, W, at, sign) -> Any:
        """The loss, 0-d."""
        raise NotImplementedError

    def gradient(self, W, at, sign) -> Any:
        """The relative gradient (k, k)."""
        raise NotImplementedError

    def error(self, W, at, sign, power=None) -> Any:
        """The standard error of each entry of the gradient, (k, k).

        From `at.squares` where the oracle measured them, else that of independent sources.  power: E y² (k,), or None
        to compute it, which may cost a pass.
        """
        raise NotImplementedError

    def precondition(self, q, W, at, sign) -> Any:
        """The inverse of the approximate Hessian times q (k, k); curvatures are at least `min_curvature`."""
        raise NotImplementedError

    def retract(self, W, D) -> Any:
        """The element of the manifold that is (I + D) W to first order in D (k, k)."""
        raise NotImplementedError


class OrthogonalGroup(Manifold):
    """Picard-O: W is orthonormal and z is white.  Loss Σ s_i E G(y_i); the gradient is the skew part of s M."""

    squares = "rotation"

    def project(self, W):
        return orthonormal(W, self.xp)

    def signs(self, W, at):
        excess = at.slope - self.xp.diagonal(at.cross)
        return self.xp.where(excess < 0, -1.0, 1.0) if self.extended else self.xp.ones(len(W))

    def loss(self, W, at, sign):
        return (sign * at.loss).sum()

    def gradient(self, W, at, sign):
        return rotation_gradient(at.cross, at.slope, sign, self.xp)

    def error(self, W, at, sign, power=None):
        power, squares = self.oracle.power(W) if power is None else power, at.squares or None
        sign = None if self.oracle.white else sign
        return rotation_error(at.cross, at.square, power, sign, self.oracle.n_effective, self.xp, squares)

    def precondition(self, q, W, at, sign):
        """The curvature of the rotation of the pair i, j is (κ_i + κ_j) / 2."""
        excess = sign * (at.slope - self.xp.diagonal(at.cross))
        z = q / self.xp.maximum((excess[:, None] + excess) / 2, self.min_curvature)
        return (z - z.T) / 2

    def retract(self, W, D):
        """W rotated by the skew matrix D."""
        return cayley_rotation(W, D, self.xp)


class GeneralLinearGroup(Manifold):
    """Picard: any invertible W.  Loss -log|det W| + Σ s_i E G(y_i), and + Σ E y_i²/2 when extended.

    The gradient is E ψ(y) yᵀ - I with the score ψ = s g, and ψ = s g + y when extended.
    """

    squares = "matrix"

    def project(self, W):
        return W

    def signs(self, W, at):
        excess = at.slope * self.oracle.power(W) - self.xp.diagonal(at.cross)
        return self.xp.where(excess < 0, -1.0, 1.0) if self.extended else self.xp.ones(len(W))

    def loss(self, W, at, sign):
        loss = (sign * at.loss).sum() - self.xp.linalg.slogdet(W)[1]
        return loss + self.oracle.power(W).sum() / 2 if self.extended else loss

    def gradient(self, W, at, sign):
        gradient = sign[:, None] * at.cross - self.xp.eye(len(W))
        return gradient + W @ self.oracle.covariance() @ W.T if self.extended else gradient

    def error(self, W, at, sign, power=None):
        """sqrt(Var(ψ(y_i) y_j) / n)."""
        xp, square = self.xp, at.square
        power = self.oracle.power(W) if power is None else power
        if self.extended:
            square = square + 2 * sign * xp.diagonal(at.cross) + power
        variance = square[:, None] * power
        if at.squares:
            products, middles, powers = at.squares
            mean = sign[:, None] * at.cross
            if self.extended:
                products = products + 2 * sign[:, None] * middles + powers
                mean = mean + W @ self.oracle.covariance() @ W.T
            variance = xp.maximum(products - mean**2, 0.01 * variance)
        return xp.sqrt(variance / self.oracle.n_effective)

    def precondition(self, q, W, at, sign):
        """The Hessian has a block [h_ij 1; 1 h_ji] for the pair i, j, with h_ij = E ψ'(y_i) E y_j²."""
        curvature = sign * at.slope + 1 if self.extended else at.slope
        h = curvature[:, None] * self.oracle.power(W)
        smallest = (h + h.T - self.xp.sqrt((h - h.T) ** 2 + 4)) / 2
        off_diagonal = 1 - self.xp.eye(len(W))
        h = h + off_diagonal * self.xp.maximum(self.min_curvature - smallest, 0)
        solved = (h.T * q - q.T) / (off_diagonal * (h * h.T - 1) + (1 - off_diagonal))
        diagonal = q / (1 + self.xp.maximum(h, self.min_curvature))
        return off_diagonal * solved + (1 - off_diagonal) * diagonal

    def retract(self, W, D):
        return W + D @ W
