"""A fake CuPy for machines without a GPU: arrays that compute with NumPy but cannot be combined with NumPy arrays.

Operations that CuPy does not support raise: device arrays combined with NumPy arrays, implicit conversion to NumPy by
any protocol, lists, and attributes that only NumPy has.  Byte order is ignored, as on a GPU: bytes are not swapped.
NumPy scalars raise as well, although CuPy accepts them, because they change the dtype.  Reductions return 0-d device
arrays; converting one to a Python number blocks the host, and `waits` counts these conversions.

Asynchronous copies are executed as late as CUDA allows: to the host when the host waits for an event recorded after
them, or for all work; to the device when the compute stream waits for such an event.  They read and write memory by
address, even if it has been freed and reused.  Page-locked blocks come from a pool that reuses the most recently freed
block first, as CuPy's does; freed blocks are overwritten.
"""

import ctypes
import sys
import threading
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np

from gpuica.device import products, transfers

from .fake_pool import MEMORY, MemoryPool, OutOfMemoryError

HOST_FREE = (bool, int, float, str, slice, type(None), type(Ellipsis), type, np.dtype)
ARRAY_FUNCTIONS = """
abs arange argpartition argsort ascontiguousarray broadcast_to concatenate diag diagonal empty exp eye isfinite log
log1p maximum minimum nonzero ones ones_like sign sort sqrt tanh tril where zeros zeros_like
""".split()
waits = 0  # for all enqueued work
event_waits = 0  # for work up to an event
gemms = []  # the compute types of products with rounded factors
FACTORS = {77: 11, 75: 8}  # compute type -> bits of a factor: TF32, bfloat16
log = []  # "record" and "synchronize" with the numbers of their events, in order
copies = []  # pending copies: (position in the log, function that executes the copy)
copies_lock = threading.RLock()  # lockstep solvers run in threads, any of which may free a block
memory = [MemoryPool()]  # the device's memory pool
free_blocks = {}  # size -> unused page-locked blocks, the most recently freed last
PINNED_UNIT, POISON = 512, 0xAB
ATTRIBUTES = """
T all any argmax argmin argpartition argsort astype base choose clip compress conj conjugate copy cumprod cumsum
diagonal dot dtype fill flags flat flatten imag item itemsize max mean min nbytes ndim nonzero partition prod ptp put
ravel real repeat reshape round searchsorted shape size sort squeeze std strides sum swapaxes take tobytes trace
transpose var view
""".split()


class CUDARuntimeError(RuntimeError):
    pass


def carry_out_copies(before=None):
    """Execute the copies enqueued before a position in the log; all of them by default."""
    with copies_lock:
        due = [copy for copy in copies if before is None or copy[0] <= before]
        for _, carry_out in due:
            carry_out()
        copies[:] = [copy for copy in copies if not any(copy is one for one in due)]


