"""Picard-O by batches of rows, with steps that shrink to nothing: for sources that depend on each other.

There the loss has flat valleys: k² / 2 angles, of which most hardly matter, and full gradients creep along them, a
pass for each step.  Batches of some thousand rows tell the direction about as well, so that one pass makes tens of
steps, and their noise averages out as the steps shrink (Robbins and Monro, "A stochastic approximation method", Annals
of Mathematical Statistics 22, 1951).  Each step is divided by the Hessian's own diagonal, averaged over batches:
between dependent sources the one of independent sources, κ, is up to 20 times too large or 2 times too small.
"""

from itertools import chain, islice, repeat
from typing import Any

from .fastica import rotation_error, rotation_gradient, within_error
from .orthonormal import turned

STEPS = 500
ROUNDS = 8  # over the rows, at most
ROWS = 2_000  # of a batch, at least, and so many for each component:
ROWS_OF_ONE = 8
RATE = 0.75  # of a Newton step, at first
LOOK = 4  # steps from one look at the curvature to the next
USUAL = 0.05  # what the latest batch counts in averages over batches
FLAT = 0.05  # the least curvature that is believed


class Walk:
    """One start on its way: W (k, k), orthonormal, and what is usual over batches: slope E g'(y) and middle E g(y) y,
    (k,), curvature E g'(y_i) y_j² / E y_j² (k, k)."""

    def __init__(self, W, xp, extended):
        self.W, self.xp, self.extended = W, xp, extended
        self.slope: Any = None
        self.middle: Any = None
        self.curvature: Any = None
        self.steps = self.looks = 0

    def see(self, at, curvature):
        """Take in what a batch tells; curvature: or None."""
        self.steps += 1
        share = max(USUAL, 1 / self.steps)
        self.slope = _mixed(self.slope, at.slope, share)
        self.middle = _mixed(self.middle, self.xp.diagonal(at.cross), share)
        if curvature is not None:
            self.looks += 1
            self.curvature = _mixed(self.curvature, curvature, max(USUAL, 1 / self.looks))

    def step(self, at, rate):
        """Turn W; the gradient (k, k) of the batch and the signs (k,) of the sources."""
        xp = self.xp
        sign = xp.where(self.slope < self.middle, -1.0, 1.0) if self.extended else xp.ones(len(self.W))
        gradient = rotation_gradient(at.cross, at.slope, sign, xp)
        h = sign[:, None] * (self.curvature - self.middle[:, None])
        turn = -rate * gradient / xp.maximum((h + h.T) / 2, FLAT)
        self.W = turned(self.W, turn, xp)
        return gradient, sign


def annealed(oracle, starts, *, rng, extended=True, rounds=ROUNDS, report=None):
    """(the starts (k, k), each turned to where the loss of Picard-O is low; the passes over the rows; the rounds).

    starts: orthonormal, near enough to a solution for the gradient of a batch to mean something.  rng: draws the
    batches.  rounds: over the rows, at most.  report: as for a solver, with the rows of a batch for all rows.
    """
    k, xp = len(starts[0]), oracle.xp
    rows_a_row = oracle.n_rows / oracle.n_kish  # batches count effective rows
    size = int(max(ROWS, ROWS_OF_ONE * k, oracle.n_kish / STEPS) * rows_a_row)
    size = min(size, oracle.n_rows)
    n_steps = min(STEPS, rounds * (oracle.n_rows // size))
    source = oracle.in_memory(n_steps * size, rng)
    walks, passes = [Walk(W, xp, extended) for W in starts], 0.0
    batches = chain.from_iterable(source.batches(size, rng) for _ in repeat(None))
    whole = (batch for batch in batches if batch.n_rows == size)
    for step, batch in enumerate(islice(whole, n_steps)):
        if not batch.weight:
            continue
        Ws = [walk.W for walk in walks]
        answers = batch.likelihood_batch(Ws)
        looks = batch.curvature_batch(Ws) if step % LOOK == 0 or walks[0].curvature is None else repeat(None)
        for walk, at, curvature in zip(walks, answers, looks, strict=False):
            walk.see(at, curvature)
            gradient, sign = walk.step(at, RATE * (1 - step / n_steps))
        oracle.accept(walks[0].W)
        passes += batch.n_passes * size / oracle.n_rows
        if report and step % 50 == 0:
            error = rotation_error(at.cross, at.square, xp.ones(k), sign, batch.n_effective, xp)
            report(step, xp.abs(gradient).max(axis=1), within_error(gradient, error), size)
    return [walk.W for walk in walks], passes, -(-n_steps * size // oracle.n_rows)


def _mixed(usual, new, share):
    return new if usual is None else usual + share * (new - usual)
