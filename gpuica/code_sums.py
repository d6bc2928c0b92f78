"""The contribution of one chunk of rows to codes, and to sums over rows and their codes by a dictionary D (K, d).

Top-level functions, so that they can be sent to workers.
"""

import numpy as np

from . import kernels
from .device import array_device, to_host


def prepared(D, coder):
    """What a coder computes once from a dictionary D (K, d), such as D Dᵀ (K, K), for the functions below."""
    return kernels.prepare(D, coder)


def are_compressed(prepared):
    """Whether codes are computed in compressed form."""
    return kernels.are_compressed(prepared)


def codes(X, D, prepared, coder, unfinished):
    """Codes (n, K) of X (n, d) by a coder.  For `Rows.map`.  unfinished: an `Unfinished` or an object like it."""
    C, left = kernels.encode(X, D, prepared, coder)
    unfinished.add(left, len(X))
    return C


class Unfinished:
    """Counts the rows whose coder did not converge.  Several threads can add chunks at the same time."""

    def __init__(self):
        self.counts = []

    def add(self, n_unfinished, n_rows):
        """Add one chunk of n_rows rows."""
        self.counts.append(n_unfinished)

    @property
    def count(self):
        """The number of rows so far."""
        return sum(self.counts)


def sparse_codes(X, D, prepared, coder):
    """Codes on the host, (non-zeros of each row (n,), columns, values), and the number of rows not converged."""
    if kernels.has_kernels(X):
        C, left = kernels.encode_compressed(X, D, prepared, coder)
        return tuple(map(to_host, C)), left
    C, left = kernels.encode(X, D, prepared, coder)
    return kernels.compress(to_host(C)), left


def dense_codes(X, D, prepared, coder):
    """Codes (n, K), and the number of rows whose coder did not converge."""
    return kernels.encode(X, D, prepared, coder)


def coded(X, D, prepared, coder):
    """X, the penalty of its codes, the codes, and the number of rows whose coder did not converge.

    Codes are in the form that `add_code_moments` takes: compressed, or dense on a device without kernels.
    """
    if kernels.has_kernels(X):
        C, left = kernels.encode_compressed(X, D, prepared, coder)
        return X, coder.penalty(C[-1]), C, left
    C, left = kernels.encode(X, D, prepared, coder)
    return X, coder.penalty(C), C, left


def add_code_moments(X, D, C, A, B):
    """Add Σ c cᵀ to A (K, K) and Σ c xᵀ to B (K, d); return ‖x - c D‖² of every row, (n,).  C: codes of `coded`."""
    if isinstance(C, tuple):
        counts, indices, values = C
        return kernels.add_code_moments(X, D, counts, indices, values, A, B)
    A += C.T @ C
    B += C.T @ X
    R = X - C @ D
    return (R * R).sum(axis=1)


def subtract_codes(R, D, counts, indices, values):
    """R -= C D for compressed codes C, on the host; returns the squared norms of the rows of R (n,)."""
    return kernels.subtract_codes(R, D, counts, indices, values)


class CodedRows:
    """Collects rows x and their codes by a dictionary D (K, d), from the results of `coded` on the host.

    added: Σ penalty(c) (1,) and the number of unfinished rows (1,).  kept: the rows (n, d), and their codes: non-zeros
    of each row (n,), columns and values (n_nonzero,).
    """

    def __init__(self, D):
        self.penalties, self.n_unfinished = np.zeros(1), np.zeros(1)
        empty = np.zeros((0, D.shape[1]), D.dtype), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, D.dtype)
        self.parts: list[tuple] = [empty]

    def add(self, part):
        """Add a chunk, the result of `coded`."""
        X, penalty, codes, n_unfinished = part
        self.merge((penalty, n_unfinished), (X, *codes))

    @property
    def added(self):
        """Sums over the rows."""
        return self.penalties, self.n_unfinished

    @property
    def kept(self):
        """Arrays of all rows."""
        return tuple(np.concatenate(arrays) for arrays in zip(*self.parts, strict=True))

    def merge(self, added, kept):
        """Add later rows: their `added` and `kept`."""
        self.penalties += added[0]
        self.n_unfinished += added[1]
        self.parts.append(kept)


class CodeTotals:
    """Accumulates sums over rows x and their codes c by a dictionary D (K, d), from the results of `coded`.

    A: Σ c cᵀ (K, K).  B: Σ c xᵀ (K, d).  costs: Σ ½‖x - c D‖² + penalty(c), (1,).  n_unfinished: the number of rows
    whose coder did not converge.  worst: the rows (m, d), m at most n_worst, that D reconstructs worst, worst first.
    """

    def __init__(self, D, n_worst):
        self.xp = array_device(D).xp
        self.D, self.n_worst = D, n_worst
        self.A, self.B = self.xp.zeros((len(D), len(D))), self.xp.zeros(D.shape)
        self.costs, self.n_unfinished = self.xp.zeros(1), 0
        self.worst, self.squares = self.xp.zeros((0, D.shape[1]), dtype=D.dtype), self.xp.zeros(0)

    def add(self, part):
        """Add a chunk, the result of `coded`."""
        X, penalty, C, n_unfinished = part
        squares = add_code_moments(X, self.D, C, self.A, self.B)
        self.costs += squares.sum(dtype=np.float64) / 2 + penalty
        self.n_unfinished += n_unfinished
        self._keep(X, squares)

    @property
    def added(self):
        """The sums: A, B, costs (1,) and n_unfinished (1,)."""
        return self.A, self.B, self.costs, self.xp.zeros(1) + self.n_unfinished

    @property
    def kept(self):
        """The worst rows (m, d) and their squared residuals (m,), if n_worst; else ()."""
        return (self.worst, self.squares) if self.n_worst else ()

    def merge(self, added, kept):
        """Add the totals of later rows: their `added` and `kept`."""
        A, B, costs, n_unfinished = added
        self.A += A
        self.B += B
        self.costs += costs
        self.n_unfinished += int(n_unfinished[0])
        if kept:
            self._keep(*kept)

    def _keep(self, X, squares):
        """Merge rows (n, d) and their squared residuals (n,) into the worst rows."""
        if not self.n_worst:
            return
        first = self.xp.argsort(-squares)[: self.n_worst]
        X = self.xp.concatenate([self.worst, X[first]])
        squares = self.xp.concatenate([self.squares, squares[first].astype(np.float64)])
        first = self.xp.argsort(-squares)[: self.n_worst]
        self.worst, self.squares = X[first], squares[first]
