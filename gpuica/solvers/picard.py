"""Picard: maximum-likelihood ICA by preconditioned L-BFGS, over rotations (Picard-O) or over all matrices (Picard).

Ablin, Cardoso, Gramfort, "Faster independent component analysis by preconditioning with Hessian approximations", IEEE
Trans. Signal Processing 66(15), 2018 (arXiv 1706.08171); "Faster ICA under orthogonal constraint", ICASSP 2018 (arXiv
1711.10873).

It converges where FastICA oscillates, because every step must lower the loss.  The whole likelihood is evaluated at
the full step first: where that is accepted, nearly always, an iteration costs one pass.  Near the minimum, where the
change of the loss is below its rounding error, the slope along the step decides instead (Hager and Zhang, SIAM J.
Optimization 16, 2005).
"""

from collections import deque
from typing import Any, NamedTuple

import numpy as np

from .manifolds import GeneralLinearGroup, OrthogonalGroup
from .multistart import Likelihood, Solver
from .protocol import LikelihoodOracle
from .solution import Solution
from .stopping import StoppingRule, quantile


@Solver
def picard(
    oracle: LikelihoodOracle,
    W,
    *,
    max_iter,
    tol,
    by="gradient",
    fraction=1.0,
    ortho=True,
    extended=True,
    memory=7,
    ls_tries=10,
    lambda_min=0.01,
    final=True,
    report=None,
):
    """Minimise the loss by L-BFGS from W (k, k).  About one pass per iteration.

    oracle: a `protocol.LikelihoodOracle`.  tol: a bound for the largest entry of the relative gradient, by="gradient",
    or for 1 - cos of the angle that the next step would rotate each component by, by="delta", which is FastICA's rule:
    a gradient can be small far from a solution, where all sources are a mixture of many and nearly Gaussian; the
    solver continues while a z-score of the gradient exceeds `stopping.MAX_Z`.  Or "auto": every component's entries
    within half their standard error, sqrt(Var / n), in root mean square, beyond which there is little to learn from n
    rows, and none beyond the largest of noise (`stopping.distance`); Var is measured on the rows.
    fraction: of the components that must have converged.  ortho: whether W is orthonormal.  extended: whether sources
    have signs.  memory: pairs that L-BFGS keeps.  ls_tries: halvings of a step.  lambda_min: floor of the curvature.
    final: False for a stage on a sample, where "auto" is `stopping.within_error`, with the standard errors of
    independent sources.  report: called with (n_iter, largest gradient of each component, converged components,
    n_rows) at each iteration.
    """
    xp, pairs = oracle.xp, _Pairs(memory)
    manifold = (OrthogonalGroup if ortho else GeneralLinearGroup)(oracle, extended=extended, min_curvature=lambda_min)
    rule = StoppingRule(manifold, tol, by, final)
    W = manifold.project(W)
    at = yield Likelihood(W, manifold.squares if rule.exact and max_iter == 0 else None)
    sign = manifold.signs(W, at)
    gradient, losses = manifold.gradient(W, at, sign), []
    delta, apart_before = xp.zeros(len(W)), None
    for n_iter in range(max_iter + 1):
        converged_components, distances = rule.evaluate(W, at, sign, gradient)
        direction = -pairs.solve(gradient, lambda q: manifold.precondition(q, W, at, sign))  # noqa: B023
        outcome = manifold.loss(W, at, sign), converged_components.mean(), quantile(distances, fraction, xp)
        slope = (gradient * direction).sum()
        loss, reached, apart, size, slope = _numbers(xp, *outcome, xp.abs(at.loss).sum(), slope)
        if reached >= fraction and rule.exact and not at.squares:  # not predicted: a pass more
            at = yield Likelihood(W, manifold.squares)
            converged_components, distances = rule.evaluate(W, at, sign, gradient)
            reached, apart = _numbers(xp, converged_components.mean(), quantile(distances, fraction, xp))
        losses.append(loss)
        converged = reached >= fraction
        if report:
            report(n_iter, xp.abs(gradient).max(axis=1), converged_components, oracle.n_rows)
        if converged or n_iter == max_iter:
            break
        squares = manifold.squares if rule.measures_next(apart, apart_before, n_iter + 1 == max_iter) else None
        point, apart_before = _Point(W, sign, gradient, loss, oracle.rounding * size), apart
        found = yield from _search(manifold, point, direction, slope, ls_tries, squares)
        if found is None:
            pairs.clear()
            slope = float((gradient * -gradient).sum())
            found = yield from _search(manifold, point, -gradient, slope, ls_tries, squares)
        if found is None:  # no step along the gradient lowers the loss: what is left is rounding
            break
        pairs.update(found, gradient)
        delta = 1 - xp.abs((found.W * W).sum(axis=1)) / xp.sqrt((found.W * found.W).sum(axis=1) * (W * W).sum(axis=1))
        W, at, sign, gradient = found.W, found.at, found.sign, found.gradient
        oracle.accept(W)
        if found.flips:
            gradient = manifold.gradient(W, at, sign)
    z = rule.z_scores(W, at, sign, gradient).max(axis=1)
    largest, excess = xp.abs(gradient).max(axis=1), sign * (at.slope - xp.diagonal(at.cross)) / at.slope
    return Solution(W, n_iter, delta, converged, converged_components, largest, tuple(losses), z=z, excess=excess)


