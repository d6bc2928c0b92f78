"""Warnings that are attributed to the line of the user's call, at any depth of the call stack."""

import sys
import threading
import warnings
from contextlib import contextmanager

# Packages whose frames are skipped: this one, and those whose wrappers call its methods.
INSIDE = {__name__.partition(".")[0], "sklearn", "joblib"}

_of_thread = threading.local()


def warn(message, category=UserWarning):
    """Warn at the line of the innermost caller outside INSIDE; inside `collect_warnings`, append to its list."""
    if (collected := getattr(_of_thread, "collected", None)) is not None:
        collected.append((message, category))
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
def collect_warnings():
    """Collect the warnings of this thread inside the `with` block in a list of (message, category).

    For worker threads, whose call stacks do not contain the user's call: another thread issues the warnings.
    """
    before = getattr(_of_thread, "collected", None)
    collected: list[tuple] = []
    _of_thread.collected = collected
    try:
        yield collected
    finally:
        _of_thread.collected = before
