"""The way of the data: how often they are read, and what crosses between host and device."""

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
def test_a_fit_reads_the_data_twice_to_whiten_and_once_per_iteration(solver, dtype):
    X, _ = mixture(3000, 4, dtype=dtype)
    ica = FastICA(random_state=0, whiten_solver=solver).fit(X)
    assert ica.n_passes_ == 2 + ica.n_iter_  # moments, projection, iterations


def test_white_data_are_read_once_per_iteration():
    ica = FastICA(random_state=0, whiten=False).fit(white(3000, 4))
    assert ica.n_passes_ == ica.n_iter_


def test_sources_cost_one_pass_more():
    X, _ = mixture(3000, 4)
    fit, both = FastICA(random_state=0), FastICA(random_state=0)
    fit.fit(X)
    both.fit_transform(X)
    assert both.n_passes_ == fit.n_passes_ + 1


def test_sources_take_the_place_of_the_whitened_rows(monkeypatch):
    places = []
    original = HostRows.map

    def watch(self, function, *params, out=None):
        places.append((self, out))
        return original(self, function, *params, out=out)

    monkeypatch.setattr(HostRows, "map", watch)
    X, _ = mixture(3000, 4)
    sources = FastICA(random_state=0).fit_transform(X)
    rows, out = places[-1]
    assert out is rows.array
    assert out is sources


@pytest.mark.parametrize("limit", ["NUMBA_NUM_THREADS=1", "threadpoolctl"])
def test_thread_count_follows_the_usual_controls(limit):
    """With one thread allowed, a fit large enough for many starts no thread at all."""
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
workers = [thread for thread in started if not isinstance(thread, threading.Timer)]  # one waits for the compiler
assert not workers, workers
"""
    environment = {"NUMBA_NUM_THREADS": "1"} if limit.startswith("NUMBA") else {}
    subprocess.run([sys.executable, "-c", script, limit], check=True, env={**os.environ, **environment})


def test_blas_threads_are_given_back_after_a_fit_and_after_an_error():
    """In a process of its own: elsewhere an earlier test may have changed the count."""
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


def test_an_interrupt_leaves_the_estimator_as_it_was():
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
    """In a process of its own, after a warm-up: beyond the input, one copy and little else."""
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
