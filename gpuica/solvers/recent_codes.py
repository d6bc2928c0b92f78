"""Statistics of online dictionary learning whose size is that of the codes, for dictionaries of many atoms.

Σ c cᵀ has K² numbers for K atoms, most of which a batch neither reads nor changes.  The codes C and residuals
R = X - C D of the last rows take the place of A = Σ c cᵀ and B = Σ c xᵀ: an atom's update needs row j of B - A D, which
is C_jᵀ R, and A_jj.  While all rows so far are kept, it is the same update.
"""

import numpy as np

from .. import kernels
from .atoms import LEAST_USE

ROWS_PER_ATOM = 8  # rows that are kept at most: on image patches the cost is then 0.1 to 0.3 % above that of all rows
NEGLIGIBLE = 1e-6  # weight of a row, in units of that of the last, at which it is no longer kept


def decay(memory, n_rows, step):
    """The factor of the statistics of batches before batch number `step`, from 0, of n_rows rows.

    memory: the number of rows in an exponential window; None for the weights of Mairal et al. 2009, section 3.4.3,
    which amount to about n² rows for batches of n rows.
    """
    if memory:
        return 1 - 1 / min(step + 1, max(memory / n_rows, 1))
    theta = (step + 1) * n_rows if step < n_rows - 1 else n_rows**2 + step + 1 - n_rows
    return (theta + 1 - n_rows) / (theta + 1)


class RecentCodes:
    """The codes of the last rows, in place of `SufficientStatistics`; for the update "block_descent" on the host.

    memory: see `decay`.  positive: whether entries of atoms must be at least 0.

    The rows are those of T batches.  sizes, weights (T,): rows of each, and the weight of a row.  residuals (n, d).
    starts (T, K + 1): where the non-zeros of each atom start in rows and values (n_nonzero,): batch after batch, and
    atom after atom.  use (K,): A_jj of all rows so far, which decides whether an atom is used.
    """

    def __init__(self, shape, dtype, memory=None, positive=False):
        n_atoms, n_features = shape
        self.memory, self.positive, self.most = memory, positive, ROWS_PER_ATOM * n_atoms
        self.sizes, self.weights, self.use = np.zeros(0, np.int64), np.zeros(0), np.zeros(n_atoms)
        self.residuals, self.values = np.zeros((0, n_features), dtype), np.zeros(0, dtype)
        self.starts, self.rows = np.zeros((0, n_atoms + 1), np.int64), np.zeros(0, np.int32)
        self.D = None  # the dictionary of the residuals

    def collect(self, oracle, D, n_worst, step):
        """Code the rows of an oracle, batch number `step`, and keep the codes; returns the `protocol.CodedBatch`."""
        coded = oracle.coded(D, n_worst)
        self._correct(D)
        self._append(coded, decay(self.memory, len(coded.residuals), step))
        return coded

    def _correct(self, D):
        """Correct the residuals of earlier batches for atoms that changed since the last update."""
        changed = np.zeros(0, np.int64) if self.D is None else np.flatnonzero((self.D != D).any(axis=1))
        if len(changed):
            steps = (self.D - D)[changed]
            kernels.add_atoms(self.residuals, self.starts, self.rows, self.values, changed, steps)

    def _append(self, coded, factor):
        """Add a batch whose statistics are added to `factor` times the present ones; drop the oldest batches."""
        n_rows, n_atoms, (counts, indices, values) = len(coded.residuals), len(self.use), coded.codes
        self.use = factor * self.use + np.bincount(indices, values.astype(float) ** 2, n_atoms) / n_rows
        ages = np.cumsum(self.sizes[::-1])[::-1] + n_rows
        kept = (ages <= self.most) & (factor * self.weights > NEGLIGIBLE / n_rows)
        first_row, first = self.sizes[~kept].sum(), self.starts[kept][0, 0] if kept.any() else len(self.values)
        order = np.argsort(indices, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(indices, minlength=n_atoms))]) + len(self.values) - first
        rows = np.repeat(np.arange(n_rows, dtype=np.int32), counts)[order] + np.int32(len(self.residuals) - first_row)
        self.residuals = np.concatenate([self.residuals[first_row:], coded.residuals])
        self.rows = np.concatenate([self.rows[first:] - np.int32(first_row), rows])
        self.values = np.concatenate([self.values[first:], values[order]])
        self.starts = np.concatenate([self.starts[kept] - first, starts[None]])
        self.sizes = np.concatenate([self.sizes[kept], [n_rows]])
        self.weights = np.concatenate([factor * self.weights[kept], [1 / n_rows]])

    def update(self, D, update):
        """The dictionary after one sweep of coordinate descent over the atoms, and which of them are unused.

        update: not used; it is "block_descent".
        """
        unused = ~(self.use > LEAST_USE)
        self.D = D.copy()
        entries = self.starts, self.rows, self.values, self.weights
        kernels.descend_on_rows(self.D, self.residuals, *entries, ~unused, self.positive)
        return np.maximum(self.D, 0) if self.positive else self.D, unused

    def reset(self, atoms):
        """Set the statistics of these atoms, (K,) booleans, to 0."""
        self.use[atoms] = 0
        for starts in self.starts:
            self.values[starts[0] : starts[-1]][np.repeat(atoms, np.diff(starts))] = 0

    @property
    def arrays(self):
        """The state, by name."""
        names = "sizes", "weights", "use", "residuals", "starts", "rows", "values"
        return {name: getattr(self, name) for name in names} | ({} if self.D is None else {"atoms": self.D})

    def restore(self, arrays, put):
        """Set the state to copies of `arrays`."""
        for name in self.arrays:
            setattr(self, name, arrays[name].copy())
        self.D = arrays["atoms"].copy() if "atoms" in arrays else None

    def to(self, put):
        """Nothing: the statistics are on the host."""
