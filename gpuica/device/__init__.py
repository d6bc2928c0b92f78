"""The one door between host and device: which array library, which device, how much memory.

Nothing else in the package imports cupy or copies between host and device (the CUDA kernels aside).
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

# A host array goes to the GPU by itself from this much work on (floating-point operations of ten passes).  Below it the
# transfer and the launches cost about as much as the CPU takes.  An estimate: 2e10 operations are a tenth of a second
# on a few CPU cores.
MIN_WORK_FOR_GPU = 2e10

REMOVED_NAME = "row_stack"  # of NumPy, which numba-cuda 0.30 still refers to

ALWAYS_FITS_BYTES = 1 << 26  # bytes that are stored without asking how much memory is free (0.1 ms)


@dataclass(frozen=True)
class Device:
    """Where arrays are worked on: `Device("cpu")` or `Device("cuda", index)`."""

    kind: str = "cpu"
    index: int = 0
    limit: int | None = field(default=None, compare=False)  # bytes that a fit may use beyond its input

    def __str__(self):
        return self.kind if self.kind == "cpu" else f"{self.kind}:{self.index}"

    @property
    def xp(self):
        """numpy or cupy."""
        return np if self.kind == "cpu" else _cupy()

    def put(self, array):
        """The array on this device; itself if it is there already."""
        if self.kind == "cpu":
            return to_host(array)
        with self.active():
            return self.xp.asarray(array)

    @contextmanager
    def active(self):
        """Work on this device in the `with` block; Ctrl-C is `defer_interrupts`.

        On the CPU that means one BLAS thread, also between passes: the threads of a many-thread BLAS spin on for
        milliseconds after each small product or decomposition, on the cores that the next pass needs.
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
        """Bytes that one stored array may take: half of what is free now, or of the user's limit."""
        if self.limit is not None:
            return self.limit // 2
        if self.kind == "cpu":
            return _free_host_memory() // 2
        with self.active():
            return _free_device_memory(self.xp) // 2

    def fits(self, size):
        """Whether an array of so many bytes may be stored."""
        return (size <= ALWAYS_FITS_BYTES and self.limit is None) or size <= self.budget()

    def release(self):
        """Give memory that is kept for later arrays back to the device, for other libraries or for larger arrays."""
        if self.kind != "cpu":
            with self.active():
                self.xp.get_default_memory_pool().free_all_blocks()

    def release_for_torch(self):
        """`release` where torch is loaded, which cannot take memory that CuPy keeps."""
        if "torch" in sys.modules:
            self.release()

    @property
    def out_of_memory(self):
        """The exceptions that say that an array did not fit; on the host none, because nothing can be done."""
        return () if self.kind == "cpu" else (self.xp.cuda.memory.OutOfMemoryError,)

    @property
    def cache(self):
        """Bytes of the L2 cache."""
        return _properties(self.index)["l2CacheSize"]

    @property
    def block_memory(self):
        """Bytes of shared memory that a block may ask for."""
        return _properties(self.index)["sharedMemPerBlockOptin"]

    @property
    def generation(self):
        """The first number of the compute capability."""
        return _properties(self.index)["major"]


CPU = Device()


@cache
def _properties(index):
    """What CUDA knows of a GPU."""
    return _cupy().cuda.runtime.getDeviceProperties(index)


def array_device(array):
    """The device that holds an array: a CuPy array, or one whose type has `held_on`; CPU for everything else."""
    kind = type(array)
    if kind.__module__.partition(".")[0] == "cupy":
        return Device("cuda", array.device.id)
    return array.held_on if hasattr(kind, "held_on") else CPU


def to_host(array):
    """The array as a NumPy array; itself if it is one."""
    return array.get() if hasattr(array, "get") and array_device(array) != CPU else np.asarray(array)


def memory_size(limit):
    """Bytes of a user's `memory_limit=`: a number of bytes, "2GB", "500 MB", "1e9", or None.

    ValueError for anything else.
    """
    if limit is None:
        return None
    found = re.fullmatch(r"\s*([0-9.]+(?:e[+-]?[0-9]+)?)\s*([KMGTP]?)i?B?\s*", str(limit), re.IGNORECASE)
    try:
        size = float(found[1]) * 1000 ** " KMGTP".index(found[2].upper() or " ")  # type: ignore[index]
    except (TypeError, ValueError):
        size = 0.0
    if not 1 <= size < float("inf"):
        raise ValueError(f"memory_limit must be None, a number of bytes >= 1, or a text as '2GB'; got {limit!r:.80}.")
    return int(size)


def format_bytes(size):
    """A number of bytes as a text: "1.6 kB", "2.0 GB"."""
    power = 0
    while size >= 999.5 and power < 5:
        size, power = size / 1000, power + 1
    return f"{size:.1f} {' kMGTP'[power]}B" if power else f"{size:.0f} bytes"


