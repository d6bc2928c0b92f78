"""Where the data live.  Rows are seen only through sums (and maps) over chunks, so that memory, files and workers are
the same to a solver; rows know no mathematics, they are given a function to add up.
"""

from abc import ABC, abstractmethod
from itertools import cycle, islice

import numpy as np

from ..device import array_device, to_host
from ..io.digest import COSTLY, SPREAD, spread_indices

COUNTS = 1 << 12  # whole-number weights up to this are counts: as many rows of the same numbers


class Rows(ABC):
    """n_rows rows of n_features numbers, worked on in `dtype` (float32 or float64) with the array library `xp`.

    `n_passes` counts how often the data were read from first to last by `sum` and `map`; projected rows count on from
    the rows they were made of.
    """

    n_rows: int
    n_features: int
    dtype: np.dtype
    n_passes = 0
    scratch = None  # (n_rows, n_features) array behind the rows that may be overwritten once they are done with
    random_access_is_costly = False  # whether a few rows drawn at random cost as much as all of them
    batch_window = None  # bytes of drawn rows that the order of batches depends on; None: it depends on the draws alone
    weights = None  # (n_rows,) as how many rows each row counts, in `dtype`, where the chunks are; None: as one

    @property
    def weight(self):
        """What a mean divides by: Σ w, or n_rows."""
        return self.n_rows if self.weights is None else float(self.weights.sum(dtype=np.float64))

    @property
    def n_effective(self):
        """What a variance of means divides by: n_kish, but Σ w where weights are counts, so that a row of weight 2
        gives the answer of two rows."""
        return self.weight if self.has_counts else self.n_kish

    @property
    def has_counts(self):
        """Whether all weights are whole numbers, up to COUNTS."""
        w = self.weights
        return w is not None and len(w) > 0 and bool(((w <= COUNTS) & (w % 1 == 0)).all())

    @property
    def n_kish(self):
        """As how many rows of equal weight the rows tell: (Σ w)² / Σ w², blind to the weights' scale, or n_rows.

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
        """numpy or cupy: the library of the chunks and totals."""

    @abstractmethod
    def sum(self, contribution, *params):
        """Totals over all chunks of `contribution(chunk, *params)`, a tuple of arrays; float64.  One pass.

        Where the rows have weights, of `contribution(chunk, *params, weights=those of the chunk)`.
        Chunks are added in order, whatever the number of threads: the same call gives the same bits.
        """

    @abstractmethod
    def map(self, function, *params, out=None):
        """`function(chunk, *params)` of every chunk, stacked: (n_rows, ...).  One pass.

        out: an array to write to, which may be the rows' own.
        """

    @abstractmethod
    def for_each(self, consume, function, *params):
        """consume(function(chunk, *params)) for every chunk, in order, one at a time.  One pass."""

    def reduce(self, kind, start, function, *params):
        """kind(*start), to which function(chunk, *params) of every chunk was added, in order.  One pass.

        For totals too large to have one for each chunk, as `sum` does.  kind: a class whose objects have `add(part)`;
        `added`, a tuple of arrays that add up over parts; `kept`, a tuple of arrays that do not, but are joined row by
        row; and `merge(added, kept)` to take in those of another object, one that was given the rows after these.
        """
        total = kind(*start)
        self.for_each(total.add, function, *params)
        return total

    @abstractmethod
    def take(self, indices):
        """The rows of these numbers, (len(indices), n_features), as chunks hold them."""

    @abstractmethod
    def subset(self, indices):
        """The rows of these numbers, as Rows that are held in memory."""

    def all_ranks(self, fact):
        """Whether a fact holds here, and for every process that shares the rows."""
        return fact

    def cached_result(self, name, make, *asked):
        """make(), a list of arrays; where there is a checkpoint that holds them already, these.

        asked: what the arrays depend on, beside the rows.
        """
        return make()

    def fixed_sample(self):
        """Some rows spread over all, always the same, as chunks hold them: for a digest of the data."""
        return self.take(spread_indices(self.n_rows, COSTLY if self.random_access_is_costly else SPREAD))

    def upload(self):
        """These rows, held by the device as a whole if it has room: they are to be passed over several times."""
        return self

    def to_memory(self):
        """All rows, as Rows whose chunks are here: themselves if they are.  For few rows."""
        return self.subset(np.arange(self.n_rows))

    @abstractmethod
    def batches(self, size, rng=None):
        """Iterate over all rows once, as Rows of `size` rows each, the last of fewer; in random order with rng.

        Rows keep their weights; the order is drawn without regard to them.
        """

    def sample(self, n, rng):
        """n rows drawn at random, as Rows."""
        return next(iter(self.batches(n, rng)))

    def epochs(self, size, rng=None, skip=0):
        """Batches as learning takes them, without end; in random order with rng, which is drawn from at once.

        skip: batches from the beginning that are left out.  The order is scikit-learn's, and the same in every round.
        """
        order = np.arange(self.n_rows)
        if rng is not None:
            rng.shuffle(order)  # draws what shuffling the rows themselves would draw
        starts = islice(cycle(range(0, self.n_rows, size)), skip, None)
        return (self.subset(order[start : start + size]) for start in starts)

    def projected(self, mean, components):
        """Rows (x - mean) @ componentsᵀ: stored when they fit the memory budget, else computed on the way."""
        return self.project_with(projection(mean, components, self.dtype))

    def project_with(self, ready):
        """`projected`, for a `projection`."""
        return ProjectedRows(self, ready)


class ProjectedRows(Rows):
    """(x - mean) @ componentsᵀ, computed chunk by chunk on the way to the sum."""

    def __init__(self, rows, ready):
        """ready: a `projection`, on the rows' device."""
        self.rows, self.projection = rows, ready
        self.n_rows, self.n_features, self.dtype = rows.n_rows, len(ready[1]), rows.dtype
        self.weights = rows.weights

    @property
    def xp(self):
        return self.rows.xp

    @property
    def n_passes(self):  # type: ignore[override]  # counted by the rows that are read
        return self.rows.n_passes

    def sum(self, contribution, *params):
        return self.rows.sum(_on_projection, self.projection, contribution, *params)

    def map(self, function, *params, out=None):
        return self.rows.map(_on_projection, self.projection, function, *params, out=out)

    def for_each(self, consume, function, *params):
        self.rows.for_each(consume, _on_projection, self.projection, function, *params)

    def reduce(self, kind, start, function, *params):
        return self.rows.reduce(kind, start, _on_projection, self.projection, function, *params)

    def take(self, indices):
        return project_chunk(self.rows.take(indices), self.projection)

    def subset(self, indices):
        return self.rows.subset(indices).project_with(self.projection)

    def batches(self, size, rng=None):
        for batch in self.rows.batches(size, rng):
            yield batch.project_with(self.projection)

    @property
    def random_access_is_costly(self):  # type: ignore[override]
        return self.rows.random_access_is_costly

    @property
    def batch_window(self):  # type: ignore[override]
        return self.rows.batch_window

    def sample(self, n, rng):
        return self.rows.sample(n, rng).project_with(self.projection)

    def epochs(self, size, rng=None, skip=0):
        return (batch.project_with(self.projection) for batch in self.rows.epochs(size, rng, skip))


