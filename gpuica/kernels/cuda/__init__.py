"""Kernels for NVIDIA GPUs, compiled by Numba for CUDA; the one place beside `device.py` that knows CUDA.

Every module here lists what it compiles: `builds()` yields a `Build` for each kernel and each dtype, which is what
`python -m tests.compile_kernels` compiles for several GPUs on a machine without one.  Kernels are launched through
`launch`, on the device and the stream that are current in CuPy, and never wait for the device.  `cuda.jit` gets no
signatures at import: that would ask for a driver.
"""

import threading
from contextlib import nullcontext
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import numpy as np

from ...device import array_device, numba_cuda

cuda = numba_cuda()  # before the modules of this package import numba.cuda by themselves

from . import loading  # noqa: E402

BLOCK = 256  # threads of a block: eight blocks fill a multiprocessor
_ready: dict[tuple, Any] = {}  # (kernel, device, dynamic shared memory, kinds of the arguments): what CuPy launches
_loading = threading.Lock()


class Build(NamedTuple):
    """A kernel to be compiled: its name in a report, the Python function, Numba's types of its arguments.

    single: the kernel works in float32, so that arithmetic in float64 beyond the totals would be an accident.
    """

    name: str
    function: Any
    signature: tuple
    options: dict[str, Any] = {}
    single: bool = False


def launch(kernel, grid, block, *args, shared=0, about=""):
    """kernel[grid, block](*args) on CuPy's current stream.  args: CuPy arrays and numbers; shared: bytes, dynamic.

    about: what the kernel's code depends on beyond the files of this package, see `loading.loaded`.  NumPy arrays are
    left to Numba, for its simulator.
    """
    there = next(filter(loading.is_there, args), None)
    if there is None:
        kernel[grid, block, 0, shared](*args)
        return
    grid = grid if isinstance(grid, tuple) else (grid,)
    if 0 in grid:
        return
    device = array_device(there)
    key = (kernel, device.index, shared > loading.FREELY_SHARED and shared, *map(loading.kind, args))
    with _on(device):
        ready = _ready.get(key)
        if ready is None:
            with _loading:
                ready = _ready[key] = loading.loaded(device.xp, kernel, key[3:], shared, about)
        ready(tuple(map(int, grid)), (block,), list(chain.from_iterable(map(loading.flat, args))), shared_mem=shared)


def _on(device):
    """A context in which a device is the current one, as it mostly is already."""
    cuda = device.xp.cuda
    return nullcontext() if cuda.runtime.getDevice() == device.index else cuda.Device(device.index)


@cache
def multiprocessors(index=0):
    """How many multiprocessors the current device has.  index: its number, because the answer is remembered."""
    return cuda.get_current_device().MULTIPROCESSOR_COUNT


def numba_type(dtype):
    """Numba's type of numbers of a NumPy dtype."""
    from numba import from_dtype

    return from_dtype(np.dtype(dtype))
