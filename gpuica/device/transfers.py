"""What travels between host and device while both work on: small results on their way out, large arrays both ways.

Nobody waits for the device as a whole: an event says when one copy is done.
"""

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import CPU, array_device, to_host
from .threads import host_threads, one_blas_thread

N_DEVICE_BUFFERS = 2  # chunks on a device: one that is worked on, one that is sent
N_PINNED_BUFFERS = 3  # pieces of chunks in page-locked memory: one that the host copies, one under way, one that waits
MAX_PIECE_BYTES = 1 << 26  # bytes at most; the first chunk is on its way before all of it was copied
MAX_COPY_THREADS = 12  # threads that copy to and from page-locked memory, at most: 4 were measured at 19 GB/s, 12 at 42
MIN_THREADED_COPY_BYTES = 1 << 22  # bytes


class HostCopy:
    """Small arrays on their way to the host."""

    pending = False  # whether reading them now would make the host wait for the device

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


class AsyncHostCopy(HostCopy):
    """Small device arrays whose copies were asked for: `read` waits for these copies, not for work asked for since."""

    pending = True

    def __init__(self, arrays):
        device = array_device(arrays[0])
        cuda = device.xp.cuda
        with device.active():
            _free_finished_copies()
            self._arrived = cuda.Event(disable_timing=True)
            buffers = [pinned_empty(cuda, array.shape, array.dtype) for array in arrays]
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


def copy_to_host(*arrays):
    """The News of arrays of one library, on the host or a device."""
    return HostCopy(arrays) if array_device(arrays[0]) == CPU else AsyncHostCopy(arrays)


def capture_context(xp):
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


