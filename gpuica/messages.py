"""Warnings that point at the caller's line, whatever lies between it and the place that warns."""

import sys
import threading
import warnings
from contextlib import contextmanager

# Packages whose frames lie between the caller and a warning: ours, and those whose wrappers call our methods.
INSIDE = {__name__.partition(".")[0], "sklearn", "joblib"}

_of_thread = threading.local()


def warn(message, category=UserWarning):
    """Warn at the line of the innermost caller outside INSIDE; within `collected`, add to its list."""
    if (waiting := getattr(_of_thread, "waiting", None)) is not None:
        waiting.append((message, category))
        return
    frame = sys._getframe(1)
    while _package(frame) in INSIDE and frame.f_back is not None:
        frame = frame.f_back
    scope = frame.f_globals
    registry = scope.setdefault("__warningregistry__", {})
    module = scope.get("__name__") or "<unknown>"
    warnings.warn_explicit(message, category, frame.f_code.co_filename, frame.f_lineno, module, registry)


def _package(frame):
    return str(frame.f_globals.get("__name__")).partition(".")[0]


@contextmanager
def collected():
    """A list that takes the warnings of this thread inside the `with` block, (message, category), for another thread
    to raise: the frames of a worker thread do not lead to the caller."""
    before = getattr(_of_thread, "waiting", None)
    waiting: list[tuple] = []
    _of_thread.waiting = waiting
    try:
        yield waiting
    finally:
        _of_thread.waiting = before
