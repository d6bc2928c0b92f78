"""Whitening: from the moments of the rows to a matrix that makes them uncorrelated with variance 1.

Principal directions are computed from the covariance, summed over rows in float64, not from a decomposition of the
data.  Its eigenvalues alone would lose singular values below 1e-8 of the largest; `by_svd` recovers them by scaling the
features to unit variance first, and, for float64 data that need it, by computing the covariance once more in
coordinates in which it is nearly the identity (the idea of CholeskyQR2: Yamamoto et al. 2015, ETNA 44).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import kernels
from .protocol import WhiteningOracle

DOUBLE = float(np.finfo(np.float64).eps)
TINY = float(np.finfo(np.float64).tiny)
MAX_SKEWNESS = 0.1  # error of the variance and covariances of a whitened direction that is resolved


@dataclass(frozen=True)
class Spectrum:
    """The covariance of the rows as directions and standard deviations.

    mean: (d,), or another center of the covariance.  directions: (d, m), orthonormal columns u, signs fixed by the
    first feature.  deviations: (m,), standard deviations along them, descending.  rank: the number of deviations above
    rounding noise.  kept: the number of directions that are kept.
    """

    mean: Any
    directions: Any
    deviations: Any
    rank: int
    kept: int

    def cut(self, n_components):
        """The same spectrum, of which the first n_components directions are kept."""
        return replace(self, kept=n_components)

    @property
    def whitening(self):
        """(kept, d): rows u / deviation, so that whitening @ (x - mean) is white."""
        return (self.directions[:, : self.kept] / self.deviations[: self.kept]).T

    @property
    def unwhitening(self):
        """(d, kept): the pseudo-inverse of `whitening`, columns u * deviation."""
        return self.directions[:, : self.kept] * self.deviations[: self.kept]

    def variances(self, components):
        """(k,) variances of components @ x; components: (k, d)."""
        return (((components @ self.directions) * self.deviations) ** 2).sum(axis=1)


def by_svd(oracle: WhiteningOracle, *, eps):
    """Principal directions to the accuracy of a singular value decomposition.

    oracle: a `protocol.WhiteningOracle`.  eps: rounding unit of the rows' dtype.
    """
    xp = oracle.xp
    if oracle.n_rows < oracle.n_features:
        return _few_rows(oracle, eps)
    mean, covariance = oracle.moments()
    variance = xp.diagonal(covariance)
    varies = variance > eps**2 * (mean**2 + variance)
    scale = xp.sqrt(xp.where(varies, variance, 0))  # a constant feature is ignored
    unscale = xp.where(varies, 1 / (scale + ~varies), 0)
    eigenvalues, vectors = xp.linalg.eigh(covariance * unscale[:, None] * unscale)
    floor = oracle.n_features * DOUBLE * float(eigenvalues[-1])
    roots = xp.sqrt(xp.maximum(eigenvalues, floor))
    factor = (scale[:, None] * vectors * roots).T  # covariance = factorᵀ factor
    if eps < 1e-10 and float(eigenvalues[0]) < DOUBLE**0.5 * float(eigenvalues[-1]):
        _, again = oracle.projected_moments(mean, (vectors * unscale[:, None] / roots).T)
        eigenvalues, vectors = xp.linalg.eigh(again)
        factor = (vectors * xp.sqrt(xp.maximum(eigenvalues, 0))).T @ factor
    if kernels.products_pay(factor) and (found := _by_products(xp, factor, mean, variance, eps)):
        directions, deviations = found
        return _spectrum(xp, mean, directions, deviations, variance, eps)
    _, deviations, vectors = xp.linalg.svd(factor)
    resolved = _skewness(xp, factor, vectors.T, deviations) < MAX_SKEWNESS
    return _spectrum(xp, mean, vectors.T, deviations, variance, eps, resolved=resolved)


def _by_products(xp, factor, mean, variance, eps):
    """Directions (d, d) and deviations (d,) of covariance = factorᵀ factor by an eigendecomposition, or None where a
    singular value decomposition of the factor would be more accurate than rows of eps need.

    On an H200 it takes 26 ms and the other 391 ms for d = 2,048.  Its error is relative to the largest eigenvalue:
    whitened directions that exist must be white to eps^3/4, and those that do not must be recognised as noise.
    factor: (d, d); mean, variance: (d,) of the features.
    """
    eigenvalues, vectors = xp.linalg.eigh(factor.T @ factor)
    directions, deviations = vectors[:, ::-1], xp.sqrt(xp.maximum(eigenvalues[::-1], 0))
    noise = _noise(xp, mean, directions, variance, eps)
    white = _skewness(xp, factor, directions, deviations) < eps**0.75
    certain = xp.where(deviations > noise, white, noise > deviations[0] * (8 * DOUBLE) ** 0.5)
    return (directions, deviations) if bool(certain.all()) else None


def _skewness(xp, factor, directions, deviations):
    """(d,) the largest error of the covariances of each whitened direction with itself and those before it."""
    white = factor @ (directions / xp.maximum(deviations, DOUBLE**2 * deviations[0] + TINY))
    return xp.abs(xp.tril(white.T @ white) - xp.eye(len(deviations))).max(axis=1)


def by_eigh(oracle: WhiteningOracle, *, eps):
    """Principal directions by one eigendecomposition of the covariance: cheap, but limited to 1e-8 of the largest.

    oracle: a `protocol.WhiteningOracle`.  eps: rounding unit of the rows' dtype.
    """
    if oracle.n_rows < oracle.n_features:
        return _few_rows(oracle, eps)
    return of_covariance(*oracle.moments(), eps=eps, xp=oracle.xp)


def of_covariance(mean, covariance, *, eps, xp=np):
    """The spectrum of a mean (d,) and covariance (d, d), by one eigendecomposition."""
    eigenvalues, vectors = xp.linalg.eigh(covariance)
    deviations = xp.sqrt(xp.maximum(eigenvalues[::-1], 0))
    least = float(deviations[0]) * (len(mean) * DOUBLE) ** 0.5
    return _spectrum(xp, mean, vectors[:, ::-1], deviations, xp.diagonal(covariance), eps, least)


def _few_rows(oracle: WhiteningOracle, eps):
    """The spectrum of fewer rows than features, by a decomposition of the data: the covariance would be larger."""
    xp = oracle.xp
    mean, centered = oracle.centered()
    _, deviations, directions = xp.linalg.svd(centered, full_matrices=False)
    variance = (centered.astype(np.float64) ** 2).sum(axis=0) / oracle.weight
    deviations = deviations.astype(np.float64) / oracle.weight**0.5
    return _spectrum(xp, mean, directions.T.astype(np.float64), deviations, variance, eps)


def _spectrum(xp, mean, directions, deviations, variance, eps, least=0.0, resolved=True):
    """Fix signs and compute the rank: a direction exists if its deviation exceeds `_noise`, and `least`.

    variance: (d,) of the features.  resolved: (m,) booleans, which directions the decomposition resolved, or True.
    Its error is relative to the largest deviation, so that a direction of 1e-17 of that cannot be whitened (trained
    LayerNorms have gains of 1e-33).
    """
    directions = directions * xp.where(directions[0] < 0, -1.0, 1.0)
    noise = _noise(xp, mean, directions, variance, eps)
    exists = (deviations > xp.maximum(noise, least)) & resolved
    rank = int(exists.sum())
    if rank < len(deviations):  # noise can exceed deviations that exist: it is put last
        order = xp.concatenate([xp.nonzero(exists)[0], xp.nonzero(~exists)[0]])
        directions, deviations = directions[:, order], deviations[order]
    return Spectrum(mean, directions, deviations, rank, kept=rank)


def _noise(xp, mean, directions, variance, eps):
    """(m,) the standard deviation of rounding errors along each of the directions (d, m).

    The numbers of feature j are rounded once, which is noise of at most eps / √12 times their root mean square
    (Bennett, Bell System Technical Journal 27, 1948); eps is assumed, the noise of a dozen roundings.  The products
    that the numbers were computed by, and those of this package, round the deviations from the mean, for which
    (10 + √d) eps of the feature's standard deviation is assumed.
    """
    d = len(directions)
    of_products = (10 + d**0.5) * eps + d * DOUBLE
    square = of_products**2 * variance + eps**2 * (mean**2 + variance)
    return xp.sqrt((square[:, None] * directions**2).sum(axis=0))


WHITENERS = {"svd": by_svd, "eigh": by_eigh}
