"""Runs tests/simulated in a process of its own: Numba's CUDA simulator must be chosen before Numba is imported."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.first  # they take longest, and should not come when other workers have nothing left to do
@pytest.mark.skipif(
    importlib.util.find_spec("numba.cuda") is None, reason="this Numba has no CUDA: pip install numba-cuda"
)
@pytest.mark.parametrize("path", sorted((ROOT / "tests/simulated").glob("test_*.py")), ids=lambda path: path.stem)
def test_kernels_in_the_simulator(path):
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", str(path)],
        cwd=ROOT,
        env={**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
