"""Dictionary learning: codes for the present atoms, then atoms for these codes, on all rows or on one batch after the
other.  Codes never leave the rows; a solver sees Σ c cᵀ and Σ c xᵀ.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .atoms import replace_unused


@dataclass
class FitState:
    """What learning has come to; enough to go on from, and always whole: it changes at once, after an iteration.

    D: atoms (K, d).  coded_with: the atoms that the last codes were found with.  costs: after every iteration, or mean
    costs before every batch.  converged: whether a stopping rule was met.  n_replaced: unused atoms that were replaced,
    in all.  n_unfinished: rows of the last iteration whose code was not finished.
    """

    D: Any
    coded_with: Any = None
    costs: list[float] = field(default_factory=list)
    converged: bool = False
    n_replaced: int = 0
    n_unfinished: int = 0

    def __post_init__(self):
        if self.coded_with is None:
            self.coded_with = self.D

    @property
    def n_iter(self):
        """Iterations, or batches."""
        return len(self.costs)

    def update(self, D, cost, converged, n_replaced, n_unfinished):
        """Take the outcome of one more iteration."""
        self.D, self.coded_with, self.converged = D, self.D, converged
        self.costs.append(cost)
        self.n_replaced += n_replaced
        self.n_unfinished = n_unfinished


def alternate(oracle, learned, *, max_iter, tol, update, renew, report):
    """Codes of all rows and all atoms in turn, until the cost falls by less than tol of itself.

    learned: a `FitState` to go on from.  update: a function of `solvers.atoms.UPDATES`, its options bound.  renew: (D,
    unused, found, oracle) -> D, a policy for unused atoms.  report: called with `learned` after every iteration.
    """
    while learned.n_iter < max_iter and not learned.converged:
        old = learned.D
        found = oracle.moments(old, renew.n_worst(len(old)))
        D, unused = update(old, found.A, found.B)
        n_replaced = 0
        if bool(unused.any()):
            found.A[unused], found.B[unused] = 0, 0
            found.A[:, unused] = 0
            D = renew(D, unused, found.worst, oracle)
            n_replaced = int(unused.sum()) * renew.replaces
        cost = found.cost_at(D, old)
        before = learned.costs[-1] if learned.costs else float("inf")
        converged = learned.n_iter > 0 and (before - cost < tol * cost or cost == 0)
        learned.update(D, cost, converged, n_replaced, found.n_unfinished)
        report(learned)
    return learned


class SufficientStatistics:
    """The past of the batches in two matrices: A (K, K) and B (K, d), older batches weighing less and less.

    memory: rows that the past holds, an exponential window; None for the weights of Mairal et al. 2009, section 3.4.3,
    which hold about n_rows² rows for batches of n_rows.
    """

    def __init__(self, shape, dtype, xp=np, memory=None):
        self.A, self.B = xp.zeros((shape[0], shape[0]), dtype=dtype), xp.zeros(shape, dtype=dtype)
        self.memory = memory

    def add(self, found, n_rows, step):
        """Batch number `step`, from 0, of n_rows rows.  The sums found are its own afterwards."""
        if self.memory:
            beta = 1 - 1 / min(step + 1, max(self.memory / n_rows, 1))
        else:
            theta = (step + 1) * n_rows if step < n_rows - 1 else n_rows**2 + step + 1 - n_rows
            beta = (theta + 1 - n_rows) / (theta + 1)
        for total, part in ((self.A, found.A), (self.B, found.B)):
            total *= beta
            part /= n_rows  # in place: on a device K² numbers in float64 are not few
            total += part.astype(total.dtype, copy=False)

    def to(self, put):
        """Move both by a function of an array."""
        self.A, self.B = put(self.A), put(self.B)

    def forget(self, atoms):
        """What is known of these atoms, (K,) booleans."""
        self.A[atoms], self.B[atoms] = 0, 0
        self.A[:, atoms] = 0


def one_batch(oracle, D, statistics, step, *, update, renew):
    """Codes of one batch, then the atoms.  Returns D, the mean cost before, atoms replaced, rows unfinished.

    What is decided on is read at once, after all that does not depend on it was asked for: one wait for a device.
    """
    found = oracle.moments(D, renew.n_worst(len(D)))
    statistics.add(found, oracle.n_rows, step)
    D, unused = update(D, statistics.A, statistics.B)
    news = oracle.xp.concatenate([found.costs / oracle.n_rows, unused.sum(keepdims=True).astype(found.costs.dtype)])
    cost, n_unused = news.tolist()
    if n_unused:
        D = renew(D, unused, found.worst, oracle)
        if renew.forgets:
            statistics.forget(unused)
    return D, cost, int(n_unused) * renew.replaces, found.n_unfinished


def online(learned, statistics, batches, *, max_steps, update, renew, stop, report):
    """One batch after the other.  Mairal, Bach, Ponce, Sapiro, "Online dictionary learning for sparse coding", 2009.

    learned: a `FitState` to go on from.  batches: an iterator over the oracles of those that come next.  stop: (step,
    D, old D, mean cost, rows of the batch) -> whether to end.  report: called with `learned` after every batch.
    """
    while learned.n_iter < max_steps and not learned.converged:
        step, old, batch = learned.n_iter, learned.D, next(batches)
        D, cost, replaced, n_unfinished = one_batch(batch, old, statistics, step, update=update, renew=renew)
        learned.update(D, cost, stop(step, D, old, cost, batch.n_rows), replaced, n_unfinished)
        report(learned)
    return learned


class Resample:
    """An unused atom becomes a row drawn at random, with noise of a hundredth of its spread: scikit-learn's policy."""

    replaces, forgets = True, False

    def __init__(self, rng, positive):
        """rng: a numpy RandomState."""
        self.rng, self.positive = rng, positive

    def n_worst(self, n_atoms):
        return 0

    def __call__(self, D, unused, worst, oracle):
        xp, D = oracle.xp, D.copy()
        for j in np.flatnonzero(unused.tolist()).tolist():
            row = oracle.row(self.rng.choice(oracle.n_rows))
            noise = self.rng.normal(0, 0.01 * (float(row.std()) or 1.0), size=len(row))
            atom = row + xp.asarray(noise.astype(D.dtype))
            atom = xp.maximum(atom, 0) if self.positive else atom
            D[j] = atom / max(float(xp.sqrt((atom * atom).sum())), 1.0)
        return D


