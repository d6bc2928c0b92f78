"""The boundary between host and device: array libraries, devices, memory.

Nothing outside this package imports cupy or copies between host and device, except the CUDA kernels.
"""

import importlib
import importlib.util
import logging
import math
import os
import re
import sys
import warnings
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache

import numpy as np

from ..interrupts import block_interrupts, defer_interrupts
from .threads import one_blas_thread

logger = logging.getLogger("gpuica")

# device="auto" uses the GPU for a host array from this much work on (floating-point operations of ten passes).  Below
# it, transfer and launches cost about as much as the CPU takes: 2e10 operations are about 0.1 s on a few CPU cores.
MIN_WORK_FOR_GPU = 2e10

REMOVED_NAME = "row_stack"  # numba-cuda 0.30 still refers to this name of NumPy

ALWAYS_FITS_BYTES = 1 << 26  # stored without a query of the free memory, which takes 0.1 ms


@dataclass(frozen=True)
class Device:
    """A device that computes: `Device("cpu")` or `Device("cuda", index)`.

    limit: the bytes that a fit may use beyond its input; None for what is free.
    """

    kind: str = "cpu"
    index: int = 0
    limit: int | None = field(default=None, compare=False)

    def __str__(self):
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @property
    def xp(self):
        """numpy or cupy."""
        return np if self.kind == "cpu" else _cupy()

    def put(self, array):
        """The array on this device, without a copy if it is on it already."""
        if self.kind == "cpu":
            return to_host(array)
        with self.active():
            return self.xp.asarray(array)

    @contextmanager
    def active(self):
        """Compute on this device inside the `with` block, which defers Ctrl-C.

        On the CPU with one BLAS thread, also between passes: the threads of a multithreaded BLAS spin for milliseconds
        after each small product or decomposition, on the cores that the next pass needs.
        """
        if self.kind == "cpu":
            with one_blas_thread():
                yield
        else:
            try:
                with defer_interrupts(), self.xp.cuda.Device(self.index):
                    yield
            except self.xp.cuda.runtime.CUDARuntimeError as error:
                raise RuntimeError(
                    f"{self} failed at work ({error}): check `nvidia-smi` and start a new process, or use device='cpu'."
                ) from error

    def budget(self):
        """The memory budget of one stored array, in bytes: half of the free memory, or of the user's limit."""
        if self.limit is not None:
            return self.limit // 2
        if self.kind == "cpu":
            return _free_host_memory() // 2
        with self.active():
            return _free_device_memory(self.xp) // 2

    def fits(self, size):
        """Whether an array of so many bytes fits the memory budget."""
        return (size <= ALWAYS_FITS_BYTES and self.limit is None) or size <= self.budget()

    def release(self):
        """Return the free blocks of CuPy's memory pool to the device, for other libraries or for larger arrays."""
        if self.kind != "cpu":
            with self.active():
                self.xp.get_default_memory_pool().free_all_blocks()

    def release_for_torch(self):
        """`release` if torch is loaded, which cannot use the memory of CuPy's pool."""
        if "torch" in sys.modules:
            self.release()

    @property
    def out_of_memory(self):
        """The exceptions for an array that did not fit; none on the host, where smaller chunks would not help."""
        return () if self.kind == "cpu" else (self.xp.cuda.memory.OutOfMemoryError,)

    @property
    def cache(self):
        """The size of the L2 cache in bytes."""
        return _properties(self.index)["l2CacheSize"]

    @property
    def block_memory(self):
        """The bytes of shared memory that a block can request."""
        return _properties(self.index)["sharedMemPerBlockOptin"]

    @property
    def generation(self):
        """The major version of the compute capability."""
        return _properties(self.index)["major"]


CPU = Device()


@cache
def _properties(index):
    """CUDA's properties of a GPU."""
    return _cupy().cuda.runtime.getDeviceProperties(index)


def array_device(array):
    """The device of a CuPy array, or of an object whose type has `held_on`; CPU for others."""
    kind = type(array)
    if kind.__module__.partition(".")[0] == "cupy":
        return Device("cuda", array.device.id)
    return array.held_on if hasattr(kind, "held_on") else CPU


def to_host(array):
    """The array as a NumPy array, without a copy if it is one."""
    return array.get() if hasattr(array, "get") and array_device(array) != CPU else np.asarray(array)


def memory_size(limit):
    """The bytes of a parameter `memory_limit`: a number, "2GB", "500 MB", "1e9", or None.  ValueError for others."""
    if limit is None:
        return None
    found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([KMGTP]?)i?B?\s*", str(limit), re.IGNORECASE)
    try:
        size = float(found[1]) * 1000 ** " KMGTP".index(found[2].upper() or " ")  # type: ignore[index]
    except (TypeError, ValueError):
        size = 0.0
    if not 1 <= size < float("inf"):
        raise ValueError(
            f"memory_limit must be None, a number of bytes >= 1, or a string such as '2GB'; got {limit!r:.80}."
        )
    return int(size)


def format_bytes(size):
    """A number of bytes as text, such as "1.6 kB" or "2.0 GB"."""
    power = 0
    while size >= 999.5 and power < 5:
        size, power = size / 1000, power + 1
    return f"{size:.1f} {' kMGTP'[power]}B" if power else f"{size:.0f} bytes"


