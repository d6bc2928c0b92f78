"""The contract of all storages: rows are read through sums and maps over chunks.

Solvers see the same `Rows` for arrays in memory, files, Dask arrays and ranks.  A storage contains no mathematics; it
applies functions that it is given.
"""

from abc import ABC, abstractmethod
from itertools import cycle, islice
from operator import attrgetter
from typing import Any

import numpy as np

from ..device import array_device, to_host
from ..io.digest import COSTLY_SAMPLE_ROWS, SAMPLE_ROWS, spread_indices

MAX_COUNT = 1 << 12  # integer weights up to this one are frequency weights: that many copies of a row


class Rows(ABC):
    """A matrix X of shape (n_rows, n_features), read as chunks X_1, ..., X_m of consecutive rows.

    A chunk is an array (n_chunk, n_features) in `dtype`, float32 or float64, of the library `xp`, numpy or cupy.  A
    storage implements the abstract members, and overrides the others, which are derived from them, where it can do
    better.

    ==================================  ======================================================================  ======
    verb                                result                                                                  passes
    ==================================  ======================================================================  ======
    sum(f, *params)                     Σ_i f(X_i, *params), a tuple of float64 arrays                          1
    map(f, *params)                     f(X_i, *params) stacked, (n_rows, ...)                                  1
    for_each(consume, f, *params)       None; consume(f(X_i, *params)) is called for i = 1, ..., m in order     1
    reduce(kind, start, f, *params)     kind(*start) to which f(X_i, *params) was added for i = 1, ..., m       1
    take(indices)                       X[indices], an array (len(indices), n_features)                         0
    subset(indices)                     Rows of X[indices], in memory                                           0
    batches(size, rng)                  iterator over Rows of `size` rows that partition X                      1
    sample(n, rng)                      Rows of n rows drawn without replacement                                0
    epochs(size, rng, skip)             endless iterator over batches, the same order in every epoch            -
    projected(mean, components)         Rows (X - mean) @ componentsᵀ                                           0 or 1
    ==================================  ======================================================================  ======

    Chunks are added in order, whatever the number of threads: the same call returns the same bits.
    """

    n_rows: int
    n_features: int
    dtype: np.dtype
    n_passes = 0  # how often X was read from first to last row; projected rows continue the count of their source
    scratch = None  # the array (n_rows, n_features) behind the rows, if it may be overwritten after the last pass
    random_access_is_costly = False  # whether reading a few random rows costs as much as reading all of them
    batch_window = None  # bytes of the window that batches are shuffled in; None where the order depends on rng alone
    weights = None  # (n_rows,) sample weights in `dtype`, on the device of the chunks; None for weight 1

    @property
    def n_local(self):
        """The number of rows that `map` and `for_each` process: those of this process, of rows shared by several."""
        return self.n_rows

    @property
    def weight(self):
        """The denominator of means: Σ w, or n_rows."""
        return self.n_rows if self.weights is None else float(self.weights.sum(dtype=np.float64))

    @property
    def n_effective(self):
        """The denominator of variances of means: n_kish, but Σ w for frequency weights, so that weight 2 equals two
        copies of a row."""
        return self.weight if self.has_counts else self.n_kish

    @property
    def has_counts(self):
        """Whether all weights are integers up to MAX_COUNT."""
        w = self.weights
        return w is not None and len(w) > 0 and bool(((w <= MAX_COUNT) & (w % 1 == 0)).all())

    @property
    def n_kish(self):
        """Kish's effective sample size (Σ w)² / Σ w², which does not depend on the scale of the weights; or n_rows.

        Kish, Survey Sampling, Wiley 1965.
        """
        if self.weights is None:
            return self.n_rows
        w = self.weights.astype(np.float64, copy=False)
        square = float((w * w).sum())
        return float(w.sum()) ** 2 / square if square else 0.0

    @property
    @abstractmethod
    def xp(self):
        """numpy or cupy: the library of chunks and totals."""

    @abstractmethod
    def sum(self, contribution, *params):
        """Σ_i contribution(X_i, *params), a tuple of float64 arrays.  One pass.

        contribution: returns a tuple of arrays that add up over chunks.  Where the rows have weights, it is called with
        the keyword `weights`, those of the chunk, (n_chunk,).
        """

    @abstractmethod
    def map(self, function, *params, out=None):
        """function(X_i, *params) of all chunks, stacked, (n_rows, ...).  One pass.

        out: the array to write to, which may be X itself; None allocates it.
        """

    @abstractmethod
    def for_each(self, consume, function, *params):
        """Call consume(function(X_i, *params)) for i = 1, ..., m, in order, one at a time.  One pass."""

    def reduce(self, kind, start, function, *params):
        """kind(*start), after `add(function(X_i, *params))` for i = 1, ..., m.  One pass.

        For totals too large to have one per chunk, as `sum` does.  kind: a class with the methods `add(part)` and
        `merge(added, kept)`, and the attributes `added`, a tuple of arrays that add up over parts, and `kept`, a tuple
        of arrays that are concatenated over parts.  `merge` takes these two of an object that was given later rows.
        """
        total = kind(*start)
        self.for_each(total.add, function, *params)
        return total

    @abstractmethod
    def take(self, indices):
        """X[indices], (len(indices), n_features), in the dtype and on the device of the chunks."""

    @abstractmethod
    def subset(self, indices):
        """Rows of X[indices], with their weights, in memory."""

    def all_ranks(self, fact):
        """Whether a fact holds in every process that shares the rows; in one process, the fact."""
        return fact

    def cached_result(self, name, make, *key):
        """make(), a list of arrays; a checkpoint returns the arrays that it stored for this name and key.

        key: what the arrays depend on, beside the rows.
        """
        return make()

    def fixed_sample(self):
        """At most SAMPLE_ROWS rows spread over X, the same in every call: for a digest of the data."""
        return self.take(
            spread_indices(self.n_rows, COSTLY_SAMPLE_ROWS if self.random_access_is_costly else SAMPLE_ROWS)
        )

    def upload(self):
        """These rows, after a copy of X to the device if it fits the memory budget: for many passes."""
        return self

    def to_memory(self):
        """All rows, as Rows in the memory of this process.  For few rows."""
        return self.subset(np.arange(self.n_rows))

    @abstractmethod
    def batches(self, size, rng=None):
        """Iterate over all rows once, as Rows of `size` rows, the last one smaller; in random order with rng.

        Rows keep their weights; the order does not depend on them.
        """

    def sample(self, n, rng):
        """n rows drawn at random without replacement, as Rows."""
        return next(iter(self.batches(n, rng)))

    def epochs(self, size, rng=None, skip=0):
        """Endless iterator over mini-batches, after the first `skip` of them; in random order with rng.

        The order is drawn at the call, is scikit-learn's, and is the same in every epoch.
        """
        order = np.arange(self.n_rows)
        if rng is not None:
            rng.shuffle(order)  # draws what shuffling the rows themselves would draw
        starts = islice(cycle(range(0, self.n_rows, size)), skip, None)
        return (self.subset(order[start : start + size]) for start in starts)

    def projected(self, mean, components):
        """Rows (X - mean) @ componentsᵀ: stored if they fit the memory budget, else computed in every pass."""
        return self.project_with(round_projection(mean, components, self.dtype))

    def project_with(self, projection):
        """`projected`, for the result of `round_projection`."""
        return ProjectedRows(self, projection)


