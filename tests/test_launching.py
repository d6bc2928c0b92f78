"""Launching Numba kernels through CuPy: their arguments, the cache on disk, and recompilation."""

import ast
import importlib
import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

if importlib.util.find_spec("numba.cuda") is None:
    pytest.skip("this Numba has no CUDA: pip install numba-cuda", allow_module_level=True)

import gpuica
from gpuica.device import Device
from gpuica.kernels import cuda
from gpuica.kernels.cuda import loading


class There(np.ndarray):
    """A host array with the interface of a device array."""

    __cuda_array_interface__ = {}
    device = SimpleNamespace(id=0)

    @property
    def data(self):
        return SimpleNamespace(ptr=self.ctypes.data)


There.__module__ = "cupy"


class Cupy:
    """The part of CuPy that `launch` uses.  A module can be loaded if its file begins with b"good"."""

    def __init__(self):
        self.launched, self.loaded = [], []
        device = SimpleNamespace(compute_capability="90")
        self.cuda = SimpleNamespace(runtime=SimpleNamespace(getDevice=lambda: 0), Device=lambda index=0: device)

    def RawModule(self, path):
        with open(path, "rb") as file:
            if not file.read().startswith(b"good"):
                raise RuntimeError("CUDA_ERROR_INVALID_IMAGE")
        self.loaded.append(path)
        return SimpleNamespace(get_function=self._function)

    def _function(self, name):
        return Kernel(name, self.launched)


class Kernel:
    kernel = None
    max_dynamic_shared_size_bytes = 48 << 10

    def __init__(self, name, launched):
        self.name, self.launched = name, launched

    def __call__(self, grid, block, args, shared_mem):
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        self.launched.append((self.name, grid, block, args))


@pytest.fixture
def cupy(monkeypatch, tmp_path):
    import gpuica.device

    fake = Cupy()
    monkeypatch.setattr(gpuica.device, "_cupy", lambda: fake)
    monkeypatch.setattr(cuda, "_ready", {})
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("CUPY_CACHE_IN_MEMORY", raising=False)
    return fake


@pytest.fixture
def compilations(monkeypatch):
    calls = []

    def compiled(function, signature, capability, name):
        calls.append((function, signature, capability, name))
        return b"good cubin"

    monkeypatch.setattr(loading, "compile_cubin", compiled)
    return calls


def _copied(x, y, n, alpha):
    """A kernel of which only the name is used."""


class KERNEL:
    py_func = staticmethod(_copied)


def start_again(monkeypatch):
    """Clear the kernels in memory, as in another process."""
    monkeypatch.setattr(cuda, "_ready", {})


def test_arrays_are_passed_by_numbas_convention(cupy, compilations):
    x, y = np.zeros((3, 5), np.float32).view(There), np.zeros(7).view(There)[::2]
    cuda.launch(KERNEL, (2, 3), 32, x, y, 4, np.float32(0.5), True)
    (name, grid, block, args) = cupy.launched[0]
    assert (name, grid, block) == ("gpuica_copied", (2, 3), (32,))
    assert args == [0, 0, 15, 4, x.ctypes.data, 3, 5, 20, 4, 0, 0, 4, 8, y.ctypes.data, 4, 16, 4, np.float32(0.5), True]
    assert list(map(str, compilations[0][1])) == [
        "array(float32, 2d, C)",
        "array(float64, 1d, A)",
        "int64",
        "float32",
        "bool",
    ]


def test_kernel_is_compiled_once_per_signature_and_cached_on_disk(cupy, compilations, monkeypatch):
    for _ in range(2):
        for dtype in (np.float32, np.float64):
            cuda.launch(KERNEL, 1, 32, np.zeros(3, dtype).view(There), 1)
            cuda.launch(KERNEL, 1, 32, np.zeros(9, dtype).view(There), 2)
        start_again(monkeypatch)
    assert len(compilations) == 2
    assert len(cupy.launched) == 8
    monkeypatch.setattr(loading, "_sources", lambda: "another version of the package or of its compilers")
    cuda.launch(KERNEL, 1, 32, np.zeros(3).view(There), 1)
    assert len(compilations) == 3


def test_cache_key_covers_all_files_with_constants_of_kernels():
    """Numba compiles the values of global names into the code."""
    package = Path(gpuica.__file__).parent
    covered = {path.relative_to(package).with_suffix("").as_posix() for path in loading.source_files()}
    for path in package.glob("kernels/cuda/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                parents = ["kernels", "cuda"][: 3 - node.level]
                module = importlib.import_module(".".join(["gpuica", *parents, node.module]))
                names = [alias.name for alias in node.names]
                constant = any(not callable(getattr(module, name)) for name in names)
                assert not constant or "/".join([*parents, *node.module.split(".")]) in covered


@pytest.mark.parametrize("content", [b"", b"damaged"])
def test_damaged_cache_file_is_recompiled(cupy, compilations, content, monkeypatch, tmp_path):
    cuda.launch(KERNEL, 1, 32, np.zeros(3).view(There))
    (cached,) = (tmp_path / "cache").iterdir()
    cached.write_bytes(content)
    start_again(monkeypatch)
    cuda.launch(KERNEL, 1, 32, np.zeros(3).view(There))
    assert len(compilations) == len(cupy.launched) == 2
    assert cached.read_bytes() == b"good cubin"


def test_about_and_environment_determine_caching_on_disk(cupy, compilations, monkeypatch, tmp_path):
    x = np.zeros(3).view(There)
    cuda.launch(KERNEL, 1, 32, x, about=None)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setenv("CUPY_CACHE_IN_MEMORY", "1")
    start_again(monkeypatch)
    cuda.launch(KERNEL, 1, 32, x)
    assert not (tmp_path / "cache").exists()
    monkeypatch.delenv("CUPY_CACHE_IN_MEMORY")
    for about in ("alpha 1", "alpha 2"):
        start_again(monkeypatch)
        cuda.launch(KERNEL, 1, 32, x, about=about)
    assert len(compilations) == 4
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_unwritable_cache_directory_is_not_an_error(cupy, compilations, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CUPY_CACHE_DIR", str(tmp_path / "file" / "cache"))
    cuda.launch(KERNEL, 1, 32, np.zeros(3).view(There))
    assert len(cupy.launched) == 1


def test_polar_kernel_is_not_launched_without_enough_block_memory(cupy, compilations, monkeypatch):
    from gpuica.kernels.cuda.polar import polar

    cupy.empty, cupy.ascontiguousarray = (lambda shape: np.zeros(shape).view(There)), lambda array: array
    for memory, expected in ((65_536, 0), (99 << 10, 1)):  # of a block on Turing, and on later architectures
        monkeypatch.setattr(Device, "block_memory", memory)
        assert (polar(np.eye(64).view(There)) is None) == (not expected)
        assert len(cupy.launched) == expected
    assert polar(np.eye(65).view(There)) is None


def test_large_shared_memory_is_requested_and_empty_grid_is_not_launched(cupy, compilations):
    x = np.zeros(3).view(There)
    cuda.launch(KERNEL, 1, 32, x, shared=100 << 10)
    cuda.launch(KERNEL, (5, 0), 32, x)
    assert len(cupy.launched) == 1
