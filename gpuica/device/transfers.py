"""Asynchronous host-device copies: small results to the host, large arrays in both directions.

Nothing synchronises with the whole device: events signal the end of each copy.
"""

import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from . import CPU, array_device, to_host
from .threads import host_threads, one_blas_thread

N_DEVICE_BUFFERS = 2  # chunks on the device: one in use, one being uploaded
N_PINNED_BUFFERS = 3  # pieces of chunks in page-locked memory: one being copied, one in transfer, one waiting
MAX_PIECE_BYTES = 1 << 26  # the transfer of a chunk starts before all of it is in page-locked memory
MAX_COPY_THREADS = 12  # between pageable and page-locked memory: 4 threads were measured at 19 GB/s, 12 at 42
MIN_THREADED_COPY_BYTES = 1 << 22


class HostCopy:
    """Small arrays that are copied to the host."""

    pending = False  # whether `read` may wait for the device

    def __init__(self, arrays):
        self._arrays = arrays

    def read(self):
        """The arrays, on the host."""
        return self._arrays


# (event, host buffers) of copies that may still be running.  CuPy reuses a freed page-locked block immediately, so a
# buffer must outlive its copy even if the result is never read, as after the last iteration of a fit.
_copies: deque[tuple[Any, list[np.ndarray]]] = deque()
_copies_lock = threading.Lock()


def _free_finished_copies():
    """Release the buffers of finished copies."""
    with _copies_lock:
        for _ in range(len(_copies)):
            if not _copies[0][0].done:
                _copies.rotate(-1)
            else:
                _copies.popleft()


class AsyncHostCopy(HostCopy):
    """Small device arrays whose copies are enqueued: `read` waits for these copies, not for work enqueued later."""

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
    """The `HostCopy` of arrays of one library, on the host or on a device."""
    return HostCopy(arrays) if array_device(arrays[0]) == CPU else AsyncHostCopy(arrays)


def capture_context(xp):
    """A function that returns a context manager for another thread: the current device and stream of this thread.

    On the host, one BLAS thread, which is a setting per thread in some libraries.
    """
    if xp is np:
        return one_blas_thread
    index, stream = xp.cuda.runtime.getDevice(), xp.cuda.get_current_stream()

    @contextmanager
    def context():
        with xp.cuda.Device(index), stream:
            yield

    return context


