"""FastICA's fixed-point iteration, all components at once or one by one.

Hyvärinen, "Fast and robust fixed-point algorithms for independent component analysis", IEEE Trans. Neural Networks
10(3), 1999; Hyvärinen and Oja, Neural Networks 13, 2000.  The starting point, the order of operations and the stopping
rule are scikit-learn's, so that the same start follows the same path.
"""

from collections import deque
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from .manifolds import rotation_error, rotation_gradient
from .multistart import FixedPoint, Solver
from .orthonormal import MAX_DEFECT, orthonormal, polar
from .protocol import FixedPointOracle
from .solution import Solution
from .stopping import MAX_Z, TINY, distance, expects_convergence, quantile, within_error, z_scores


class Iteration(NamedTuple):
    """One iteration from W (k, k) to `new` (k, k).

    delta: (k,) the change of each row, | |<new, old>| - 1 |.  converged_components: (k,) booleans.  sums: E g(y) zᵀ
    (k, k), E g'(y), E g(y)² (k,), and the means of `sums.squares` where standard errors were measured.  defect: 0-d,
    the largest entry of |new newᵀ - I|.  distance: 0-d, the distance from convergence of tol="auto".
    """

    number: int
    W: Any
    new: Any
    delta: Any
    converged_components: Any
    sums: tuple
    defect: Any
    distance: Any

    @property
    def measured(self):
        """Whether standard errors were measured on the rows."""
        return len(self.sums) > 3


@Solver
def parallel(oracle: FixedPointOracle, W, *, max_iter, tol, fraction=1.0, final=True, report=None):
    """Symmetric FastICA: W ← orthonormal(E g(Wz) zᵀ - diag(E g'(Wz)) W).  One pass per iteration.

    oracle: a `protocol.FixedPointOracle`.  W: (k, k) start.  tol: a bound for the change of every row, or "auto": stop
    when the relative gradient is within its standard errors (`stopping.distance`), measured on the rows.  fraction: of
    the components that must have converged.  final: False for a stage on a sample, where "auto" is
    `stopping.within_error`, with the standard errors of independent sources.  report: called with (n_iter, delta,
    converged components, n_rows) after each iteration.

    A solution whose rows changed by less than tol has not converged where a z-score of the gradient exceeds MAX_Z; see
    `_checked`.  (Not for tol >= 1, which no change exceeds: it requests one iteration.)
    """
    W, n_iter = orthonormal(W, oracle.xp), 0
    last: Any = None
    previous: Any = None
    apart = None
    exact = final and tol == "auto"
    converged = fell_short = measure = False
    while n_iter < max_iter and not converged:
        rule = {"tol": tol, "fraction": fraction, "exact": exact}
        pipeline = _Pipeline(oracle, W, n_iter, max_iter, rule, measure=measure, by_definition=fell_short)
        while (ready := (yield from pipeline.next())) is not None:
            iteration, (delta, converged_components, defect, distance_now) = ready
            fell_short = bool(defect > MAX_DEFECT)
            if fell_short:  # repeat it by the definition; iterations enqueued after it are dropped
                break
            previous, last, W, n_iter = last, iteration, iteration.new, iteration.number
            oracle.accept(W)
            if report:
                report(n_iter, delta, converged_components, oracle.n_rows)
            converged = float(converged_components.mean()) >= fraction
            if exact:
                apart, before = float(distance_now), apart
                measure = converged or expects_convergence(apart, before)
                converged = converged and iteration.measured
            if converged or measure:  # the next iteration is enqueued again, with standard errors
                break
    if exact and converged:
        W = last.W  # the gradient at last.new is not known
    gradient, error = _gradient_and_error(oracle, last.W, last.sums, oracle.known_power(last.W))
    z = z_scores(gradient, error, oracle.xp).max(axis=1)
    largest = oracle.xp.abs(gradient).max(axis=1)
    solution = Solution(W, n_iter, last.delta, converged, last.converged_components, largest, z=z)
    if converged and final and tol != "auto" and tol < 1:
        return (yield from _checked(oracle, solution, previous, fraction))
    return solution


class _Pipeline:
    """Iterations from orthonormal W (k, k), the n_iter-th, to max_iter.

    On a device, `oracle.lookahead` more iterations are enqueued before the host waits for the outcome of one, so that
    the device always has work.
    """

    def __init__(self, oracle: FixedPointOracle, W, n_iter, max_iter, rule, *, measure, by_definition):
        """rule: tol, fraction and exact of `_iterate`.  measure, by_definition: those of the first iteration."""
        self.oracle, self.W, self.number, self.max_iter, self.rule = oracle, W, n_iter, max_iter, rule
        self.first = {"measure": measure, "by_definition": by_definition}
        self.enqueued: deque[Any] = deque()

    def next(self):
        """The next `Iteration`, and its delta, converged components, defect and distance on the host; None at the end.

        A generator of requests.
        """
        while self.number < self.max_iter:
            self.number += 1
            last = self.number == self.max_iter
            iteration = yield from _iterate(self.oracle, self.W, self.number, last=last, **self.rule, **self.first)
            self.W, self.first = iteration.new, {}
            outcome = iteration.delta, iteration.converged_components, iteration.defect, iteration.distance
            copy = self.oracle.copy_to_host(*outcome)
            self.enqueued.append((iteration, copy))
            if not copy.pending or len(self.enqueued) > self.oracle.lookahead:
                break
        if not self.enqueued:
            return None
        iteration, copy = self.enqueued.popleft()
        return iteration, copy.read()