def alloc_pinned_memory(size):
    """A page-locked block, returned to the pool when the last array that views it is deleted."""
    size = -(-size // PINNED_UNIT) * PINNED_UNIT
    free = free_blocks.get(size)
    memory = free.pop() if free else np.full(size, POISON, dtype=np.uint8)
    block_type = type("PinnedBlock", (ctypes.c_ubyte * size,), {"__del__": _free_block})
    block = block_type.from_address(memory.ctypes.data)
    block.memory = memory
    return block


def _free_block(block):
    block.memory[:] = POISON
    free_blocks.setdefault(len(block.memory), []).append(block.memory)


class Event:
    """An event.  Work recorded before it is executed only when the host or a stream waits for it."""

    def __init__(self, block=False, disable_timing=False):
        self.number = None

    @property
    def done(self):
        with copies_lock:
            return self.number is None or not any(place <= self.number for place, *_ in copies)

    def record(self, stream=None):
        self.number = len(log)
        log.append(("record", self.number))

    def synchronize(self):
        global event_waits
        event_waits += 1
        log.append(("synchronize", self.number))
        if self.number is not None:
            carry_out_copies(self.number)


class Stream:
    """A stream on which all work except copies runs immediately."""

    ptr = 0

    def __init__(self, non_blocking=False):
        self.non_blocking = non_blocking

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def wait_event(self, event):
        log.append(("wait", event.number))
        if not self.non_blocking and event.number is not None:  # the compute stream
            carry_out_copies(event.number)

    def record(self, event=None):
        event.record()

    def synchronize(self):
        carry_out_copies()


class FakeArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array "on the device"."""

    def __init__(self, array):
        array = np.asarray(array)
        self._array = array if array.dtype.isnative else array.view(array.dtype.newbyteorder("="))
        memory[0].hold(self._array)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
        if out is not None:
            options["out"] = tuple(_lower(part) for part in out)
            _lift(getattr(ufunc, method)(*_lower(inputs), **options))
            return out[0]
        return _lift(getattr(ufunc, method)(*_lower(inputs), **_lower(options)))

    def __array_function__(self, function, types, inputs, options):
        return _lift(function(*_lower(inputs), **_lower(options)))

    def __array__(self, *args, **options):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`.")

    def __dlpack__(self, **options):
        raise BufferError("This array is on no device that others know.")

    def __getattr__(self, name):
        if name not in ATTRIBUTES:
            raise AttributeError(f"CuPy's arrays have no attribute {name!r}")
        value = getattr(object.__getattribute__(self, "_array"), name)
        if callable(value):
            return lambda *args, **options: _lift(value(*_lower(args), **_lower(options)))
        return _lift(value)

    def __getitem__(self, key):
        return _lift(self._array[_lower(key)])

    def __setitem__(self, key, value):
        self._array[_lower(key)] = _lower(value)

    def __len__(self):
        return len(self._array)

    def __iter__(self):
        return (_lift(part) for part in self._array)

    def _wait(self):
        global waits
        waits += 1
        carry_out_copies()
        return self._array

    def __float__(self):
        return float(self._wait())

    def __int__(self):
        return int(self._wait())

    def __bool__(self):
        return bool(self._wait())

    def tolist(self):
        return self._wait().tolist()

    def get(self, stream=None, out=None, blocking=True):
        """A copy on the host.  With blocking=False, the copy to pinned memory is deferred; `waits` excludes it."""
        if blocking:
            return self._wait().copy()
        assert out.flags.c_contiguous
        assert (out.shape, out.dtype) == (self._array.shape, self._array.dtype)
        address, data = out.ctypes.data, self._array.tobytes()
        with copies_lock:
            copies.append((len(log), lambda: ctypes.memmove(address, data, len(data))))
        return out

    def set(self, array, stream=None):
        """Copy from the host; on a stream, the source is read later."""
        if (array.dtype, array.shape) != (self._array.dtype, self._array.shape):
            raise TypeError(f"{array.dtype} {array.shape} cannot be set to {self._array.dtype} {self._array.shape}")
        order = "C" if self._array.flags.c_contiguous else "F"
        assert self._array.flags[f"{order}_CONTIGUOUS"], "Cannot set to non-contiguous array"
        if stream is None or not array.flags[f"{order}_CONTIGUOUS"]:  # CuPy copies such sources first
            self._array[...] = array
            return
        to, size, source = self._array, array.nbytes, array.ctypes.data
        with copies_lock:
            copies.append((len(log), lambda: ctypes.memmove(to.ctypes.data, source, size)))

    device = SimpleNamespace(id=0)

    @property
    def data(self):
        return SimpleNamespace(ptr=self._array.ctypes.data)


FakeArray.__module__ = "cupy"


def _lower(value):
    """Replace device arrays by their NumPy arrays; raise for host data."""
    if isinstance(value, FakeArray):
        return value._array
    if isinstance(value, tuple):
        return tuple(_lower(part) for part in value)
    if isinstance(value, list) and value and all(isinstance(part, FakeArray) for part in value):
        return [_lower(part) for part in value]
    if isinstance(value, dict):
        return {name: _lower(part) for name, part in value.items()}
    if isinstance(value, HOST_FREE) and not isinstance(value, np.generic):
        return value
    raise TypeError(f"Unsupported type {type(value)}: host data in an operation on the device")


def _lift(value):
    if isinstance(value, np.ndarray | np.generic):
        return FakeArray(value)
    if isinstance(value, tuple) and any(isinstance(part, np.ndarray | np.generic) for part in value):
        return tuple(_lift(part) for part in value)
    return value


def asarray(array, dtype=None):
    """Device array from host or device data; a device array of the given dtype is returned unchanged."""
    if isinstance(array, FakeArray) and dtype in (None, array.dtype):
        return array
    found = np.array(array._array if isinstance(array, FakeArray) else array, dtype=dtype)
    return FakeArray(found.astype(found.dtype.newbyteorder("="), copy=False))


def gemmEx(handle, transa, transb, m, n, k, alpha, A, a_type, lda, B, b_type, ldb, beta, C, c_type, ldc, compute, algo):
    """cuBLAS's product of column-major matrices: float32 with factors rounded to the compute type, or float64."""
    if compute in FACTORS:
        gemms.append(compute)
    number = np.float64 if compute == products.FLOAT64_COMPUTE else np.float32
    assert (a_type, b_type, c_type) == ((1, 1, 1) if number == np.float64 else (0, 0, 0))

    def at(address, rows, columns, step):
        return _at_address(address, rows, columns, step, number)

    times, plus = (float(at(address, 1, 1, 1)[0, 0]) for address in (alpha, beta))
    first = at(A, k, m, lda).T if transa else at(A, m, k, lda)
    second = at(B, n, k, ldb).T if transb else at(B, k, n, ldb)
    target = at(C, m, n, ldc)
    if number == np.float32:
        first, second = rounded(first, FACTORS[compute]), rounded(second, FACTORS[compute])
    target[...] = times * (first @ second) + (plus * target if plus else 0)


def _at_address(address, rows, columns, step, number):
    """The column-major matrix of shape (rows, columns) and leading dimension `step` at an address."""
    assert step >= rows, "cuBLAS refuses a leading dimension that is shorter than a column"
    size = number().itemsize
    memory = (ctypes.c_char * (size * (step * (columns - 1) + rows))).from_address(address)
    flat = np.frombuffer(memory, dtype=number)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (size, size * step))


