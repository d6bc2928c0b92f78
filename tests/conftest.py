"""Fixtures that every test may use, and the rule for tests that need what this machine has not."""

import importlib.util
import shutil

import numpy as np
import pytest

from gpuica import device
from gpuica.comm import loopback
from gpuica.device import CPU, why_no_gpu
from gpuica.rows import open_rows
from gpuica.rows.shared import Shared

from . import fake_cupy


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and (reason := why_no_gpu()):
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))
        if item.get_closest_marker("torch") and importlib.util.find_spec("torch") is None:
            item.add_marker(pytest.mark.skip(reason="needs torch: make test-torch"))
        if item.get_closest_marker("dask") and importlib.util.find_spec("distributed") is None:
            item.add_marker(pytest.mark.skip(reason="needs Dask: pip install 'dask[array,distributed]'"))
        if item.get_closest_marker("mpi") and not (importlib.util.find_spec("mpi4py") and shutil.which("mpirun")):
            item.add_marker(pytest.mark.skip(reason="needs MPI and mpi4py"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=[1, 7, "by default", pytest.param("dask", marks=pytest.mark.dask), "shared"])
def as_rows(request, monkeypatch):
    """Open an array as Rows: in memory, of 1 chunk, 7 chunks, or cut as the package does by default; of a Dask array of
    7 x 2 chunks, some of them empty; and shared with nobody."""

    def open_as(X, dtype=None):
        chunk_rows = None
        if request.param == "dask":
            import dask.array as da

            monkeypatch.setattr("gpuica.rows.dask.GROUP", X.nbytes // 4)
            ends = np.linspace(0, len(X), 6).astype(int)
            sizes = [0, *np.diff(ends).tolist(), 0]
            X = da.from_array(X, chunks=(tuple(sizes), -(-X.shape[1] // 2)))
        elif request.param == "shared":
            X = Shared(X, loopback(1)[0])
        elif request.param != "by default":
            chunk_rows = -(-len(X) // request.param)
        return open_rows(X, dtype=np.dtype(dtype or X.dtype), device=CPU, chunk_rows=chunk_rows)

    return open_as


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def cupy(request):
    """CuPy: the stand-in for it everywhere, and itself on a GPU (marker gpu)."""
    for cached in (device.why_no_gpu, device.say_once):
        cached.cache_clear()
    if request.param == "real":
        yield pytest.importorskip("cupy")
    else:
        with fake_cupy.installed() as fake:
            yield fake
    for cached in (device.why_no_gpu, device.say_once):
        cached.cache_clear()
