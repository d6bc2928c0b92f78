"""Fixtures that every test may use, and the rule for tests that need what this machine has not."""

import importlib.util

import numpy as np
import pytest

from gpuica import device
from gpuica.device import CPU, why_no_gpu
from gpuica.estimators._shell import as_source
from gpuica.rows import open_rows, stream
from gpuica.rows.files import shards

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


@pytest.fixture(params=[1, 7, "by default", "from files", "from an iterable"])
def as_rows(request, tmp_path, monkeypatch):
    """Open an array as Rows: in memory, of 1 chunk, 7 chunks, or cut as the package does by default; read from three
    files, or from what is iterated over, in blocks of two of 7 chunks."""

    def open_as(X, dtype=None):
        chunk_rows = {1: len(X), "by default": None}.get(request.param, -(-len(X) // 7))
        source = X
        if isinstance(request.param, str) and request.param.startswith("from"):
            monkeypatch.setattr(stream, "BLOCK", 2 * chunk_rows * X.shape[1] * X.itemsize)
            parts = np.array_split(X, 3)
            for i, part in enumerate(parts):
                np.save(tmp_path / f"{i}.npy", part)
            source = as_source(Again(parts)) if "iterable" in request.param else shards(tmp_path)
        return open_rows(source, dtype=np.dtype(dtype or X.dtype), device=CPU, chunk_rows=chunk_rows)

    return open_as


class Again:
    """Gives the same parts whenever it is iterated over."""

    def __init__(self, parts):
        self.parts = parts

    def __iter__(self):
        yield from self.parts


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
