"""Rows that are read block by block while they are worked on: of files, tables, iterables.

A thread reads ahead into a few buffers; threads of the pass take chunks of the blocks that are there.  What the memory
allows and reading again would cost more than is kept.
"""

import itertools
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext

import numpy as np

from ..device import CPU, to_host
from ..device.threads import host_threads
from ..device.transfers import capture_context, upload_chunks
from ..interrupts import raise_if_interrupted
from ..io.sources import SelectedRows
from .base import ProjectedRows
from .memory import MemoryRows
from .threaded import run_in_threads

BLOCK = 1 << 25  # bytes that are read at once: long enough for a disk, short enough for several to be in memory
READERS = 8  # threads that read a block for a device: one core copies what the system has in memory at 3 to 8 GB/s
AHEAD = 3  # blocks in memory: one that is worked on, one that is ready, one that is read
WINDOW = 1 << 26  # bytes of drawn rows that mini-batches are shuffled within


class StreamRows(MemoryRows):
    """A `Source`, read once in each pass.  Its chunks, and so its totals, are those of the same array in memory."""

    def __init__(self, source, *, device=CPU, **settings):
        """As `MemoryRows`, with a source in place of the array."""
        super().__init__(source, device=device, **settings)
        row = source.shape[1] * source.stored.itemsize
        self.block_rows = self.chunk_rows * max(1, BLOCK // (row * self.chunk_rows))
        self.kept: dict = {}  # blocks that need not be read again, as stored, on the device
        self.room = device.budget() // 2 if source.slow or device != CPU else 0  # bytes to keep blocks in

    def for_each(self, consume, function, *params):
        super().for_each(consume, _on_a_copy, function, *params)

    def take(self, indices):
        return self._prepared(self.array.rows(indices))

    def subset(self, indices):
        return self._in_memory(self.array.rows(indices), indices, small=True)

    def fixed_sample(self):
        return self._prepared(self.array.fixed_sample())

    def sample(self, n, rng):
        """Drawn in short runs from everywhere; in memory if it fits the budget, else read in each pass."""
        indices = self.array.sample_rows(n, rng)
        if self.device.fits(len(indices) * self.n_features * self.dtype.itemsize):
            return self._in_memory(self.array.read_rows(indices), indices)
        return StreamRows(
            SelectedRows(self.array, indices),
            dtype=self.dtype,
            device=self.device,
            chunk_rows=self.chunk_rows,
            prepare=self.prepare,
            work=self.work,
            weights=None if self.weights is None else self.weights[self.device.put(indices)],
        )

    def batches(self, size, rng=None):
        """With rng in an order of short runs, shuffled within windows of them."""
        return self._batches(size, rng)

    def epochs(self, size, rng=None, skip=0):
        seed = None if rng is None else rng.randint(2**31)  # of the first round; every round has draws of its own
        first, skip = divmod(skip, -(-self.n_rows // size))
        rounds = (None if rng is None else np.random.RandomState(seed + i) for i in itertools.count(first))
        skips = itertools.chain([skip], itertools.repeat(0))
        return itertools.chain.from_iterable(self._batches(size, *of_round) for of_round in zip(rounds, skips))

    def _batches(self, size, rng, skip=0):
        """All batches of a round but for the first `skip`; windows of whole batches are read one ahead."""
        row = self.n_features * self.array.stored.itemsize
        per_window = max(1, self.batch_window // (row * size))
        windows = itertools.islice(self._windows(per_window * size, rng), skip // per_window, None)
        skip = size * (skip % per_window)
        window = next(windows, None)
        read = begun(self.array.read_rows, window[0]) if window else None
        try:
            while window and read:
                (indices, order), rows = window, read.result()
                window = next(windows, None)
                read = begun(self.array.read_rows, window[0]) if window else None
                for start in range(skip, len(rows), size):
                    part = order[start : start + size]
                    yield self._in_memory(rows[part], indices[part], small=True)
                skip = 0
        finally:
            if read:
                read.exception()  # waits: an iterable must not be read by two at a time

    @property
    def batch_window(self):  # type: ignore[override]
        return min(WINDOW, self.device.budget())

    def _windows(self, size, rng):
        """(ascending numbers of `size` rows, an order of them), all rows once."""
        in_order = rng is None or not self.array.in_any_order
        number = np.arange if in_order else self.array.shuffled(rng)
        for start in range(0, self.n_rows, size):
            stop = min(start + size, self.n_rows)
            indices = np.sort(number(start, stop))
            yield indices, np.arange(len(indices)) if rng is None else rng.permutation(len(indices))

    def project_with(self, ready):
        rows = super().project_with(ready)
        if not isinstance(rows, ProjectedRows):  # the memory is needed elsewhere now, and the rows less
            self.kept.clear()
            self.room = 0
        return rows

    def _in_memory(self, rows, indices, small=False):
        """These rows, as stored, as Rows in memory."""
        return MemoryRows(
            self._prepared(rows),
            device=self.device,
            chunk_rows=self.small_chunk if small else self.chunk_rows,
            work=self.work,
            weights=None if self.weights is None else self.weights[self.device.put(indices)],
        )

    def _prepared(self, part):
        """The rows on the device, in the working dtype, of rows as stored."""
        return super()._prepared(self.array.decode(self.device.put(part)))

    def _chunk(self, i):
        first = i * self.chunk_rows
        return self._prepared(self.array.read(first, min(first + self.chunk_rows, self.n_rows)))

    def _each_chunk(self, work, wait_for_slot=None):
        if self.device != CPU:
            self._each_chunk_there(work)
            return
        blocks = [block for block in range(-(-self.n_rows // self.block_rows)) if block not in self.kept]
        with Prefetcher(self, blocks, users=self._chunks_of, keep=self._keep) as reader:

            def take(i):
                block, capture_context = divmod(i * self.chunk_rows, self.block_rows)
                with nullcontext(self.kept[block]) if block in self.kept else reader.block(block) as rows:
                    work(i, self._prepared(rows[capture_context : capture_context + self.chunk_rows]))

            run_in_threads(-(-self.n_rows // self.chunk_rows), take, wait_for_slot)

    def _chunks_of(self, rows):
        return -(-len(rows) // self.chunk_rows)

    def _keep(self, block, rows):
        """Whether the rows of a block, as stored, are kept from now on."""
        if rows.nbytes > self.room:
            return False
        self.room -= rows.nbytes
        self.kept[block] = rows
        return True

    def _each_chunk_there(self, work):
        """`_each_chunk` on a device: blocks are read, sent and worked on at the same time."""
        n_blocks, i = -(-self.n_rows // self.block_rows), 0
        missing = [block for block in range(n_blocks) if block not in self.kept]
        threads = min(READERS, host_threads()) if self.array.divisible else 1
        with Prefetcher(self, missing, threads=threads) as reader, closing(self._sent(reader, missing)) as uploads:
            for block in range(n_blocks):
                rows = self.kept[block] if block in self.kept else next(uploads)
                if block not in self.kept and rows.nbytes <= self.room:
                    self._keep(block, rows := rows.copy())
                for capture_context in range(0, len(rows), self.chunk_rows):
                    raise_if_interrupted()
                    work(i, self._prepared(rows[capture_context : capture_context + self.chunk_rows]))
                    i += 1

    def _sent(self, reader, blocks):
        """The rows of these blocks on the device, as stored, each good until the next is asked for."""

        def read():
            for block in blocks:
                with reader.block(block) as rows:
                    yield to_host(rows)

        return upload_chunks(read(), self.device)


def _on_a_copy(chunk, function, *params):
    """function(chunk, *params), whose result may hold on to the chunk when its buffer is read into again."""
    return function(chunk.copy(), *params)


def begun(function, *args):
    """Begin function(*args) in a thread of its own; returns the Future of its result.

    The thread ends with its work, not with whoever began it: an endless generator of batches that is wanted no more may
    stay alive in the frames of some error.
    """
    outcome: Future = Future()

    def work():
        try:
            outcome.set_result(function(*args))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return outcome


class Prefetcher:
    """Some blocks of one pass, ascending: read in order by a thread, AHEAD of them in memory."""

    def __init__(self, rows, blocks, users=lambda rows: 1, keep=lambda block, rows: False, threads=1):
        """users: how often the rows of a block are asked for.  keep: whether somebody keeps them after that.  threads:
        that read parts of a block."""
        self.source, self.block_rows, self.n_rows = rows.array, rows.block_rows, rows.n_rows
        self.blocks, self.users, self.keep, self.threads = blocks, users, keep, threads
        self.ready: dict = {}  # block -> (rows as stored, the buffer they are in)
        self.left: dict = {}  # block -> how often its rows will be asked for still
        self.buffers: list = [None] * AHEAD  # None: to be made when it is needed
        self.failure: BaseException | None = None
        self.stopped, self.turn = False, threading.Condition()
        self.place = capture_context(rows.xp)
        self.thread = threading.Thread(target=self._read_all, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *failed):
        with self.turn:
            self.stopped = True
            self.turn.notify_all()
        # what is read may be something of the user's that hangs
        self.thread.join(1.0 if isinstance(failed[1], KeyboardInterrupt) else None)

    @contextmanager
    def block(self, block):
        """The rows of a block, as stored; read over once all users have left."""
        with self.turn:
            while block not in self.ready:
                if self.failure:
                    raise self.failure
                self.turn.wait()
            rows = self.ready[block][0]
        try:
            yield rows
        finally:
            with self.turn:
                self.left[block] -= 1
                if not self.left[block]:
                    _, buffer = self.ready.pop(block)
                    self.buffers.append(None if self.keep(block, rows) else buffer)
                    self.turn.notify_all()

    def _read_all(self):
        try:
            with self.place(), ThreadPoolExecutor(self.threads) if self.threads > 1 else nullcontext() as readers:
                self._read_blocks(readers)
        except BaseException as error:
            with self.turn:
                self.failure = error
                self.turn.notify_all()

    def _read_blocks(self, readers):
        for block in self.blocks:
            with self.turn:
                while not self.buffers and not self.stopped:
                    self.turn.wait()
                if self.stopped:
                    return
                buffer = self.buffers.pop()
            start, stop = block * self.block_rows, min((block + 1) * self.block_rows, self.n_rows)
            if buffer is None:
                buffer = np.empty((min(self.block_rows, self.n_rows), self.source.shape[1]), self.source.stored)
            found = self._read(start, stop, buffer, readers)
            with self.turn:
                self.ready[block], self.left[block] = (found, buffer), self.users(found)
                self.turn.notify_all()

    def _read(self, start, stop, buffer, readers):
        """Rows start to stop, as stored.  readers: None, or an executor, whose threads read parts of them."""
        if readers is None:
            return self.source.read(start, stop, buffer)

        def read(first):
            last = min(first + step, stop)
            self.source.read(first, last, buffer[first - start : last - start])

        step = -(-(stop - start) // self.threads)
        list(readers.map(read, range(start, stop, step)))
        return buffer[: stop - start]
