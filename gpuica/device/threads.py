"""Work distributed over host threads, each of which has one BLAS thread.

Chunks are distributed over threads, each of which calls BLAS with one thread.  That is faster than a multithreaded BLAS
on the small products of one chunk, keeps a chunk in the cache of its core, and makes results independent of the number
of threads.

The user's setting of BLAS threads is changed only during the computation:

- OpenBLAS with its own threads, as in NumPy and SciPy, has one setting per process.  Concurrent computations count as
  one user of it: the first sets 1, the last restores the value that the first found.
- MKL, OpenBLAS on OpenMP and others have a setting per thread.  Each worker thread sets and restores its own.
- A value other than 1 that is found in between was set by other code.  The next computation sets 1 again; the larger of
  the values, which the end of a limit leaves, is restored at the end.  A value found at the end is left unchanged.

The libraries are called directly, not by `threadpool_limits`: since version 3.8 threadpoolctl lets a single thread
control them, and outside a `with` block that thread never releases them.
"""

import itertools
import os
import threading
from contextlib import contextmanager
from functools import cache

from ..interrupts import defer_interrupts, interrupt_flag, raise_if_interrupted

SYMBOL_AFFIXES = [(prefix, suffix) for prefix in ("", "scipy_") for suffix in ("", "64_", "_64")]


class _Library:
    """One loaded BLAS."""

    def __init__(self, controller):
        """controller: threadpoolctl's controller of the library."""
        self.controller = controller
        kind, layer = controller.internal_api, getattr(controller, "threading_layer", "unknown")
        self.of_process = kind == "openblas" and layer != "openmp"
        self.set = _openblas_setter(controller) if self.of_process else controller.set_num_threads
        self.restored = 1  # with one setting per process: the value that the last user restores

    @property
    def n_threads(self):
        return self.controller.num_threads or 1

    def limit(self):
        """Set 1 thread; return the previous number."""
        found = self.n_threads
        if found != 1:
            self.set(1)
        return found

    def restore(self, n_threads):
        """Set n_threads, unless other code has changed the setting."""
        if n_threads != 1 and self.n_threads == 1:
            self.set(n_threads)


def _openblas_setter(controller):
    """The function of OpenBLAS itself, which any thread can call."""
    for prefix, suffix in SYMBOL_AFFIXES:
        if function := getattr(controller.dynlib, f"{prefix}openblas_set_num_threads{suffix}", None):
            return function
    return controller.set_num_threads


@cache
def _libraries():
    """(BLAS libraries with one setting per process, those with a setting per thread)."""
    from threadpoolctl import ThreadpoolController

    found = [_Library(controller) for controller in ThreadpoolController().select(user_api="blas").lib_controllers]
    return [one for one in found if one.of_process], [one for one in found if not one.of_process]


def blas_architectures():
    """The names of the processors whose kernels the BLAS libraries use, as far as they say."""
    of_process, of_thread = _libraries()
    return {getattr(library.controller, "architecture", None) for library in (*of_process, *of_thread)} - {None}


class _OfThread(threading.local):
    depth = 0  # number of nested `one_blas_thread` blocks
    found: list = []  # the setting before the outermost block, of each library with a setting per thread


_lock = threading.Lock()
_users = 0  # threads in a `one_blas_thread` block
_mine = _OfThread()


@contextmanager
def one_blas_thread():
    """Limit BLAS to one thread for calls of this thread inside the `with` block, which may be nested and concurrent."""
    with defer_interrupts():
        _begin()
        try:
            yield
        finally:
            _end()


def _begin():
    """Limit the BLAS libraries to one thread; the first user of the process records what they had."""
    global _users
    of_process, of_thread = _libraries()
    with _lock:
        if not _mine.depth:
            _users += 1
            _mine.found = [library.limit() for library in of_thread]
        first = _users == 1 and not _mine.depth
        _mine.depth += 1
        for library in of_process:
            found = library.limit()
            library.restored = found if first else max(found, library.restored)


def _end():
    """Undo `_begin`: restore the libraries of the thread, and those of the process after its last user."""
    global _users
    of_process, of_thread = _libraries()
    with _lock:
        _mine.depth -= 1
        if _mine.depth:
            return
        for library, found in zip(of_thread, _mine.found, strict=True):
            library.restore(found)
        _users -= 1
        if not _users:
            for library in of_process:
                library.restore(library.restored)


def host_threads():
    """The number of threads to use: the smaller of NUMBA_NUM_THREADS and the user's limit on BLAS threads."""
    allowed = int(os.environ.get("NUMBA_NUM_THREADS") or _usable_cores())
    of_process, of_thread = _libraries()
    with _lock:
        counts = [library.restored if _users else library.n_threads for library in of_process]
        counts += _mine.found if _mine.depth else [library.n_threads for library in of_thread]
    return max(1, min([allowed, *counts]))


def _usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_threads(n, work, wait_for_slot=None):
    """Call work(i) for i in range(n) from several threads, each with one BLAS thread.

    The first error, or Ctrl-C once each thread has finished its chunk, stops all threads and is raised.
    wait_for_slot: called as wait_for_slot(i, failures) before work(i), to block the thread; returns False if the work
    has failed in the meantime.
    """
    numbers = itertools.count()
    failures: list[BaseException] = []
    interrupted = interrupt_flag()

    def process():
        try:
            while not failures and not interrupted() and (i := next(numbers)) < n:
                if wait_for_slot is None or wait_for_slot(i, failures):
                    work(i)
        except BaseException as error:  # an interrupt too must stop the other threads
            failures.append(error)

    def process_in_thread():
        with one_blas_thread():
            process()

    others = [threading.Thread(target=process_in_thread, daemon=True) for _ in range(min(host_threads(), n) - 1)]
    try:
        with one_blas_thread():
            for thread in others:
                thread.start()
            process()
            for thread in others:
                thread.join()
    except BaseException as error:  # a second Ctrl-C, raised without waiting for the other threads
        failures.append(error)
        raise
    if failures:
        raise failures[0]
    raise_if_interrupted()


def _after_fork():
    """Reset the state in a child process: only this thread continues, and another one may have held the lock."""
    global _lock, _users
    _lock = threading.Lock()
    others = _users - bool(_mine.depth)
    _users = int(bool(_mine.depth))
    if others and not _users:
        for library in _libraries()[0]:
            library.restore(library.restored)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
