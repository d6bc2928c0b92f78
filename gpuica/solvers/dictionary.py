"""Dictionary learning: codes for the present atoms, then atoms for these codes, on all rows or batch by batch.

Codes never leave the rows; a solver sees Σ c cᵀ and Σ c xᵀ.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .atoms import replace_unused
from .protocol import DictionaryOracle
from .recent_codes import decay


@dataclass
class FitState:
    """The state of a fit, enough to resume from; it changes as a whole, after an iteration, so it is always consistent.

    D: atoms (K, d).  coded_with: the atoms that the last codes were computed with.  costs: after every iteration, or
    mean costs before every batch.  converged: whether a stopping rule was met.  n_replaced: unused atoms that were
    replaced, in total.  n_unfinished: rows of the last iteration whose coder did not converge.
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
        """Set the outcome of one more iteration."""
        self.D, self.coded_with, self.converged = D, self.D, converged
        self.costs.append(cost)
        self.n_replaced += n_replaced
        self.n_unfinished = n_unfinished


def alternate(oracle: DictionaryOracle, state, *, max_iter, tol, update, dead_atoms, report):
    """Codes of all rows and all atoms alternately, until the relative decrease of the cost is below tol.

    oracle: a `protocol.DictionaryOracle`.  state: a `FitState` to start or resume from.  update: a function of
    `solvers.atoms.UPDATES`, its options bound.  dead_atoms: a policy for unused atoms, such as `Resample`.  report:
    called with the state after every iteration.
    """
    while state.n_iter < max_iter and not state.converged:
        old = state.D
        moments = oracle.moments(old, dead_atoms.n_worst(len(old)))
        D, unused = update(old, moments.A, moments.B)
        n_replaced = 0
        if bool(unused.any()):
            moments.A[unused], moments.B[unused] = 0, 0
            moments.A[:, unused] = 0
            D = dead_atoms(D, unused, moments.worst, oracle)
            n_replaced = int(unused.sum()) * dead_atoms.replaces
        cost = moments.cost_at(D, old)
        before = state.costs[-1] if state.costs else float("inf")
        converged = state.n_iter > 0 and (before - cost < tol * cost or cost == 0)
        state.update(D, cost, converged, n_replaced, moments.n_unfinished)
        report(state)
    return state


class SufficientStatistics:
    """Weighted means of Σ c cᵀ / n, A (K, K), and Σ c xᵀ / n, B (K, d), over the batches; weights decay with age.

    memory: see `recent_codes.decay`.
    """

    def __init__(self, shape, dtype, xp=np, memory=None):
        self.A, self.B = xp.zeros((shape[0], shape[0]), dtype=dtype), xp.zeros(shape, dtype=dtype)
        self.memory = memory

    def collect(self, oracle, D, n_worst, step):
        """Add the rows of an oracle, batch number `step`; returns their `protocol.CodeMoments`."""
        moments = oracle.moments(D, n_worst)
        self.add(moments, oracle.n_rows, step)
        return moments

    def update(self, D, update):
        """The dictionary after update(D, A, B), and which atoms are unused."""
        return update(D, self.A, self.B)

    def add(self, moments, n_rows, step):
        """Add batch number `step`, from 0, of n_rows rows.  Overwrites A and B of its moments."""
        beta = decay(self.memory, n_rows, step)
        for total, part in ((self.A, moments.A), (self.B, moments.B)):
            total *= beta
            part /= n_rows  # in place: K² numbers in float64 take much of a device's memory
            total += part.astype(total.dtype, copy=False)

    @property
    def arrays(self):
        """The state, by name."""
        return {"A": self.A, "B": self.B}

    def restore(self, arrays, put):
        """Set the state to copies of `arrays`, passed through put."""
        self.A, self.B = put(arrays["A"].copy()), put(arrays["B"].copy())

    def to(self, put):
        """Replace both by put(array), which copies to another device."""
        self.A, self.B = put(self.A), put(self.B)

    def reset(self, atoms):
        """Set the statistics of these atoms, (K,) booleans, to 0."""
        self.A[atoms], self.B[atoms] = 0, 0
        self.A[:, atoms] = 0


