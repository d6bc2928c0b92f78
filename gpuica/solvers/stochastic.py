"""Stochastic Picard-O: batches of rows and steps that decay to 0, for sources that depend on each other.

The loss then has flat valleys: of k² / 2 angles most hardly change it, and full gradients make slow progress along
them, a pass for each step.  Batches of some thousand rows give the direction about as well, so that one pass makes tens
of steps, and their noise averages out as the steps decay (Robbins and Monro, "A stochastic approximation method",
Annals of Mathematical Statistics 22, 1951).  Each step is divided by the Hessian's own diagonal, averaged over batches:
between dependent sources the approximation for independent sources, κ, is up to 20 times too large or 2 times too
small.
"""

from itertools import chain, islice, repeat
from typing import Any, NamedTuple

import numpy as np

from ..device.products import threaded_product
from .manifolds import rotation_error, rotation_gradient
from .orthonormal import corrected, nearly_rotated
from .protocol import BatchedOracle
from .stopping import within_error

MAX_STEPS = 500
MAX_EPOCHS = 8
MIN_BATCH = 2_000  # rows of a batch, at least, and at least so many for each component:
BATCH_PER_COMPONENT = 8
FIRST_RATE = 0.75  # of a Newton step
CURVATURE_INTERVAL = 16  # steps from one measurement of the curvature to the next
MIN_WEIGHT = 0.05  # of the latest batch in running averages
MIN_CURVATURE = 0.05
NEARLY_GAUSSIAN = 0.05  # s κ / E g'(y): 0.2 for Laplace's distribution, 0.004 for equal mixtures of some others
REPORT_INTERVAL = 50  # steps


class _Means(NamedTuple):
    """Means over a batch: E g(y) yᵀ (k, k), E g'(y) (k,) and E g(y)² (k,), in float64 or the dtype of W."""

    cross: Any
    slope: Any
    square: Any

    @classmethod
    def at(cls, W, cross, slope, square):
        """From those of `fixed_point`."""
        return cls(threaded_product(cross.astype(W.dtype, copy=False), W.T), slope, square)


class StochasticResult(NamedTuple):
    """The end of `stochastic_picard`.

    Ws: W (k, k) of each start, in float64.  excesses: (k,) of each, |κ| / E g'(y), the distance of the sources from
    Gaussian, averaged over the last batches.  passes: over the rows.  epochs: the same, rounded up.
    """

    Ws: list
    excesses: list
    passes: float
    epochs: int


class State:
    """The iterate of one start, and running averages over batches.

    A nearly Gaussian component has the sign of super-Gaussian sources: it can be a mixture of both kinds, whose own
    sign is that of neither.  Super-Gaussian sources then leave all mixtures, and `growth` separates what is left.

    W: (k, k), nearly orthonormal, in the dtype of the rows on the host.  slope: E g'(y), (k,); middle: E g(y) y, (k,);
    curvature: E g'(y_i) y_j² / E y_j², (k, k).
    """

    def __init__(self, W, xp, extended):
        self.W, self.xp, self.extended = W, xp, extended
        self.slope: Any = None
        self.middle: Any = None
        self.curvature: Any = None
        self.n_batches = self.n_curvature = 0

    def update(self, at, curvature):
        """Add a batch to the averages.  at: its `likelihood` at W; curvature: (k, k), or None if not measured."""
        self.n_batches += 1
        weight = max(MIN_WEIGHT, 1 / self.n_batches)
        self.slope = _average(self.slope, at.slope, weight)
        self.middle = _average(self.middle, self.xp.diagonal(at.cross), weight)
        if curvature is not None:
            self.n_curvature += 1
            curvature = curvature.astype(at.cross.dtype, copy=False)
            self.curvature = _average(self.curvature, curvature, max(MIN_WEIGHT, 1 / self.n_curvature))

    def step(self, at, rate):
        """Rotate W by `rate` of a Newton step; return the gradient (k, k) of the batch and the sources' signs (k,)."""
        xp = self.xp
        sub_gaussian = self.slope < (1 - NEARLY_GAUSSIAN) * self.middle
        sign = xp.where(sub_gaussian, -1.0, 1.0) if self.extended else xp.ones(len(self.W))
        sign = sign.astype(at.cross.dtype, copy=False)
        gradient = rotation_gradient(at.cross, at.slope, sign, xp)
        h = sign[:, None] * (self.curvature - self.middle[:, None])
        rotation = -rate * gradient / xp.maximum((h + h.T) / 2, MIN_CURVATURE)
        self.W = nearly_rotated(self.W, rotation, xp)
        return gradient, sign


def stochastic_picard(oracle: BatchedOracle, starts, *, rng, extended=True, max_epochs=MAX_EPOCHS, report=None):
    """Lower the loss of Picard-O from each start by steps on batches, of which all starts share the passes.

    oracle: a `protocol.BatchedOracle`.  starts: W (k, k), orthonormal, near enough to a solution for the gradient of a
    batch to be significant.  rng: draws the batches.  extended: as for `picard`.  report: as for `picard`, with the
    rows of a batch for all rows, every REPORT_INTERVAL steps.  Returns a `StochasticResult`.
    """
    k, xp = len(starts[0]), oracle.xp
    size, n_steps = _schedule(oracle, k, max_epochs)
    source = oracle.in_memory(n_steps * size, rng)
    dtype = oracle.dtype if xp is np else np.float64
    states, passes = [State(W.astype(dtype, copy=False), xp, extended) for W in starts], 0.0
    batches = chain.from_iterable(source.batches(size, rng) for _ in repeat(None))
    whole = (batch for batch in batches if batch.n_rows == size)
    for step, batch in enumerate(islice(whole, n_steps)):
        if not batch.weight:
            continue
        Ws = [state.W for state in states]
        likelihoods = [_Means.at(W, *means) for W, means in zip(Ws, batch.fixed_point_batch(Ws), strict=True)]
        measure = step % CURVATURE_INTERVAL == 0 or states[0].curvature is None
        curvatures = batch.curvature_batch(Ws) if measure else [None] * len(Ws)
        for state, at, curvature in zip(states, likelihoods, curvatures, strict=True):
            state.update(at, curvature)
            gradient, sign = state.step(at, FIRST_RATE * (1 - step / n_steps))
        oracle.accept(states[0].W)
        passes += batch.n_passes * size / oracle.n_rows
        if report and step % REPORT_INTERVAL == 0:
            error = rotation_error(at.cross, at.square, xp.ones(k), sign, batch.n_effective, xp)
            report(step, xp.abs(gradient).max(axis=1), within_error(gradient, error), size)
    Ws = [corrected(corrected(state.W)) if xp is np else state.W for state in states]
    oracle.accept(Ws[0])
    excesses = [abs(state.slope - state.middle) / state.slope for state in states]
    return StochasticResult(Ws, excesses, passes, -(-n_steps * size // oracle.n_rows))


def _schedule(oracle, k, max_epochs):
    """The rows of a batch, whose size counts effective rows, and the number of steps."""
    rows_per_effective_row = oracle.n_rows / oracle.n_kish
    size = int(max(MIN_BATCH, BATCH_PER_COMPONENT * k, oracle.n_kish / MAX_STEPS) * rows_per_effective_row)
    size = min(size, oracle.n_rows)
    return size, min(MAX_STEPS, max_epochs * (oracle.n_rows // size))


def _average(average, new, weight):
    return new if average is None else average + weight * (new - average)
