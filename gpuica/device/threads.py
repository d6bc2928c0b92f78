"""How many threads work, and one BLAS thread for each of them.

Chunks are shared out to threads, and each thread calls a one-thread BLAS.  That beats a many-thread BLAS on the small
products of one chunk, keeps a chunk in its core's cache, and makes results independent of the number of threads.

The number of BLAS threads is the user's.  It is changed for as long as work lasts:

- OpenBLAS with threads of its own, NumPy's and SciPy's, has one number for the process.  All work at one time counts
  as one user of it: the first sets 1, the last restores what the first found.
- MKL, OpenBLAS on OpenMP and others have a number for each thread.  Each thread that works sets and restores its own.
- A number other than 1 that is found meanwhile was set by other code.  Work that begins sets 1 again; the larger
  number, which the end of a limit leaves, is restored at the end.  What is found at the end is left alone.

The libraries are set directly, not by `threadpool_limits`: since version 3.8 threadpoolctl obeys a single thread, and
outside a `with` block that thread never gives up.
"""

import os
import threading
from contextlib import contextmanager
from functools import cache

from ..interrupts import defer_interrupts

AFFIXES = [(prefix, suffix) for prefix in ("", "scipy_") for suffix in ("", "64_", "_64")]


class _Library:
    """One loaded BLAS."""

    def __init__(self, controller):
        """controller: threadpoolctl's, of the library."""
        self.controller = controller
        kind, layer = controller.internal_api, getattr(controller, "threading_layer", "unknown")
        self.of_process = kind == "openblas" and layer != "openmp"
        self.set = _openblas_setter(controller) if self.of_process else controller.set_num_threads
        self.restored = 1  # of a library with one number for the process: what the last user restores

    @property
    def n_threads(self):
        return self.controller.num_threads or 1

    def limit(self):
        """Set 1; return what was found."""
        found = self.n_threads
        if found != 1:
            self.set(1)
        return found

    def restore(self, n_threads):
        """Set n_threads, unless other code has set something meanwhile."""
        if n_threads != 1 and self.n_threads == 1:
            self.set(n_threads)


def _openblas_setter(controller):
    """OpenBLAS's own function, which obeys every thread."""
    for prefix, suffix in AFFIXES:
        if function := getattr(controller.dynlib, f"{prefix}openblas_set_num_threads{suffix}", None):
            return function
    return controller.set_num_threads


@cache
def _libraries():
    """(those with one number for the process, those with a number for each thread)."""
    from threadpoolctl import ThreadpoolController

    found = [_Library(controller) for controller in ThreadpoolController().select(user_api="blas").lib_controllers]
    return [one for one in found if one.of_process], [one for one in found if not one.of_process]


class _OfThread(threading.local):
    depth = 0  # of nested `one_blas_thread` blocks
    found: list = []  # by the outermost, for each library with a number for each thread


_lock = threading.Lock()
_users = 0  # threads in a `one_blas_thread` block
_mine = _OfThread()


@contextmanager
def one_blas_thread():
    """BLAS uses one thread for this thread's products inside the `with` block, which may be nested and concurrent."""
    with defer_interrupts():
        _begin()
        try:
            yield
        finally:
            _end()


def _begin():
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
    """How many threads to use: what NUMBA_NUM_THREADS and the user's limit on BLAS both allow."""
    allowed = int(os.environ.get("NUMBA_NUM_THREADS") or _usable_cores())
    of_process, of_thread = _libraries()
    with _lock:
        counts = [library.restored if _users else library.n_threads for library in of_process]
        counts += _mine.found if _mine.depth else [library.n_threads for library in of_thread]
    return max(1, min([allowed, *counts]))


def _usable_cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _after_fork():
    """In a child process: of the threads that worked only this one goes on, and the lock may have been another's."""
    global _lock, _users
    _lock = threading.Lock()
    others = _users - bool(_mine.depth)
    _users = int(bool(_mine.depth))
    if others and not _users:
        for library in _libraries()[0]:
            library.restore(library.restored)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