class Worst(Resample):
    """Unused atoms become the rows that the dictionary serves worst; what was known of the old ones is forgotten."""

    forgets = True

    def n_worst(self, n_atoms):
        return 2 * n_atoms  # rows that are alike make one atom

    def __call__(self, D, unused, worst, oracle):
        return replace_unused(D, unused, worst, rng=self.rng, positive=self.positive, xp=oracle.xp)


class Keep(Resample):
    """Unused atoms stay as they are."""

    replaces = False

    def __call__(self, D, unused, worst, oracle):
        return D


DEAD_ATOMS = {"resample": Resample, "worst": Worst, "keep": Keep}


class EarlyStopping:
    """scikit-learn's two rules to end: atoms at rest, or no better mean cost for `patience` batches.

    tol: ‖new D - old D‖ / K at or below which atoms are at rest; 0 for never.  The mean cost is an exponential average,
    begun after 100 batches or one pass over the rows.
    """

    def __init__(self, n_rows, n_atoms, tol, patience):
        self.n_rows, self.n_atoms, self.tol, self.patience = n_rows, n_atoms, tol, patience
        self.average = self.best = None
        self.without_progress, self.why = 0, ""

    def __call__(self, step, D, old, cost, batch_rows):
        """Whether to end after batch number `step`, from 0."""
        if step + 1 <= min(100, self.n_rows / batch_rows):
            return False
        share = min(batch_rows / (self.n_rows + 1), 1)
        self.average = cost if self.average is None else self.average * (1 - share) + cost * share
        if self.tol > 0 and float(((D - old) ** 2).sum()) ** 0.5 / self.n_atoms <= self.tol:
            self.why = "small dictionary change"
            return True
        if self.best is None or self.average < self.best:
            self.best, self.without_progress = self.average, 0
        else:
            self.without_progress += 1
        if self.patience is not None and self.without_progress >= self.patience:
            self.why = "lack of improvement in objective function"
            return True
        return False
