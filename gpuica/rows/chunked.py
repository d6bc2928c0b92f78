"""What rows of one array have in common, whether chunks are processed on the host or on a device."""

from abc import abstractmethod

import numpy as np

from ..device import CPU, array_device, to_host
from ..device.arrays import BFloat16, bfloat16_to_float32
from ..interrupts import raise_if_interrupted
from .base import Rows, project_chunk
from .threaded import RunningTotals


class ChunkedRows(Rows):
    """Rows of an array, cut into chunks of `chunk_rows` rows.

    A subclass implements `_each_chunk`, the loop over chunks, `_for_each_part`, the loop over what a function returns
    of them, `map`, `_in_memory`, `default_chunk_rows` and `batch_chunk_rows`.
    """

    single_call_rows = 0  # a sum over at most so many rows is one call of the contribution, without a loop

    def __init__(self, array, *, dtype=None, device=CPU, chunk_rows=None, prepare=None, work=None, weights=None):
        """array: (n_rows, n_features), an object whose slices are arrays.  It is read, never copied as a whole.

        prepare: a function that is applied to every chunk first, or None.  work: floating-point operations per row and
        pass, by default those of ICA.  weights: (n_rows,) or None.
        """
        self.array, self.device, self.prepare = array, device, prepare
        self.work = work or ica_work(array.shape[1])
        self.n_rows, self.n_features = array.shape
        self.dtype = np.dtype(dtype or array.dtype)
        self.chunk_rows = chunk_rows or self.default_chunk_rows()
        # on the device as a whole: one column beside n_features of them
        self.weights = None if weights is None else device.put(weights).astype(self.dtype, copy=False)
        self.n_passes = 0

    @property
    def xp(self):
        return self.device.xp

    @property
    def n_chunks(self):
        """The number of chunks, 0 without rows."""
        return -(-self.n_rows // self.chunk_rows)

    @abstractmethod
    def default_chunk_rows(self):
        """The number of rows of a chunk where the caller does not choose it."""

    @property
    @abstractmethod
    def batch_chunk_rows(self):
        """The number of rows of a chunk of a mini-batch."""

    @abstractmethod
    def _each_chunk(self, work, wait_for_slot=None):
        """Call work(i, chunk) for every chunk i.  wait_for_slot: as for `run_in_threads`."""

    @abstractmethod
    def _for_each_part(self, consume, function, params, weighted=False):
        """Call consume(function(part, *params)) for parts of rows, in order.  weighted: with the keyword `weights`."""

    @abstractmethod
    def _in_memory(self, array, **settings):
        """Rows of an array that is on the device of the chunks."""

    def sum(self, contribution, *params):
        self.n_passes += 1
        raise_if_interrupted()
        if self.n_rows <= self.single_call_rows:
            parts = contribution(self._chunk(0), *params, **self._weights_of(0))
            return tuple(part.astype(np.float64, copy=False) for part in parts)
        totals = RunningTotals()
        self._for_each_part(totals.add, contribution, params, weighted=True)
        return totals.sums

    def for_each(self, consume, function, *params):
        self.n_passes += 1
        self._for_each_part(consume, function, params)

    def take(self, indices):
        return self._prepared(rows_at(self.array, to_host(indices)))

    def subset(self, indices):
        return self._in_memory(
            self.take(indices),
            chunk_rows=self.batch_chunk_rows,
            work=self.work,
            weights=self._weights_at(to_host(indices)),
        )

    def to_memory(self):
        return self

    def batches(self, size, rng=None):
        order = None if rng is None else self._shuffled(rng)
        for start in range(0, self.n_rows, size):
            stop = min(start + size, self.n_rows)
            rows = slice(start, stop) if order is None else array_device(order).xp.sort(order[start:stop])
            yield self._in_memory(
                self._batch_array(rows),
                dtype=self.dtype,
                chunk_rows=self._equal_chunk_rows(stop - start),
                prepare=self.prepare,
                work=self.work,
                weights=self._weights_at(rows),
            )

    def _batch_array(self, rows):
        """The rows of a batch, as stored.  rows: a slice or indices."""
        return rows_at(self.array, rows)

    def _equal_chunk_rows(self, n_rows):
        """The number of rows of a chunk of a batch of n_rows, nearly the same for all chunks."""
        return self.chunk_rows

    def _shuffled(self, rng):
        """A random permutation of the row numbers, (n_rows,)."""
        return rng.permutation(self.n_rows)

    def project_with(self, projection):
        stored = self._projected_array(projection)
        if stored is None:
            return super().project_with(projection)
        rows = self._in_memory(stored, weights=self.weights)
        rows.scratch, rows.n_passes = stored, self.n_passes
        return rows

    def _projected_array(self, projection):
        """The projected rows (n_rows, k), or None where they exceed the memory budget."""
        if not self.device.fits(self.n_rows * len(projection[1]) * self.dtype.itemsize):
            return None
        return self.map(project_chunk, projection)

    def _chunk(self, i):
        return self._prepared(rows_at(self.array, slice(i * self.chunk_rows, (i + 1) * self.chunk_rows)))

    def _prepared(self, part):
        """Rows as stored → a chunk: on the device, in the working dtype; a view where nothing changes."""
        if isinstance(part, BFloat16):
            part = bfloat16_to_float32(self.device.put(part.bits))
        part = self.device.put(part).astype(self.dtype, copy=False)
        if self.prepare:
            return self.prepare(part)
        # BLAS takes contiguous rows or columns; anything else it would copy, in every product
        return part if part.itemsize in part.strides else self.xp.ascontiguousarray(part)

    def _weights_of(self, i):
        """{"weights": those of chunk i}; empty without weights."""
        if self.weights is None:
            return {}
        return {"weights": self.weights[i * self.chunk_rows : (i + 1) * self.chunk_rows]}

    def _weights_at(self, rows):
        """The weights of rows, a slice or indices; None without weights."""
        return None if self.weights is None else rows_at(self.weights, rows)


def ica_work(n_features):
    """Floating-point operations per row of a pass of ICA, up to a constant factor."""
    return n_features * (n_features + 128)


def rows_at(array, rows):
    """array[rows], for a slice or an array of indices, which are copied to the device of the array."""
    if isinstance(array, BFloat16):
        return BFloat16(rows_at(array.bits, rows))
    return array[rows if isinstance(rows, slice) else array_device(array).put(rows)]
