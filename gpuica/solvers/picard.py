"""Picard: maximum-likelihood ICA by preconditioned L-BFGS, over rotations (Picard-O) or over all matrices (Picard).

Ablin, Cardoso, Gramfort, "Faster independent component analysis by preconditioning with Hessian approximations", IEEE
Trans. Signal Processing 66(15), 2018 (arXiv 1706.08171); "Faster ICA under orthogonal constraint", ICASSP 2018 (arXiv
1711.10873).

It converges where FastICA oscillates, because every step must lower the loss.  The whole likelihood is asked for at
the full step first: where that is accepted, nearly always, an iteration costs one pass.  Near the minimum, where the
change of the loss drowns in rounding, the slope along the step decides instead (Hager and Zhang, SIAM J. Optimization
16, 2005).

With y = W z, contrast G and its derivative g, means over the rows: M = E g(y) yᵀ, and the excess
κ_i = E g'(y_i) E y_i² - M_ii, positive for super-Gaussian sources.  "extended" gives every source the sign of its κ, so
that sub-Gaussian sources are found too.
"""

from collections import deque
from typing import Any

import numpy as np

from . import Solution
from .fastica import rotation_error, rotation_gradient, within_error
from .orthonormal import orthonormal, turned
from .stopping import FAR, distance, expects_convergence, in_errors, quantile


class Rotations:
    """Picard-O: W stays orthonormal and z is white.  Loss Σ s_i E G(y_i); gradient the skew part of s M."""

    squares = "rotation"  # what `error` is made of, see `sums.squares`

    def __init__(self, oracle, *, extended, floor):
        self.oracle, self.xp, self.extended, self.floor = oracle, oracle.xp, extended, floor

    def start(self, W):
        return orthonormal(W, self.xp)

    def signs(self, W, at):
        excess = at.slope - self.xp.diagonal(at.cross)
        return self.xp.where(excess < 0, -1.0, 1.0) if self.extended else self.xp.ones(len(W))

    def loss(self, W, at, sign):
        return (sign * at.loss).sum()

    def gradient(self, W, at, sign):
        return rotation_gradient(at.cross, at.slope, sign, self.xp)

    def error(self, W, at, sign, power=None):
        """The standard error of each entry of the gradient, (k, k): measured where `at` has squares, else as of
        independent sources.  power: E y² (k,), or None: it may cost a pass."""
        power, squares = self.oracle.power(W) if power is None else power, at.squares or None
        return rotation_error(at.cross, at.square, power, sign, self.oracle.n_effective, self.xp, squares)

    def newton(self, q, W, at, sign):
        """The approximate Hessian's inverse times q: on rotations (κ_i + κ_j) / 2 for the pair i, j."""
        excess = sign * (at.slope - self.xp.diagonal(at.cross))
        z = q / self.xp.maximum((excess[:, None] + excess) / 2, self.floor)
        return (z - z.T) / 2

    def move(self, W, D):
        """W turned by the skew matrix D."""
        return turned(W, D, self.xp)


class Matrices:
    """Picard: any invertible W.  Loss -log|det W| + Σ s_i E G(y_i), and Σ E y_i²/2 when extended; ψ = s g (+ y)."""

    squares = "matrix"

    def __init__(self, oracle, *, extended, floor):
        self.oracle, self.xp, self.extended, self.floor = oracle, oracle.xp, extended, floor

    def start(self, W):
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
        """The standard error of each entry of the gradient, (k, k): sqrt(Var(ψ(y_i) y_j) / n), as for `Rotations`."""
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

    def newton(self, q, W, at, sign):
        """The approximate Hessian's inverse times q: the block [h_ij 1; 1 h_ji] for the pair i, j."""
        curvature = sign * at.slope + 1 if self.extended else at.slope
        h = curvature[:, None] * self.oracle.power(W)
        smallest = (h + h.T - self.xp.sqrt((h - h.T) ** 2 + 4)) / 2
        off_diagonal = 1 - self.xp.eye(len(W))
        h = h + off_diagonal * self.xp.maximum(self.floor - smallest, 0)
        solved = (h.T * q - q.T) / (off_diagonal * (h * h.T - 1) + (1 - off_diagonal))
        diagonal = q / (1 + self.xp.maximum(h, self.floor))
        return off_diagonal * solved + (1 - off_diagonal) * diagonal

    def move(self, W, D):
        return W + D @ W