def forwarded(name, to="rows") -> Any:
    """A class attribute that returns the attribute or bound method `name` of `self.rows`, or of `self.<to>`."""
    return property(attrgetter(f"{to}.{name}"))


class ProjectedRows(Rows):
    """Rows (x - mean) @ componentsᵀ, computed chunk by chunk in every pass over `rows`."""

    n_rows, dtype, weights, xp = (forwarded(name) for name in ("n_rows", "dtype", "weights", "xp"))
    n_local = forwarded("n_local")
    n_passes = forwarded("n_passes")
    random_access_is_costly, batch_window = forwarded("random_access_is_costly"), forwarded("batch_window")

    def __init__(self, rows, projection):
        """projection: as `round_projection` returns it, on the device of the rows."""
        self.rows, self.projection = rows, projection
        self.n_features = len(projection[1])

    def sum(self, contribution, *params):
        return self.rows.sum(_project_and_apply, self.projection, contribution, *params)

    def map(self, function, *params, out=None):
        return self.rows.map(_project_and_apply, self.projection, function, *params, out=out)

    def for_each(self, consume, function, *params):
        self.rows.for_each(consume, _project_and_apply, self.projection, function, *params)

    def reduce(self, kind, start, function, *params):
        return self.rows.reduce(kind, start, _project_and_apply, self.projection, function, *params)

    def take(self, indices):
        return project_chunk(self.rows.take(indices), self.projection)

    def subset(self, indices):
        return self.rows.subset(indices).project_with(self.projection)

    def batches(self, size, rng=None):
        return (batch.project_with(self.projection) for batch in self.rows.batches(size, rng))

    def sample(self, n, rng):
        return self.rows.sample(n, rng).project_with(self.projection)

    def epochs(self, size, rng=None, skip=0):
        return (batch.project_with(self.projection) for batch in self.rows.epochs(size, rng, skip))


