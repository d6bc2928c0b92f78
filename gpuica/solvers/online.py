"""ICA of rows that arrive in batches and are not kept: running moments, and a step of Picard-O for each batch.

The mean and covariance are those of all rows so far.  The unmixing matrix makes one quasi-Newton step for each batch,
of length 2 n / N for a batch of n rows after N in all.  Steps of n / N would average the Newton steps of the batches,
which has the smallest variance but retains the first estimate forever; twice that forgets it like 1 / N², for a third
more variance (c² / (2c - 1) for a factor c: Polyak and Juditsky, SIAM J. Control and Optimization 30, 1992).
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .manifolds import rotation_error, rotation_gradient
from .orthonormal import orthonormal
from .protocol import LikelihoodOracle
from .stopping import within_error, z_scores
from .whitening import of_covariance

# An entry of a batch's gradient is clipped to so many standard errors, unless earlier batches agree with it: one row of
# a heavy tail must not decide a step.
CLIP = 5.0
MAX_ANGLE = 0.3  # radians by which a step can rotate a component


@dataclass(frozen=True)
class RunningMoments:
    """Moments of the rows so far, and the whitening that they imply.

    weight: Σ w of the rows.  mean: (d,).  covariance: (d, d).  whitening: K (k, d), K covariance Kᵀ = I.  refreshed:
    the weight when K was last computed from the principal directions.
    """

    weight: float
    mean: Any
    covariance: Any
    whitening: Any
    refreshed: float

    @property
    def rank(self):
        """The number of components that are kept."""
        return len(self.whitening)

    @property
    def unwhitening(self):
        """(d, k), the pseudo-inverse of K."""
        return self.covariance @ self.whitening.T

    def variances(self, components):
        """(k,) variances of components @ x; components: (k, d)."""
        return ((components @ self.covariance) * components).sum(axis=1)

    def with_batch(self, weight, mean, covariance, xp=np):
        """The moments after one more batch, of this weight, mean and covariance (Chan, Golub, LeVeque 1983).

        K is multiplied by the symmetric matrix that makes it white again, which rotates the components least.
        """
        total = self.weight + weight
        fraction, drift = weight / total, mean - self.mean
        covariance = (1 - fraction) * self.covariance + fraction * covariance
        covariance = covariance + fraction * (1 - fraction) * drift[:, None] * drift
        K = self.whitening
        eigenvalues, vectors = xp.linalg.eigh(K @ covariance @ K.T)
        eigenvalues = xp.maximum(eigenvalues, float(np.finfo(np.float64).eps))
        K = (vectors / xp.sqrt(eigenvalues)) @ (vectors.T @ K)
        return RunningMoments(total, self.mean + fraction * drift, covariance, K, self.refreshed)

    def refresh_whitening(self, W, *, eps, xp=np):
        """Compute K from the principal directions again, if the weight has doubled since it was last done.

        Returns the moments, and W (k, k) changed so that W K stays the same as far as it can.  eps: rounding unit of
        the rows.
        """
        k = len(self.whitening)
        if self.weight < 2 * self.refreshed:
            return self, W
        spectrum = of_covariance(self.mean, self.covariance, eps=eps, xp=xp)
        if spectrum.rank < k:
            return self, W
        spectrum = spectrum.cut(k)
        W = orthonormal(W @ self.whitening @ spectrum.unwhitening, xp)
        return replace(self, whitening=spectrum.whitening, refreshed=self.weight), W


class RunningAverages(NamedTuple):
    """Averages over batches, with larger weights of later ones, for sources y.

    cross: E g(y) yᵀ (k, k).  slope: E g'(y), (k,).  square: E g(y)², (k,).  gradient: the clipped gradient (k, k).
    """

    cross: Any
    slope: Any
    square: Any
    gradient: Any


class OnlineStep(NamedTuple):
    """The outcome of `online_step`.

    W: (k, k), after the step.  average: the `RunningAverages` with this batch.  delta: (k,), 1 - cos of the angle that
    each component was rotated by.  converged_components: (k,) booleans.  gradient: the largest entry of the averaged
    gradient in each row, (k,).  z: the same in standard errors of all rows so far.
    """

    W: Any
    average: Any
    delta: Any
    converged_components: Any
    gradient: Any
    z: Any


def online_step(oracle: LikelihoodOracle, W, covariance, average, n_seen, *, tol, floor=0.01):
    """One step of Picard-O on one batch of rows, which is nearly white.  One pass over it.

    oracle: a `protocol.LikelihoodOracle` of the batch.  W: (k, k), orthonormal.  covariance: (k, k), of the batch.
    average: the `RunningAverages` of earlier steps, or None.  n_seen: effective rows so far, with this batch.  tol: a
    bound for delta of a converged component, or "auto": its step is below half the standard error that n_seen rows
    leave.  floor: of the curvature.  Curvatures and standard errors are averages over batches, so that a batch does not
    determine its own.  Returns an `OnlineStep`.
    """
    xp, n = oracle.xp, oracle.n_effective
    rate = min(0.5, 2 * n / n_seen)
    at = oracle.likelihood(W)
    cross = _decorrelated(at, W @ covariance @ W.T, xp)
    before = average or RunningAverages(cross, at.slope, at.square, xp.zeros(W.shape))
    excess = before.slope - xp.diagonal(before.cross)
    sign = xp.where(excess < 0, -1.0, 1.0)
    curvature = xp.maximum((abs(excess)[:, None] + abs(excess)) / 2, floor)
    error = rotation_error(before.cross, before.square, xp.ones(len(W)), sign, n, xp)
    gradient = rotation_gradient(cross, at.slope, sign, xp)
    bound = xp.maximum(CLIP * error, 2 * xp.abs(before.gradient))
    gradient = xp.minimum(xp.maximum(gradient, -bound), bound)
    rotation = -rate * gradient / curvature
    largest = xp.sqrt((rotation * rotation).sum(axis=1)).max()
    rotation = rotation * (MAX_ANGLE / xp.maximum(largest, MAX_ANGLE))
    new = orthonormal(W + rotation @ W + rotation @ rotation @ W / 2, xp)
    delta = xp.abs(1 - xp.abs((new * W).sum(axis=1)))
    uncertainty = error / curvature * (n / n_seen) ** 0.5  # standard error of the angles, from n_seen rows
    converged_components = within_error(rotation, uncertainty) if tol == "auto" else delta < tol
    batch = RunningAverages(cross, at.slope, at.square, gradient)
    average = RunningAverages(*(a + rate * (b - a) for a, b in zip(before, batch, strict=True)))
    z = z_scores(average.gradient, error * (n / n_seen) ** 0.5, xp).max(axis=1)
    return OnlineStep(new, average, delta, converged_components, xp.abs(average.gradient).max(axis=1), z)


def _decorrelated(at, covariance, xp):
    """E g(y) yᵀ (k, k) as if the batch were white, to first order in E, its covariance (k, k) less I.

    The rows so far are white, a batch is not, and between sources of unlike signs its covariance would be mistaken for
    a rotation: (I - E/2) y in place of y subtracts (E g'(y_i) + E g(y_i) y_i) E_ij / 2 from entry i, j.
    """
    excess = covariance - xp.eye(len(covariance))
    return at.cross - (at.slope + xp.diagonal(at.cross))[:, None] * excess / 2