def choose_device(name, array, *, work, refusal=None, memory_limit=None):
    """The device that a user's `device=` and `memory_limit=` arguments mean for this array.

    name: "auto", "cpu", "cuda" or "cuda:N".  work: floating-point operations to be done, for "auto".
    refusal: why the GPU path cannot do this task, or None; "auto" then stays on the CPU and logs it once.
    Raises ValueError for an unknown name, RuntimeError when a GPU is asked for and cannot be used.
    """
    found = _chosen(name, array, work, refusal)
    return found if memory_limit is None else replace(found, limit=memory_size(memory_limit))


def _chosen(name, array, work, refusal):
    home = array_device(array)
    if home != CPU and (reason := why_no_gpu()):
        raise RuntimeError(f"X is on {home}, but {reason}")
    if name == "cpu":
        return CPU
    if name == "auto":
        if home != CPU:
            return home
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
    return home if home != CPU else Device("cuda", _cupy().cuda.runtime.getDevice())


def device_count():
    """How many GPUs can be used; 0 without CuPy or a driver."""
    return 0 if why_no_gpu() else _cupy().cuda.runtime.getDeviceCount()


@cache
def why_no_gpu():
    """A sentence that says why no GPU can be used and what to do, or "" when one can."""
    if importlib.util.find_spec("cupy") is None:
        return "CuPy is not installed: pip install 'gpuica[cu13]' (or 'gpuica[cu12]' for a CUDA 12 driver)."
    try:
        if _cupy().cuda.runtime.getDeviceCount():
            return ""
        return "CuPy finds no GPU on this machine: use device='cpu'."
    except Exception as error:  # a broken CuPy raises whatever its broken part raises
        return f"CuPy cannot use one ({error}): check `nvidia-smi`, or use device='cpu'."


@cache
def why_no_kernels():
    """A sentence that says why no CUDA kernel can be compiled here and what to do, or "" when they can."""
    if importlib.util.find_spec("numba_cuda") is None:
        return "numba-cuda is not installed: pip install 'gpuica[cu13]' (or 'gpuica[cu12]' for a CUDA 12 driver)."
    try:
        cuda = numba_cuda()
        if not cuda.is_available():
            return "numba-cuda finds no GPU or no driver that it can use."
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Numba warns of small grids
            number = cuda.to_device(np.ones(1))
            cuda.jit(_tanh_in_place)[1, 1](number)
            if abs(number.copy_to_host()[0] - math.tanh(1.0)) < 1e-12:
                return ""
        return "a trial kernel compiled by numba-cuda returned a wrong number."
    except Exception as error:  # whatever a broken installation raises
        return f"numba-cuda cannot compile a kernel here ({type(error).__name__}: {error})."


def _tanh_in_place(x):
    """A trial kernel.  tanh comes from libdevice, so that a missing libdevice is an error too."""
    x[0] = math.tanh(x[0])


@cache
def numba_cuda():
    """The module numba.cuda, able to compile.

    numba-cuda 0.30 refers to `numpy.row_stack`, which NumPy 2.5 removed, in a module that it imports when it compiles
    its first kernel; that module is imported here with the name defined.  Importing numba.cuda warns under NumPy 2.5,
    which must not fail where warnings are errors.
    """
    with block_interrupts(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from numba import config, cuda

        if not hasattr(np, REMOVED_NAME) and not config.ENABLE_CUDASIM:  # type: ignore[attr-defined]
            setattr(np, REMOVED_NAME, np.vstack)
            try:
                with suppress(ImportError):  # other versions of numba-cuda may have no such module
                    importlib.import_module("numba.cuda.np.arrayobj")
            finally:
                delattr(np, REMOVED_NAME)
    return cuda


@cache
def log_once(message):
    """Log a message on the logger "gpuica", the first time only."""
    logger.warning(message)


def _cupy():
    if "cupy" not in sys.modules:
        with block_interrupts(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # where warnings are errors, one at import would mean "no GPU"
            importlib.import_module("cupy")
    return sys.modules["cupy"]


def _free_device_memory(xp):
    """Bytes that the driver and the limit of CuPy's pool allow to be taken.

    Of what the pool keeps, only blocks that are free as a whole can become a larger array, and nothing says how much
    that is.  So they are given back to the driver, where the pool keeps enough to matter.
    """
    pool = xp.get_default_memory_pool()

    def left():
        free, limit = xp.cuda.runtime.memGetInfo()[0], pool.get_limit()
        return max(0, min(free, limit - pool.total_bytes())) if limit else free

    if pool.free_bytes() > left() // 8:
        pool.free_all_blocks()
    return left()


def _free_host_memory():
    try:
        with open("/proc/meminfo") as lines:
            free = dict(line.split(":") for line in lines)
        return int(free["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):  # not Linux
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2 if hasattr(os, "sysconf") else 4 << 30
