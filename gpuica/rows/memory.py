"""Rows of an array in memory, on the host or on a device."""

from contextlib import closing, suppress

import numpy as np

from ..device import CPU, array_device, log_once
from ..device.arrays import BFloat16, bfloat16_to_float32
from ..device.transfers import MIN_THREADED_COPY_BYTES, upload_chunks
from ..interrupts import raise_if_interrupted
from .base import Rows, project_chunk
from .threaded import InOrderConsumer, RunningTotals, run_in_threads

CACHED = 1 << 18  # numbers of a host chunk: 1 MB in float32, so that a chunk and what is made of it share a core's L2
WORTH_THREADS = 5e7  # work of a pass, about a millisecond, below which starting threads (0.1 ms) gains nothing
WIDEST_KEY = 1 << 32  # rows that keys of 32 bits tell apart
BATCH_CHUNK = 128  # rows of a chunk of a batch, which is small: several threads shall have some
RESIDENT = 1 << 26  # numbers of a device chunk at most
LAUNCHES = 1.6e10  # work of a device chunk, above what the launches for it take, 0.25 ms: 0.6 ms, at 50 TFLOP/s


class MemoryRows(Rows):
    """An array, cut into chunks of rows.  Host chunks are shared out to threads."""

    def __init__(self, array, *, dtype=None, device=CPU, chunk_rows=None, prepare=None, work=None, weights=None):
        """array: (n_rows, n_features), whatever gives an array when sliced.  It is read, never copied whole.

        prepare: a function of a chunk that gives the chunk to be seen instead, or None.  work: operations that a pass
        costs for a row, by default those of ICA.  weights: (n_rows,) or None.
        """
        self.array, self.device, self.prepare = array, device, prepare
        self.work = work or array.shape[1] * (array.shape[1] + 128)
        self.n_rows, self.n_features = array.shape
        self.dtype = np.dtype(dtype or array.dtype)
        self.chunk_rows = chunk_rows or default_chunk_rows(self.n_features, device, self.work)
        self.piece_rows = self.chunk_rows  # rows that are worked on at once; fewer where the device's memory is short
        # on the device as a whole: they are one column beside n_features of them
        self.weights = None if weights is None else device.put(weights).astype(self.dtype, copy=False)
        self.n_passes = 0

    @property
    def xp(self):
        return self.device.xp

    @property
    def small_chunk(self):
        """Rows of a chunk of a batch."""
        return self.chunk_rows if self.device != CPU else min(self.chunk_rows, BATCH_CHUNK)

    def sum(self, contribution, *params):
        self.n_passes += 1
        raise_if_interrupted()
        if not self.n_rows or (self.n_rows <= self.chunk_rows and self.device == CPU):
            parts = contribution(self._chunk(0), *params, **self._weights(0))
            return tuple(part.astype(np.float64, copy=False) for part in parts)
        totals = RunningTotals()
        self._in_order(totals.add, contribution, params, weighted=True)
        return totals.sums

    def for_each(self, consume, function, *params):
        self.n_passes += 1
        self._in_order(consume, function, params)

    def upload(self):
        stored = self._stored
        if self.device == CPU or not isinstance(stored, np.ndarray) or 2 * stored.nbytes > self.device.budget():
            return self
        try:
            there, row = self.xp.empty(stored.shape, dtype=stored.dtype.newbyteorder("=")), 0
            with closing(self._uploads()) as uploads:
                for part in uploads:
                    raise_if_interrupted()
                    there[row : row + len(part)] = part
                    row += len(part)
        except self.device.out_of_memory:  # other libraries took it
            self.device.release()
            return self
        self.array = there if stored is self.array else BFloat16(there)
        return self

    def take(self, indices):
        return self._prepared(_at(self.array, np.asarray(indices)))

    def subset(self, indices):
        return MemoryRows(
            self.take(indices),
            device=self.device,
            chunk_rows=self.small_chunk,
            work=self.work,
            weights=None if self.weights is None else _at(self.weights, np.asarray(indices)),
        )

    def to_memory(self):
        return self

    def map(self, function, *params, out=None):
        self.n_passes += 1
        if self.device != CPU:
            return self._map_there(function, params, out)
        first = None
        if out is None:  # the first chunk tells the shape
            first = function(self._chunk(0), *params)
            if self.n_rows <= self.chunk_rows:
                return first
            out = self.xp.empty((self.n_rows, *first.shape[1:]), first.dtype)

        def place(i, chunk):
            start = i * self.chunk_rows
            out[start : start + len(chunk)] = function(chunk, *params) if i or first is None else first

        self._each_chunk(place)
        return out

    def _map_there(self, function, params, out):
        if not self.n_rows:
            return function(self._chunk(0), *params)

        def place(row, part):
            nonlocal out
            if out is None:
                out = part if len(part) == self.n_rows else self.xp.empty((self.n_rows, *part.shape[1:]), part.dtype)
            if out is not part:
                out[row : row + len(part)] = part

        self._each_piece(place, function, params)
        return out

    def batches(self, size, rng=None):
        order = None if rng is None else self._shuffled(rng)
        for start in range(0, self.n_rows, size):
            stop = min(start + size, self.n_rows)
            rows = slice(start, stop) if order is None else array_device(order).xp.sort(order[start:stop])
            yield MemoryRows(
                _at(self.array, rows),
                dtype=self.dtype,
                device=self.device,
                chunk_rows=self.chunk_rows,
                prepare=self.prepare,
                work=self.work,
                weights=None if self.weights is None else _at(self.weights, rows),
            )

    def _shuffled(self, rng):
        """The numbers of all rows in random order.

        On a device that has the rows by sorting keys: to draw 10^7 numbers takes the host tenths of a second, for which
        the device would have nothing to do.
        """
        if array_device(self.array) != CPU and self.n_rows <= WIDEST_KEY:
            with suppress(*self.device.out_of_memory):
                return self.xp.argsort(_keys(self.n_rows, rng, self.xp))
        return rng.permutation(self.n_rows)

    def project_with(self, ready):
        stored = None
        if self.device.fits(self.n_rows * len(ready[1]) * self.dtype.itemsize):
            with suppress(*self.device.out_of_memory):
                stored = self.map(project_chunk, ready)
        if stored is None:
            if self.device != CPU:
                log_once(f"{self.device} has no room for a whitened copy of X: it is computed anew in every pass.")
            return super().project_with(ready)
        rows = MemoryRows(stored, device=self.device, weights=self.weights)
        rows.scratch, rows.n_passes = stored, self.n_passes
        return rows

    def _in_order(self, consume, function, params, weighted=False):
        if self.device != CPU:
            self._each_piece(lambda row, part: consume(part), function, params, weighted)
            return
        order, keywords = InOrderConsumer(consume), self._weights if weighted else lambda i: {}
        self._each_chunk(lambda i, chunk: order.add(i, function(chunk, *params, **keywords(i))), order.wait_for_slot)

    def _each_piece(self, consume, function, params, weighted=False):
        """consume(first row, function(piece, *params)) for the pieces of every chunk on a device, in order.

        A piece is a chunk, or as much of it as the memory of the device allows.
        """

        def work(i, chunk):
            row = 0
            while row < len(chunk):
                piece = slice(row, row + self.piece_rows)
                weights = {name: w[piece] for name, w in self._weights(i).items()} if weighted else {}
                try:
                    part = function(chunk[piece], *params, **weights)
                except self.device.out_of_memory as error:
                    self._take_smaller_pieces(min(self.piece_rows, len(chunk)), error)
                    continue
                consume(i * self.chunk_rows + row, part)
                del part  # before the next needs room
                row += self.piece_rows

        self._each_chunk(work)

    def _take_smaller_pieces(self, rows, error):
        if rows == 1:
            raise MemoryError(
                f"The memory of {self.device} is too small for the work on one row: free some, or use device='cpu'."
            ) from error
        self.piece_rows = rows // 2
        self.device.release()
        log_once(f"{self.device} ran out of memory: the fit goes on with chunks of half the rows.")

    def _chunk(self, i):
        return self._prepared(_at(self.array, slice(i * self.chunk_rows, (i + 1) * self.chunk_rows)))

    def _prepared(self, part):
        """The rows on the device, in the working dtype; a view where nothing need be changed."""
        if isinstance(part, BFloat16):
            part = bfloat16_to_float32(self.device.put(part.bits))
        part = self.device.put(part).astype(self.dtype, copy=False)
        if self.prepare:
            return self.prepare(part)
        # BLAS takes rows or columns in sequence; anything else it would copy, in every product
        return part if part.itemsize in part.strides else self.xp.ascontiguousarray(part)

    @property
    def _stored(self):
        """The array (n_rows, n_features) as it lies in memory: bits of bfloat16."""
        return self.array.bits if isinstance(self.array, BFloat16) else self.array

    def _uploads(self):
        """The chunks of a host array as stored, (chunk_rows, n_features), on the device, see `sent`."""
        starts = range(0, self.n_rows, self.chunk_rows)
        return upload_chunks((self._stored[i : i + self.chunk_rows] for i in starts), self.device)

    def _weights(self, i):
        """The keyword that brings chunk i's weights to a contribution; nothing where rows have none."""
        if self.weights is None:
            return {}
        return {"weights": self.weights[i * self.chunk_rows : (i + 1) * self.chunk_rows]}

    def _each_chunk(self, work, wait_for_slot=None):
        """Call work(i, chunk) for every chunk i; host threads take turns when there is enough to do."""
        n_chunks = -(-self.n_rows // self.chunk_rows)
        stored = self._stored
        travels = self.device != CPU and isinstance(stored, np.ndarray)
        if travels and (n_chunks > 1 or stored.nbytes > MIN_THREADED_COPY_BYTES):
            with closing(self._uploads()) as uploads:
                for i, part in enumerate(uploads):
                    raise_if_interrupted()
                    work(i, self._prepared(part if stored is self.array else BFloat16(part)))
        elif self.device != CPU or n_chunks == 1 or self.n_rows * self.work < WORTH_THREADS:
            for i in range(n_chunks):
                raise_if_interrupted()
                work(i, self._chunk(i))
        else:
            run_in_threads(n_chunks, lambda i: work(i, self._chunk(i)), wait_for_slot)


def _keys(n, rng, xp):
    """n different numbers of 32 bits in no order, by twice the finalizer of MurmurHash3, which maps no two to one."""
    keys = xp.arange(n, dtype=np.uint32)
    for _ in range(2):
        keys += int(rng.randint(1 << 32, dtype=np.uint32))
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            keys ^= keys >> shift
            keys *= factor
    return keys


def _at(array, rows):
    """array[rows], rows a slice or an array of indices, which go to where the array is; bfloat16 as it is."""
    if isinstance(array, BFloat16):
        return BFloat16(_at(array.bits, rows))
    return array[rows if isinstance(rows, slice) else array_device(array).put(rows)]


def max_chunk_elements(device):
    """Numbers of a chunk on a device at most: it and its like in float64 must fit the memory several times."""
    return min(RESIDENT, device.budget() // 64)


def default_chunk_rows(n_features, device=CPU, work=None):
    """Rows of a chunk: as many as stay in the cache, but enough to make it worth its calls.

    On a device what is made of a chunk, a quarter of the L2 of float32, is read again from there; but so many rows as
    keep the device busy for longer than the host takes to launch the work on them.  work: of a pass, for a row.
    """
    if device == CPU:
        return min(max(CACHED // n_features, 512), 8192)
    stays = device.cache // (4 * 4 * n_features)
    worth_launching = int(LAUNCHES / (work or n_features * (n_features + 128)))
    return max(1, min(max_chunk_elements(device) // n_features, max(stays, worth_launching)))
