"""What travels between host and device while both work on: small results on their way out, large chunks on the way in.

Nobody waits for the device as a whole: an event says when one copy is done.
"""

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from .device import CPU, array_device
from .threads import host_threads, one_blas_thread

SLOTS = 3  # chunks on their way in: one that is worked on, one that is sent, one that the host copies
COPIERS = 4  # threads that copy a chunk to where it can be sent from; one reaches half of what the bus takes
WORTH_COPIERS = 1 << 22  # bytes


class News:
    """Small arrays on their way to the host."""

    late = False  # whether reading them now would make the host wait for the device

    def __init__(self, arrays):
        self._arrays = arrays

    def read(self):
        """The arrays, on the host."""
        return self._arrays


# (event, host buffers) of copies that the device may still be writing.  CuPy hands a freed page-locked block to whoever
# asks next, so a buffer must outlive its copy also where nobody reads the result, as after the last iteration of a fit.
_copies: deque[tuple[Any, list[np.ndarray]]] = deque()
_copies_lock = threading.Lock()


def _free_finished_copies():
    """Forget the buffers of copies that have finished."""
    with _copies_lock:
        for _ in range(len(_copies)):
            if not _copies[0][0].done:
                _copies.rotate(-1)
            else:
                _copies.popleft()


class LateNews(News):
    """Small device arrays whose copies were asked for: `read` waits for these copies, not for work asked for since."""

    late = True

    def __init__(self, arrays):
        device = array_device(arrays[0])
        cuda = device.xp.cuda
        with device.active():
            _free_finished_copies()
            self._arrived = cuda.Event(disable_timing=True)
            buffers = [pinned(cuda, array.shape, array.dtype) for array in arrays]
            try:
                super().__init__(
                    [array.get(out=out, blocking=False) for array, out in zip(arrays, buffers, strict=True)]
                )
            finally:
                self._arrived.record()
                with _copies_lock:
                    _copies.append((self._arrived, buffers))

    def read(self):
        self._arrived.synchronize()
        return super().read()


def news(*arrays):
    """The News of arrays of one library, on the host or a device."""
    return News(arrays) if array_device(arrays[0]) == CPU else LateNews(arrays)


def place(xp):
    """A function that gives a context manager for other threads: the device and the stream that are current here.

    On the host one BLAS thread, which some libraries count for each thread.
    """
    if xp is np:
        return one_blas_thread
    index, stream = xp.cuda.runtime.getDevice(), xp.cuda.get_current_stream()

    @contextmanager
    def there():
        with xp.cuda.Device(index), stream:
            yield

    return there


def pinned(cuda, shape, dtype):
    """An empty host array in page-locked memory, which the device reads and writes without the host's help."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    memory: Any = cuda.alloc_pinned_memory(max(count, 1) * dtype.itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)


# ---- large chunks on their way in ------------------------------------------------------------------------------------
def sent(parts, device):
    """Host arrays (n, d) as arrays on a device, one after the other, each good until the next is asked for.

    The host copies a part into page-locked memory, a stream of its own sends it, and the current stream waits for that
    copy alone; so copies go on while the device works on the part before.
    """
    cuda = device.xp.cuda
    sending, working = cuda.Stream(non_blocking=True), cuda.get_current_stream()
    slots: deque[Slot] = deque()
    with ThreadPoolExecutor(max(1, min(COPIERS, host_threads()))) as copiers:
        try:
            for part in parts:
                if len(slots) < SLOTS:
                    slots.appendleft(Slot(device.xp))
                slot = slots[0]  # the one that was filled longest ago
                slots.rotate(-1)
                yield slot.filled(part, copiers, sending, working)
                slot.used.record(working)
        finally:
            for slot in slots:  # their memory must not be written to by others while it is sent
                slot.copied.synchronize()


class Slot:
    """Room for a part on the host, in page-locked memory, and on the device."""

    def __init__(self, xp):
        self.xp = xp
        self.copied, self.used = (xp.cuda.Event(disable_timing=True) for _ in range(2))
        self.here = np.empty(0, dtype=np.uint8)

    def _make_room(self, n_bytes, working):
        self.here = pinned(self.xp.cuda, (n_bytes,), np.uint8)
        self.there = self.xp.empty(n_bytes, dtype=np.uint8)
        self.used.record(working)  # whoever had this memory before may still be at work on it

    def filled(self, part, copiers, sending, working):
        """The part on the device.  copiers: an executor; sending, working: streams."""
        self.copied.synchronize()  # what was here has left
        if part.nbytes > self.here.nbytes:
            self._make_room(part.nbytes, working)
        columns_first = part.strides[0] == part.itemsize < part.strides[1]
        here, there = (_shaped(room[: part.nbytes], part, columns_first) for room in (self.here, self.there))
        _copy(part.T if columns_first else part, here.T if columns_first else here, copiers)
        sending.wait_event(self.used)  # what was there has been worked on
        there.set(here, stream=sending)
        self.copied.record(sending)
        working.wait_event(self.copied)
        return there


def _shaped(room, part, columns_first):
    """Bytes as an array of the dtype, shape and order of a part."""
    array = room.view(part.dtype)
    return array.reshape(part.shape[::-1]).T if columns_first else array.reshape(part.shape)


def _copy(source, target, copiers):
    """Copy source to target, a part of the rows in each thread: NumPy lets go of the interpreter while it copies."""
    if source.nbytes < WORTH_COPIERS:
        target[...] = source
        return
    step = -(-len(source) // COPIERS)
    parts = [slice(i, i + step) for i in range(0, len(source), step)]
    list(copiers.map(lambda rows: np.copyto(target[rows], source[rows]), parts))
