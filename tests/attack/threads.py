"""Concurrent fits in threads, with BLAS limits set by other code; and forks during and after fits."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from functools import partial

import numpy as np


def attack_overlapping(rng):
    """Overlapping fits are bitwise identical to single fits, and limits are restored."""
    _in_a_process("overlapping", rng)


def attack_forks(rng):
    """Fits in children forked during or after a fit are bitwise identical and use all threads."""
    _in_a_process("forks", rng)


def _in_a_process(what, rng):
    command = [sys.executable, "-W", "ignore", "-m", "tests.attack.threads", what, str(rng.integers(2**31))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=150, env={"PYTHONPATH": os.getcwd(), **os.environ}
    )
    if done.returncode:
        raise AssertionError(f"{' '.join(command)}\nended with {done.returncode}\n{done.stdout}{done.stderr}")


# ---- in the process --------------------------------------------------------------------------------------------------
def _blas():
    from threadpoolctl import threadpool_info

    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


def _estimators(n):
    import gpuica

    return [
        gpuica.FastICA(random_state=0, tol=0.0, max_iter=6),
        gpuica.Picard(random_state=0, tol=1e-12, max_iter=6),
        gpuica.DictionaryLearning(8, max_iter=2, random_state=0, fit_algorithm="cd", tol=0),
        gpuica.MiniBatchDictionaryLearning(8, max_iter=1, random_state=0, fit_algorithm="cd", batch_size=n // 3),
    ]


@contextmanager
def lasting_work():
    """Run a computation in another thread for the duration of the `with` block."""
    from gpuica.device.threads import one_blas_thread

    begun, ended = threading.Event(), threading.Event()

    def work():
        with one_blas_thread():
            begun.set()
            ended.wait()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def overlapping(rng):
    from sklearn.base import clone
    from threadpoolctl import threadpool_limits

    from gpuica.device.threads import host_threads

    n, allowed = int(rng.integers(500, 8000)), int(rng.integers(2, 4))
    X = rng.laplace(size=(n, 12)) @ rng.normal(size=(12, 12))
    models = _estimators(n)
    expected = [clone(model).fit(X).components_ for model in models]
    begun, failures = threading.Barrier(4), []
    limit = int(rng.integers(allowed + 1))  # set by other code in the meantime; 0 means none
    # products computed while other code allows BLAS more than one thread can be rounded differently
    same = np.testing.assert_array_equal if limit < 2 else partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-9)

    def work(seed):
        rng = np.random.default_rng(seed)
        begun.wait()
        try:
            for _ in range(int(rng.integers(1, 4))):
                which = int(rng.integers(len(models)))
                time.sleep(rng.uniform(0, 0.02))
                found = clone(models[which]).fit(X).components_
                same(found, expected[which])
        except BaseException as error:
            failures.append(error)

    with threadpool_limits(allowed, user_api="blas"):
        threads = [threading.Thread(target=work, args=(seed,)) for seed in rng.integers(2**31, size=3)]
        for thread in threads:
            thread.start()
        begun.wait()
        if limit:
            # This limit begins and ends during a fit.  If it ended after the last fit, it would restore the limit of 1
            # at its beginning, which this package cannot prevent.
            with lasting_work(), threadpool_limits(limit, user_api="blas"):
                time.sleep(rng.uniform(0, 0.02))
            np.testing.assert_array_equal(clone(models[0]).fit(X).components_, expected[0])
        for thread in threads:
            thread.join()
        if failures:
            raise failures[0]
        assert set(_blas()) == {allowed}, _blas()
        assert host_threads() == min(allowed, len(os.sched_getaffinity(0)))
    _limits_in_threads(rng, models, X, expected)


def _limits_in_threads(rng, models, X, expected):
    """Each thread limits BLAS for its fits.  The final limit depends on threadpoolctl; the results do not."""
    from sklearn.base import clone
    from threadpoolctl import threadpool_limits

    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        try:
            with threadpool_limits(int(rng.integers(1, 4)), user_api="blas"):
                which = int(rng.integers(len(models)))
                np.testing.assert_allclose(
                    clone(models[which]).fit(X).components_, expected[which], rtol=1e-6, atol=1e-9
                )
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in rng.integers(2**31, size=3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _fit_in_a_child(model, X, answers):
    found = model.fit(X).components_
    answers.put((found, _blas()))


def forks(rng):
    from sklearn.base import clone

    n = int(rng.integers(500, 20_000))
    X = rng.laplace(size=(n, 12)) @ rng.normal(size=(12, 12))
    model = _estimators(n)[int(rng.integers(2))]
    before = _blas()
    expected = clone(model).fit(X).components_
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    busy = threading.Thread(target=lambda: [clone(model).fit(X) for _ in range(4)])
    if rng.integers(2):
        busy.start()
        time.sleep(rng.uniform(0, 0.05))
    child = context.Process(target=_fit_in_a_child, args=(clone(model), X, answers))
    child.start()
    found, limits = answers.get(timeout=60)
    child.join()
    if busy.ident:
        busy.join()
    np.testing.assert_array_equal(found, expected)
    assert limits == before, (limits, before)
    assert _blas() == before


if __name__ == "__main__":
    {"overlapping": overlapping, "forks": forks}[sys.argv[1]](np.random.default_rng(int(sys.argv[2])))
