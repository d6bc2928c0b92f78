"""Kernels compiled ahead of time."""

import os
import subprocess
import sys

import pytest

import gpuica
from gpuica.kernels.cpu import coding

FITS = """
import warnings
import numpy as np
import gpuica
from numba.core import event

class Compilations(event.Listener):
    names = []
    def on_start(self, compilation):
        self.names.append(compilation.data["dispatcher"].py_func.__name__)
    def on_end(self, compilation):
        pass

if {warm}:
    gpuica.warmup("ica", dtypes=["float32"])
listener = Compilations()
event.register("numba:compile", listener)
X = np.random.default_rng(0).laplace(size=(20_000, 10)).astype("f4")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    gpuica.FastICA(random_state=0, max_iter=2).fit(X)
    gpuica.Picard(random_state=0, max_iter=2, fun="exp").fit(X)
print(len(listener.names))
"""


def n_compiled(cache, warm):
    """The number of functions that two fits compile in a process of their own."""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(cache)}
    command = [sys.executable, "-c", FITS.format(warm=warm)]
    return int(subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout)


def test_fits_after_warmup_compile_nothing(tmp_path):
    assert n_compiled(tmp_path / "cold", False) > 0
    assert n_compiled(tmp_path / "warm", True) == 0  # in the same process
    assert n_compiled(tmp_path / "warm", False) == 0  # in a later one, from the cache


def test_warmup_of_pursuits_includes_omp_of_float64_rows(monkeypatch):
    """Its atoms are chosen by a kernel of its own, if there are at most a quarter as many as features."""
    calls, encode = [], coding.compressed_rounded_orthogonal
    monkeypatch.setattr(coding, "compressed_rounded_orthogonal", lambda *args: calls.append(args) or encode(*args))
    gpuica.warmup("pursuits", dtypes=["float64"], device="cpu")
    assert calls


def test_unknown_kernels_are_rejected():
    with pytest.raises(ValueError, match="kernels must be among ica, lasso, pursuits, dictionary, got lassso"):
        gpuica.warmup("ica", "lassso")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_problem_of_warmup_runs(dtype):
    gpuica.warmup(dtypes=[dtype])
