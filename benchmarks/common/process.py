"""Measurements in a process of their own, so that peak memory, threads and crashes are theirs alone."""

import os
import signal
import traceback
from multiprocessing import get_context


class ProcessFailed(Exception):  # noqa: N818
    """A function in another process raised, or its process ended.

    signal: the number of the signal that ended the process, or None.
    """

    def __init__(self, message, signal=None):
        super().__init__(message)
        self.signal = signal


def in_new_process(function, *args, **options):
    """`function(*args, **options)` in a newly started interpreter, whose output is discarded.

    The function must be importable, and all that is passed or returned must be picklable.  Raises `ProcessFailed` with
    the last line of the traceback, or with the name of the signal that ended the process.
    """
    context = get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, args, options))
    process.start()
    sender.close()
    try:
        succeeded, value = receiver.recv()
    except EOFError:  # the process ended before it could send anything
        succeeded, value = False, None
    process.join()
    if succeeded:
        return value
    if value is not None:
        raise ProcessFailed(value)
    status = process.exitcode
    if status < 0:
        raise ProcessFailed(f"killed by {signal.Signals(-status).name}", -status)
    raise ProcessFailed(f"its process ended with status {status}")


def _send(sender, function, args, options):
    """Send (True, result) or (False, last line of the traceback) to the parent process."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    try:
        outcome = True, function(*args, **options)
    except Exception as error:
        outcome = False, "".join(traceback.format_exception_only(error)).strip().splitlines()[-1]
    sender.send(outcome)
