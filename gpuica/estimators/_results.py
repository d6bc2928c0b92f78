"""Results on their way out: to an array of the caller's kind, or piece by piece to where they fit."""

import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from ..device import CPU, format_bytes
from ..device.transfers import DownloadWriter
from ..io.sources import Source
from ..io.writers import open_writer
from ._shell import locate_nonfinite


def to_output(estimator, given, device, rows, function, params, width, out=None, scratch=None):
    """function(chunk, *params) of all rows, (n_rows, width) in the dtype of the rows, as the caller wants it.

    out: None for an array of the caller's kind, or a path of a .npy file or an array to be assigned to, which is
    written piece by piece and returned.  scratch: an array (n_rows, width) where the rows are that may be overwritten,
    or None.  MemoryError if the result needs more memory than the budget.
    """
    shape = given.n_here, width
    with locate_nonfinite(estimator, given):
        if out is None and leaves(given, device):
            return given.back(received(given, device, shape, rows.dtype, rows.for_each, function, *params)[0])
        if out is None:
            with room_for(given, device, shape, rows.dtype, known=scratch is not None):
                return given.back(rows.map(function, *params, out=scratch))
        writer = open_writer(out, given.n_here, width, rows.dtype)
        write_all(writer, rows.for_each, function, *params, tell=teller(estimator, given.n_here))
    return out


def leaves(given, device):
    """Whether results leave the device for the host, and so need not be there as a whole."""
    return device != CPU and given.on_host


def received(given, device, shape, dtype, each, *what):
    """(a host array of this shape, filled with the rows that each(write, *what) writes; what that returns)."""
    refuse_large(given, replace(CPU, limit=device.limit), shape, dtype)
    writer = DownloadWriter(shape, dtype, device)
    answer = write_all(writer, each, *what)
    return writer.array, answer


@contextmanager
def room_for(given, device, shape, dtype, known=False):
    """MemoryError if a result of this shape does not fit the memory budget, for X that is not in memory itself, or in
    the `with` block the device.  known: whether there is room for it."""
    if not known:
        refuse_large(given, device, shape, dtype)
    try:
        yield
    except device.out_of_memory as error:
        raise _too_large(device, shape, dtype) from error


def refuse_large(given, device, shape, dtype):
    """MemoryError if a result of this shape does not fit the memory budget; for X that is not in memory itself."""
    if isinstance(given.array, Source) and not device.fits(np.dtype(dtype).itemsize * shape[0] * shape[1]):
        raise _too_large(device, shape, dtype)


def _too_large(device, shape, dtype):
    size = np.dtype(dtype).itemsize * shape[0] * shape[1]
    return MemoryError(
        f"the result, {shape[0]} x {shape[1]}, takes {format_bytes(size)}, more than half of the memory that may be "
        f"used, {format_bytes(2 * device.budget())}: write it to a file or array instead, "
        "transform(X, out='result.npy'), or raise memory_limit."
    )


def write_all(writer, each, *what, tell=None):
    """each(writer.write, *what), and an end that leaves nothing half done.  tell: called with every part."""
    try:
        answer = each((lambda part: (writer.write(part), tell(part))) if tell else writer.write, *what)
        writer.close()
    except BaseException:
        writer.abort()
        raise
    return answer


def teller(estimator, n_rows):
    """For a verbose estimator, a function that is called with the results of each chunk and prints how far it is."""
    if not getattr(estimator, "verbose", 0):
        return None
    began = last = time.perf_counter()
    done = 0

    def tell(part):
        nonlocal done, last
        done += len(part[0]) if isinstance(part, tuple) else len(part)
        if done == n_rows or time.perf_counter() - last > 10:
            last = time.perf_counter()
            print(f"[{type(estimator).__name__}] {done} of {n_rows} rows written, {last - began:.1f} s", flush=True)

    return tell
