"""Ctrl-C while the package works: noted when it comes, raised where nothing is half done.

Python raises KeyboardInterrupt between any two bytecodes of the main thread.  That can be inside the acquisition of a
lock, which is then never released, between a setting and the note that it must be restored, in the import of an
extension module, which cannot be repeated, or in a callback called from C, where an exception is printed and lost.  In
a `deferred` block a handler of our own notes the signal, and `check`, which is called between chunks of rows, raises
KeyboardInterrupt.

- It applies in the main thread, and only where SIGINT has Python's default handler.  The handler of an application, a
  debugger or an event loop stays in place and does what it does.  Jupyter runs cells with the default handler.
- A second Ctrl-C before the first was raised is raised at once, as a way out of code that does not return.
- Code of the user, and waits for other processes, run in an `at_once` block, in which nothing is deferred.
- A process that is forked in a `deferred` block begins outside of it.
"""

import os
import signal
import threading
from contextlib import contextmanager


class _State:
    """Of the main thread."""

    depth = 0  # of nested `deferred` blocks
    pending = False  # whether a signal was noted that was not raised
    at_once = 0  # of nested `at_once` blocks


def _note(signum, frame):
    """The handler in a `deferred` block."""
    if _State.at_once or (_State.pending and _State.depth):
        signal.default_int_handler(signum, frame)
    _State.pending = True


def in_main_thread():
    return threading.current_thread() is threading.main_thread()


class deferred:  # noqa: N801  # a context manager, named like contextlib's
    """In the `with` block Ctrl-C is raised by `check` alone, and at the end if it was not."""

    __slots__ = ("at_once", "counted")

    def __enter__(self):
        self.counted, self.at_once = False, 0
        if not in_main_thread():
            return self
        if not _State.depth:
            if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                return self
            _State.pending = False
            try:
                signal.signal(signal.SIGINT, _note)  # before: raised, and nothing was begun; after: noted
            except ValueError:  # a sub-interpreter
                return self
        _State.depth += 1
        self.at_once, _State.at_once, self.counted = _State.at_once, 0, True  # code of the user may call the package
        return self

    def __exit__(self, kind, error, traceback):
        if not self.counted or not _State.depth:  # depth 0: in a process forked in the block
            return
        _State.depth -= 1
        _State.at_once = self.at_once
        if _State.depth and not _State.at_once:
            return
        if not _State.depth and signal.getsignal(signal.SIGINT) is _note:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if _State.pending:
            _State.pending = False
            if not isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt


def check():
    """Raise KeyboardInterrupt if Ctrl-C was pressed in a `deferred` block of this thread."""
    if _State.pending and _State.depth and in_main_thread():
        raise KeyboardInterrupt


def watch():
    """A function that tells, in any thread, whether `check` would raise in this one."""
    if _State.depth and in_main_thread():
        return lambda: _State.pending
    return lambda: False


@contextmanager
def at_once():
    """In the `with` block Ctrl-C is raised where it comes, as outside of `deferred`: for the user's own code."""
    if not _State.depth or not in_main_thread():
        yield
        return
    check()
    _State.at_once += 1
    try:
        yield
    finally:
        _State.at_once -= 1


@contextmanager
def held():
    """In the `with` block no Ctrl-C is raised, whichever handler SIGINT has; at the end the handler is called.

    For what must not be cut and comes to an end soon: the import of extension modules, compilation.
    """
    handler = signal.getsignal(signal.SIGINT) if in_main_thread() else None
    if not callable(handler):  # another thread, where nothing is raised; or a handler that is not Python's
        yield
        return
    came = []

    def hold(signum, frame):
        came.append(signum)

    try:
        signal.signal(signal.SIGINT, hold)
    except ValueError:  # a sub-interpreter
        yield
        return
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is hold:
            signal.signal(signal.SIGINT, handler)
        if came:
            signal.raise_signal(signal.SIGINT)


def _after_fork():
    """In a child process: the block that its parent is in is not its own."""
    if signal.getsignal(signal.SIGINT) is _note:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _State.depth = _State.at_once = 0
    _State.pending = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