def rounded(array, bits):
    """Round float32 numbers to a number of significant bits, ties to even."""
    drop, whole = np.uint32(24 - bits), np.ascontiguousarray(array).view(np.uint32)
    half = np.uint32((1 << (24 - bits - 1)) - 1)
    return ((whole + half + (whole >> drop & np.uint32(1))) >> drop << drop).view(np.float32)


def _plain(function):
    """The function, returning a plain tuple instead of NumPy's named tuple."""
    return lambda *args, **options: tuple(function(*args, **options))


@contextmanager
def installed():
    """Make `import cupy` import the fake inside the `with` block."""
    cupy = ModuleType("cupy")
    cupy.__spec__ = SimpleNamespace(name="cupy")
    cupy.asarray, cupy.ndarray = asarray, FakeArray

    def on_device(function):
        return lambda *args, **options: _lift(function(*_lower(args), **_lower(options)))

    for name in ARRAY_FUNCTIONS:
        setattr(cupy, name, on_device(getattr(np, name)))
    linalg = {name: _plain(getattr(np.linalg, name)) for name in ("eigh", "qr", "svd", "slogdet")}
    linalg |= {"solve": np.linalg.solve, "inv": np.linalg.inv}
    cupy.linalg = SimpleNamespace(**{name: on_device(function) for name, function in linalg.items()})

    @contextmanager
    def device(index=0):
        yield

    runtime = SimpleNamespace(
        getDeviceCount=lambda: 1,
        getDevice=lambda: 0,
        memGetInfo=lambda: (MEMORY - memory[0].total_bytes(), 2 * MEMORY),
        CUDARuntimeError=CUDARuntimeError,
        getDeviceProperties=lambda index: {"l2CacheSize": 50 << 20, "major": 9},
        CUDA_R_32F=0,
        CUDA_R_64F=1,
    )
    cupy.cuda = SimpleNamespace(
        Device=device,
        runtime=runtime,
        Event=Event,
        Stream=Stream,
        get_current_stream=Stream,
        get_cublas_handle=lambda: 0,
        cublas=SimpleNamespace(gemmEx=gemmEx, CUBLAS_GEMM_DEFAULT=-1),
        alloc_pinned_memory=alloc_pinned_memory,
        memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
    )
    memory[0] = MemoryPool()
    cupy.get_default_memory_pool = lambda: memory[0]
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = cupy
    try:
        yield cupy
    finally:
        carry_out_copies()
        transfers._copies.clear()
        sys.modules.pop("cupy")
        if before is not None:
            sys.modules["cupy"] = before
