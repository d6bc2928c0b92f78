"""Cost of a fit: passes over the data, threads and memory."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from gpuica import FastICA
from gpuica.rows.host import HostRows

from .problems import mixture, white


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("solver", ["svd", "eigh"])
def test_fit_takes_two_passes_to_whiten_and_one_per_iteration(solver, dtype):
    X, _ = mixture(3000, 4, dtype=dtype)
    ica = FastICA(random_state=0, whiten_solver=solver).fit(X)
    assert ica.n_passes_ == 2 + ica.n_iter_  # moments, projection, iterations


def test_fit_without_whitening_takes_one_pass_per_iteration():
    ica = FastICA(random_state=0, whiten=False).fit(white(3000, 4))
    assert ica.n_passes_ == ica.n_iter_


def test_fit_transform_takes_one_more_pass_than_fit():
    X, _ = mixture(3000, 4)
    fit, both = FastICA(random_state=0), FastICA(random_state=0)
    fit.fit(X)
    both.fit_transform(X)
    assert both.n_passes_ == fit.n_passes_ + 1


def test_sources_overwrite_whitened_rows(monkeypatch):
    calls = []
    original = HostRows.map

    def recording_map(self, function, *params, out=None):
        calls.append((self, out))
        return original(self, function, *params, out=out)

    monkeypatch.setattr(HostRows, "map", recording_map)
    X, _ = mixture(3000, 4)
    sources = FastICA(random_state=0).fit_transform(X)
    rows, out = calls[-1]
    assert out is rows.array
    assert out is sources


@pytest.mark.parametrize("limit", ["NUMBA_NUM_THREADS=1", "threadpoolctl"])
def test_fit_respects_thread_limits(limit):
    """Limited to one thread, a fit that would otherwise use several starts none."""
    script = """
import sys, threading
import numpy as np
started = []
start = threading.Thread.start
threading.Thread.start = lambda self: (started.append(self), start(self))
import gpuica
from threadpoolctl import threadpool_limits
X = np.random.default_rng(0).laplace(size=(50_000, 32))
with threadpool_limits(1 if sys.argv[1] == "threadpoolctl" else None, user_api="blas"):
    gpuica.FastICA(random_state=0, tol=1).fit(X)
workers = [thread for thread in started if not isinstance(thread, threading.Timer)]  # a Timer waits for the compiler
assert not workers, workers
"""
    environment = {"NUMBA_NUM_THREADS": "1"} if limit.startswith("NUMBA") else {}
    subprocess.run([sys.executable, "-c", script, limit], check=True, env={**os.environ, **environment})


def test_blas_thread_count_is_restored_after_fit_and_after_error():
    """Runs in a separate process because earlier tests may have changed the number of threads."""
    script = """
import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits
import gpuica

def counts():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]

def interrupted(x):
    assert set(counts()) == {1}
    raise KeyboardInterrupt

X = np.random.default_rng(0).laplace(size=(500, 3))
with threadpool_limits(3, user_api="blas"):
    before = counts()
    gpuica.FastICA(random_state=0).fit(X)
    assert counts() == before
    try:
        gpuica.FastICA(fun=interrupted).fit(X)
    except KeyboardInterrupt:
        assert counts() == before != [1] * len(before)
    else:
        raise AssertionError("the interrupt was lost")
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_interrupted_fit_leaves_estimator_unchanged():
    X, _ = mixture(500, 3)
    with pytest.warns(ConvergenceWarning):
        ica = FastICA(random_state=0, max_iter=1).fit(X)
    before = ica.components_
    ica.set_params(fun=_interrupt)
    with pytest.raises(KeyboardInterrupt):
        ica.fit(X)
    assert ica.components_ is before


def _interrupt(x):
    raise KeyboardInterrupt


def test_peak_memory_is_one_whitened_copy():
    """Runs in a separate process after a warm-up fit: peak memory beyond the input is one copy plus at most 40 MB."""
    script = """
import tracemalloc
import numpy as np
import gpuica
X = np.random.default_rng(0).laplace(size=(200_000, 64)).astype(np.float32)
gpuica.FastICA(random_state=0, tol=1).fit(X[:5000])
tracemalloc.start()
gpuica.FastICA(random_state=0, tol=1).fit(X)
peak = tracemalloc.get_traced_memory()[1]
assert X.nbytes <= peak < X.nbytes + 40e6, peak / 1e6
"""
    subprocess.run([sys.executable, "-c", script], check=True)
