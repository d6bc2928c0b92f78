"""Rows of an array in memory, on the host or on a device."""

import itertools
import threading

import numpy as np

from ..device import CPU, array_device, host_threads, one_blas_thread
from . import Rows, project

CACHED = 1 << 18  # numbers of a host chunk: 1 MB in float32, so that a chunk and what is made of it share a core's L2
WORTH_THREADS = 5e7  # work of a pass, about a millisecond, below which starting threads (0.1 ms) gains nothing
ALWAYS_STORED = 1 << 26  # bytes that are stored without asking how much memory is free (0.1 ms)
BATCH_CHUNK = 128  # rows of a chunk of a batch, which is small: several threads shall have some
RESIDENT = 1 << 26  # numbers of a device chunk: large enough that launches do not count


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
        self.chunk_rows = chunk_rows or default_chunk_rows(self.n_features, device)
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
        if self.n_rows <= self.chunk_rows:
            parts = contribution(self._chunk(0), *params, **self._weights(0))
            return tuple(part.astype(np.float64, copy=False) for part in parts)
        totals = Totals()
        self._in_order(totals.add, contribution, params, self._weights)
        return totals.sums

    def each(self, consume, function, *params):
        self.n_passes += 1
        self._in_order(consume, function, params)

    def take(self, indices):
        return self._prepared(_at(self.array, np.asarray(indices)))

    def only(self, indices):
        return MemoryRows(
            self.take(indices),
            device=self.device,
            chunk_rows=self.small_chunk,
            work=self.work,
            weights=None if self.weights is None else _at(self.weights, np.asarray(indices)),
        )

    def cycled(self, size, rng=None, skip=0):
        order = np.arange(self.n_rows)
        if rng is not None:
            rng.shuffle(order)  # draws what shuffling the rows themselves would draw, as scikit-learn does
        starts = itertools.cycle(range(0, self.n_rows, size))
        return (self.only(order[a : a + size]) for a in itertools.islice(starts, skip, None))

    def map(self, function, *params, out=None):
        self.n_passes += 1
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

    def batches(self, size, rng=None):
        order = None if rng is None else rng.permutation(self.n_rows)
        for start in range(0, self.n_rows, size):
            stop = min(start + size, self.n_rows)
            rows = slice(start, stop) if order is None else np.sort(order[start:stop])
            yield MemoryRows(
                _at(self.array, rows),
                dtype=self.dtype,
                device=self.device,
                chunk_rows=self.chunk_rows,
                prepare=self.prepare,
                work=self.work,
                weights=None if self.weights is None else _at(self.weights, rows),
            )

    def onto(self, ready):
        size = self.n_rows * len(ready[1]) * self.dtype.itemsize
        if size > ALWAYS_STORED and size > self.device.budget():
            return super().onto(ready)
        stored = self.map(project, ready)
        rows = MemoryRows(stored, device=self.device, weights=self.weights)
        rows.scratch, rows.n_passes = stored, self.n_passes
        return rows

    def _in_order(self, consume, function, params, keywords=lambda i: {}):
        order = InOrder(consume)
        self._each_chunk(lambda i, chunk: order.add(i, function(chunk, *params, **keywords(i))), order.wait_for_room)

    def _chunk(self, i):
        return self._prepared(self.array[i * self.chunk_rows : (i + 1) * self.chunk_rows])

    def _prepared(self, part):
        """The rows on the device, in the working dtype; a view where nothing need be changed."""
        part = self.device.put(part).astype(self.dtype, copy=False)
        if self.prepare:
            return self.prepare(part)
        # BLAS takes rows or columns in sequence; anything else it would copy, in every product
        return part if part.itemsize in part.strides else self.xp.ascontiguousarray(part)

    def _weights(self, i):
        """The keyword that brings chunk i's weights to a contribution; nothing where rows have none."""
        if self.weights is None:
            return {}
        return {"weights": self.weights[i * self.chunk_rows : (i + 1) * self.chunk_rows]}

    def _each_chunk(self, work, wait_for_room=None):
        """Call work(i, chunk) for every chunk i; host threads take turns when there is enough to do."""
        n_chunks = -(-self.n_rows // self.chunk_rows)
        if self.device != CPU or n_chunks == 1 or self.n_rows * self.work < WORTH_THREADS:
            for i in range(n_chunks):
                work(i, self._chunk(i))
        else:
            in_turns(n_chunks, lambda i: work(i, self._chunk(i)), wait_for_room)


def _at(array, rows):
    """array[rows], rows a slice or a host array of indices, which go to where the array is."""
    return array[rows if isinstance(rows, slice) else array_device(array).put(rows)]


def default_chunk_rows(n_features, device=CPU):
    """Rows of a chunk: as many as stay in the cache (host), but enough to make a matrix product worth its call."""
    if device == CPU:
        return min(max(CACHED // n_features, 512), 8192)
    return max(RESIDENT // n_features, 1024)


def in_turns(n, work, wait_for_room=None):
    """Call work(i) for i in range(n) from several threads, each with a one-thread BLAS.

    The first error, or an interrupt, stops all threads and is raised.  wait_for_room: called with (i, failures) before
    work(i), to hold a thread back; returns False when the work has failed meanwhile.
    """
    turns = itertools.count()
    failures: list[BaseException] = []

    def take_turns():
        try:
            while not failures and (i := next(turns)) < n:
                if wait_for_room is None or wait_for_room(i, failures):
                    work(i)
        except BaseException as error:  # an interrupt too: the other threads must stop
            failures.append(error)

    others = [threading.Thread(target=take_turns, daemon=True) for _ in range(min(host_threads(), n) - 1)]
    with one_blas_thread():
        for thread in others:
            thread.start()
        take_turns()
        for thread in others:
            thread.join()
    if failures:
        raise failures[0]


class InOrder:
    """Hands parts on in the order of their numbers, one at a time, whoever is ready first."""

    AHEAD = 32  # parts that may wait for an earlier one: bounds the memory

    def __init__(self, consume):
        self.consume, self.waiting, self.next, self.turn = consume, {}, 0, threading.Condition()

    def wait_for_room(self, i, failures):
        """Wait until part i is not too far ahead.  False when the work has failed meanwhile."""
        with self.turn:
            while i - self.next >= self.AHEAD and not failures:
                self.turn.wait(0.1)
        return not failures

    def add(self, i, part):
        with self.turn:
            self.waiting[i] = part
            while self.next in self.waiting:
                self.consume(self.waiting.pop(self.next))
                self.next += 1
            self.turn.notify_all()


class Totals:
    """Adds parts, tuples of arrays, in float64."""

    sums = None

    def add(self, parts):
        if self.sums is None:
            self.sums = tuple(part.astype(np.float64) for part in parts)
        else:
            for total, part in zip(self.sums, parts, strict=True):
                total += part
