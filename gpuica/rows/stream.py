"""Rows of a `Source`, a file, table or iterable, read block by block in every pass.

A background thread reads the next blocks into a few buffers while chunks of earlier blocks are processed.  Blocks stay
in memory, within the budget, where reading them again would cost more than the memory.
"""

import itertools
from contextlib import closing, nullcontext

import numpy as np

from ..device import CPU, to_host
from ..device.threads import host_threads, run_in_threads
from ..device.transfers import upload_chunks
from ..interrupts import raise_if_interrupted
from ..io.sources import SelectedRows
from .base import ProjectedRows
from .chunked import ChunkedRows
from .device import DeviceRows
from .host import HostRows
from .prefetch import Prefetcher, start_in_thread

BLOCK_BYTES = 1 << 25  # read at once: long enough for a disk, short enough for several in memory
MAX_BLOCK_READERS = 8  # threads that read a block for a device: one core copies from the page cache at 3 to 8 GB/s
SHUFFLE_WINDOW_BYTES = 1 << 26  # mini-batches are shuffled within windows of so many bytes


def open_stream(source, *, device=CPU, **settings):
    """The rows of a `Source`, processed on the host or on a device."""
    return (HostStreamRows if device == CPU else DeviceStreamRows)(source, device=device, **settings)


class StreamRows(ChunkedRows):
    """A `Source` that is read once in each pass.  Its chunks, and so its totals, equal those of an array in memory."""

    cache_budget: int  # bytes of blocks that may still be kept in memory

    def __init__(self, source, **settings):
        """source: takes the place of the array of `ChunkedRows`."""
        super().__init__(source, **settings)
        row = source.shape[1] * source.stored.itemsize
        self.block_rows = self.chunk_rows * max(1, BLOCK_BYTES // (row * self.chunk_rows))
        self.cached_blocks: dict = {}  # block -> its rows as stored, on the device

    def for_each(self, consume, function, *params):
        super().for_each(consume, _apply_to_copy, function, *params)

    def take(self, indices):
        return self._prepared(self.array.rows(indices))

    def fixed_sample(self):
        return self._prepared(self.array.fixed_sample())

    def sample(self, n, rng):
        """n rows in short runs drawn from all of X; in memory if they fit the budget, else read in each pass."""
        indices = self.array.sample_rows(n, rng)
        settings = {"chunk_rows": self.chunk_rows, "work": self.work, "weights": self._weights_at(indices)}
        if self.device.fits(len(indices) * self.n_features * self.dtype.itemsize):
            return self._in_memory(self._prepared(self.array.read_rows(indices)), **settings)
        settings.update(dtype=self.dtype, device=self.device, prepare=self.prepare)
        return type(self)(SelectedRows(self.array, indices), **settings)

    def batches(self, size, rng=None):
        """As of `Rows`; the random order is one of short runs of rows, shuffled within windows of them."""
        return self._batches(size, rng)

    def epochs(self, size, rng=None, skip=0):
        """As of `Rows`, but every epoch has an order of its own."""
        seed = None if rng is None else rng.randint(2**31)  # of the first epoch
        first, skip = divmod(skip, -(-self.n_rows // size))
        orders = (None if rng is None else np.random.RandomState(seed + i) for i in itertools.count(first))
        skips = itertools.chain([skip], itertools.repeat(0))
        return itertools.chain.from_iterable(self._batches(size, *of_epoch) for of_epoch in zip(orders, skips))

    def _batches(self, size, rng, skip=0):
        """All batches of an epoch but the first `skip`.  One window of whole batches is read ahead."""
        row = self.n_features * self.array.stored.itemsize
        per_window = max(1, self.batch_window // (row * size))
        windows = itertools.islice(self._windows(per_window * size, rng), skip // per_window, None)
        skip = size * (skip % per_window)
        window = next(windows, None)
        read = start_in_thread(self.array.read_rows, window[0]) if window else None
        try:
            while window and read:
                (indices, order), rows = window, read.result()
                window = next(windows, None)
                read = start_in_thread(self.array.read_rows, window[0]) if window else None
                for start in range(skip, len(rows), size):
                    part = order[start : start + size]
                    yield self._in_memory(
                        self._prepared(rows[part]),
                        chunk_rows=self.batch_chunk_rows,
                        work=self.work,
                        weights=self._weights_at(indices[part]),
                    )
                skip = 0
        finally:
            if read:
                read.exception()  # waits: two threads must not read an iterable at once

    @property
    def batch_window(self):  # type: ignore[override]
        return min(SHUFFLE_WINDOW_BYTES, self.device.budget())

    def _windows(self, size, rng):
        """Partition the rows into windows of `size`: (ascending row numbers, an order of them)."""
        in_order = rng is None or not self.array.in_any_order
        number = np.arange if in_order else self.array.shuffled(rng)
        for start in range(0, self.n_rows, size):
            stop = min(start + size, self.n_rows)
            indices = np.sort(number(start, stop))
            yield indices, np.arange(len(indices)) if rng is None else rng.permutation(len(indices))

    def project_with(self, projection):
        rows = super().project_with(projection)
        if not isinstance(rows, ProjectedRows):  # a copy was stored: it needs the memory, and X is read less often
            self.cached_blocks.clear()
            self.cache_budget = 0
        return rows

    def _prepared(self, part):
        return super()._prepared(self.array.decode(self.device.put(part)))

    def _chunk(self, i):
        first = i * self.chunk_rows
        return self._prepared(self.array.read(first, min(first + self.chunk_rows, self.n_rows)))

    @property
    def n_blocks(self):
        """The number of blocks, 0 without rows."""
        return -(-self.n_rows // self.block_rows)

    def _missing_blocks(self):
        """The blocks that have to be read, ascending."""
        return [block for block in range(self.n_blocks) if block not in self.cached_blocks]

    def _cache(self, block, rows):
        """Keep the rows of a block, as stored, if the budget allows it; returns whether it does."""
        if rows.nbytes > self.cache_budget:
            return False
        self.cache_budget -= rows.nbytes
        self.cached_blocks[block] = rows
        return True


class HostStreamRows(StreamRows, HostRows):
    """A `Source` whose chunks are processed by threads of the host."""

    def __init__(self, source, **settings):
        super().__init__(source, **settings)
        self.cache_budget = self.device.budget() // 2 if source.slow else 0

    def _each_chunk(self, work, wait_for_slot=None):
        with Prefetcher(self, self._missing_blocks(), n_uses=self._n_chunks_of, keep=self._cache) as reader:

            def process(i):
                block, first = divmod(i * self.chunk_rows, self.block_rows)
                cached = self.cached_blocks
                with nullcontext(cached[block]) if block in cached else reader.block(block) as rows:
                    work(i, self._prepared(rows[first : first + self.chunk_rows]))

            run_in_threads(self.n_chunks, process, wait_for_slot)

    def _n_chunks_of(self, rows):
        return -(-len(rows) // self.chunk_rows)


class DeviceStreamRows(StreamRows, DeviceRows):
    """A `Source` whose chunks are processed on a device: blocks are read, uploaded and processed concurrently."""

    def __init__(self, source, **settings):
        super().__init__(source, **settings)
        self.cache_budget = self.device.budget() // 2

    def _each_chunk(self, work, wait_for_slot=None):
        missing, i = self._missing_blocks(), 0
        threads = min(MAX_BLOCK_READERS, host_threads()) if self.array.divisible else 1
        with (
            Prefetcher(self, missing, threads=threads) as reader,
            closing(self._upload_blocks(reader, missing)) as uploads,
        ):
            for block in range(self.n_blocks):
                rows = self.cached_blocks[block] if block in self.cached_blocks else next(uploads)
                if block not in self.cached_blocks and rows.nbytes <= self.cache_budget:
                    self._cache(block, rows := rows.copy())
                for first in range(0, len(rows), self.chunk_rows):
                    raise_if_interrupted()
                    work(i, self._prepared(rows[first : first + self.chunk_rows]))
                    i += 1

    def _upload_blocks(self, reader, blocks):
        """The rows of these blocks on the device, as stored; each is valid until the next one is requested."""

        def read():
            for block in blocks:
                with reader.block(block) as rows:
                    yield to_host(rows)

        return upload_chunks(read(), self.device)


def _apply_to_copy(chunk, function, *params):
    """function(copy of the chunk, *params): the result may be a view of the chunk, whose buffer is used again."""
    return function(chunk.copy(), *params)
