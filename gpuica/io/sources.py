"""Sources of rows: files, tables, several arrays, iterables.

A source is read in blocks of rows as stored, which `decode` converts to numbers.
"""

from abc import ABC, abstractmethod

import numpy as np

from ..device import to_host
from ..device.arrays import bfloat16_to_float32
from .digest import COSTLY_SAMPLE_ROWS, SAMPLE_ROWS, spread_indices

MAX_FEATURES = 1 << 40  # NumPy makes no array of more columns, not even without rows
# Runs of neighbouring rows are drawn together, because each seek costs the time of reading many rows; they are short,
# because neighbours are often alike and a sample of n rows is then worth less than n.
RUN_BYTES = 1 << 15
RUN_ROWS = 16


class Source(ABC):
    """A matrix of shape (n_rows, n_features) whose rows are read by their numbers.

    A subclass sets `shape` and `stored`, and implements `read`; it overrides `read_rows` where reading scattered rows
    can be faster than reading runs of them.

    stored: the dtype of the rows as stored.  is_bfloat16: whether they are the bits of bfloat16.  in_any_order: whether
    rows can be read in any order without reading those in between.  slow: whether reading is computation or
    decompression, so that blocks are worth keeping in memory.  divisible: whether several threads can read parts of a
    block concurrently, and gain by it.
    """

    shape: tuple[int, int]
    stored: np.dtype
    is_bfloat16 = False
    in_any_order = True
    slow = False
    divisible = False
    ndim = 2

    @abstractmethod
    def read(self, start, stop, buffer=None):
        """Rows start to stop, (stop - start, n_features), as stored.

        buffer: an array (>= stop - start, n_features) of dtype `stored` to read into, whose leading rows are then
        returned; or None.  An implementation may ignore it.
        """

    def read_rows(self, indices):
        """Rows by ascending indices, (len(indices), n_features), as stored."""
        starts, stops = runs(indices)
        out = np.empty((len(indices), self.shape[1]), self.stored)
        row = 0
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            part = out[row : row + stop - start]
            if (found := self.read(start, stop, part)) is not part:
                part[...] = to_host(found)
            row += stop - start
        return out

    def locate(self, row):
        """The description of a row in messages."""
        return f"row {row}"

    @property
    def dtype(self):
        """The dtype of the numbers."""
        return np.dtype(np.float32) if self.is_bfloat16 else self.stored

    def decode(self, part):
        """Rows as stored → numbers (n, n_features)."""
        return bfloat16_to_float32(part) if self.is_bfloat16 else part

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """Rows as numbers, by a slice without step or by indices."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self.shape[0])
            return self.decode(self.read(start, max(start, stop)))
        return self.decode(self.rows(rows))

    def rows(self, indices):
        """Rows by indices in any order, (len(indices), n_features), as stored."""
        indices = to_host(indices)
        order = np.argsort(indices, kind="stable")
        found = self.read_rows(indices[order])
        back = np.empty_like(found)
        back[order] = found
        return back

    def fixed_sample(self):
        """At most SAMPLE_ROWS rows spread over all, the same in every call, as stored: for a digest of the data."""
        return self.read_rows(spread_indices(self.shape[0], COSTLY_SAMPLE_ROWS if self.slow else SAMPLE_ROWS))

    def sample_rows(self, n, rng):
        """The ascending numbers of n rows, in short runs drawn at random from all rows."""
        run = self.run_rows
        drawn = np.sort(rng.permutation(-(-self.shape[0] // run))[: -(-n // run) + 1])
        indices = (drawn[:, None] * run + np.arange(run)).ravel()
        return indices[indices < self.shape[0]][:n]

    def shuffled(self, rng):
        """A random order of all runs of rows: a function (start, stop) -> row numbers of these positions."""
        run, n_rows = self.run_rows, self.shape[0]
        drawn = rng.permutation(n_rows // run)
        drawn = np.r_[drawn, n_rows // run]  # the incomplete run is last

        def order(start, stop):
            positions = np.arange(start, stop)
            return drawn[positions // run] * run + positions % run

        return order

    @property
    def run_rows(self):
        """The number of rows of a run."""
        return max(1, min(RUN_ROWS, RUN_BYTES // (self.shape[1] * self.stored.itemsize), self.shape[0] // 64))


class Array(Source):
    """An array of any library whose slices are arrays: memory-mapped, zarr, h5py."""

    def __init__(self, array, name="", *, is_bfloat16=False, slow=False):
        """name: for messages.  is_bfloat16: whether the array holds the bits of bfloat16, as uint16."""
        self.array, self.name, self.is_bfloat16, self.slow = array, name, is_bfloat16, slow
        self.shape, self.stored = check_shape(array.shape, name), check_dtype(np.dtype(array.dtype), name)

    def read(self, start, stop, buffer=None):
        return self.array[start:stop]

    def locate(self, row):
        return f"row {row} of {self.name}" if self.name else super().locate(row)


class Concatenated(Source):
    """Sources of the same width and dtype, concatenated."""

    def __init__(self, sources):
        sources = [source for source in sources if source.shape[0]] or sources[:1]
        first = sources[0]
        for source in sources[1:]:
            for what, wanted, got in (
                ("features", first.shape[1], source.shape[1]),
                ("dtype", _dtype_name(first), _dtype_name(source)),
            ):
                if wanted != got:
                    raise ValueError(
                        f"parts of X differ in {what}: {first.locate(0)} has {wanted}, {source.locate(0)} has {got}."
                    )
        self.sources, self.stored, self.is_bfloat16 = sources, first.stored, first.is_bfloat16
        self.ends = np.cumsum([source.shape[0] for source in sources])
        self.shape = int(self.ends[-1]), first.shape[1]
        self.slow = any(source.slow for source in sources)
        self.divisible = all(source.divisible for source in sources)

    def read(self, start, stop, buffer=None):
        i = min(int(np.searchsorted(self.ends, start, side="right")), len(self.sources) - 1)
        last = int(np.searchsorted(self.ends, stop))
        if i >= last:  # within one source
            return self.sources[i].read(start - self._start(i), stop - self._start(i), buffer)
        if buffer is None:
            buffer = np.empty((stop - start, self.shape[1]), self.stored)
        for j in range(i, last + 1):
            first = self._start(j)
            a, b = max(start, first), min(stop, int(self.ends[j]))
            part = buffer[a - start : b - start]
            if (found := self.sources[j].read(a - first, b - first, part)) is not part:
                part[...] = to_host(found)
        return buffer[: stop - start]

    def read_rows(self, indices):
        cuts = np.searchsorted(indices, self.ends)
        parts, before = [], 0
        for i, cut in enumerate(cuts.tolist()):
            if cut > before:
                parts.append(self.sources[i].read_rows(indices[before:cut] - self._start(i)))
            before = cut
        return np.concatenate(parts) if parts else np.empty((0, self.shape[1]), self.stored)

    def locate(self, row):
        i = min(int(np.searchsorted(self.ends, row, side="right")), len(self.sources) - 1)
        return self.sources[i].locate(row - self._start(i))

    def _start(self, i):
        return int(self.ends[i]) - self.sources[i].shape[0]


class SelectedRows(Source):
    """Rows of a source by ascending indices."""

    def __init__(self, source, indices):
        self.source, self.indices = source, indices
        self.shape, self.stored, self.is_bfloat16 = (len(indices), source.shape[1]), source.stored, source.is_bfloat16
        self.slow = source.slow

    def read(self, start, stop, buffer=None):
        return self.source.read_rows(self.indices[start:stop])

    def locate(self, row):
        return self.source.locate(int(self.indices[row]))


def runs(indices):
    """The starts and stops of the runs of consecutive numbers in ascending indices (n,)."""
    indices = np.asarray(indices)
    if not len(indices):
        return indices, indices
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    return indices[np.r_[0, breaks]], indices[np.r_[breaks - 1, len(indices) - 1]] + 1


def check_shape(shape, name):
    """The shape as two ints; ValueError with a remedy unless it is that of a matrix."""
    if len(shape) != 2 or shape[1] < 1:
        remedy = "."
        if len(shape) > 2:
            remedy = ": reshape it, X.reshape(-1, X.shape[-1])."
        elif len(shape) == 1:
            remedy = ": reshape it, X.reshape(-1, 1) if it is one feature, X.reshape(1, -1) if it is one row."
        raise ValueError(f"{name or 'X'} has shape {tuple(shape)}, but rows (n_samples, n_features) are needed{remedy}")
    if shape[1] > MAX_FEATURES:
        raise ValueError(
            f"{name or 'X'} has shape {tuple(shape)}: more than {MAX_FEATURES} features cannot be worked on."
        )
    return int(shape[0]), int(shape[1])


def check_dtype(dtype, name):
    """The dtype; ValueError unless it is one of real numbers."""
    if dtype.kind not in "iufb":
        raise ValueError(f"{name or 'X'} must hold real numbers, got dtype {dtype}.")
    return dtype


def _dtype_name(source):
    return "bfloat16" if source.is_bfloat16 else str(source.stored)
