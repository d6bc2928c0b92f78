"""The number of BLAS threads: one during a computation, the user's before and after, also if other code sets it."""

import logging
import platform
import subprocess
import sys
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from gpuica import FastICA
from gpuica.device import CPU, log_once, slow_blas, threads
from gpuica.device.threads import host_threads, one_blas_thread, run_in_threads
from gpuica.rows import host, open_rows


def counts():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def limit_of_three():
    with threadpool_limits(3, user_api="blas"):
        yield
        assert counts() == {3}
    assert threads._users == 0


def elsewhere(function, *arguments):
    """Call the function in another thread and raise its exception in this one."""
    failures = []

    def call():
        try:
            function(*arguments)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


class Elsewhere:
    """A thread that enters a context manager at the first call of `step` and leaves it at the second."""

    def __init__(self, context):
        self.steps, self.done = threading.Semaphore(0), threading.Semaphore(0)

        def run():
            self.steps.acquire()
            with context():
                self.done.release()
                self.steps.acquire()
            self.done.release()

        threading.Thread(target=run, daemon=True).start()

    def step(self):
        self.steps.release()
        assert self.done.acquire(timeout=20)


@pytest.mark.parametrize("first", ["main", "other"])
@pytest.mark.parametrize("last", ["main", "other"])
def test_overlapping_uses_share_one_limit(first, last):
    other, block = Elsewhere(one_blas_thread), one_blas_thread()
    if first == "other":
        other.step()
    with block:
        if first == "main":
            other.step()
        assert counts() == {1}
        if last == "main":
            other.step()
        assert counts() == {1}
    if last == "other":
        assert counts() == {1}
        other.step()
    assert counts() == {3}


def test_limit_is_restored_after_nested_uses_and_errors():
    with pytest.raises(ValueError, match="within"), one_blas_thread():  # noqa: PT012
        with one_blas_thread():
            assert counts() == {1}
        assert counts() == {1}
        raise ValueError("within")
    assert counts() == {3}


