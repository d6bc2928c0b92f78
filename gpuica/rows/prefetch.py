"""Background reading: the blocks of a pass are read by a thread while earlier ones are processed."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import numpy as np

from ..device.transfers import capture_context

N_BUFFERS = 3  # blocks in memory: one in use, one ready, one being read


def start_in_thread(function, *args):
    """Start function(*args) in a thread of its own; returns the Future of its result.

    A thread rather than an executor, whose workers outlive their work: an abandoned endless generator of batches can
    stay referenced by the frames of an exception.
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
    """Reads the given blocks of a source, ascending, in a background thread, N_BUFFERS of them in memory."""

    def __init__(self, rows, blocks, n_uses=lambda rows: 1, keep=lambda block, rows: False, threads=1):
        """rows: with `array`, a `Source`, `block_rows`, `n_rows` and `xp`.

        n_uses: how often the rows of a block will be requested.  keep: whether the caller keeps the rows of a block, so
        that their buffer is not used again.  threads: the number of threads that read a block.
        """
        self.source, self.block_rows, self.n_rows = rows.array, rows.block_rows, rows.n_rows
        self.blocks, self.n_uses, self.keep, self.threads = blocks, n_uses, keep, threads
        self.ready: dict = {}  # block -> (rows as stored, the buffer that holds them)
        self.uses_left: dict = {}  # block -> how often its rows will still be requested
        self.buffers: list = [None] * N_BUFFERS  # None: to be allocated when it is needed
        self.failure: BaseException | None = None
        self.stopped, self.changed = False, threading.Condition()
        self.context = capture_context(rows.xp)
        self.thread = threading.Thread(target=self._read_all, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *failed):
        with self.changed:
            self.stopped = True
            self.changed.notify_all()
        # after Ctrl-C with a timeout: the source may be a user's object that hangs
        self.thread.join(1.0 if isinstance(failed[1], KeyboardInterrupt) else None)

    @contextmanager
    def block(self, block):
        """The rows of a block, as stored; overwritten after the last use."""
        with self.changed:
            while block not in self.ready:
                if self.failure:
                    raise self.failure
                self.changed.wait()
            rows = self.ready[block][0]
        try:
            yield rows
        finally:
            with self.changed:
                self.uses_left[block] -= 1
                if not self.uses_left[block]:
                    _, buffer = self.ready.pop(block)
                    self.buffers.append(None if self.keep(block, rows) else buffer)
                    self.changed.notify_all()

    def _read_all(self):
        """The reading thread: read all blocks, and keep an error for the threads that wait."""
        try:
            with self.context(), ThreadPoolExecutor(self.threads) if self.threads > 1 else nullcontext() as readers:
                self._read_blocks(readers)
        except BaseException as error:
            with self.changed:
                self.failure = error
                self.changed.notify_all()

    def _read_blocks(self, readers):
        """Read one block after another, each once a buffer is free."""
        for block in self.blocks:
            with self.changed:
                while not self.buffers and not self.stopped:
                    self.changed.wait()
                if self.stopped:
                    return
                buffer = self.buffers.pop()
            start, stop = block * self.block_rows, min((block + 1) * self.block_rows, self.n_rows)
            if buffer is None:
                buffer = np.empty((min(self.block_rows, self.n_rows), self.source.shape[1]), self.source.stored)
            found = self._read(start, stop, buffer, readers)
            with self.changed:
                self.ready[block], self.uses_left[block] = (found, buffer), self.n_uses(found)
                self.changed.notify_all()

    def _read(self, start, stop, buffer, readers):
        """Rows start to stop, as stored.  readers: an executor whose threads read parts of them, or None."""
        if readers is None:
            return self.source.read(start, stop, buffer)

        def read(first):
            last = min(first + step, stop)
            self.source.read(first, last, buffer[first - start : last - start])

        step = -(-(stop - start) // self.threads)
        list(readers.map(read, range(start, stop, step)))
        return buffer[: stop - start]
