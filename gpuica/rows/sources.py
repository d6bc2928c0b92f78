"""What rows are read from when they are not one array in memory: files, tables, several arrays, or something that can
only be gone through from its beginning.

A source is read in blocks of rows, as they are stored; `decode` makes numbers of them where that is not the same.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from ..device import to_host
from .digest import COSTLY, SPREAD, SpreadSample, spread

RUN = 1 << 15  # bytes of neighbouring rows that are drawn together: a seek for each row would be waste,
RUN_ROWS = 16  # and so many rows: neighbours are alike, so a sample of n rows is worth less than n


class Source(ABC):
    """shape (n_rows, n_features), and rows by their numbers.

    stored: dtype as the rows lie in a file.  brain: whether `stored` is the bits of bfloat16.  in_any_order: whether
    rows can be read in any order without reading those between.  slow: whether reading again costs more than memory
    does (it is computed, or decompressed), so that what has been read should be kept.
    """

    shape: tuple[int, int]
    stored: np.dtype
    brain = False
    in_any_order = True
    slow = False
    ndim = 2

    @abstractmethod
    def read(self, start, stop, buffer=None):
        """Rows start to stop, (stop - start, n_features), as stored.

        buffer: (>= stop - start, n_features) of dtype `stored` that may be overwritten, and returned in part.
        """

    def at(self, indices):
        """The rows of these numbers, (len(indices), n_features), as stored; indices ascend."""
        starts, stops = runs(indices)
        out = np.empty((len(indices), self.shape[1]), self.stored)
        place = 0
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            part = out[place : place + stop - start]
            if (found := self.read(start, stop, part)) is not part:
                part[...] = to_host(found)
            place += stop - start
        return out

    def where(self, row):
        """Where a row stands, in words."""
        return f"row {row}"

    @property
    def dtype(self):
        """The dtype of the numbers."""
        return np.dtype(np.float32) if self.brain else self.stored

    def decode(self, part):
        """Numbers (n, n_features) of rows as stored."""
        return from_brain(part) if self.brain else part

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, rows):
        """Rows by a slice without step or by indices, as numbers."""
        if isinstance(rows, slice):
            start, stop, _ = rows.indices(self.shape[0])
            return self.decode(self.read(start, max(start, stop)))
        return self.decode(self.rows(rows))

    def rows(self, indices):
        """The rows of these numbers in any order, (len(indices), n_features), as stored."""
        indices = to_host(indices)
        order = np.argsort(indices, kind="stable")
        found = self.at(indices[order])
        back = np.empty_like(found)
        back[order] = found
        return back

    def spread(self):
        """Some rows spread over all, always the same, as stored: for a digest of the data."""
        return self.at(spread(self.shape[0], COSTLY if self.slow else SPREAD))

    def some(self, n, rng):
        """Numbers of n rows in short runs drawn from everywhere, ascending."""
        run = self.run_rows
        drawn = np.sort(rng.permutation(-(-self.shape[0] // run))[: -(-n // run) + 1])
        indices = (drawn[:, None] * run + np.arange(run)).ravel()
        return indices[indices < self.shape[0]][:n]

    def shuffled(self, rng):
        """An order of all rows in which short runs of neighbours come at random: (start, stop) -> numbers of rows."""
        run, n_rows = self.run_rows, self.shape[0]
        drawn = rng.permutation(n_rows // run)
        drawn = np.r_[drawn, n_rows // run]  # what is left over comes last

        def order(start, stop):
            places = np.arange(start, stop)
            return drawn[places // run] * run + places % run

        return order

    @property
    def run_rows(self):
        """Rows of a run."""
        return max(1, min(RUN_ROWS, RUN // (self.shape[1] * self.stored.itemsize), self.shape[0] // 64))


class Array(Source):
    """An array of any library whose slices are arrays: memory-mapped, zarr, h5py."""

    def __init__(self, array, name="", *, brain=False, slow=False):
        """brain: whether the array holds bits of bfloat16, as uint16."""
        self.array, self.name, self.brain, self.slow = array, name, brain, slow
        self.shape, self.stored = check_shape(array.shape, name), check_dtype(np.dtype(array.dtype), name)

    def read(self, start, stop, buffer=None):
        return self.array[start:stop]

    def where(self, row):
        return f"row {row} of {self.name}" if self.name else super().where(row)


class Parts(Source):
    """Sources of the same width and dtype, one after the other."""

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
                        f"parts of X differ in {what}: {first.where(0)} has {wanted}, {source.where(0)} has {got}."
                    )
        self.sources, self.stored, self.brain = sources, first.stored, first.brain
        self.ends = np.cumsum([source.shape[0] for source in sources])
        self.shape = int(self.ends[-1]), first.shape[1]
        self.slow = any(source.slow for source in sources)

    def read(self, start, stop, buffer=None):
        i = min(int(np.searchsorted(self.ends, start, side="right")), len(self.sources) - 1)
        last = int(np.searchsorted(self.ends, stop))
        if i >= last:  # within one part
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

    def at(self, indices):
        cuts = np.searchsorted(indices, self.ends)
        parts, before = [], 0
        for i, cut in enumerate(cuts.tolist()):
            if cut > before:
                parts.append(self.sources[i].at(indices[before:cut] - self._start(i)))
            before = cut
        return np.concatenate(parts) if parts else np.empty((0, self.shape[1]), self.stored)

    def where(self, row):
        i = min(int(np.searchsorted(self.ends, row, side="right")), len(self.sources) - 1)
        return self.sources[i].where(row - self._start(i))

    def _start(self, i):
        return int(self.ends[i]) - self.sources[i].shape[0]


class Selection(Source):
    """Some rows of a source, by ascending numbers."""

    def __init__(self, source, indices):
        self.source, self.indices = source, indices
        self.shape, self.stored, self.brain = (len(indices), source.shape[1]), source.stored, source.brain
        self.slow = source.slow

    def read(self, start, stop, buffer=None):
        return self.source.at(self.indices[start:stop])

    def where(self, row):
        return self.source.where(int(self.indices[row]))


class Chunks(Source):
    """What gives 2-D arrays when iterated over, again from the beginning each time: a torch DataLoader, say.

    Gone through once when it is opened, to count rows.  Later rounds must give the same number of rows.
    """

    in_any_order = False
    slow = True

    def __init__(self, iterable, as_array):
        """as_array: what the iterable gives -> an array (n, n_features), rows as stored, and whether of bfloat16."""
        if iter(iterable) is iterable:
            raise TypeError(
                "X is a generator: it can be gone through once, and a fit reads the data many times. Write it to files "
                "first, X = gpuica.spool(X, directory), or call partial_fit for every chunk."
            )
        self.iterable, self.as_array = iterable, as_array
        self.sample = SpreadSample()
        n_rows, width = 0, None
        for part, brain in map(as_array, iterable):
            if width is None:
                width, self.stored, self.brain = part.shape[1], check_dtype(part.dtype, "X"), brain
            elif (part.shape[1], part.dtype, brain) != (width, self.stored, self.brain):
                raise ValueError(
                    f"X gave a chunk of {part.shape[1]} features of {part.dtype} after chunks of {width} of "
                    f"{self.stored}: all chunks must be alike."
                )
            n_rows += len(part)
            self.sample.add(part)
        if width is None:
            raise ValueError("X gave no chunk at all: there is nothing to fit.")
        self.shape = n_rows, width
        self._round: Iterator = iter(())
        self._next, self._rest = n_rows, None

    def read(self, start, stop, buffer=None):
        """In the order of the rows; going back begins a new round."""
        if start < self._next:
            self._round, self._next, self._rest = iter(self.iterable), 0, None
        out = np.empty((stop - start, self.shape[1]), self.stored) if buffer is None else buffer[: stop - start]
        place = 0
        while place < len(out):
            part = self._rest if self._rest is not None else self._chunk()
            skipped = min(max(start - self._next, 0), len(part))
            wanted = part[skipped : skipped + len(out) - place]
            out[place : place + len(wanted)] = to_host(
                wanted
            )  # at once: the next chunk may be given in the same memory
            place += len(wanted)
            done = skipped + len(wanted)
            self._next += done
            self._rest = part[done:] if done < len(part) else None
        if stop == self.shape[0] and (self._rest is not None or any(len(self.as_array(c)[0]) for c in self._round)):
            raise ValueError(self._changed("more"))
        return out

    def spread(self):
        return self.sample.kept

    def _chunk(self):
        for chunk in self._round:
            return self.as_array(chunk)[0]
        raise ValueError(self._changed("fewer"))

    def _changed(self, how):
        return (
            f"X gave {how} than the {self.shape[0]} rows it gave before: every round must give the same rows. A "
            "generator that is used up gives none; write it to files first with gpuica.spool(X, directory)."
        )


def runs(indices):
    """Starts and stops of the runs of neighbours in ascending numbers (n,)."""
    indices = np.asarray(indices)
    if not len(indices):
        return indices, indices
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    return indices[np.r_[0, breaks]], indices[np.r_[breaks - 1, len(indices) - 1]] + 1


def from_brain(bits):
    """float32 numbers of the bits of bfloat16, which is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def check_shape(shape, name):
    """The shape, if it is that of a matrix, or a ValueError."""
    if len(shape) != 2 or shape[1] < 1:
        raise ValueError(
            f"{name or 'X'} has shape {tuple(shape)}, but rows (n_samples, n_features) are needed"
            + (": reshape it to (-1, n_features)." if len(shape) > 2 else ".")
        )
    return int(shape[0]), int(shape[1])


def check_dtype(dtype, name):
    """The dtype, if it is one of real numbers, or a ValueError."""
    if dtype.kind not in "iufb":
        raise ValueError(f"{name or 'X'} must hold real numbers, got dtype {dtype}.")
    return dtype


def _dtype_name(source):
    return "bfloat16" if source.brain else str(source.stored)
