"""FastICA's fixed-point iteration, all components at once or one by one.

Hyvärinen, "Fast and robust fixed-point algorithms for independent component analysis", IEEE Trans. Neural Networks
10(3), 1999; Hyvärinen and Oja, Neural Networks 13, 2000.  The starting point, the order of operations and the stop rule
are scikit-learn's, so that the same start follows the same path.
"""

from collections import deque
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from . import Solution
from .orthonormal import LOOSE, orthonormal, polar
from .stopping import FAR, LARGEST_RMS, TINY, distance, expects_convergence, in_errors, quantile


def rotation_gradient(cross, slope, sign=None, xp=np):
    """The relative gradient (k, k) of FastICA's and Picard-O's loss over rotations: the skew part of sign * cross.

    cross: E g(y) yᵀ (k, k); slope: E g'(y) (k,).  sign: (k,), by default 1 for super-Gaussian sources,
    E g'(y) > E g(y) y, and -1 for sub-Gaussian.  0 at a solution.
    """
    if sign is None:
        sign = xp.where(slope < xp.diagonal(cross), -1.0, 1.0)
    signed = sign[:, None] * cross
    return (signed - signed.T) / 2


def rotation_error(cross, square, power, sign, n_rows, xp=np, squares=None):
    """The standard error (k, k) of the entries of `rotation_gradient`: Var(s_i g(y_i) y_j - s_j g(y_j) y_i) / 4n.

    square: E g(y)²; power: E y², (k,).  squares: E g(y_i)² y_j² and E g(y_i) y_i g(y_j) y_j (k, k), as measured, or
    None: as for independent sources they follow from the rest.
    """
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


def within_error(gradient, error):
    """(k,) whether each row of the gradient (k, k) is within half its standard error (k, k), in root mean square.

    The error of optimisation then adds less than a quarter to the variance that sampling leaves in a component.
    """
    return ((gradient / error) ** 2).mean(axis=1) < LARGEST_RMS**2


class Step(NamedTuple):
    """What one iteration from W (k, k) found: new (k, k), each row's movement (k,), which are at rest (k,), the sums
    that it was made of, and the defect of new, 0-d: how far its rows are from orthonormal.

    sums: E g(y) zᵀ (k, k), E g'(y), E g(y)² (k,), and E of `sums.squares` where standard errors were measured.
    distance: 0-d, the distance from convergence of tol="auto".
    """

    n_iter: int
    W: Any
    new: Any
    delta: Any
    converged_components: Any
    sums: tuple
    defect: Any
    distance: Any

    @property
    def measured(self):
        return len(self.sums) > 3


def _gradient_and_error(oracle, W, sums, power):
    """`rotation_gradient` and `rotation_error` at W from sums as of `Step`.  power: E y² (k,)."""
    xp = oracle.xp
    cross, slope, square, *squares = sums
    cross = cross @ W.T
    sign = xp.where(slope < xp.diagonal(cross), -1.0, 1.0)
    with np.errstate(over="ignore", invalid="ignore"):  # rows that are not white, though whiten=False says so
        error = rotation_error(cross, square, power, sign, oracle.n_effective, xp, *squares)
        return rotation_gradient(cross, slope, sign, xp), error


def parallel(oracle, W, *, max_iter, tol, share=1.0, final=True, report=None):
    """Symmetric FastICA: W ← orthonormal(E g(Wz) zᵀ - diag(E g'(Wz)) W).  One pass per iteration.

    oracle: answers `fixed_point`.  W: (k, k) start.  tol: a bound for the movement of every row, or "auto": stop when
    the relative gradient is within its standard errors (`stopping.distance`), measured on the rows.  share: of the
    components that must be at rest.  final: False for a stage on a sample, where "auto" is `within_error`, with the
    standard errors of independent sources.  report: called with (n_iter, movement, at rest, n_rows) after each
    iteration.

    A solution that movement ended has not converged where an entry of the gradient is more than FAR standard errors
    from 0; see `_checked`.  (Not for tol >= 1, which no movement exceeds: it asks for one iteration.)
    """
    W, n_iter = orthonormal(W, oracle.xp), 0
    last: Any = None
    previous: Any = None
    apart = None
    exact = final and tol == "auto"
    converged = fell_short = measure = False
    while n_iter < max_iter and not converged:
        steps = _steps(oracle, W, n_iter, max_iter, tol, share, exact, measure=measure, by_definition=fell_short)
        for step, delta, converged_components, defect, distance_now in _in_flight(steps, oracle):
            fell_short = bool(defect > LOOSE)
            if fell_short:  # once more from this step's W; what was asked for since is forgotten
                break
            previous, last, W, n_iter = last, step, step.new, step.n_iter
            oracle.accept(W)
            if report:
                report(n_iter, delta, converged_components, oracle.n_rows)
            converged = float(converged_components.mean()) >= share
            if exact:
                apart, before = float(distance_now), apart
                measure = converged or expects_convergence(apart, before)
                converged = converged and step.measured
            if converged or measure:  # to measure, the next step is asked for anew
                break
    if exact and converged:
        W = last.W  # the gradient of last.new is not known
    gradient, error = _gradient_and_error(oracle, last.W, last.sums, oracle.known_power(last.W))
    z = in_errors(gradient, error, oracle.xp).max(axis=1)
    largest = oracle.xp.abs(gradient).max(axis=1)
    solution = Solution(W, n_iter, last.delta, converged, last.converged_components, largest, z=z)
    if converged and final and tol != "auto" and tol < 1:
        return _checked(oracle, solution, previous, share)
    return solution