def pinned_empty(cuda, shape, dtype):
    """An uninitialised host array in page-locked memory, which the device reads and writes by itself."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    memory: Any = cuda.alloc_pinned_memory(max(count, 1) * dtype.itemsize)
    return np.frombuffer(memory, dtype, count).reshape(shape)


# ---- large arrays ----------------------------------------------------------------------------------------------------
class PinnedBuffers:
    """A ring of page-locked buffers, each of which is used again when the copy from or to it has finished.

    Their sizes are powers of 2, so that CuPy, whose pool of page-locked memory is indexed by size, returns the same
    buffers in the next pass: locking memory takes longer than copying into it.
    """

    def __init__(self, cuda):
        self.cuda = cuda
        self.ring: deque[tuple[np.ndarray, Any]] = deque()  # (bytes, event), the oldest copy first

    def next(self, shape, dtype):
        """(an array of this shape and dtype, the event to record after its copy)."""
        new = np.empty(0, np.uint8), self.cuda.Event(disable_timing=True)
        buffer, done = self.ring.popleft() if len(self.ring) == N_PINNED_BUFFERS else new
        done.synchronize()
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if size > buffer.nbytes:
            buffer = pinned_empty(self.cuda, (1 << (size - 1).bit_length(),), np.uint8)
        self.ring.append((buffer, done))
        return buffer[:size].view(dtype).reshape(shape), done

    def wait(self):
        """Wait for all copies, after which the memory can be used by others."""
        for _, done in self.ring:
            done.synchronize()


def upload_chunks(parts, device):
    """Yield host arrays (n, d) as device arrays, each valid until the next is requested.  The generator must be closed.

    The host copies pieces of an array into page-locked memory, a separate stream uploads them, and the current stream
    waits for these copies alone.  So uploads overlap with the computation on the previous array.
    """
    cuda = device.xp.cuda
    upload, compute = cuda.Stream(non_blocking=True), cuda.get_current_stream()
    pinned, ring = PinnedBuffers(cuda), deque(DeviceBuffer(device.xp) for _ in range(N_DEVICE_BUFFERS))
    with _copiers() as copiers:
        try:
            for part in parts:
                buffer = ring[0]
                ring.rotate()
                uploaded = buffer.shaped_as(part, compute)
                columns_first = part.strides[0] == part.itemsize < part.strides[1]
                source, target = (part.T, uploaded.T) if columns_first else (part, uploaded)
                upload.wait_event(buffer.used)  # the previous array in this buffer is no longer needed
                for rows in _pieces(source):
                    piece, copied = pinned.next(source[rows].shape, target.dtype)
                    _copy(source[rows], piece, copiers)
                    target[rows].set(piece, stream=upload)
                    copied.record(upload)
                buffer.arrived.record(upload)
                compute.wait_event(buffer.arrived)
                yield uploaded
                buffer.used.record(compute)
        finally:
            pinned.wait()


class DeviceBuffer:
    """Device memory for one array at a time.  arrived, used: events after its upload and after its last use."""

    def __init__(self, xp):
        self.xp, self.memory = xp, None
        self.arrived, self.used = (xp.cuda.Event(disable_timing=True) for _ in range(2))

    def shaped_as(self, part, compute):
        """An array of the shape and memory order of a host array, and of its dtype in the byte order of the device."""
        if self.memory is None or part.nbytes > self.memory.nbytes:
            self.memory = None  # freed before the next allocation
            self.memory = self.xp.empty(part.nbytes, dtype=np.uint8)
            self.used.record(compute)  # enqueued work may still use this memory
        array = self.memory[: part.nbytes].view(part.dtype.newbyteorder("="))
        columns_first = part.strides[0] == part.itemsize < part.strides[1]
        return array.reshape(part.shape[::-1]).T if columns_first else array.reshape(part.shape)


class DownloadWriter:
    """A writer, as those of `io.writers`, of a host array (n, k) whose rows are computed on a device, in order.

    The download of rows, by page-locked memory, overlaps with the computation of later rows.
    """

    def __init__(self, shape, dtype, device):
        self.array, self.n_rows = np.empty(shape, dtype), 0
        self.buffers = PinnedBuffers(device.xp.cuda)
        self.in_transfer: deque[tuple] = deque()  # (event, page-locked array, rows of `array`)
        self.copiers = _copiers()

    def write(self, part):
        """Append rows (n, k) on the device."""
        part = part.astype(self.array.dtype, copy=False)
        for rows in _pieces(part):
            if len(self.in_transfer) == N_PINNED_BUFFERS:
                self._finish_oldest()
            piece, arrived = self.buffers.next(part[rows].shape, self.array.dtype)
            part[rows].get(out=piece, blocking=False)
            arrived.record()
            self.in_transfer.append((arrived, piece, slice(self.n_rows, self.n_rows + len(piece))))
            self.n_rows += len(piece)

    def _finish_oldest(self):
        """Wait for the oldest transfer, and copy its rows to the result."""
        arrived, piece, rows = self.in_transfer.popleft()
        arrived.synchronize()
        _copy(piece, self.array[rows], self.copiers)

    def close(self):
        """Wait for the remaining transfers."""
        while self.in_transfer:
            self._finish_oldest()
        self.copiers.shutdown()

    def abort(self):
        """Wait for the transfers and release the threads, after an error."""
        self.buffers.wait()
        self.copiers.shutdown()


def download(array):
    """`to_host`, by page-locked memory if the array is large."""
    device = array_device(array)
    if device == CPU or array.nbytes <= MIN_THREADED_COPY_BYTES:
        return to_host(array)
    with device.active():
        writer = DownloadWriter(array.shape, array.dtype, device)
        try:
            writer.write(array)
            writer.close()
        except BaseException:
            writer.abort()
            raise
    return writer.array


def _pieces(array):
    """Slices of the rows of an array of at most MAX_PIECE_BYTES each, and a quarter of the array if that is less."""
    size = min(MAX_PIECE_BYTES, max(array.nbytes // 4, MIN_THREADED_COPY_BYTES))
    step = max(1, size // max(1, array.nbytes // max(1, len(array))))
    return [slice(i, min(i + step, len(array))) for i in range(0, len(array), step)]


def _copiers():
    """An executor for `_copy`."""
    return ThreadPoolExecutor(max(1, min(MAX_COPY_THREADS, host_threads())))


def _copy(source, target, copiers):
    """Copy source to target, a part of the rows in each thread: NumPy releases the GIL while it copies."""
    if source.nbytes < MIN_THREADED_COPY_BYTES:
        target[...] = source
        return
    step = -(-len(source) // min(MAX_COPY_THREADS, host_threads()))
    parts = [slice(i, i + step) for i in range(0, len(source), step)]
    list(copiers.map(lambda rows: np.copyto(target[rows], source[rows]), parts))
