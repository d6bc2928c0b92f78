"""The oracle of dictionary learning: sums over rows and their codes."""

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import code_sums, sums
from .exceptions import NotFiniteError

if TYPE_CHECKING:  # the contract that mypy checks the oracle against, see the end of the file
    from .solvers import protocol


def finite_cost(cost):
    """The cost, a float; NotFiniteError if it is not finite, before it spoils the state of a fit."""
    if not math.isfinite(cost):
        raise NotFiniteError(
            "Input X contains NaN, infinity, or values too large to be squared: clean or rescale it (or initial atoms)."
        )
    return cost


class CodeMoments(NamedTuple):
    """Sums over the rows x and their codes c by a dictionary D: a `protocol.CodeMoments`.

    costs: Σ ½‖x - c D‖² + penalty(c), (1,), on the device of the rows.  A: Σ c cᵀ (K, K).  B: Σ c xᵀ (K, d).  worst:
    the rows (m, d) that D reconstructs worst, worst first.  n_unfinished: the number of rows whose coder did not
    converge.
    """

    costs: Any
    A: Any
    B: Any
    worst: Any
    n_unfinished: int

    @property
    def cost(self):
        """The cost, a float.  Waits for a device.  Raises NotFiniteError if it is not finite."""
        return finite_cost(float(self.costs[0]))

    def cost_at(self, new, old):
        """Σ ½‖x - c new‖² + penalty(c): the cost of the codes, computed with `old`, for the dictionary `new`."""
        A, B = self.A, self.B
        new, old = new.astype(B.dtype), old.astype(B.dtype)
        return self.cost - float((B * (new - old)).sum()) + float(((A @ new) * new - (A @ old) * old).sum()) / 2


class CodedBatch(NamedTuple):
    """Rows x and their codes c by a dictionary D: a `protocol.CodedBatch`."""

    costs: Any
    residuals: Any
    codes: tuple
    worst: Any
    n_unfinished: int


class CodeOracle:
    """Sums over rows x (d,) and their codes by a coder: a `protocol.DictionaryOracle`."""

    def __init__(self, rows, coder):
        self.rows, self.coder = rows, coder
        self.xp, self.n_rows, self.n_features, self.dtype = rows.xp, rows.n_rows, rows.n_features, rows.dtype

    def moments(self, D, n_worst=0):
        """The `CodeMoments` of all rows, with the n_worst rows that D reconstructs worst.  One pass."""
        total = self.rows.reduce(
            code_sums.CodeTotals, (D, n_worst), code_sums.coded, D, code_sums.prepared(D, self.coder), self.coder
        )
        if self.xp is np:  # on a device this would be a wait: there the cost is checked when it is read
            finite_cost(float(total.costs[0]))
        return CodeMoments(total.costs, total.A, total.B, total.worst, total.n_unfinished)

    def coded(self, D, n_worst=0):
        """The `CodedBatch` of all rows, on the host, with the n_worst rows that D reconstructs worst.  One pass."""
        found = self.rows.reduce(
            code_sums.CodedRows, (D,), code_sums.coded, D, code_sums.prepared(D, self.coder), self.coder
        )
        X, *codes = found.kept
        R = X.copy() if n_worst else X
        squares = code_sums.subtract_codes(R, D, *codes)
        costs = found.penalties + squares.sum() / 2
        finite_cost(float(costs[0]))
        worst = X[np.argsort(-squares, kind="stable")[:n_worst]]
        return CodedBatch(costs, R, tuple(codes), worst, int(found.n_unfinished[0]))

    def codes(self, D, unfinished=None):
        """The codes of all rows, (n, K), and the number of rows whose coder did not converge.  One pass.

        unfinished: counts these rows in place of a `code_sums.Unfinished`, for a lazy map.
        """
        settings = self._settings(D)
        if unfinished is None and code_sums.are_compressed(settings[1]):
            return self._filled_codes(settings)
        unfinished = code_sums.Unfinished() if unfinished is None else unfinished
        return self.rows.map(code_sums.codes, *settings, unfinished), unfinished.count

    def _filled_codes(self, settings):
        """`codes`, from compressed ones: pages of memory without non-zeros are never written."""
        C, start = np.zeros((self.rows.n_local, len(settings[0])), self.dtype), 0

        def fill(codes):
            nonlocal start
            counts, indices, values = codes
            C[start + np.arange(len(counts)).repeat(counts), indices] = values
            start += len(counts)

        return C, self._hand(fill, code_sums.sparse_codes, settings)

    def hand_codes(self, consume, D, sparse):
        """Call consume(codes) for every chunk in order; return the number of rows whose coder did not converge.

        sparse: whether codes are compressed: (non-zeros of each row, columns, values).  One pass.
        """
        return self._hand(consume, code_sums.sparse_codes if sparse else code_sums.dense_codes, self._settings(D))

    def _hand(self, consume, function, settings):
        """See `hand_codes`."""
        n_unfinished = 0

        def take(part):
            nonlocal n_unfinished
            codes, left = part
            n_unfinished += left
            consume(codes)

        self.rows.for_each(take, function, *settings)
        return n_unfinished

    def _settings(self, D):
        """The parameters of a coder's sums."""
        return D, code_sums.prepared(D, self.coder), self.coder

    def square(self):
        """Σ x xᵀ (d, d).  One pass."""
        return self.rows.sum(sums.moments, self.xp.zeros(self.n_features))[1]

    def batches(self, size, rng=None, skip=0):
        """Oracles of `size` rows at a time, epoch after epoch, without end; see `Rows.epochs`."""
        return (CodeOracle(batch, self.coder) for batch in self.rows.epochs(size, rng, skip))

    def row(self, index):
        """One row (d,)."""
        return self.rows.take([index])[0]


if TYPE_CHECKING:

    def _contract(oracle: CodeOracle) -> None:
        """An assignment that mypy checks."""
        _dictionary: protocol.DictionaryOracle = oracle
