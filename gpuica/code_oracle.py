"""What dictionary learning asks about rows and their codes, answered by sums over rows."""

import math
from typing import Any, NamedTuple

import numpy as np

from . import sums
from .exceptions import NotFiniteError


def finite_cost(cost):
    """The cost of codes, a number; NotFiniteError if it is none, before it spoils what was learned."""
    if not math.isfinite(cost):
        raise NotFiniteError(
            "Input X contains NaN, infinity, or values too large to be squared: clean or rescale it (or initial atoms)."
        )
    return cost


class CodeMoments(NamedTuple):
    """Sums over the rows x and their codes c from a dictionary D.

    costs: Σ ½‖x - c D‖² + penalty(c), (1,) where the rows are; `cost`, a number.  A: Σ c cᵀ (K, K).  B: Σ c xᵀ (K, d).
    worst: rows (m, d) that D serves worst, the worst first.  n_unfinished: rows whose code is not the coder's solution.
    """

    costs: Any
    A: Any
    B: Any
    worst: Any
    n_unfinished: int

    @property
    def cost(self):
        """The cost as a number.  Waits for a device.  NotFiniteError if it is none."""
        return finite_cost(float(self.costs[0]))

    def cost_at(self, new, old):
        """Σ ½‖x - c new‖² + penalty(c): the cost if the codes, found with `old`, were used with `new`."""
        A, B = self.A, self.B
        new, old = new.astype(B.dtype), old.astype(B.dtype)
        return self.cost - float((B * (new - old)).sum()) + float(((A @ new) * new - (A @ old) * old).sum()) / 2


class CodeOracle:
    """Answers what dictionary learning asks about rows x, (n, d), and their codes by a coder."""

    def __init__(self, rows, coder):
        self.rows, self.coder = rows, coder
        self.xp, self.n_rows, self.n_features, self.dtype = rows.xp, rows.n_rows, rows.n_features, rows.dtype

    def moments(self, D, n_worst=0):
        """The CodeMoments of all rows; n_worst rows of them are told.  One pass."""
        total = self.rows.reduce(sums.CodeTotals, (D, n_worst), sums.coded, D, sums.gram(D, self.coder), self.coder)
        if self.xp is np:  # on a device it would be a wait: there the cost is checked when it is read
            finite_cost(float(total.costs[0]))
        return CodeMoments(total.costs, total.A, total.B, total.worst, total.n_unfinished)

    def codes(self, D, unfinished=None):
        """The codes of all rows, (n, K), and how many rows are not finished.  One pass.

        unfinished: what takes the counts in place of a `sums.Unfinished`, for a map that is lazy.
        """
        unfinished = sums.Unfinished() if unfinished is None else unfinished
        return self.rows.map(sums.codes, *self._settings(D), unfinished), unfinished.count

    def hand_codes(self, consume, D, sparse):
        """consume(the codes) of every chunk in turn, dense or compressed: (non-zeros a row, columns, values); returns
        how many rows are not finished.  One pass."""
        n_unfinished = 0

        def take(part):
            nonlocal n_unfinished
            codes, left = part
            n_unfinished += left
            consume(codes)

        self.rows.for_each(take, sums.sparse_codes if sparse else sums.dense_codes, *self._settings(D))
        return n_unfinished

    def _settings(self, D):
        return D, sums.gram(D, self.coder), self.coder

    def square(self):
        """Σ x xᵀ (d, d).  One pass."""
        return self.rows.sum(sums.moments, self.xp.zeros(self.n_features))[1]

    def batches(self, size, rng=None, skip=0):
        """The same questions about `size` rows at a time, without end; see `Rows.epochs`."""
        return (CodeOracle(batch, self.coder) for batch in self.rows.epochs(size, rng, skip))

    def row(self, index):
        """One row (d,)."""
        return self.rows.take([index])[0]