def _checked(oracle, solution, previous, share):
    """The solution that movement ended; not converged if its gradient is FAR from 0.  At most one pass.

    previous: the step before the last, or None.  The gradient of the solution given is that before the last step, which
    is taken to leave as large a part of it as the step before left.  Where that would still be FAR, the gradient and
    its standard errors are measured at the solution.  (Steps are short not only near a solution: where sources depend
    on each other, E g'(y_i) - E g(y_i) y_i is much larger than the curvature.)
    """
    xp, z = oracle.xp, solution.z
    part: Any = 1.0
    if previous is not None:
        gradient, error = _gradient_and_error(oracle, previous.W, previous.sums, oracle.known_power(previous.W))
        before = in_errors(gradient, error, xp).max(axis=1)
        part = xp.minimum(1.0, z / xp.maximum(before, TINY))
    if float((part * z < FAR).mean()) >= share:
        return solution
    W = solution.W
    gradient, error = _gradient_and_error(oracle, W, oracle.fixed_point(W, "rotation"), oracle.known_power(W))
    z = in_errors(gradient, error, xp).max(axis=1)
    return _unless_far(replace(solution, gradient=xp.abs(gradient).max(axis=1), z=z), share)


def _unless_far(solution, share):
    """The solution; not converged if the gradient of more components than `share` allows is FAR from 0."""
    near = solution.z < FAR
    if float(near.mean()) >= share:
        return solution
    return replace(solution, converged=False, converged_components=solution.converged_components & near)


def _steps(oracle, W, n_iter, max_iter, tol, share, exact, *, measure, by_definition):
    """The Steps from the first n_iter to max_iter, from orthonormal W (k, k), without a wait for a device.

    exact: whether tol="auto" goes by measured standard errors, of a share of the components.  measure: whether the
    first step measures them; the last does if exact.  by_definition: whether the first step is made orthonormal by a
    decomposition, which on a device is a wait.
    """
    xp = oracle.xp
    for number in range(n_iter + 1, max_iter + 1):
        measure = measure or (exact and number == max_iter)
        cross, *rest = oracle.fixed_point(W, "rotation") if measure else oracle.fixed_point(W)
        update = cross - rest[0][:, None] * W  # Hyvärinen 1999, equation (20), then (45)
        if by_definition or not kernels.products_pay(update):
            new, defect = orthonormal(update, xp), xp.zeros(())
        else:
            new, defect = polar(update, xp)
        by_definition = measure = False
        delta = xp.abs(xp.abs((new * W).sum(axis=1)) - 1)
        sums, apart = (cross, *rest), xp.zeros(())
        if tol != "auto":
            converged_components = delta < tol
        else:
            gradient, error = _gradient_and_error(oracle, W, sums, oracle.power(W))
            converged_components = within_error(gradient, error)
            if exact:
                distances = distance(in_errors(gradient, error, xp), xp)
                converged_components, apart = distances < 1, quantile(distances, share, xp)
        yield Step(number, W, new, delta, converged_components, sums, defect, apart)
        W = new


def _in_flight(steps, oracle):
    """(step, and its movement, at_rest, defect and distance on the host) of every step.

    Where the host would wait for a device, `oracle.lookahead` more steps are asked for before a step's news are read,
    so that the device always has work.
    """
    waiting: deque[Any] = deque()
    for step in steps:
        waiting.append((step, oracle.copy_to_host(step.delta, step.converged_components, step.defect, step.distance)))
        if not waiting[-1][1].pending or len(waiting) > oracle.lookahead:
            step, news = waiting.popleft()
            yield step, *news.read()
    for step, news in waiting:
        yield step, *news.read()


def deflation(oracle, W, *, max_iter, tol, final=True, report=None):
    """One component after the other, each kept orthogonal to those before (Gram-Schmidt).  One pass per iteration.

    Arguments as for `parallel`, but tol is a number; n_iter is the largest over the components.
    """
    xp = oracle.xp
    found, delta, most = xp.zeros(W.shape), xp.zeros(len(W)), 0
    for j, w in enumerate(W):
        w = w / xp.sqrt((w * w).sum())
        for n_iter in range(1, max_iter + 1):
            cross, slope, _ = oracle.fixed_point(w[None])
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
    # one pass more, to say how good the answer is
    cross, slope, square, squares = oracle.fixed_point(found, "rotation")
    cross = cross @ found.T
    largest = xp.abs(rotation_gradient(cross, slope, xp=xp)).max(axis=1)
    z = _one_sided(cross, square, oracle.known_power(found), squares[0], oracle).max(axis=1)
    solution = Solution(found, most, delta, bool(converged_components.all()), converged_components, largest, z=z)
    return _unless_far(solution, 1.0) if final and tol < 1 else solution


def _one_sided(cross, square, power, products, oracle):
    """E g(y_i) y_j for j > i in standard errors, (k, k): 0 where each component is a solution among the directions that
    those before it left.  products: E g(y_i)² y_j²."""
    xp = oracle.xp
    variance = xp.maximum(products - cross**2, 0.01 * square[:, None] * power)
    return xp.tril(in_errors(cross, xp.sqrt(variance / oracle.n_effective), xp).T, -1).T


SOLVERS = {"parallel": parallel, "deflation": deflation}
