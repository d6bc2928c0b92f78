"""Tests of CUDA kernels in Numba's simulator, run in a separate process by tests/test_simulated.py."""

import os

import numpy as np
import pytest

if os.environ.get("NUMBA_ENABLE_CUDASIM") == "1":
    from .. import warp_shim

    warp_shim.install()
else:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def rng():
    return np.random.default_rng(0)