def round_projection(mean, components, dtype):
    """(mean, components, offset) in the working dtype; the offset corrects for the rounding of the mean.

    mean: (d,).  components: (k, d).  offset: (k,).  ValueError if the components overflow the dtype, as for data below
    1e-38 in float32.
    """
    rounded = mean.astype(dtype)
    offset = (components @ (mean - rounded)).astype(dtype)
    with np.errstate(over="ignore"):
        narrowed = components.astype(dtype)
    if narrowed.dtype != components.dtype and not bool(array_device(narrowed).xp.isfinite(narrowed).all()):
        raise ValueError(
            f"X varies by so little that the matrix which scales it to variance 1 overflows {np.dtype(dtype)}: "
            "multiply X by a constant, or pass it as float64."
        )
    return rounded, narrowed, offset


def project_chunk(chunk, projection):
    """(chunk - mean) @ componentsᵀ, (n, k), for the result of `round_projection`.

    The mean is subtracted first: mean @ componentsᵀ can exceed the result by all digits of the dtype.
    """
    mean, components, offset = projection
    projected = (chunk - mean) @ components.T
    projected -= offset
    return projected


def _project_and_apply(chunk, projection, function, *params, **weights):
    return function(project_chunk(chunk, projection), *params, **weights)


def normalize_rows(chunk):
    """Every row divided by its Euclidean norm; rows of zeros are unchanged."""
    xp = array_device(chunk).xp
    largest = xp.abs(chunk).max(axis=1, keepdims=True)  # first by the largest entry, so that no square overflows
    chunk = chunk / xp.where(largest > 0, largest, 1)
    norm = xp.sqrt((chunk * chunk).sum(axis=1, keepdims=True))
    return chunk / xp.where(norm > 0, norm, 1)


def check_weights(sample_weight, n_rows, some_row=True):
    """The sample weights as a float64 array (n_rows,) on the host.

    sample_weight: array-like, on any device.  ValueError unless they are finite and >= 0, and, with some_row, not all
    zero.
    """
    given = to_host(sample_weight)
    if given.dtype.kind not in "biufO":
        raise ValueError(f"sample_weight must hold real numbers, got dtype {given.dtype}.")
    if given.shape != (n_rows,):
        raise ValueError(f"sample_weight must hold a number for each row of X, shape ({n_rows},); got {given.shape}.")
    weights = given.astype(np.float64)
    with np.errstate(over="ignore"):
        total = weights.sum()
    if not np.isfinite(total):
        raise ValueError("sample_weight contains NaN, infinity, or numbers whose sum overflows: clean or rescale it.")
    if (weights < 0).any():
        raise ValueError("sample_weight contains negative weights: a row counts 0 times or more.")
    if not total and some_row:
        raise ValueError("sample_weight is zero for every row: at least one weight must be above zero.")
    return weights
