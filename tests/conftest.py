"""Fixtures that every test may use, and the rule for tests that need what this machine has not."""

import importlib.util

import numpy as np
import pytest

from gpuica import device
from gpuica.device import CPU, why_no_gpu
from gpuica.rows import open_rows

from . import fake_cupy


def pytest_collection_modifyitems(items):
    for item in items:
        if item.get_closest_marker("gpu") and (reason := why_no_gpu()):
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {reason}"))
        if item.get_closest_marker("torch") and importlib.util.find_spec("torch") is None:
            item.add_marker(pytest.mark.skip(reason="needs torch: make test-torch"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(params=[1, 7, "by default"])
def as_rows(request):
    """Open an array as Rows in memory, of 1 chunk, 7 chunks, or cut as the package does by default."""

    def open_as(X, dtype=None):
        chunk_rows = None if request.param == "by default" else -(-len(X) // request.param)
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