def test_host_threads_is_the_users_limit_during_a_computation(monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", "8")
    assert host_threads() == 3
    with one_blas_thread():
        assert host_threads() == 3
        elsewhere(lambda: np.testing.assert_equal(host_threads(), 3))
    with threadpool_limits(2, user_api="blas"), one_blas_thread():
        assert host_threads() == 2
    monkeypatch.setenv("NUMBA_NUM_THREADS", "2")
    assert host_threads() == 2


def test_limit_that_ends_during_a_computation_is_not_kept():
    limit = threadpool_limits(2, user_api="blas")
    with one_blas_thread():
        limit.restore_original_limits()
    assert counts() == {3}
    limit = threadpool_limits(2, user_api="blas")
    with one_blas_thread():
        limit.restore_original_limits()
        with one_blas_thread():
            assert counts() == {1}  # the next pass has one thread again
    assert counts() == {3}


def test_limit_that_begins_during_a_computation_is_not_overwritten():
    with one_blas_thread():
        limit = threadpool_limits(2, user_api="blas")
    assert counts() == {2}
    limit.restore_original_limits()
    assert counts() == {1}  # threadpoolctl restores what it found
    with threadpool_limits(3, user_api="blas"):
        pass
    for library in threads._libraries()[0]:
        library.set(3)


def test_limit_within_a_computation_has_no_effect():
    with one_blas_thread():
        with threadpool_limits(2, user_api="blas"), one_blas_thread():
            assert counts() == {1}
        with one_blas_thread():
            assert counts() == {1}


def test_limits_of_other_threads_are_effective_after_a_fit():
    """In threadpoolctl 3.8, only the first thread can set limits until its `with` block ends."""
    script = """
import threading
import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits
import gpuica

def counts():
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

before = counts()
X = np.random.default_rng(0).laplace(size=(300, 40)) @ np.random.default_rng(1).normal(size=(40, 40))
fit = lambda: gpuica.FastICA(random_state=0, max_iter=3, tol=0.0).fit(X).components_
found = [fit()]

def limited():
    with threadpool_limits(3, user_api="blas"):
        found.append(counts())
        found.append(fit())
        found.append(counts())

thread = threading.Thread(target=limited)
thread.start()
thread.join()
assert found[1] == found[3] == {3}, found
np.testing.assert_array_equal(found[0], found[2])
assert counts() == before
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_fit_is_limited_while_another_thread_holds_a_limit():
    """threadpoolctl 3.8 ignores other threads' limits while the main thread holds one; a fit is limited regardless."""
    seen = []

    def fun(x):
        seen.append(counts())
        return x**3, (3 * x**2).mean(axis=-1)

    X = np.random.default_rng(0).laplace(size=(300, 3))
    elsewhere(FastICA(fun=fun, random_state=0, tol=1).fit, X)
    assert set(map(frozenset, seen)) == {frozenset({1})}


class PerThread:
    """A BLAS with a separate limit for each calling thread, like MKL and OpenBLAS with OpenMP."""

    internal_api, threading_layer = "mkl", "intel"

    def __init__(self):
        self.mine = threading.local()

    @property
    def num_threads(self):
        return getattr(self.mine, "n", 8)

    def set_num_threads(self, n):
        self.mine.n = n


@pytest.fixture
def per_thread(monkeypatch):
    library = PerThread()
    monkeypatch.setattr(threads, "_libraries", lambda: ([], [threads._Library(library)]))
    monkeypatch.setenv("NUMBA_NUM_THREADS", "5")
    return library


def test_each_thread_of_a_pass_limits_a_per_thread_library(per_thread):
    seen = {}

    def work(i):
        seen.setdefault(threading.current_thread(), set()).add(per_thread.num_threads)
        threading.Event().wait(0.002)

    run_in_threads(50, work)
    assert len(seen) == 5
    assert set.union(*seen.values()) == {1}
    assert per_thread.num_threads == 8


def test_threads_do_not_share_the_limit_of_a_per_thread_library(per_thread):
    per_thread.set_num_threads(4)
    other = Elsewhere(one_blas_thread)
    other.step()
    assert per_thread.num_threads == 4
    with one_blas_thread():
        assert per_thread.num_threads == 1
        other.step()
        assert per_thread.num_threads == 1
        assert host_threads() == 4
    assert per_thread.num_threads == 4


def test_openblas_with_openmp_is_a_per_thread_library():
    kinds = [("openblas", "pthreads", True), ("openblas", "openmp", False), ("mkl", "intel", False)]
    for kind, layer, expected in kinds:
        controller = SimpleNamespace(
            internal_api=kind, threading_layer=layer, num_threads=2, dynlib=SimpleNamespace(), set_num_threads=None
        )
        assert threads._Library(controller).of_process == expected


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_forked_during_a_fit_has_the_users_limit():
    """Of the computing threads, only the one that forks continues in the child."""
    import os

    other = Elsewhere(one_blas_thread)
    other.step()
    child = os.fork()
    if not child:
        works = threads._users == 0 and counts() == {3} and host_threads() >= 1
        os._exit(0 if works else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert counts() == {1}
    other.step()


@pytest.mark.parametrize(
    ("architecture", "flags", "setting", "expected"),
    [
        ("Haswell", slow_blas.AVX512, None, 1),
        ("Zen", slow_blas.AVX512 | {"sse"}, None, 1),
        ("Haswell", {"avx2", "fma"}, None, 0),
        ("Haswell", slow_blas.AVX512 - {"avx512bw"}, None, 0),
        ("SkylakeX", slow_blas.AVX512, None, 0),
        (None, slow_blas.AVX512, None, 0),
        ("Haswell", slow_blas.AVX512, "Haswell", 0),  # the user's choice
    ],
)
def test_slow_kernels_of_openblas_are_reported_once(architecture, flags, setting, expected, monkeypatch, caplog):
    library = SimpleNamespace(controller=SimpleNamespace(architecture=architecture))
    monkeypatch.setattr(threads, "_libraries", lambda: ([library], []))
    monkeypatch.setattr(slow_blas, "_processor_flags", lambda: flags)
    monkeypatch.delenv("OPENBLAS_CORETYPE", raising=False)
    if setting:
        monkeypatch.setenv("OPENBLAS_CORETYPE", setting)
    log_once.cache_clear()
    slow_blas.report_slow_kernels.cache_clear()
    with caplog.at_level(logging.INFO, "gpuica"):
        for _ in range(2):
            slow_blas.report_slow_kernels()
    assert len(caplog.records) == expected
    assert all("OPENBLAS_CORETYPE=SkylakeX" in record.message for record in caplog.records)
    log_once.cache_clear()
    slow_blas.report_slow_kernels.cache_clear()


@pytest.mark.parametrize(("n_rows", "expected"), [(2_000, 0), (500_000, 1)])
def test_only_large_passes_look_for_slow_kernels(n_rows, expected, monkeypatch):
    calls = []
    monkeypatch.setattr(host, "report_slow_kernels", lambda: calls.append(1))
    rows = open_rows(np.zeros((n_rows, 100), np.float32), dtype=np.float32, device=CPU)
    rows.sum(lambda X, weights=None: (X[:1].sum(axis=0),))
    assert len(calls) == expected


def test_flags_of_this_processor_are_read():
    if sys.platform == "linux" and platform.machine() == "x86_64":
        assert "sse2" in slow_blas._processor_flags()
