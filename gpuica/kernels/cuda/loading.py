"""From a kernel in Python to one that CuPy launches: compiled by Numba, cached on disk, loaded by CuPy.

Numba's own launch takes 40 to 60 µs of the host's time for each array, longer than most kernels here run (192 µs for
three arrays on the host of an H200), and it compiles every kernel again in each process (10 s for the lasso).  CuPy
launches with plain numbers: an array of Numba's is seven of them or more, see `flatten`.  Cubins are cached where CuPy
caches its own, under a digest of all that they depend on.
"""

import hashlib
import os
import re
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from ...device import numba_cuda
from ..compiling import announced

ENTRY = re.compile(r"\.entry\s+([\w$]+)")
FREELY_SHARED = 48 << 10  # bytes of dynamic shared memory of a block that need no attribute of the kernel
COMPILERS = ("numba", "numba-cuda", "cuda-core", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvcc-cu12")


def is_device_array(arg):
    """Whether an argument of a kernel is an array on a device."""
    return hasattr(arg, "__cuda_array_interface__")


def flatten(arg):
    """The numbers that Numba's calling convention passes for an argument.

    For an array: two pointers to its owner, which kernels do not use, its size, the bytes of a number, the address, the
    shape, and the strides in bytes.
    """
    return (0, 0, arg.size, arg.itemsize, arg.data.ptr, *arg.shape, *arg.strides) if is_device_array(arg) else (arg,)


def type_key(arg):
    """What the code of a kernel depends on: (dtype, dimensions, order) of an array, the type of a number."""
    if not is_device_array(arg):
        return type(arg)
    flags = arg.flags
    return arg.dtype.char, arg.ndim, "C" if flags.c_contiguous else "F" if flags.f_contiguous else "A"


def numba_type_of(key):
    """Numba's type of arguments of a `type_key`."""
    from numba import from_dtype, types

    if isinstance(key, tuple):
        char, ndim, order = key
        return types.Array(from_dtype(np.dtype(char)), ndim, order)
    plain = {bool: types.boolean, int: types.int64, float: types.float64}
    return plain[key] if key in plain else from_dtype(np.dtype(key))


def load(xp, kernel, keys, shared, about):
    """The kernel for arguments of such type keys, as CuPy launches it on the current device.

    kernel: of `cuda.jit`.  shared: bytes of dynamic shared memory that a block needs, at most.  about: what the code
    depends on beyond the files of this package, as a text; None where that is unknown, and nothing is cached on disk.
    """
    function, capability = kernel.py_func, int(xp.cuda.Device().compute_capability)
    name = f"gpuica_{function.__name__.strip('_')}"
    path = _cache_path(function, keys, capability, about)
    found = None
    if path and path.exists():
        with suppress(Exception):  # damaged, or for another driver: it is compiled again
            found = _from_file(xp, path, name)
    if found is None:
        signature = tuple(map(numba_type_of, keys))
        with announced(function, signature, "on each machine" if path else "in each process"):
            cubin = compile_cubin(function, signature, capability, name)
        found = _load(xp, cubin, name)
        if path:
            _write_whole(path, cubin)
    if shared > FREELY_SHARED:
        found.max_dynamic_shared_size_bytes = shared
    return found


def resident(threads, blocks):
    """A decorator, below `cuda.jit`: the kernel, in blocks of at most `threads`, uses so few registers that `blocks` of
    them are resident on a multiprocessor."""

    def bounded(function):
        function.launch_bounds = threads, blocks
        return function

    return bounded


def compile_cubin(function, signature, capability, name):
    """The cubin of a kernel for GPUs of a compute capability, 90 for 9.0, in which it has this name."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    code = ObjectCode.from_ptx(ptx(function, signature, divmod(capability, 10), name).encode())
    return bytes(Linker(code, options=LinkerOptions(arch=f"sm_{capability}")).link("cubin").code)


def ptx(function, signature, capability, name):
    """PTX of a kernel for a compute capability, (9, 0) for 9.0, in which it has this name instead of Numba's."""
    code, _ = numba_cuda().compile(
        function, signature, device=False, cc=capability, output="ptx", abi="numba",
        launch_bounds=getattr(function, "launch_bounds", None),
    )  # fmt: skip
    mangled = re.escape(ENTRY.findall(code)[0])
    return re.sub(rf"(?<![\w$]){mangled}(?![\w$])", name, code)


def _from_file(xp, path, name):
    """The kernel of this name in a cubin file, loaded into the current device."""
    found = xp.RawModule(path=str(path)).get_function(name)
    found.kernel  # noqa: B018  # loads it now, while the file exists
    return found


def _load(xp, cubin, name):
    """The kernel of this name in a cubin in memory, which CuPy loads from files only."""
    with tempfile.TemporaryDirectory(prefix="gpuica-") as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return _from_file(xp, path, name)


def _write_whole(path, cubin):
    """Write the file as a whole or not at all; a full or read-only disk is no error."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".gpuica-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(cubin)
            os.replace(draft, path)
        except OSError:
            os.unlink(draft)
            raise


def _cache_path(function, keys, capability, about):
    """Path of a kernel's cubin in the cache, None where it cannot be cached.  Another kernel, or the same of another
    version of the package or of its compilers, has another name."""
    if about is None or os.environ.get("CUPY_CACHE_IN_MEMORY", "0") not in ("", "0"):
        return None
    parts = function.__module__, function.__qualname__, keys, capability, about, _sources()
    name = f"gpuica-{hashlib.sha256(repr(parts).encode()).hexdigest()[:40]}.cubin"
    folder = os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache")
    return Path(folder) / name


def source_files():
    """Paths of the files whose functions and constants are compiled into kernels."""
    package = Path(__file__).parents[2]
    return sorted([*package.glob("kernels/**/*.py"), *package.glob("coders/*.py"), package / "contrasts.py"])


@cache
def _sources():
    """A digest of the files that kernels are compiled from, and of the versions of their compilers."""
    digest = hashlib.sha256(repr(sys.version_info[:2]).encode())
    for path in source_files():
        digest.update(path.read_bytes())
    for package in COMPILERS:
        with suppress(PackageNotFoundError):
            digest.update(f"{package} {version(package)}".encode())
    return digest.hexdigest()