def _iterate(
    oracle: FixedPointOracle, W, number, *, tol, fraction, exact, last=False, measure=False, by_definition=False
):
    """The `Iteration` of this number from orthonormal W (k, k), without a wait for a device.  A generator of requests.

    exact: whether tol="auto" uses measured standard errors, of a fraction of the components.  measure: whether to
    measure them; the last iteration does if exact.  by_definition: whether rows are made orthonormal by a
    decomposition, for which a device waits.
    """
    xp = oracle.xp
    measure = measure or (exact and last)
    cross, *rest = yield FixedPoint(W, "rotation" if measure else None)
    update = cross - rest[0][:, None] * W  # Hyvärinen 1999, equation (20), then (45)
    if by_definition or not kernels.products_pay(update):
        new, defect = orthonormal(update, xp), xp.zeros(())
    else:
        new, defect = polar(update, xp)
    delta = xp.abs(xp.abs((new * W).sum(axis=1)) - 1)
    sums, apart = (cross, *rest), xp.zeros(())
    if tol != "auto":
        converged_components = delta < tol
    else:
        gradient, error = _gradient_and_error(oracle, W, sums, oracle.power(W))
        converged_components = within_error(gradient, error)
        if exact:
            distances = distance(z_scores(gradient, error, xp), xp)
            converged_components, apart = distances < 1, quantile(distances, fraction, xp)
    return Iteration(number, W, new, delta, converged_components, sums, defect, apart)


def _gradient_and_error(oracle: FixedPointOracle, W, sums, power):
    """`rotation_gradient` and `rotation_error` at W from sums as of `Iteration`.  power: E y² (k,)."""
    xp = oracle.xp
    cross, slope, square, *squares = sums
    cross = cross @ W.T
    sign = xp.where(slope < xp.diagonal(cross), -1.0, 1.0)
    with np.errstate(over="ignore", invalid="ignore"):  # rows that are not white, though whiten=False declares it
        of_error = None if oracle.white else sign
        error = rotation_error(cross, square, power, of_error, oracle.n_effective, xp, *squares)
        return rotation_gradient(cross, slope, sign, xp), error


def _checked(oracle: FixedPointOracle, solution, previous, fraction):
    """The solution, not converged if its gradient is far from 0, although its rows have stopped changing.

    At most one pass; a generator of requests.  previous: the `Iteration` before the last, or None.  The gradient of
    the given solution is that before the last iteration, which is expected to reduce it by the same factor as the
    iteration before.  Where a z-score would still exceed MAX_Z, the gradient and its standard errors are measured at
    the solution.  (Steps are short not only near a solution: where sources depend on each other, E g'(y_i) - E g(y_i)
    y_i is much larger than the curvature.)
    """
    xp, z = oracle.xp, solution.z
    factor: Any = 1.0
    if previous is not None:
        gradient, error = _gradient_and_error(oracle, previous.W, previous.sums, oracle.known_power(previous.W))
        before = z_scores(gradient, error, xp).max(axis=1)
        factor = xp.minimum(1.0, z / xp.maximum(before, TINY))
    if float((factor * z < MAX_Z).mean()) >= fraction:
        return solution
    W = solution.W
    sums = yield FixedPoint(W, "rotation")
    gradient, error = _gradient_and_error(oracle, W, sums, oracle.known_power(W))
    z = z_scores(gradient, error, xp).max(axis=1)
    return _unless_far(replace(solution, gradient=xp.abs(gradient).max(axis=1), z=z), fraction)


def _unless_far(solution, fraction):
    """The solution; not converged unless the z-scores of this fraction of the components are below MAX_Z."""
    near = solution.z < MAX_Z
    if float(near.mean()) >= fraction:
        return solution
    return replace(solution, converged=False, converged_components=solution.converged_components & near)


@Solver
def deflation(oracle: FixedPointOracle, W, *, max_iter, tol, final=True, report=None):
    """FastICA one component after the other, each orthogonal to those before (Gram-Schmidt).  One pass per iteration.

    oracle: a `protocol.FixedPointOracle`.  Arguments as for `parallel`, but tol is a number; n_iter is the largest over
    the components.
    """
    xp = oracle.xp
    found, delta, most = xp.zeros(W.shape), xp.zeros(len(W)), 0
    for j, w in enumerate(W):
        w = w / xp.sqrt((w * w).sum())
        for n_iter in range(1, max_iter + 1):
            cross, slope, _ = yield FixedPoint(w[None])
            new = cross[0] - slope[0] * w
            new = new - (new @ found[:j].T) @ found[:j]
            new = new / xp.sqrt((new * new).sum())
            delta[j] = xp.abs(xp.abs((new * w).sum()) - 1)
            w = new
            if report:
                report(n_iter, delta[: j + 1], delta[: j + 1] < tol, oracle.n_rows)
            if delta[j] < tol:
                break
        found[j], most = w, max(most, n_iter)
        oracle.accept(found[: j + 1])
    converged_components = delta < tol
    # one more pass, for the gradient at the solution
    cross, slope, square, squares = yield FixedPoint(found, "rotation")
    cross = cross @ found.T
    largest = xp.abs(rotation_gradient(cross, slope, xp=xp)).max(axis=1)
    z = _one_sided_z(cross, square, oracle.known_power(found), squares[0], oracle).max(axis=1)
    solution = Solution(found, most, delta, bool(converged_components.all()), converged_components, largest, z=z)
    return _unless_far(solution, 1.0) if final and tol < 1 else solution


def _one_sided_z(cross, square, power, products, oracle):
    """E g(y_i) y_j for j > i in standard errors, (k, k), and 0 for j <= i.

    All are 0 where each component is a solution orthogonal to those before it.  products: E g(y_i)² y_j² (k, k).
    """
    xp = oracle.xp
    variance = xp.maximum(products - cross**2, 0.01 * square[:, None] * power)
    return xp.tril(z_scores(cross, xp.sqrt(variance / oracle.n_effective), xp).T, -1).T
