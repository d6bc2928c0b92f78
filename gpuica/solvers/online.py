"""ICA of rows that come in batches and are not kept: running moments, and steps of Picard-O from batch to batch.

The mean and covariance are those of all rows seen.  The unmixing matrix makes one quasi-Newton step for each batch, of
length 2 n / N for a batch of n rows after N in all: steps of n / N would average what each batch asks for, which has
the smallest variance but never forgets the first guess; twice that forgets it like 1 / N², for a third more variance
(c² / (2c - 1) for a factor c: Polyak and Juditsky, SIAM J. Control and Optimization 30, 1992).
"""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from .fastica import orthonormal, rotation_error, rotation_gradient, within_error
from .stopping import in_errors
from .whitening import of_covariance

# Standard errors that an entry of one batch's gradient may count for, where batches before did not say the same: a row
# of a heavy tail is one row.
LIMIT = 5.0
LONGEST = 0.3  # radians that a step may turn a component by


@dataclass(frozen=True)
class RunningMoments:
    """What is known of the rows so far, and the whitening that goes with it.

    weight: Σ w of the rows.  mean (d,), covariance (d, d).  whitening K (k, d): K covariance Kᵀ = 1.  renewed: the
    weight when the directions of K were computed afresh.
    """

    weight: float
    mean: Any
    covariance: Any
    whitening: Any
    renewed: float

    @property
    def rank(self):
        return len(self.whitening)

    @property
    def unwhitening(self):
        """(d, k), the inverse of K on what it keeps."""
        return self.covariance @ self.whitening.T

    def variances(self, components):
        """(k,) variances of components @ x; components: (k, d)."""
        return ((components @ self.covariance) * components).sum(axis=1)

    def with_batch(self, weight, mean, covariance, xp=np):
        """The same after one batch more, of this weight, mean and covariance (Chan, Golub, LeVeque 1983).

        K is corrected by the symmetric root that makes it white again: no more of a turn than needed.
        """
        total = self.weight + weight
        share, drift = weight / total, mean - self.mean
        covariance = (1 - share) * self.covariance + share * covariance
        covariance = covariance + share * (1 - share) * drift[:, None] * drift
        K = self.whitening
        eigenvalues, vectors = xp.linalg.eigh(K @ covariance @ K.T)
        eigenvalues = xp.maximum(eigenvalues, float(np.finfo(np.float64).eps))
        K = (vectors / xp.sqrt(eigenvalues)) @ (vectors.T @ K)
        return RunningMoments(total, self.mean + share * drift, covariance, K, self.renewed)

    def renew(self, W, *, eps, xp=np):
        """With the principal directions of the present covariance, and W (k, k) so that W K stays as it is as far as it
        can, if the rows have doubled since this was done last.  eps: rounding unit of the rows."""
        k = len(self.whitening)
        if self.weight < 2 * self.renewed:
            return self, W
        spectrum = of_covariance(self.mean, self.covariance, eps=eps, xp=xp)
        if spectrum.rank < k:
            return self, W
        spectrum = spectrum.cut(k)
        W = orthonormal(W @ self.whitening @ spectrum.unwhitening, xp)
        return replace(self, whitening=spectrum.whitening, renewed=self.weight), W


class RunningAverages(NamedTuple):
    """Averages over batches, the later counting more.  cross E g(y) yᵀ (k, k), slope E g'(y) and square E g(y)² (k,) of
    the sources; gradient (k, k), as far as it counted."""

    cross: Any
    slope: Any
    square: Any
    gradient: Any


class Step(NamedTuple):
    """W (k, k) after the step; average: the `RunningAverages` with this batch; delta (k,): 1 - cos of the turns;
    converged_components (k,); gradient: the largest entry of the averaged gradient in each row, (k,); z: the same in
    standard errors of all rows seen."""

    W: Any
    average: Any
    delta: Any
    converged_components: Any
    gradient: Any
    z: Any


def online_step(oracle, W, covariance, average, n_seen, *, tol, floor=0.01):
    """One step of Picard-O on the batch of the oracle, which is nearly white.  One pass over it.

    W: (k, k), orthonormal.  covariance: (k, k), of the batch.  average: the `RunningAverages` of the steps before, or
    None.  n_seen: effective rows seen, with this batch.  tol: a bound for the change of a converged component, or
    "auto": its step is below half the standard error that n_seen rows leave.  Curvatures and standard errors are
    averages over batches, so that one batch cannot set its own.
    """
    xp, n = oracle.xp, oracle.n_effective
    rate = min(0.5, 2 * n / n_seen)
    at = oracle.likelihood(W)
    cross = _decorrelated(at, W @ covariance @ W.T, xp)
    usual = average or RunningAverages(cross, at.slope, at.square, xp.zeros(W.shape))
    excess = usual.slope - xp.diagonal(usual.cross)
    sign = xp.where(excess < 0, -1.0, 1.0)
    curvature = xp.maximum((abs(excess)[:, None] + abs(excess)) / 2, floor)
    error = rotation_error(usual.cross, usual.square, xp.ones(len(W)), sign, n, xp)
    gradient = rotation_gradient(cross, at.slope, sign, xp)
    most = xp.maximum(LIMIT * error, 2 * xp.abs(usual.gradient))
    gradient = xp.minimum(xp.maximum(gradient, -most), most)
    turn = -rate * gradient / curvature
    longest = xp.sqrt((turn * turn).sum(axis=1)).max()
    turn = turn * (LONGEST / xp.maximum(longest, LONGEST))
    new = orthonormal(W + turn @ W + turn @ turn @ W / 2, xp)
    delta = xp.abs(1 - xp.abs((new * W).sum(axis=1)))
    unknown = error / curvature * (n / n_seen) ** 0.5  # what n_seen rows cannot tell, as a turn
    converged_components = within_error(turn, unknown) if tol == "auto" else delta < tol
    batch = RunningAverages(cross, at.slope, at.square, gradient)
    average = RunningAverages(*(a + rate * (b - a) for a, b in zip(usual, batch, strict=True)))
    z = in_errors(average.gradient, error * (n / n_seen) ** 0.5, xp).max(axis=1)
    return Step(new, average, delta, converged_components, xp.abs(average.gradient).max(axis=1), z)


def _decorrelated(at, covariance, xp):
    """E g(y) yᵀ as it would be if the batch were white itself, to first order in its covariance (k, k) less 1.

    The rows so far are white, a batch is not, and for sources of unlike signs its covariance would be taken for a turn:
    (I - E/2) y in place of y, E the covariance less 1, takes (E g'(y_i) + E g(y_i) y_i) E_ij / 2 from entry i, j.
    """
    excess = covariance - xp.eye(len(covariance))
    return at.cross - (at.slope + xp.diagonal(at.cross))[:, None] * excess / 2
