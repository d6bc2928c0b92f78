"""Convergence in units of standard errors: the rule of tol="auto", and a bound on the gradient of every converged fit.

An entry of a relative gradient (k, k) is a mean over n rows, with the standard error sqrt(Var / n).  Optimising far
below it fits the noise of the sample.
"""

import math

import numpy as np

MAX_RMS = 0.5  # of a component's z-scores: the error of optimisation then adds a quarter to the sampling variance
MAX_Z = 10.0  # no z-score of a solution is larger: the largest of 10,000² standard normal numbers is about 6
FIRST_REDUCTION = 4.0  # factor by which the first iteration is expected to reduce the distance from convergence
TINY = float(np.finfo(np.float64).tiny)


def expected_max_noise(k):
    """About the largest of k² standard normal numbers, sqrt(2 log k²); at least 1."""
    return max(1.0, 2 * math.log(k) ** 0.5)


def z_scores(gradient, error, xp=np):
    """|gradient| / error, entry by entry; 0 where both are 0.  gradient: (k, k); error: (k, k) standard errors."""
    return xp.abs(gradient) / xp.maximum(error, TINY)


def within_error(gradient, error):
    """(k,) booleans: sqrt(mean_j (gradient_ij / error_ij)²) < MAX_RMS, for a gradient and standard errors (k, k).

    The error of optimisation then adds less than a quarter to the variance that sampling leaves in a component.
    """
    return ((gradient / error) ** 2).mean(axis=1) < MAX_RMS**2


def distance(z, xp=np):
    """The distance of each component from convergence, (k,); a component has converged where it is below 1.

    max(sqrt(mean_j z_ij²) / MAX_RMS, max_j z_ij / expected_max_noise(k)) for z-scores z (k, k).  The second term is
    there because a mean over k entries hides one pair of components that are still mixed.
    """
    rms = xp.sqrt((z * z).mean(axis=1))
    return xp.maximum(rms / MAX_RMS, z.max(axis=1) / expected_max_noise(len(z)))


def quantile(distances, fraction, xp=np):
    """The smallest number that at least this fraction of the distances (k,) does not exceed, 0-d."""
    count = max(math.ceil(fraction * len(distances) - 1e-9), 1)
    return xp.sort(distances)[count - 1]


def expects_convergence(now, before):
    """Whether the next iteration is likely to converge: now * min(1, now / before) < 1.2.

    now, before: `distance` at this iteration and at the previous one, which is None at the first; it is then expected
    to fall by FIRST_REDUCTION.
    """
    reduction = 1 / FIRST_REDUCTION if before is None else min(1.0, now / max(before, TINY))
    return now * reduction < 1.2


class StoppingRule:
    """Which components have converged, on a manifold of `solvers.manifolds`: the tol, by and final of `picard`.

    exact: whether the standard errors must be measured on the rows before the rule can be met.
    """

    def __init__(self, manifold, tol, by, final):
        self.manifold, self.tol, self.final, self.xp = manifold, tol, final, manifold.xp
        self.by = "error" if tol == "auto" else by
        self.exact = final and self.by == "error"

    def z_scores(self, W, at, sign, gradient):
        """The entries of the gradient in standard errors, (k, k)."""
        power = None if self.by == "error" else self.manifold.oracle.known_power(W)
        return z_scores(gradient, self.manifold.error(W, at, sign, power), self.xp)

    def evaluate(self, W, at, sign, gradient):
        """Which components have converged, (k,) booleans, and their distances from convergence, (k,).

        Distances are infinite where the rule does not depend on standard errors measured on the rows.
        """
        xp, unknown = self.xp, self.xp.zeros(len(W)) + np.inf
        if self.exact:
            distances = distance(self.z_scores(W, at, sign, gradient), xp)
            return distances < 1, distances
        if self.by == "error":
            return within_error(gradient, self.manifold.error(W, at, sign)), unknown
        if self.by == "delta":
            small = (self.manifold.precondition(gradient, W, at, sign) ** 2).sum(axis=1) / 2 < self.tol
            if self.tol >= 1:  # every step is shorter: one iteration is wanted
                return small, unknown
            distances = xp.where(small, self.z_scores(W, at, sign, gradient).max(axis=1) / MAX_Z, unknown)
            return distances < 1, distances
        return (xp.abs(gradient) < self.tol).all(axis=1), unknown

    def measures_next(self, now, before, is_last):
        """Whether the next iteration must measure standard errors, because it may converge.

        now, before: quantiles of the distances at this iteration and at the previous one, or None.
        """
        if self.by == "delta":
            return now < np.inf
        return self.exact and (is_last or expects_convergence(now, before))
