"""What travels between host and device while both work on: small results on their way out, large chunks on their way in.

Nobody waits for the device as a whole: an event says when one copy is done.
"""

from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np

from .device import CPU, array_device


class News:
    """Small arrays on their way to the host."""

    late = False  # whether reading them now would make the host wait for the device

    def __init__(self, arrays):
        self._arrays = arrays

    def read(self):
        """The arrays, on the host."""
        return self._arrays


class LateNews(News):
    """Small device arrays whose copies were asked for: `read` waits for these copies, not for work asked for since."""

    late = True

    def __init__(self, arrays):
        device = array_device(arrays[0])
        cuda = device.xp.cuda
        with device.active():
            super().__init__(
                [array.get(out=pinned(cuda, array.shape, array.dtype), blocking=False) for array in arrays]
            )
            self._arrived = cuda.Event(disable_timing=True)
            self._arrived.record()

    def read(self):
        self._arrived.synchronize()
        return super().read()


def news(*arrays):
    """The News of arrays of one library, on the host or a device."""
    return News(arrays) if array_device(arrays[0]) == CPU else LateNews(arrays)


def place(xp):
    """A function that gives a context manager for other threads: the device and the stream that are current here."""
    if xp is np:
        return nullcontext
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
