"""Results of `transform`: as an array like X, or written in chunks to a file or array."""

import time
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from ..device import CPU, format_bytes
from ..device.transfers import DownloadWriter
from ..input import report_nonfinite
from ..io.sources import Source
from ..io.writers import open_writer


def to_output(estimator, data, device, rows, function, params, width, out=None, scratch=None):
    """function(chunk, *params) of all rows, (n_rows, width) in the dtype of the rows, as an array like X or in `out`.

    out: None, or the path of a .npy file or an array with assignable rows, which is written in chunks and returned.
    scratch: an array (n_rows, width) on the rows' device that can be overwritten, or None.  MemoryError if the result
    exceeds the memory budget.
    """
    shape = data.n_local, width
    with report_nonfinite(estimator, data):
        if out is None and is_downloaded(data, device):
            return data.to_caller(download_rows(data, device, shape, rows.dtype, rows.for_each, function, *params)[0])
        if out is None:
            with memory_errors(data, device, shape, rows.dtype, allocated=scratch is not None):
                return data.to_caller(rows.map(function, *params, out=scratch))
        writer = open_writer(out, data.n_local, width, rows.dtype)
        write_all(writer, rows.for_each, function, *params, report=progress_printer(estimator, data.n_local))
    return out


def is_downloaded(data, device):
    """Whether results are computed on a GPU and returned on the host: then they need not fit the GPU's memory."""
    return device != CPU and data.on_host


def download_rows(data, device, shape, dtype, for_each, *call):
    """A host array of this shape with the rows that for_each(write, *call) passes to write, and what for_each
    returns."""
    check_size(data, replace(CPU, limit=device.limit), shape, dtype)
    writer = DownloadWriter(shape, dtype, device)
    returned = write_all(writer, for_each, *call)
    return writer.array, returned


@contextmanager
def memory_errors(data, device, shape, dtype, allocated=False):
    """MemoryError with the remedy, at once for out-of-core X or when the device runs out of memory in the `with` block.

    allocated: whether the memory of the result is allocated already.
    """
    if not allocated:
        check_size(data, device, shape, dtype)
    try:
        yield
    except device.out_of_memory as error:
        raise _too_large(device, shape, dtype) from error


def check_size(data, device, shape, dtype):
    """MemoryError if X is out-of-core and a result of this shape exceeds the memory budget."""
    if isinstance(data.array, Source) and not device.fits(np.dtype(dtype).itemsize * shape[0] * shape[1]):
        raise _too_large(device, shape, dtype)


def _too_large(device, shape, dtype):
    """The MemoryError for a result of this shape."""
    size = np.dtype(dtype).itemsize * shape[0] * shape[1]
    return MemoryError(
        f"the result, {shape[0]} x {shape[1]}, takes {format_bytes(size)}, which exceeds half of the memory budget, "
        f"{format_bytes(2 * device.budget())}: write it to a file or array, transform(X, out='result.npy'), or "
        "increase memory_limit."
    )


def write_all(writer, for_each, *call, report=None):
    """for_each(writer.write, *call), then close the writer, or abort it on an error.  report: called with each part."""
    try:
        returned = for_each((lambda part: (writer.write(part), report(part))) if report else writer.write, *call)
        writer.close()
    except BaseException:
        writer.abandon()
        raise
    return returned


def progress_printer(estimator, n_rows):
    """For a verbose estimator, a function to be called with each part written, which prints the progress; else None."""
    if not getattr(estimator, "verbose", 0):
        return None
    began = last = time.perf_counter()
    done = 0

    def report(part):
        nonlocal done, last
        done += len(part[0]) if isinstance(part, tuple) else len(part)
        if done == n_rows or time.perf_counter() - last > 10:
            last = time.perf_counter()
            print(f"[{type(estimator).__name__}] {done} of {n_rows} rows written, {last - began:.1f} s", flush=True)

    return report
