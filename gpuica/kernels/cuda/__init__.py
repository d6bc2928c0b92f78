"""Kernels for NVIDIA GPUs, compiled by Numba for CUDA and launched by CuPy; beside `device`, the only package that
depends on CUDA.

Modules of the same name in `kernels.cpu` have functions of the same names.  Only here: `lasso_row`, a round of one row
of `lasso`; `polar`; `block`, what the threads of a block do together; `loading`, compilation and its cache.

Every module lists what it compiles: `builds()` yields a `Build` for each kernel and each dtype, which is what
`python -m tests.compile_kernels` compiles for several GPUs on a machine without one.  Kernels are launched through
`launch`, on the device and the stream that are current in CuPy, without synchronisation.  Their arguments are arrays
and numbers one by one, since CuPy cannot pass tuples; device functions take NamedTuples, which cost no registers.
`cuda.jit` gets no signatures at import: that would require a driver.
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

THREADS_PER_BLOCK = 256  # threads of a block: eight blocks fill a multiprocessor
_ready: dict[tuple, Any] = {}  # (kernel, device, dynamic shared memory, types of the arguments): what CuPy launches
_loading = threading.Lock()


class Build(NamedTuple):
    """A kernel to be compiled: its name in a report, the Python function, Numba's types of its arguments.

    single: the kernel works in float32; arithmetic in float64 beyond its totals is a mistake.
    """

    name: str
    function: Any
    signature: tuple
    options: dict[str, Any] = {}
    single: bool = False


def launch(kernel, grid, block, *args, shared=0, about=""):
    """kernel[grid, block](*args) on CuPy's current stream.  args: CuPy arrays and numbers; shared: bytes, dynamic.

    about: what the kernel's code depends on beyond the files of this package, see `loading.load`.  NumPy arrays are
    passed to Numba's own launch, for its simulator.
    """
    array = next(filter(loading.is_device_array, args), None)
    if array is None:
        kernel[grid, block, 0, shared](*args)
        return
    grid = grid if isinstance(grid, tuple) else (grid,)
    if 0 in grid:
        return
    device = array_device(array)
    key = (kernel, device.index, shared > loading.FREELY_SHARED and shared, *map(loading.type_key, args))
    with _on(device):
        ready = _ready.get(key)
        if ready is None:
            with _loading:
                ready = _ready[key] = loading.load(device.xp, kernel, key[3:], shared, about)
        ready(tuple(map(int, grid)), (block,), list(chain.from_iterable(map(loading.flatten, args))), shared_mem=shared)


def _on(device):
    """A context in which a device is the current one, as it usually is already."""
    cuda = device.xp.cuda
    return nullcontext() if cuda.runtime.getDevice() == device.index else cuda.Device(device.index)


@cache
def multiprocessors(index=0):
    """The number of multiprocessors of the current device.  index: that of the device, the key of the cache."""
    return cuda.get_current_device().MULTIPROCESSOR_COUNT


def numba_type(dtype):
    """Numba's type of numbers of a NumPy dtype."""
    from numba import from_dtype

    return from_dtype(np.dtype(dtype))
