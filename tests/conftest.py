"""Shared fixtures, and skip conditions for tests with unmet requirements."""

import contextlib
import importlib.util
import os
import shutil
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from gpuica import device
from gpuica.comm import loopback
from gpuica.device import CPU, numba_cuda, why_no_gpu, why_no_kernels
from gpuica.input import as_source
from gpuica.io.files import shards
from gpuica.rows import open_rows, stream
from gpuica.rows.shared import Shared

from . import fake_cupy


def pytest_report_header():
    """With a GPU, report its name, the version of CuPy, and whether CUDA kernels are compiled."""
    if why_no_gpu():
        return []
    import cupy

    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    return [f"GPU: {name}, CuPy {cupy.__version__}", f"CUDA kernels: {why_no_kernels() or 'compiled'}"]


def pytest_collection_modifyitems(items):
    if not why_no_gpu():  # these imports warn: import them before warnings become errors
        with warnings.catch_warnings(), contextlib.suppress(ImportError):
            warnings.simplefilter("ignore")
            numba_cuda()
            import torch  # noqa: F401
    items.sort(key=lambda item: item.get_closest_marker("first") is None)
    for item in items:
        if item.get_closest_marker("gpu") and (reason := why_no_gpu()):
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))
        if item.get_closest_marker("torch") and importlib.util.find_spec("torch") is None:
            item.add_marker(pytest.mark.skip(reason="needs torch: make test-torch"))
        if item.get_closest_marker("dask") and importlib.util.find_spec("distributed") is None:
            item.add_marker(pytest.mark.skip(reason="needs Dask: pip install 'dask[array,distributed]'"))
        if item.get_closest_marker("mpi") and not (importlib.util.find_spec("mpi4py") and shutil.which("mpirun")):
            item.add_marker(pytest.mark.skip(reason="needs MPI and mpi4py"))


@pytest.fixture(autouse=True)
def healthy_gpu(request):
    """End the process after a CUDA error such as an illegal address, which makes all later CUDA calls fail.

    pytest-xdist replaces the process; without it, the run ends and reports the test.
    """
    yield
    if request.node.get_closest_marker("gpu") and not why_no_gpu():
        import cupy

        try:
            cupy.cuda.Device().synchronize()
        except cupy.cuda.runtime.CUDARuntimeError as error:
            if "PYTEST_XDIST_WORKER" in os.environ:
                os._exit(70)
            pytest.exit(f"{request.node.nodeid} left the GPU unusable: {error}", returncode=70)


@pytest.fixture(scope="session", autouse=True)
def no_thread_is_left():
    """Fail if threads started by tests are still running, after shutting down the pools of Dask and zarr."""
    before = set(threading.enumerate())
    yield
    pools = [("dask.threaded", "default_pool"), ("distributed.utils", "_offload_executor")]
    for module, name in pools:
        if (pool := getattr(sys.modules.get(module), name, None)) is not None:
            pool.shutdown()
    if zarr := sys.modules.get("zarr.core.sync"):
        zarr.cleanup_resources()
    end = time.monotonic() + 10
    while (left := leftover(before)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not left, f"threads that no test has ended: {left}"


def leftover(before):
    """Threads not in `before`, except the timer of pytest-timeout, which runs until the end of the teardown."""
    return {t for t in set(threading.enumerate()) - before if not t.name.startswith("pytest_timeout ")}


@pytest.fixture
def rng():
    return np.random.default_rng(0)


IN = [1, 7, "by default", "from files", "from an iterable", pytest.param("dask", marks=pytest.mark.dask), "shared"]


@pytest.fixture(params=IN)
def as_rows(request, tmp_path, monkeypatch):
    """Function that opens an array as Rows of each storage.

    In memory, in 1, 7 or the default number of chunks; from three files or an iterable of three arrays, in blocks of
    two of 7 chunks; from a Dask array of 7 x 2 chunks, some of them empty; and shared, with a single rank.
    """

    def open_as(X, dtype=None):
        chunk_rows, source = None, X
        if request.param in (1, 7):
            chunk_rows = -(-len(X) // request.param)
        elif request.param == "dask":
            import dask.array as da

            monkeypatch.setattr("gpuica.rows.dask.GROUP_BYTES", X.nbytes // 4)
            ends = np.linspace(0, len(X), 6).astype(int)
            sizes = [0, *np.diff(ends).tolist(), 0]
            source = da.from_array(X, chunks=(tuple(sizes), -(-X.shape[1] // 2)))
        elif request.param == "shared":
            source = Shared(X, loopback(1)[0])
        elif request.param != "by default":
            chunk_rows, parts = -(-len(X) // 7), np.array_split(X, 3)
            monkeypatch.setattr(stream, "BLOCK_BYTES", 2 * chunk_rows * X.shape[1] * X.itemsize)
            for i, part in enumerate(parts):
                np.save(tmp_path / f"{i}.npy", part)
            source = as_source(Again(parts)) if request.param == "from an iterable" else shards(tmp_path)
        return open_rows(source, dtype=np.dtype(dtype or X.dtype), device=CPU, chunk_rows=chunk_rows)

    return open_as


class Again:
    """A re-iterable collection of arrays."""

    def __init__(self, parts):
        self.parts = parts

    def __iter__(self):
        yield from self.parts


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def cupy(request):
    """The fake CuPy, and CuPy itself on a GPU (marker gpu)."""
    for cached in (device.why_no_gpu, device.log_once):
        cached.cache_clear()
    if request.param == "real":
        yield pytest.importorskip("cupy")
    else:
        with fake_cupy.installed() as fake:
            yield fake
    for cached in (device.why_no_gpu, device.log_once):
        cached.cache_clear()