def pinned_empty(cuda, shape, dtype):
    """An empty host array in page-locked memory, which the device reads and writes without the host's help."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    memory: Any = cuda.alloc_pinned_memory(max(count, 1) * dtype.itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)


# ---- large arrays on their way in and out ----------------------------------------------------------------------------
class PinnedBuffers:
    """Page-locked buffers in turn, each used again when the copy from or to it has finished.

    Their sizes are powers of 2, so that CuPy, which keeps freed page-locked memory by its size, has the same buffers
    for the next pass: to lock memory takes longer than to copy into it.
    """

    def __init__(self, cuda):
        self.cuda = cuda
        self.ring: deque[tuple[np.ndarray, Any]] = deque()  # (bytes, event), that of the oldest copy first

    def next(self, shape, dtype):
        """(an array of this shape and dtype, the event to be recorded after its copy)."""
        nothing = np.empty(0, np.uint8), self.cuda.Event(disable_timing=True)
        buffer, done = self.ring.popleft() if len(self.ring) == N_PINNED_BUFFERS else nothing
        done.synchronize()
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if size > buffer.nbytes:
            buffer = pinned_empty(self.cuda, (1 << (size - 1).bit_length(),), np.uint8)
        self.ring.append((buffer, done))
        return buffer[:size].view(dtype).reshape(shape), done

    def wait(self):
        """Wait for all copies: the memory goes to others, who must not write to it before."""
        for _, done in self.ring:
            done.synchronize()


def upload_chunks(parts, device):
    """Host arrays (n, d) as arrays on a device, one after the other, each good until the next is asked for.

    The host copies pieces of a part into page-locked memory, a stream of its own sends them, and the current stream
    waits for these copies alone; so copies go on while the device works on the part before.  To be closed.
    """
    cuda = device.xp.cuda
    sending, working = cuda.Stream(non_blocking=True), cuda.get_current_stream()
    buffers, rooms = PinnedBuffers(cuda), deque(DeviceBuffer(device.xp) for _ in range(N_DEVICE_BUFFERS))
    with _copiers() as copiers:
        try:
            for part in parts:
                room = rooms[0]
                rooms.rotate()
                there = room.shaped_as(part, working)
                columns_first = part.strides[0] == part.itemsize < part.strides[1]
                source, target = (part.T, there.T) if columns_first else (part, there)
                sending.wait_event(room.used)  # what was there has been worked on
                for rows in _pieces(source):
                    here, copied = buffers.next(source[rows].shape, target.dtype)
                    _copy(source[rows], here, copiers)
                    target[rows].set(here, stream=sending)
                    copied.record(sending)
                room.arrived.record(sending)
                working.wait_event(room.arrived)
                yield there
                room.used.record(working)
        finally:
            buffers.wait()


class DeviceBuffer:
    """Memory on a device for one part at a time."""

    def __init__(self, xp):
        self.xp, self.memory = xp, None
        self.arrived, self.used = (xp.cuda.Event(disable_timing=True) for _ in range(2))

    def shaped_as(self, part, working):
        """An array of the shape and order of a part, and of its dtype in the byte order of the device."""
        if self.memory is None or part.nbytes > self.memory.nbytes:
            self.memory = None  # before the next is asked for
            self.memory = self.xp.empty(part.nbytes, dtype=np.uint8)
            self.used.record(working)  # whoever had this memory before may still be at work on it
        array = self.memory[: part.nbytes].view(part.dtype.newbyteorder("="))
        columns_first = part.strides[0] == part.itemsize < part.strides[1]
        return array.reshape(part.shape[::-1]).T if columns_first else array.reshape(part.shape)


class DownloadWriter:
    """A host array (n, k) that is filled with rows from a device, in order.  A sink, as those of `rows.sink`.

    Rows are on their way, by page-locked memory, while the device works on those after them.
    """

    def __init__(self, shape, dtype, device):
        self.array, self.place = np.empty(shape, dtype), 0
        self.buffers = PinnedBuffers(device.xp.cuda)
        self.under_way: deque[tuple] = deque()  # (event, array in a buffer, rows of `array`)
        self.copiers = _copiers()

    def write(self, part):
        """Append rows (n, k) on the device."""
        part = part.astype(self.array.dtype, copy=False)
        for rows in _pieces(part):
            if len(self.under_way) == N_PINNED_BUFFERS:
                self._take_in()
            here, arrived = self.buffers.next(part[rows].shape, self.array.dtype)
            part[rows].get(out=here, blocking=False)
            arrived.record()
            self.under_way.append((arrived, here, slice(self.place, self.place + len(here))))
            self.place += len(here)

    def _take_in(self):
        arrived, here, rows = self.under_way.popleft()
        arrived.synchronize()
        _copy(here, self.array[rows], self.copiers)

    def close(self):
        """Wait for what is under way."""
        while self.under_way:
            self._take_in()
        self.copiers.shutdown()

    def abort(self):
        self.buffers.wait()
        self.copiers.shutdown()


def download(array):
    """An array on the host, `to_host`; a large one by page-locked memory."""
    device = array_device(array)
    if device == CPU or array.nbytes <= MIN_THREADED_COPY_BYTES:
        return to_host(array)
    with device.active():
        sink = DownloadWriter(array.shape, array.dtype, device)
        try:
            sink.write(array)
            sink.close()
        except BaseException:
            sink.abort()
            raise
    return sink.array


def _pieces(array):
    """Slices of the rows of an array that are PIECE bytes each, or a quarter of the array where that is less."""
    size = min(MAX_PIECE_BYTES, max(array.nbytes // 4, MIN_THREADED_COPY_BYTES))
    step = max(1, size // max(1, array.nbytes // max(1, len(array))))
    return [slice(i, min(i + step, len(array))) for i in range(0, len(array), step)]


def _copiers():
    """An executor for `_copy`."""
    return ThreadPoolExecutor(max(1, min(MAX_COPY_THREADS, host_threads())))


def _copy(source, target, copiers):
    """Copy source to target, a part of the rows in each thread: NumPy lets go of the interpreter while it copies."""
    if source.nbytes < MIN_THREADED_COPY_BYTES:
        target[...] = source
        return
    step = -(-len(source) // min(MAX_COPY_THREADS, host_threads()))
    parts = [slice(i, i + step) for i in range(0, len(source), step)]
    list(copiers.map(lambda rows: np.copyto(target[rows], source[rows]), parts))
