"""Fixtures that every test may use, and the rule for tests that need what this machine has not."""

import importlib.util

import numpy as np
import pytest

from gpuica.device import CPU, why_no_gpu
from gpuica.rows import open_rows


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