def picard(
    oracle,
    W,
    *,
    max_iter,
    tol,
    by="gradient",
    share=1.0,
    ortho=True,
    extended=True,
    memory=7,
    ls_tries=10,
    lambda_min=0.01,
    final=True,
    report=None,
):
    """Minimise the loss by L-BFGS from W (k, k).  About one pass per iteration.

    oracle: answers `likelihood` (and `covariance`, `power`).  tol: a bound for the largest entry of the relative
    gradient, by="gradient", or for what the next step would turn each component by, 1 - cos of the angle,
    by="delta", which is FastICA's rule: a gradient can be small far from a solution, where all sources are a mixture
    of many and nearly Gaussian; the solver goes on while an entry of the gradient is FAR from 0.  Or "auto": every
    component's entries within half their standard error, sqrt(Var / n), in root mean square, beyond which there is
    little to learn from n rows, and none beyond the largest of noise (`stopping.distance`); Var is that of the rows.
    share: of the components that must be at rest.  memory: pairs that L-BFGS keeps.  ls_tries: halvings of a step.
    lambda_min: floor of the curvature.  final: False for a stage on a sample, where "auto" is `within_error`, with the
    standard errors of independent sources.  report: called with (n_iter, largest gradient of each component, at rest,
    n_rows) at each iteration.
    """
    xp = oracle.xp
    space = (Rotations if ortho else Matrices)(oracle, extended=extended, floor=lambda_min)
    W = space.start(W)
    rule = _Rule(space, tol, by, final)
    at = oracle.likelihood(W, space.squares if rule.exact and max_iter == 0 else None)
    pairs: deque[Any] = deque(maxlen=memory)
    sign = space.signs(W, at)
    gradient, losses = space.gradient(W, at, sign), []
    delta, apart_before = xp.zeros(len(W)), None
    for n_iter in range(max_iter + 1):
        converged_components, distances = rule.evaluate(W, at, sign, gradient)
        direction = -_two_loops(gradient, pairs, lambda q: space.newton(q, W, at, sign))  # noqa: B023
        loss, resting, apart, size, descent = _numbers(
            xp,
            space.loss(W, at, sign),
            converged_components.mean(),
            quantile(distances, share, xp),
            xp.abs(at.loss).sum(),
            (gradient * direction).sum(),
        )
        if resting >= share and rule.exact and not at.squares:  # not predicted: a pass more
            at = oracle.likelihood(W, space.squares)
            converged_components, distances = rule.evaluate(W, at, sign, gradient)
            resting, apart = _numbers(xp, converged_components.mean(), quantile(distances, share, xp))
        losses.append(loss)
        converged = resting >= share
        if report:
            report(n_iter, xp.abs(gradient).max(axis=1), converged_components, oracle.n_rows)
        if converged or n_iter == max_iter:
            break
        here = W, sign, gradient, loss, oracle.rounding * size
        squares = space.squares if rule.measures_next(apart, apart_before, n_iter + 1 == max_iter) else None
        apart_before = apart
        found = _search(oracle, space, *here, direction, descent, ls_tries, squares)
        if found is None:
            pairs.clear()
            descent = float((gradient * -gradient).sum())
            found = _search(oracle, space, *here, -gradient, descent, ls_tries, squares)
        if found is None:  # no step along the gradient lowers the loss: what is left is rounding
            break
        new, at, step, new_gradient, new_sign, curvature, flips = found
        delta = 1 - xp.abs((new * W).sum(axis=1)) / xp.sqrt((new * new).sum(axis=1) * (W * W).sum(axis=1))
        W = new
        oracle.accept(W)
        if flips:
            pairs.clear()
            sign = new_sign
            new_gradient = space.gradient(W, at, sign)
        elif curvature > 0:
            pairs.append((step, new_gradient - gradient, 1 / curvature))
        gradient = new_gradient
    z = rule.in_errors(W, at, sign, gradient).max(axis=1)
    return Solution(W, n_iter, delta, converged, converged_components, xp.abs(gradient).max(axis=1), tuple(losses), z=z)


