"""Kernels for NVIDIA GPUs, compiled by Numba for CUDA; the one place beside `device.py` that knows CUDA.

Every module here lists what it compiles: `builds()` yields a `Build` for each kernel and each dtype, which is what
`python -m tests.compile_kernels` compiles for several GPUs on a machine without one.  Kernels are launched through
`launch`, on the device and the stream that are current in CuPy, and never wait for the device.  `cuda.jit` gets no
signatures at import: that would ask for a driver.
"""

import warnings
from functools import cache, lru_cache
from typing import Any, NamedTuple

import numpy as np

from ...device import current_stream, numba_cuda
from ..compiling import announced

cuda = numba_cuda()  # before the modules of this package import numba.cuda by themselves

BLOCK = 256  # threads of a block: eight blocks fill a multiprocessor
_compiled: set = set()  # (kernel, dtype of its first array) that was launched before


class Build(NamedTuple):
    """A kernel to be compiled: its name in a report, the Python function, Numba's types of its arguments.

    single: the kernel works in float32, so that arithmetic in float64 beyond the totals would be an accident.
    """

    name: str
    function: Any
    signature: tuple
    options: dict[str, Any] = {}
    single: bool = False


def launch(kernel, grid, block, *args, shared=0):
    """kernel[grid, block](*args) on CuPy's current stream.  args: CuPy arrays and numbers; shared: bytes, dynamic.

    Numba would wait for the stream that an array names in `__cuda_array_interface__`; it is told not to.  NumPy arrays
    are left as they are, for the simulator.
    """
    on_device = next((arg for arg in args if hasattr(arg, "__cuda_array_interface__")), None)
    if on_device is None:
        kernel[grid, block, 0, shared](*args)
    else:
        configured = _configured(kernel, grid, block, current_stream(on_device), on_device.device.id, shared)
        if (key := (kernel, on_device.dtype)) in _compiled:
            configured(*(_lent(arg) for arg in args))
            return
        with announced(kernel.py_func, [on_device], once="in each process"):
            configured(*(_lent(arg) for arg in args))
        _compiled.add(key)


def _lent(arg):
    return cuda.as_cuda_array(arg, sync=False) if hasattr(arg, "__cuda_array_interface__") else arg


@lru_cache(maxsize=1024)
def _configured(kernel, grid, block, stream, device, shared):
    """The kernel made ready for a grid on a stream, a pointer; remembered, because that takes as long as a launch."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Numba warns of every grid of fewer than 128 blocks
        return kernel[grid, block, _stream(stream, device), shared]


@cache
def _stream(pointer, device):
    return cuda.external_stream(pointer) if pointer else 0


@cache
def multiprocessors(index=0):
    """How many multiprocessors the current device has.  index: its number, because the answer is remembered."""
    return cuda.get_current_device().MULTIPROCESSOR_COUNT


def numba_type(dtype):
    """Numba's type of numbers of a NumPy dtype."""
    from numba import from_dtype

    return from_dtype(np.dtype(dtype))
