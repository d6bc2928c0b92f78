"""A stand-in for CuPy on a machine without a GPU: arrays that compute with NumPy but refuse to mix with it.

What CuPy forbids is an error here too: a NumPy array in an operation with a device array, implicit conversion to NumPy,
lists.  NumPy scalars are refused as well, although CuPy takes them, because they change the dtype.  Reductions give
0-d device arrays; reading one as a Python number makes the host wait, so `waits` counts them.

Copies to the host that do not block are carried out as late as CUDA allows: when the host waits for an event recorded
after them, or for all work.  They write to an address, whoever owns the memory by then.  Page-locked blocks come from a
pool that hands the block freed last to the next who asks, as CuPy's does; a freed block is overwritten.
"""

import ctypes
import sys
import threading
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import numpy as np

from gpuica import products, traffic

HOST_FREE = (bool, int, float, str, slice, type(None), type(Ellipsis), type, np.dtype)
ARRAY_FUNCTIONS = """
abs arange argpartition argsort ascontiguousarray broadcast_to concatenate diagonal empty exp eye isfinite log log1p
maximum minimum nonzero ones ones_like sign sort sqrt tanh tril where zeros zeros_like
""".split()
waits = 0  # for all work that was asked for
event_waits = 0  # for work up to an event
gemms = []  # the compute types of products with rounded factors
FACTORS = {77: 11, 75: 8}  # compute type -> bits of a factor: TF32, bfloat16
log = []  # "record" and "synchronize", in their order, with the numbers of their events
copies = []  # (place in the log, address, bytes) of copies to the host that have not been carried out
copies_lock = threading.RLock()  # solvers in step have threads of their own; freeing a block may interrupt any of them
free_blocks = {}  # size -> page-locked blocks that nobody owns, the one freed last at the end
PINNED_UNIT, POISON = 512, 0xAB


class OutOfMemoryError(MemoryError):
    pass


class CUDARuntimeError(RuntimeError):
    pass


def carry_out_copies(before=None):
    """The copies to the host that were asked for before a place in the log; all of them by default."""
    with copies_lock:
        due = [copy for copy in copies if before is None or copy[0] <= before]
        for _, address, data in due:
            ctypes.memmove(address, data, len(data))
        copies[:] = [copy for copy in copies if not any(copy is one for one in due)]


def alloc_pinned_memory(size):
    """A page-locked block, which goes back to the pool when the last array that views it has gone."""
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
    """Work up to here.  It is done when somebody waits for it."""

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
    """A stream; everything runs at once."""

    ptr = 0

    def __init__(self, non_blocking=False):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def wait_event(self, event):
        log.append(("wait", event.number))

    def record(self, event=None):
        event.record()

    def synchronize(self):
        carry_out_copies()


class FakeArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array "on the device"."""

    def __init__(self, array):
        self._array = np.asarray(array)

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

    def __getattr__(self, name):
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
        """A copy on the host.  Not blocking, into pinned memory: the host does not wait, so nothing is counted."""
        if blocking:
            return self._wait().copy()
        assert out.flags.c_contiguous
        assert (out.shape, out.dtype) == (self._array.shape, self._array.dtype)
        with copies_lock:
            copies.append((len(log), out.ctypes.data, self._array.tobytes()))
        return out

    def set(self, array, stream=None):
        self._array[...] = array

    device = SimpleNamespace(id=0)

    @property
    def data(self):
        return SimpleNamespace(ptr=self._array.ctypes.data)


FakeArray.__module__ = "cupy"


def _lower(value):
    """Device arrays to what they hold; whatever the host owns is refused."""
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
    """From host or device: the one way in."""
    return FakeArray(np.array(array._array if isinstance(array, FakeArray) else array, dtype=dtype))


def gemmEx(handle, transa, transb, m, n, k, alpha, A, a_type, lda, B, b_type, ldb, beta, C, c_type, ldc, compute, algo):
    """cuBLAS's product in columns-first memory: float32, of factors rounded as the compute type says, or float64."""
    if compute in FACTORS:
        gemms.append(compute)
    number = np.float64 if compute == products.EXACT else np.float32
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
    """The matrix (rows, columns) at an address, columns first, a step from column to column."""
    assert step >= rows, "cuBLAS refuses a leading dimension that is shorter than a column"
    size = number().itemsize
    memory = (ctypes.c_char * (size * (step * (columns - 1) + rows))).from_address(address)
    flat = np.frombuffer(memory, dtype=number)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (size, size * step))


def rounded(array, bits):
    """The nearest float32 numbers of so many bits, ties to even."""
    drop, whole = np.uint32(24 - bits), np.ascontiguousarray(array).view(np.uint32)
    half = np.uint32((1 << (24 - bits - 1)) - 1)
    return ((whole + half + (whole >> drop & np.uint32(1))) >> drop << drop).view(np.float32)


def _plain(function):
    """The function with a plain tuple in place of NumPy's named one."""
    return lambda *args, **options: tuple(function(*args, **options))


@contextmanager
def installed():
    """`import cupy` finds the stand-in inside the `with` block."""
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
        memGetInfo=lambda: (8 << 30, 16 << 30),
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
    cupy.get_default_memory_pool = lambda: SimpleNamespace(free_bytes=lambda: 0, free_all_blocks=lambda: None)
    before = sys.modules.get("cupy")
    sys.modules["cupy"] = cupy
    try:
        yield cupy
    finally:
        carry_out_copies()
        traffic._copies.clear()
        sys.modules.pop("cupy")
        if before is not None:
            sys.modules["cupy"] = before