def one_batch(oracle: DictionaryOracle, D, statistics, step, *, update, dead_atoms):
    """Codes of one batch, then the atoms.  Returns D, the mean cost before, atoms replaced, rows unfinished.

    oracle: a `protocol.DictionaryOracle` of the batch.  statistics: `SufficientStatistics` or `RecentCodes`.  The
    numbers that decisions depend on are read once, after all work that does not depend on them was enqueued: one wait
    for a device.
    """
    moments = statistics.collect(oracle, D, dead_atoms.n_worst(len(D)), step)
    D, unused = statistics.update(D, update)
    numbers = oracle.xp.concatenate(
        [moments.costs / oracle.n_rows, unused.sum(keepdims=True).astype(moments.costs.dtype)]
    )
    cost, n_unused = numbers.tolist()
    if n_unused:
        D = dead_atoms(D, unused, moments.worst, oracle)
        if dead_atoms.resets_statistics:
            statistics.reset(unused)
    return D, cost, int(n_unused) * dead_atoms.replaces, moments.n_unfinished


def online(state, statistics, batches, *, max_steps, update, dead_atoms, stop, report):
    """Online dictionary learning, batch by batch: Mairal, Bach, Ponce, Sapiro, ICML 2009.

    state: a `FitState` to start or resume from.  batches: an iterator over `protocol.DictionaryOracle`s, one for each
    of the following batches.  stop: (step, D, old D, mean cost, rows of the batch) -> whether to end, such as
    `EarlyStopping`.  report: called with the state after every batch.
    """
    while state.n_iter < max_steps and not state.converged:
        step, old, batch = state.n_iter, state.D, next(batches)
        D, cost, replaced, n_unfinished = one_batch(batch, old, statistics, step, update=update, dead_atoms=dead_atoms)
        state.update(D, cost, stop(step, D, old, cost, batch.n_rows), replaced, n_unfinished)
        report(state)
    return state


class Resample:
    """Replace an unused atom by a random row plus noise of 0.01 of its standard deviation: scikit-learn's policy.

    A policy has n_worst(n_atoms), how many of the worst-reconstructed rows it needs; `replaces`, whether it replaces
    atoms; `resets_statistics`, whether the statistics of replaced atoms are to be reset; and is called with (D, unused,
    worst, oracle), unused (K,) booleans and worst (m, d) those rows, worst first, and returns the new D.
    """

    replaces, resets_statistics = True, False

    def __init__(self, rng, positive):
        """rng: a numpy RandomState.  positive: whether entries of atoms must be at least 0."""
        self.rng, self.positive = rng, positive

    def n_worst(self, n_atoms):
        """The number of worst-reconstructed rows that are needed."""
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
    """Replace unused atoms by the rows that the dictionary reconstructs worst, and reset their statistics."""

    resets_statistics = True

    def n_worst(self, n_atoms):
        return 2 * n_atoms  # because parallel rows make one atom

    def __call__(self, D, unused, worst, oracle):
        return replace_unused(D, unused, worst, rng=self.rng, positive=self.positive, xp=oracle.xp)


class Keep(Resample):
    """Leave unused atoms unchanged."""

    replaces = False

    def __call__(self, D, unused, worst, oracle):
        return D


DEAD_ATOMS = {"resample": Resample, "worst": Worst, "keep": Keep}


class EarlyStopping:
    """scikit-learn's two stopping rules: a small change of the atoms, or no lower mean cost for `patience` batches.

    tol: the fit ends where ‖new D - old D‖ / K is at or below it; 0 for never.  patience: None for never.  The mean
    cost is an exponential average, from the 100th batch or the end of the first pass over the rows on.
    """

    def __init__(self, n_rows, n_atoms, tol, patience):
        self.n_rows, self.n_atoms, self.tol, self.patience = n_rows, n_atoms, tol, patience
        self.average = self.best = None
        self.without_progress, self.why = 0, ""

    def __call__(self, step, D, old, cost, batch_rows):
        """Whether to end after batch number `step`, from 0."""
        if step + 1 <= min(100, self.n_rows / batch_rows):
            return False
        weight = min(batch_rows / (self.n_rows + 1), 1)
        self.average = cost if self.average is None else self.average * (1 - weight) + cost * weight
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