def projection(mean, components, dtype):
    """(mean, components, offset) in the working dtype; the offset carries what rounding took from the mean.

    ValueError where the dtype does not hold the components, as of data below 1e-38 in float32.
    """
    rounded = mean.astype(dtype)
    offset = (components @ (mean - rounded)).astype(dtype)
    with np.errstate(over="ignore"):
        narrowed = components.astype(dtype)
    if narrowed.dtype != components.dtype and not bool(array_device(narrowed).xp.isfinite(narrowed).all()):
        raise ValueError(
            f"X varies by so little that the matrix which brings it to variance 1 overflows {np.dtype(dtype)}: "
            "multiply X by a constant, or pass it as float64."
        )
    return rounded, narrowed, offset


def project_chunk(chunk, ready):
    """(chunk - mean) @ componentsᵀ for a `projection`.

    The mean is subtracted first: mean @ componentsᵀ may be larger than the result by all the digits of the dtype.
    """
    mean, components, offset = ready
    projected = (chunk - mean) @ components.T
    projected -= offset
    return projected


def _on_projection(chunk, ready, function, *params, **weights):
    return function(project_chunk(chunk, ready), *params, **weights)


def normalize_rows(chunk):
    """Every row divided by its Euclidean norm; rows of zeros stay."""
    xp = array_device(chunk).xp
    largest = xp.abs(chunk).max(axis=1, keepdims=True)  # first by the largest entry, so that no square overflows
    chunk = chunk / xp.where(largest > 0, largest, 1)
    norm = xp.sqrt((chunk * chunk).sum(axis=1, keepdims=True))
    return chunk / xp.where(norm > 0, norm, 1)


def check_weights(sample_weight, n_rows, some_row=True):
    """The weights of n_rows rows, float64 (n_rows,), on the host.

    sample_weight: array-like, on any device.  ValueError for what is not finite, >= 0, and somewhere above 0.
    some_row: whether there must be a weight above 0 among them.
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