class _Rule:
    """Which components are at rest: the tol, by and final of `picard`.

    exact: whether standard errors must be measured before the rule is met.
    """

    def __init__(self, space, tol, by, final):
        self.space, self.tol, self.final, self.xp = space, tol, final, space.xp
        self.by = "error" if tol == "auto" else by
        self.exact = final and self.by == "error"

    def in_errors(self, W, at, sign, gradient):
        """The entries of the gradient in standard errors, (k, k)."""
        power = None if self.by == "error" else self.space.oracle.known_power(W)
        return in_errors(gradient, self.space.error(W, at, sign, power), self.xp)

    def evaluate(self, W, at, sign, gradient):
        """(k,) which components are at rest; (k,) their distances from convergence as far as standard errors decide it,
        infinite otherwise."""
        xp, unknown = self.xp, self.xp.zeros(len(W)) + np.inf
        if self.exact:
            distances = distance(self.in_errors(W, at, sign, gradient), xp)
            return distances < 1, distances
        if self.by == "error":
            return within_error(gradient, self.space.error(W, at, sign)), unknown
        if self.by == "delta":
            still = (self.space.newton(gradient, W, at, sign) ** 2).sum(axis=1) / 2 < self.tol
            if self.tol >= 1:  # asks for next to nothing
                return still, unknown
            distances = xp.where(still, self.in_errors(W, at, sign, gradient).max(axis=1) / FAR, unknown)
            return distances < 1, distances
        return (xp.abs(gradient) < self.tol).all(axis=1), unknown

    def measures_next(self, now, before, is_last):
        """Whether the next iteration is to measure standard errors: it may converge, or only they prevent it.

        now, before: distances at this iteration and at the one before, or None.
        """
        if self.by == "delta":
            return now < np.inf
        return self.exact and (is_last or expects_convergence(now, before))


def _search(oracle, space, W, sign, gradient, loss, noise, direction, descent, tries, squares=None):
    """Halve the step until it is accepted; what was found there, or None.

    (W, likelihood, step, gradient with the old signs, new signs, curvature along the step, whether a sign changed).
    descent: the slope along the direction at W.  squares: for `oracle.likelihood`.  Every try is one wait for a device,
    in `_numbers`.
    """
    size = 1.0
    for _ in range(tries):
        step = size * direction
        new = space.move(W, step)
        at = oracle.likelihood(new, squares)
        with np.errstate(invalid="ignore", over="ignore"):  # too far out; the loss tells
            found, new_sign = space.gradient(new, at, sign), space.signs(new, at)
            new_loss, slope, curvature, flips = _numbers(
                oracle.xp,
                space.loss(new, at, sign),
                (found * direction).sum(),
                (step * (found - gradient)).sum(),
                abs(new_sign - sign).sum(),
            )
        flat = abs(slope) <= 0.8 * abs(descent)
        if np.isfinite(new_loss) and (new_loss < loss - noise or (new_loss < loss + noise and flat)):
            return new, at, step, found, new_sign, curvature, bool(flips)
        size /= 2
    return None


def _numbers(xp, *scalars):
    """0-d arrays as Python numbers, by one wait for a device."""
    return xp.concatenate([scalar.reshape(1) for scalar in scalars]).tolist()


def _two_loops(gradient, pairs, newton):
    """L-BFGS's direction: Nocedal and Wright, Numerical Optimization, algorithm 7.4; newton is its first guess."""
    q, weights = gradient, []
    for step, change, inverse in reversed(pairs):
        weights.append(inverse * (step * q).sum())
        q = q - weights[-1] * change
    z = newton(q)
    for (step, change, inverse), weight in zip(pairs, reversed(weights), strict=True):
        z = z + (weight - inverse * (change * z).sum()) * step
    return z
