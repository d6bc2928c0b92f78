"""The gradient in standard errors: when tol="auto" has converged, and beyond what a fit has not, whatever its rule.

The entries of a relative gradient (k, k) are means over n rows, so each has a standard error sqrt(Var / n).  Optimising
far below it fits the noise of the sample.
"""

import math

import numpy as np

LARGEST_RMS = 0.5  # of a component's entries: the error of optimisation adds a quarter to the variance of sampling
FAR = 10.0  # an entry beyond is no noise: the largest of 10,000² normal numbers is about 6
FIRST_REDUCTION = 4.0  # factor by which the first iteration is expected to reduce the distance from convergence
TINY = float(np.finfo(np.float64).tiny)


def largest_noise(k):
    """About the largest of k² standard normal numbers, sqrt(2 log k²); at least 1."""
    return max(1.0, 2 * math.log(k) ** 0.5)


def in_errors(gradient, error, xp=np):
    """The entries of |gradient| (k, k) in standard errors (k, k); 0 where both are 0."""
    return xp.abs(gradient) / xp.maximum(error, TINY)


def distance(z, xp=np):
    """(k,) the distance of each component from convergence, which it has reached below 1.

    z: (k, k) gradient in standard errors.  A row has converged when its root mean square is below LARGEST_RMS and no
    entry is beyond `largest_noise`: a mean over k entries hides one pair of components that are still mixed.
    """
    rms = xp.sqrt((z * z).mean(axis=1))
    return xp.maximum(rms / LARGEST_RMS, z.max(axis=1) / largest_noise(len(z)))


def quantile(distances, share, xp=np):
    """The smallest number that a share of the distances (k,) does not exceed, 0-d."""
    count = max(math.ceil(share * len(distances) - 1e-9), 1)
    return xp.sort(distances)[count - 1]


def expects_convergence(now, before):
    """Whether the next iteration is likely to converge: the distance falls by the factor it fell by last, or more.

    now, before: the distance at this iteration and at the one before, or None.
    """
    reduction = 1 / FIRST_REDUCTION if before is None else min(1.0, now / max(before, TINY))
    return now * reduction < 1.2
