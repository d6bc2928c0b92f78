"""Rows of an array in memory, on the host or on a device."""

import itertools
import threading

import numpy as np

from ..device import CPU, host_threads, one_blas_thread
from . import Rows, project, projection

CACHED = 1 << 18  # numbers of a host chunk: 1 MB in float32, so that a chunk and what is made of it share a core's L2
RESIDENT = 1 << 26  # numbers of a device chunk: large enough that launches do not count


class MemoryRows(Rows):
    """An array, cut into chunks of rows.  Host chunks are shared out to threads."""

    def __init__(self, array, *, dtype=None, device=CPU, chunk_rows=None):
        """array: (n_rows, n_features), whatever gives an array when sliced.  It is read, never copied whole."""
        self.array, self.device = array, device
        self.n_rows, self.n_features = array.shape
        self.dtype = np.dtype(dtype or array.dtype)
        self.chunk_rows = chunk_rows or default_chunk_rows(self.n_features, device)
        self.n_passes = 0

    @property
    def xp(self):
        return self.device.xp

    def sum(self, contribution, *params):
        self.n_passes += 1
        totals = _OrderedTotals()
        self._each_chunk(lambda i, chunk: totals.add(i, contribution(chunk, *params)), totals.room)
        return totals.sums

    def map(self, function, *params, out=None):
        self.n_passes += 1
        made = out

        def place(i, chunk):
            nonlocal made
            part = function(chunk, *params)
            if made is None:
                made = self.xp.empty((self.n_rows, *part.shape[1:]), part.dtype)
            made[i * self.chunk_rows : i * self.chunk_rows + len(part)] = part

        if out is None:  # the first chunk tells the shape
            with self.device.active():
                place(0, self._chunk(0))
            self._each_chunk(place, first=1)
        else:
            self._each_chunk(place)
        return made

    def batches(self, size, rng=None):
        order = None if rng is None else rng.permutation(self.n_rows)
        for start in range(0, self.n_rows, size):
            stop = min(start + size, self.n_rows)
            rows = self.array[start:stop] if order is None else self.array[np.sort(order[start:stop])]
            yield MemoryRows(rows, dtype=self.dtype, device=self.device, chunk_rows=self.chunk_rows)

    def projected(self, mean, components):
        if self.n_rows * len(components) * self.dtype.itemsize > self.device.budget():
            return super().projected(mean, components)
        stored = self.map(project, projection(mean, components, self.dtype))
        rows = MemoryRows(stored, device=self.device)
        rows.scratch, rows.n_passes = stored, self.n_passes
        return rows

    def _chunk(self, i):
        """Chunk i on the device, in the working dtype; a view where nothing need be changed."""
        part = self.device.put(self.array[i * self.chunk_rows : (i + 1) * self.chunk_rows])
        part = part.astype(self.dtype, copy=False)
        # BLAS takes rows or columns in sequence; anything else it would copy, in every product
        return part if part.itemsize in part.strides else self.xp.ascontiguousarray(part)

    def _each_chunk(self, work, room=None, first=0):
        """Call work(i, chunk) for every chunk.  Threads take turns; room(i, stopped) may hold one back."""
        n_chunks = -(-self.n_rows // self.chunk_rows)
        threads = min(host_threads(), n_chunks - first) if self.device == CPU and n_chunks - first > 1 else 1
        if threads == 1:
            with self.device.active():
                for i in range(first, n_chunks):
                    work(i, self._chunk(i))
            return
        turns, failures = itertools.count(first), []

        def take_turns():
            try:
                while not failures and (i := next(turns)) < n_chunks:
                    if room is None or room(i, failures):
                        work(i, self._chunk(i))
            except BaseException as error:  # an interrupt too: the other threads must stop
                failures.append(error)

        with one_blas_thread():
            others = [threading.Thread(target=take_turns, daemon=True) for _ in range(threads - 1)]
            for thread in others:
                thread.start()
            take_turns()
            for thread in others:
                thread.join()
        if failures:
            raise failures[0]


def default_chunk_rows(n_features, device=CPU):
    """Rows of a chunk: as many as stay in the cache (host), but enough to make a matrix product worth its call."""
    if device == CPU:
        return min(max(CACHED // n_features, 512), 8192)
    return max(RESIDENT // n_features, 1024)


class _OrderedTotals:
    """Adds parts in the order of their numbers, whoever is ready first; float64."""

    AHEAD = 32  # parts that may wait for an earlier one: bounds the memory

    def __init__(self):
        self.sums, self.waiting, self.next, self.turn = None, {}, 0, threading.Condition()

    def room(self, i, stopped):
        """Wait until part i is not too far ahead.  False when the work was stopped meanwhile."""
        with self.turn:
            while i - self.next >= self.AHEAD and not stopped:
                self.turn.wait(0.1)
        return not stopped

    def add(self, i, parts):
        with self.turn:
            self.waiting[i] = parts
            while self.next in self.waiting:
                parts = self.waiting.pop(self.next)
                if self.sums is None:
                    self.sums = tuple(part.astype(np.float64) for part in parts)
                else:
                    for total, part in zip(self.sums, parts, strict=True):
                        total += part
                self.next += 1
            self.turn.notify_all()
