"""Rows of an array whose chunks are processed on the host, by several threads."""

from ..device.slow_blas import report_slow_kernels
from ..device.threads import run_in_threads
from ..interrupts import raise_if_interrupted
from .chunked import ChunkedRows, rows_at
from .threaded import InOrderConsumer

CHUNK_ELEMENTS = 1 << 18  # 1 MB in float32: a chunk and what is computed from it share the L2 cache of a core
MIN_CHUNK_ROWS, MAX_CHUNK_ROWS = 512, 8192
MIN_WORK_FOR_THREADS = 5e7  # operations of a pass, about 1 ms: starting threads takes 0.1 ms
MIN_WORK_TO_REPORT = 1e10  # operations of a pass, some 0.1 s: a slow BLAS is worth a message
BATCH_CHUNK_ROWS = 128  # mini-batches are small: with larger chunks most threads would have none
BATCH_CHUNKS = 8  # a large batch has a multiple of so many chunks, all of nearly the same size


class HostRows(ChunkedRows):
    """An array in memory, or memory-mapped, whose chunks are distributed over threads."""

    is_threaded = True  # whether a pass may use several threads

    def default_chunk_rows(self):
        return default_chunk_rows(self.n_features)

    @property
    def single_call_rows(self):  # type: ignore[override]
        return self.chunk_rows

    @property
    def batch_chunk_rows(self):
        return min(self.chunk_rows, BATCH_CHUNK_ROWS)

    def sample(self, n, rng):
        """As of the base class; the rows are copied at once, because a sample is read many times."""
        sample = super().sample(n, rng)
        sample.array = rows_at(sample.array, slice(None))
        return sample

    def _batch_array(self, rows):
        return rows_at(self.array, rows) if isinstance(rows, slice) else _RowsAt(self.array, rows)

    def _equal_chunk_rows(self, n_rows):
        n_chunks = BATCH_CHUNKS * -(-n_rows // (BATCH_CHUNKS * self.chunk_rows))
        return min(self.chunk_rows, max(BATCH_CHUNK_ROWS, -(-n_rows // n_chunks)))

    def map(self, function, *params, out=None):
        self.n_passes += 1
        first = None
        if out is None:  # the first chunk determines the shape
            first = function(self._chunk(0), *params)
            if self.n_rows <= self.chunk_rows:
                return first
            out = self.xp.empty((self.n_rows, *first.shape[1:]), first.dtype)

        def write(i, chunk):
            start = i * self.chunk_rows
            out[start : start + len(chunk)] = function(chunk, *params) if i or first is None else first

        self._each_chunk(write)
        return out

    def _in_memory(self, array, **settings):
        return HostRows(array, **settings)

    def _for_each_part(self, consume, function, params, weighted=False):
        ordered, keywords = InOrderConsumer(consume), self._weights_of if weighted else lambda i: {}
        self._each_chunk(
            lambda i, chunk: ordered.add(i, function(chunk, *params, **keywords(i))), ordered.wait_for_slot
        )

    def _each_chunk(self, work, wait_for_slot=None):
        if self.n_chunks > 1 and self.is_threaded and self.n_rows * self.work >= MIN_WORK_FOR_THREADS:
            if self.n_rows * self.work >= MIN_WORK_TO_REPORT:
                report_slow_kernels()
            run_in_threads(self.n_chunks, lambda i: work(i, self._chunk(i)), wait_for_slot)
            return
        for i in range(self.n_chunks):
            raise_if_interrupted()
            work(i, self._chunk(i))


class _RowsAt:
    """array[indices], (n, d), of which every slice is copied when it is read: by the thread that processes it."""

    def __init__(self, array, indices):
        self.array, self.indices = array, indices
        self.shape, self.dtype = (len(indices), array.shape[1]), array.dtype

    def __getitem__(self, rows):
        return rows_at(self.array, self.indices[rows])


def default_chunk_rows(n_features):
    """As many rows as fit the cache, but enough to amortise the calls for a chunk."""
    return min(max(CHUNK_ELEMENTS // n_features, MIN_CHUNK_ROWS), MAX_CHUNK_ROWS)
