"""FastICA's fixed-point iteration, all components at once or one by one.

Hyvärinen, "Fast and robust fixed-point algorithms for independent component analysis", IEEE Trans. Neural Networks
10(3), 1999; Hyvärinen and Oja, Neural Networks 13, 2000.  The starting point, the order of operations and the stop rule
are scikit-learn's, so that the same start follows the same path.
"""

from collections import deque
from itertools import count, islice
from typing import Any, NamedTuple

import numpy as np

from .. import kernels
from . import Solution
from .polar import LOOSE, orthonormal, polar


def rotation_gradient(cross, slope, sign=None, xp=np):
    """The relative gradient (k, k) of FastICA's and Picard-O's loss over rotations: the skew part of sign * cross.

    cross: E g(y) yᵀ (k, k); slope: E g'(y) (k,).  sign: (k,), by default 1 for super-Gaussian sources,
    E g'(y) > E g(y) y, and -1 for sub-Gaussian.  0 at a solution.
    """
    if sign is None:
        sign = xp.where(slope < xp.diagonal(cross), -1.0, 1.0)
    signed = sign[:, None] * cross
    return (signed - signed.T) / 2


def rotation_error(cross, square, power, sign, n_rows, xp=np):
    """The standard error (k, k) of the entries of `rotation_gradient`, for independent sources.

    square: E g(y)²; power: E y², (k,).  Var(s_i g(y_i) y_j - s_j g(y_j) y_i) / 4n.
    """
    diagonal = sign * xp.diagonal(cross)
    products = square[:, None] * power
    bound = (products + products.T) / 4
    variance = bound - diagonal[:, None] * diagonal / 2
    # two sources of two values each have g(y) = cy and so no variance at all; rounding must not decide then
    return xp.sqrt(xp.maximum(variance, 0.01 * bound) / n_rows)


def within_error(gradient, error):
    """(k,) whether each row of the gradient (k, k) is within half its standard error (k, k), in root mean square.

    The error of optimisation then adds less than a quarter to the variance that sampling leaves in a component.
    """
    return ((gradient / error) ** 2).mean(axis=1) < 0.25


class Step(NamedTuple):
    """What one iteration from W (k, k) found: new (k, k), each row's movement (k,), which are at rest (k,), the sums
    that it was made of, and the defect of new, 0-d: how far its rows are from orthonormal."""

    n_iter: int
    W: Any
    new: Any
    movement: Any
    at_rest: Any
    cross: Any
    slope: Any
    defect: Any


def parallel(oracle, W, *, max_iter, tol, share=1.0, report=None):
    """Symmetric FastICA: W ← orthonormal(E g(Wz) zᵀ - diag(E g'(Wz)) W).  One pass per iteration.

    oracle: answers `fixed_point`.  W: (k, k) start.  tol: a bound for the movement of every row, or "auto": stop when
    every row of the relative gradient is well below its standard error (`within_error`).  share: of the components that
    must be at rest.  report: called with (n_iter, movement, at rest, n_rows) after each iteration.
    """
    W, n_iter = orthonormal(W, oracle.xp), 0
    last: Any = None
    converged = fell_short = False
    while n_iter < max_iter and not converged:
        steps = islice(_steps(oracle, W, n_iter, tol, by_definition=fell_short), max_iter - n_iter)
        for step, movement, at_rest, defect in _in_flight(steps, oracle):
            fell_short = bool(defect > LOOSE)
            if fell_short:  # once more from this step's W; what was asked for since is forgotten
                break
            last, W, n_iter = step, step.new, step.n_iter
            oracle.accept(W)
            if report:
                report(n_iter, movement, at_rest, oracle.n_rows)
            converged = float(at_rest.mean()) >= share
            if converged:
                break
    gradient = rotation_gradient(last.cross @ last.W.T, last.slope, xp=oracle.xp)
    largest = oracle.xp.abs(gradient).max(axis=1)
    return Solution(W, n_iter, last.movement, converged, last.at_rest, largest)


def _steps(oracle, W, n_iter, tol, by_definition=False):
    """The Steps after the first n_iter from orthonormal W (k, k), without end and without a wait for a device.

    by_definition: whether the first of them is made orthonormal by a decomposition, which on a device is a wait.
    """
    xp = oracle.xp
    for number in count(n_iter + 1):
        cross, slope, square = oracle.fixed_point(W)
        update = cross - slope[:, None] * W  # Hyvärinen 1999, equation (20), then (45)
        if by_definition or not kernels.products_pay(update):
            new, defect = orthonormal(update, xp), xp.zeros(())
        else:
            new, defect = polar(update, xp)
        by_definition = False
        movement = xp.abs(xp.abs((new * W).sum(axis=1)) - 1)
        if tol == "auto":
            M = cross @ W.T
            sign = xp.where(slope < xp.diagonal(M), -1.0, 1.0)
            error = rotation_error(M, square, oracle.power(W), sign, oracle.n_effective, xp)
            at_rest = within_error(rotation_gradient(M, slope, sign, xp), error)
        else:
            at_rest = movement < tol
        yield Step(number, W, new, movement, at_rest, cross, slope, defect)
        W = new


def _in_flight(steps, oracle):
    """(step, its movement, at_rest and defect on the host) of every step.

    Where the host would wait for a device, `oracle.ahead` more steps are asked for before a step's news are read, so
    that the device always has work.
    """
    waiting: deque[Any] = deque()
    for step in steps:
        waiting.append((step, oracle.news(step.movement, step.at_rest, step.defect)))
        if not waiting[-1][1].late or len(waiting) > oracle.ahead:
            step, news = waiting.popleft()
            yield step, *news.read()
    for step, news in waiting:
        yield step, *news.read()


def deflation(oracle, W, *, max_iter, tol, report=None):
    """One component after the other, each kept orthogonal to those before (Gram-Schmidt).  One pass per iteration.

    Arguments as for `parallel`, but tol is a number; n_iter is the largest over the components.
    """
    xp = oracle.xp
    found, movement, most = xp.zeros(W.shape), xp.zeros(len(W)), 0
    for j, w in enumerate(W):
        w = w / xp.sqrt((w * w).sum())
        for n_iter in range(1, max_iter + 1):
            cross, slope, _ = oracle.fixed_point(w[None])
            new = cross[0] - slope[0] * w
            new = new - (new @ found[:j].T) @ found[:j]
            new = new / xp.sqrt((new * new).sum())
            movement[j] = xp.abs(xp.abs((new * w).sum()) - 1)
            w = new
            if report:
                report(n_iter, movement[: j + 1], movement[: j + 1] < tol, oracle.n_rows)
            if movement[j] < tol:
                break
        found[j], most = w, max(most, n_iter)
        oracle.accept(found[: j + 1])
    at_rest = movement < tol
    cross, slope, _ = oracle.fixed_point(found)  # one pass more, to say how good the answer is
    gradient = rotation_gradient(cross @ found.T, slope, xp=xp)
    return Solution(found, most, movement, bool(at_rest.all()), at_rest, xp.abs(gradient).max(axis=1))


SOLVERS = {"parallel": parallel, "deflation": deflation}