def choose_device(name, array, *, work, refusal=None, memory_limit=None):
    """The device for the parameters `device` and `memory_limit` and this array.

    name: "auto", "cpu", "cuda" or "cuda:N".  work: the number of floating-point operations, for "auto".
    refusal: the reason why the GPU cannot do this task, or None; "auto" then chooses the CPU and logs it once.
    Raises ValueError for an unknown name, RuntimeError for a GPU that cannot be used.
    """
    found = _device_by_name(name, array, work, refusal)
    return found if memory_limit is None else replace(found, limit=memory_size(memory_limit))


def _device_by_name(name, array, work, refusal):
    """The device for a `device=` argument, without the memory limit; see `choose_device`."""
    current = array_device(array)
    if current != CPU and (reason := why_no_gpu()):
        raise RuntimeError(f"X is on {current}, but {reason}")
    if name == "cpu":
        return CPU
    if name == "auto":
        if current != CPU:
            return current
        if work < MIN_WORK_FOR_GPU or importlib.util.find_spec("cupy") is None or why_no_gpu():
            return CPU
        if refusal:
            log_once(f"Running on the CPU: {refusal}")
            return CPU
        return Device("cuda", _cupy().cuda.runtime.getDevice())
    kind, _, index = name.partition(":")
    if kind != "cuda" or (index and not index.isdigit()):
        raise ValueError(f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {name!r}.")
    if reason := why_no_gpu():
        raise RuntimeError(f"device={name!r} needs a GPU, but {reason}")
    count = _cupy().cuda.runtime.getDeviceCount()
    if index and int(index) >= count:
        raise RuntimeError(f"device={name!r} does not exist: this machine has {count} GPU(s), counted from 0.")
    if index:
        return Device("cuda", int(index))
    return current if current != CPU else Device("cuda", _cupy().cuda.runtime.getDevice())


def device_count():
    """The number of usable GPUs, 0 without CuPy or a driver."""
    return 0 if why_no_gpu() else _cupy().cuda.runtime.getDeviceCount()


@cache
def why_no_gpu():
    """The reason why no GPU can be used, and a remedy, in a sentence; "" if one can."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed: pip install 'gpuica[cu13]' (or 'gpuica[cu12]' for a CUDA 12 driver)."
    try:
        if _cupy().cuda.runtime.getDeviceCount():
            return ""
        return "CuPy finds no GPU on this machine: use device='cpu'."
    except Exception as error:  # a broken installation raises errors of many kinds
        return f"CuPy cannot use one ({error}): check `nvidia-smi`, or use device='cpu'."


@cache
def why_no_kernels():
    """The reason why no CUDA kernel can be compiled, and a remedy, in a sentence; "" if they can."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed: pip install 'gpuica[cu13]' (or 'gpuica[cu12]' for a CUDA 12 driver)."
    try:
        cuda = numba_cuda()
        if not cuda.is_available():
            return "numba-cuda finds no GPU or no driver that it can use."
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Numba warns about small grids
            number = cuda.to_device(np.ones(1))
            cuda.jit(_tanh_in_place)[1, 1](number)
            if abs(number.copy_to_host()[0] - math.tanh(1.0)) < 1e-12:
                return ""
        return "a trial kernel compiled by numba-cuda returned a wrong number."
    except Exception as error:  # a broken installation raises errors of many kinds
        return f"numba-cuda cannot compile a kernel here ({type(error).__name__}: {error})."


def _tanh_in_place(x):
    """A trial kernel.  tanh is a function of libdevice, so a missing libdevice raises an error too."""
    x[0] = math.tanh(x[0])


@cache
def numba_cuda():
    """The module numba.cuda, able to compile.

    numba-cuda 0.30 refers to `numpy.row_stack`, which NumPy 2.5 removed, in a module that it imports when it compiles
    its first kernel; that module is imported here with the name defined.  The import of numba.cuda warns under NumPy
    2.5; the warning is suppressed, because warnings may be errors.
    """
    with block_interrupts(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from numba import config, cuda

        if not hasattr(np, REMOVED_NAME) and not config.ENABLE_CUDASIM:  # type: ignore[attr-defined]
            setattr(np, REMOVED_NAME, np.vstack)
            try:
                with suppress(ImportError):  # other versions of numba-cuda may lack this module
                    importlib.import_module("numba.cuda.np.arrayobj")
            finally:
                delattr(np, REMOVED_NAME)
    return cuda


@cache
def log_once(message):
    """Log a message on the logger "gpuica", the first time only."""
    logger.warning(message)


def _cupy():
    """The module cupy, imported at the first call."""
    if "cupy" not in sys.modules:
        with block_interrupts(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where warnings are errors, an import that warns would mean "no GPU"
            importlib.import_module("cupy")
    return sys.modules["cupy"]


def _free_device_memory(xp):
    """The bytes that the driver and the limit of CuPy's pool allow to allocate.

    Of the free memory of the pool, only whole blocks can serve a larger array, and CuPy does not report their size.  So
    they are returned to the driver if the pool holds enough to matter.
    """
    pool = xp.get_default_memory_pool()

    def left():
        free, limit = xp.cuda.runtime.memGetInfo()[0], pool.get_limit()
        return max(0, min(free, limit - pool.total_bytes())) if limit else free

    if pool.free_bytes() > left() // 8:
        pool.free_all_blocks()
    return left()


def _free_host_memory():
    """The free bytes of host memory; half of all memory where the system does not report them."""
    try:
        with open("/proc/meminfo") as lines:
            free = dict(line.split(":") for line in lines)
        return int(free["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if hasattr(os, "sysconf") else 4 << 30