class _Point(NamedTuple):
    """Where a line search starts: W (k, k), signs (k,), gradient (k, k), the loss and its rounding error."""

    W: Any
    sign: Any
    gradient: Any
    loss: float
    rounding: float


class _Accepted(NamedTuple):
    """Where a line search ends: W (k, k), the likelihood at W, the step from the start (k, k).

    gradient: (k, k), with the signs of the start.  sign: (k,) new signs.  curvature: Σ step * (change of the
    gradient).  flips: whether a sign changed.
    """

    W: Any
    at: Any
    step: Any
    gradient: Any
    sign: Any
    curvature: float
    flips: bool


def _search(manifold, point, direction, slope, tries, squares=None):
    """Halve the step until it is accepted; an `_Accepted`, or None.  A generator of requests.

    slope: Σ gradient * direction at the start.  squares: for `oracle.likelihood`.  Every try is one wait
    for a device, in `_numbers`.
    """
    size = 1.0
    for _ in range(tries):
        step = size * direction
        new = manifold.retract(point.W, step)
        at = yield Likelihood(new, squares)
        with np.errstate(invalid="ignore", over="ignore"):  # too long a step; the loss shows it
            gradient, sign = manifold.gradient(new, at, point.sign), manifold.signs(new, at)
            loss, new_slope, curvature, flips = _numbers(
                manifold.xp,
                manifold.loss(new, at, point.sign),
                (gradient * direction).sum(),
                (step * (gradient - point.gradient)).sum(),
                abs(sign - point.sign).sum(),
            )
        flat = abs(new_slope) <= 0.8 * abs(slope)
        lower, level = (
            loss < point.loss - point.rounding,
            loss < point.loss + point.rounding,
        )
        if np.isfinite(loss) and (lower or (level and flat)):
            return _Accepted(new, at, step, gradient, sign, curvature, bool(flips))
        size /= 2
    return None


class _Pairs:
    """The last steps and changes of the gradient, (k, k) each, from which L-BFGS approximates the inverse Hessian."""

    def __init__(self, memory):
        self.pairs: deque[Any] = deque(maxlen=memory)

    def update(self, found, gradient):
        """Add an `_Accepted` step from a point with this gradient; start again where a sign of the loss changed."""
        if found.flips:
            self.pairs.clear()
        elif found.curvature > 0:
            self.pairs.append((found.step, found.gradient - gradient, 1 / found.curvature))

    def clear(self):
        """Drop all pairs."""
        self.pairs.clear()

    def solve(self, gradient, precondition):
        """The inverse Hessian times the gradient (k, k): Nocedal and Wright, Numerical Optimization, algorithm 7.4.

        precondition: multiplies by its first approximation.
        """
        q, weights = gradient, []
        for step, change, inverse in reversed(self.pairs):
            weights.append(inverse * (step * q).sum())
            q = q - weights[-1] * change
        z = precondition(q)
        for (step, change, inverse), weight in zip(self.pairs, reversed(weights), strict=True):
            z = z + (weight - inverse * (change * z).sum()) * step
        return z


def _numbers(xp, *scalars):
    """0-d arrays as Python numbers, by one wait for a device."""
    return xp.concatenate([scalar.reshape(1) for scalar in scalars]).tolist()
