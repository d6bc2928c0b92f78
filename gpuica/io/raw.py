"""Matrices stored in a file as plain numbers, by rows or by columns, read by positioned reads.

Files are read into buffers, not memory-mapped: the buffers bound the memory, and a disk error or a truncated file
raises an exception instead of a signal.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from .opening import Stamp, regular_descriptor
from .sources import Source, check_dtype, check_shape, runs

N_READERS = 8  # threads that read short parts of a file: 64 MB in runs of 16 rows take 0.10 s instead of 0.24, uncached
SLAB_BYTES = 1 << 20  # a group of columns that is read at once
MAX_GAP_BYTES = 1 << 14  # gaps in a column that are read along: one more read call costs about as much


class RawMatrix(Source):
    """A matrix in C order in a file, from a given offset on.

    Each read compares device, inode, size and modification time of the file with those when it was opened, so that all
    passes read the same data.
    """

    divisible = True

    def __init__(self, path, offset, shape, stored, is_bfloat16=False, tensor=None, stamp=None):
        """offset: bytes before the first number.  stamp: of the file when its header was read, or None."""
        self.path, self.offset, self.tensor = os.fspath(path), offset, tensor
        self.shape, self.stored, self.is_bfloat16 = (
            check_shape(shape, self._name),
            check_dtype(stored, self._name),
            is_bfloat16,
        )
        self._row = self.shape[1] * stored.itemsize
        self.stamp = stamp or Stamp.of(os.stat(self.path))
        self._check_size(self.stamp.size)

    def read(self, start, stop, buffer=None):
        out = np.empty((stop - start, self.shape[1]), self.stored) if buffer is None else buffer[: stop - start]
        self._read([(start, out)])
        return out

    def read_rows(self, indices):
        out, row, parts = np.empty((len(indices), self.shape[1]), self.stored), 0, []
        for start, stop in zip(*runs(indices), strict=True):
            parts.append((int(start), out[row : row + stop - start]))
            row += int(stop - start)
        if len(parts) < N_READERS**2:
            self._read(parts)
        else:  # with one short request at a time a disk is idle most of the time
            with ThreadPoolExecutor(N_READERS) as readers:
                list(readers.map(self._read, (parts[i::N_READERS] for i in range(N_READERS))))
        return out

    def locate(self, row):
        return f"row {row} of {self._name}"

    @property
    def _name(self):
        return f"{self.path} ({self.tensor})" if self.tensor else self.path

    def _read(self, parts):
        """Fill each (first row, array) from the file."""
        with self._unchanged() as file:
            for start, out in parts:
                self._fill(file, self.offset + start * self._row, out)

    @contextmanager
    def _unchanged(self):
        """The descriptor of the file; ValueError at the end of the block if the file has changed since `__init__`."""
        file = regular_descriptor(self.path)
        try:
            yield file
            now = Stamp.of(os.fstat(file))
        finally:
            os.close(file)
        if now != self.stamp:
            self._check_size(now.size)
            what = "replaced by another file" if now[:2] != self.stamp[:2] else "written to"
            raise ValueError(
                f"{self.path} was {what} while it was in use: every pass must read the same numbers. Fit again, and "
                "leave the file as it is until the fit has ended."
            )

    def _fill(self, file, position, out):
        """Fill a contiguous array with the bytes of the file from a position on."""
        view = memoryview(out.reshape(-1).view(np.uint8))
        while len(view):  # a read may return fewer bytes than requested
            done = os.preadv(file, [view], position)
            if not done:
                self._check_size(os.fstat(file).st_size)
                raise OSError(f"{self.path} ended while it was read.")
            view, position = view[done:], position + done

    def _check_size(self, size):
        """ValueError if the file is smaller than its header declares."""
        needed = self.offset + self.shape[0] * self._row
        if size < needed:
            raise ValueError(
                f"{self.path} is truncated: its header promises {self.shape[0]} rows of {self.shape[1]} {self.stored}, "
                f"{needed} bytes, but it has {size}. Write or copy it again."
            )


class RawColumns(RawMatrix):
    """A matrix in Fortran order in a file.

    It is read by groups of columns.  Random rows cost a read for each column, so blocks are worth keeping in memory.
    """

    slow = True
    divisible = False

    def read(self, start, stop, buffer=None):
        out = np.empty((stop - start, self.shape[1]), self.stored) if buffer is None else buffer[: stop - start]
        self._gather([(start, stop, slice(None), out)])
        return out

    def read_rows(self, indices):
        indices = np.asarray(indices)
        out, parts = np.empty((len(indices), self.shape[1]), self.stored), []
        for first, last in self._spans(indices):
            start = int(indices[first])
            pick = indices[first:last] - start
            parts.append((start, start + int(pick[-1]) + 1, pick, out[first:last]))
        self._gather(parts)
        return out

    def _spans(self, indices):
        """(first, last) positions in ascending indices of the parts of a column that are read at once."""
        if not len(indices):
            return []
        gap, most = max(1, MAX_GAP_BYTES // self.stored.itemsize), max(1, SLAB_BYTES // self.stored.itemsize)
        far = np.diff(indices) > gap
        full = np.diff((indices - indices[0]) // most) > 0
        cuts = np.r_[0, np.flatnonzero(far | full) + 1, len(indices)]
        return list(zip(cuts[:-1].tolist(), cuts[1:].tolist(), strict=True))

    def _gather(self, parts):
        """Fill each out of (start, stop, pick, out) with the picked rows of start to stop."""
        n_rows, n_columns = self.shape
        with self._unchanged() as file:
            for start, stop, pick, out in parts:
                width = max(1, min(n_columns, SLAB_BYTES // max(1, (stop - start) * self.stored.itemsize)))
                slab = np.empty((width, stop - start), self.stored)
                for left in range(0, n_columns, width):
                    some = slab[: min(width, n_columns - left)]
                    for j, column in enumerate(some, left):
                        self._fill(file, self.offset + (j * n_rows + start) * self.stored.itemsize, column)
                    out[:, left : left + len(some)] = some[:, pick].T


def mapped_file(array):
    """The source for a memory-mapped array, or None unless its numbers are contiguous in a file."""
    root = array
    while isinstance(root.base, np.memmap):
        root = root.base
    if array.filename is None or array.mode == "c" or array.dtype.byteorder == ">":
        return None
    if not (array.flags.c_contiguous or array.flags.f_contiguous) or not os.path.isfile(array.filename):
        return None
    addresses = [part.__array_interface__["data"][0] for part in (array, root)]
    kind = RawMatrix if array.flags.c_contiguous else RawColumns
    return kind(array.filename, root.offset + addresses[0] - addresses[1], array.shape, array.dtype)
