"""Deferred handling of Ctrl-C: the signal is recorded when it arrives and raised between chunks of rows.

Python can raise KeyboardInterrupt between any two bytecodes of the main thread: while a lock is acquired, which is then
never released; between the change of a setting and the record that it must be restored; during the import of an
extension module, which cannot be repeated; or in a callback called from C, where the exception is printed and lost.
Inside a `defer_interrupts` block, a handler of this module records the signal, and `raise_if_interrupted`, which is
called between chunks of rows, raises KeyboardInterrupt.

- This applies in the main thread, and only where SIGINT has Python's default handler.  The handler of an application, a
  debugger or an event loop stays in place.  Jupyter runs cells with the default handler.
- A second Ctrl-C before the first one was raised is raised immediately, as a way out of code that does not return.
- User code, and waits for other processes, run in an `interruptible` block, which suspends the deferral.
- A process that is forked inside a `defer_interrupts` block starts outside of it.
"""

import os
import signal
import threading
from contextlib import contextmanager


class _State:
    """State of the main thread."""

    depth = 0  # number of nested `defer_interrupts` blocks
    pending = False  # whether a recorded signal has not been raised yet
    interruptible = 0  # number of nested `interruptible` blocks


def _record(signum, frame):
    """The SIGINT handler inside a `defer_interrupts` block."""
    if _State.interruptible or (_State.pending and _State.depth):
        signal.default_int_handler(signum, frame)
    _State.pending = True


def in_main_thread():
    """Whether the calling thread is the main thread."""
    return threading.current_thread() is threading.main_thread()


class defer_interrupts:  # noqa: N801  # a context manager, named like contextlib's
    """Defer Ctrl-C inside the `with` block to `raise_if_interrupted`, or to the end of the block."""

    __slots__ = ("counted", "interruptible")

    def __enter__(self):
        self.counted, self.interruptible = False, 0
        if not in_main_thread():
            return self
        if not _State.depth:
            if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
                return self
            _State.pending = False
            try:
                signal.signal(signal.SIGINT, _record)  # an earlier signal is raised here, where nothing has begun
            except ValueError:  # a sub-interpreter
                return self
        _State.depth += 1
        # suspend an enclosing `interruptible` block, whose user code has called the package
        self.interruptible, _State.interruptible, self.counted = _State.interruptible, 0, True
        return self

    def __exit__(self, kind, error, traceback):
        if not self.counted or not _State.depth:  # depth 0: in a process forked in the block
            return
        _State.depth -= 1
        _State.interruptible = self.interruptible
        if _State.depth and not _State.interruptible:
            return
        if not _State.depth and signal.getsignal(signal.SIGINT) is _record:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if _State.pending:
            _State.pending = False
            if not isinstance(error, KeyboardInterrupt):
                raise KeyboardInterrupt


def raise_if_interrupted():
    """Raise KeyboardInterrupt if Ctrl-C was pressed inside a `defer_interrupts` block of this thread."""
    if _State.pending and _State.depth and in_main_thread():
        raise KeyboardInterrupt


def interrupt_flag():
    """A function that returns, in any thread, whether `raise_if_interrupted` would raise in the calling thread."""
    if _State.depth and in_main_thread():
        return lambda: _State.pending
    return lambda: False


@contextmanager
def interruptible():
    """Raise Ctrl-C immediately inside the `with` block, as outside of `defer_interrupts`: for user code."""
    if not _State.depth or not in_main_thread():
        yield
        return
    raise_if_interrupted()
    _State.interruptible += 1
    try:
        yield
    finally:
        _State.interruptible -= 1


@contextmanager
def block_interrupts():
    """Raise no Ctrl-C inside the `with` block, whichever handler SIGINT has; call the handler at the end of the block.

    For short work that must not be interrupted: importing extension modules, compilation.
    """
    handler = signal.getsignal(signal.SIGINT) if in_main_thread() else None
    if not callable(handler):  # in another thread, or with a handler that was not installed from Python
        yield
        return
    received = []

    def hold(signum, frame):
        received.append(signum)

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
        if received:
            signal.raise_signal(signal.SIGINT)


def _after_fork():
    """Reset the state in a child process, which is not inside the blocks of its parent."""
    if signal.getsignal(signal.SIGINT) is _record:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    _State.depth = _State.interruptible = 0
    _State.pending = False


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
