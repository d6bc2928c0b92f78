"""Where rows are written to, in order: .npy files, arrays of any library, shards of compressed codes."""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, save_npz

from ..device import to_host

SHARD = 1 << 28  # bytes of a file of compressed codes


class NpyFile:
    """A .npy file of rows, written from the first to the last.  It bears its name once it is complete.

    Written, not mapped: a full disk is then an error that can be told, where a mapped page ends the process.
    """

    def __init__(self, path, n_features, dtype, n_rows=None):
        """n_rows: if known, room on the disk is asked for now, before work is done that could not be stored."""
        self.path, self.dtype, self.n_features, self.n_rows = Path(path), np.dtype(dtype), n_features, 0
        self.partial = self.path.with_name(self.path.name + ".partial")
        self.file = open(self.partial, "wb")  # noqa: SIM115  # closed by close or abandon
        try:
            self._write_header(n_rows or 0)
            if n_rows:
                self._reserve(n_rows * n_features * self.dtype.itemsize)
        except BaseException:
            self.abandon()
            raise

    def write(self, part):
        """Append rows (n, n_features)."""
        part = to_host(part)
        if part.dtype != self.dtype or part.shape[1:] != (self.n_features,):
            raise ValueError(
                f"{self.path} holds rows of {self.n_features} {self.dtype}, and cannot take rows of shape "
                f"{part.shape[1:]} and {part.dtype}."
            )
        try:
            self.file.write(np.ascontiguousarray(part))
        except OSError as error:
            raise self._told(error) from error
        self.n_rows += len(part)

    def close(self):
        """Write how many rows there are, and give the file its name."""
        try:
            self._write_header(self.n_rows)
            self.file.flush()
            self.file.close()
        except OSError as error:
            raise self._told(error) from error
        os.replace(self.partial, self.path)

    def abandon(self):
        """Remove what was written."""
        with suppress(OSError):  # what is buffered may find no room either
            self.file.close()
        self.partial.unlink(missing_ok=True)

    def _write_header(self, n_rows):
        """A header of a length that does not depend on the number of rows."""
        descr, shape = np.lib.format.dtype_to_descr(self.dtype), (n_rows, self.n_features)
        about = str({"descr": descr, "fortran_order": False, "shape": shape})
        self.file.seek(0)
        self.file.write(b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + about.ljust(117).encode() + b"\n")

    def _reserve(self, size):
        if not hasattr(os, "posix_fallocate"):
            return
        self.file.flush()
        try:
            os.posix_fallocate(self.file.fileno(), self.file.tell(), size)
        except OSError as error:
            if error.errno in (28, 122):  # no space left, quota exceeded
                raise self._told(error) from error

    def _told(self, error):
        return OSError(error.errno, f"{self.path} could not be written ({error.strerror}); what was written is removed")


class Codes:
    """Compressed codes in .npz files of a directory, as scipy.sparse.load_npz reads them: codes-00000.npz, ..."""

    def __init__(self, directory, n_atoms):
        self.directory, self.n_atoms, self.paths = Path(directory), n_atoms, []
        self.directory.mkdir(parents=True, exist_ok=True)
        if any(self.directory.glob("codes-*.npz")):
            raise FileExistsError(f"{directory} holds codes already: remove them, or write to another directory.")
        self._parts, self._size = [], 0

    def write(self, part):
        """Append codes: (non-zeros a row (n,), their columns, their values)."""
        self._parts.append(part)
        self._size += sum(array.nbytes for array in part)
        if self._size >= SHARD:
            self._flush()

    def close(self):
        if self._parts:
            self._flush()

    def abandon(self):
        """Remove what was written."""
        for path in self.paths:
            path.unlink(missing_ok=True)

    def _flush(self):
        path = self.directory / f"codes-{len(self.paths):05d}.npz"
        self.paths.append(path)
        partial = path.with_suffix(".partial.npz")
        try:
            save_npz(partial, as_csr(self._parts, self.n_atoms, None), compressed=False)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise OSError(error.errno, f"{path} could not be written ({error.strerror})") from error
        os.replace(partial, path)
        self._parts, self._size = [], 0


def as_csr(parts, n_atoms, dtype):
    """csr_array (n, n_atoms) of this dtype, of parts (non-zeros a row, columns, values)."""
    if not parts:  # a rank without rows
        return csr_array((0, n_atoms), dtype=dtype)
    counts, indices, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return csr_array((values, indices, np.concatenate([[0], np.cumsum(counts)])), shape=(len(counts), n_atoms))


class Into:
    """Rows put into an array, of any library that takes `array[a:b] = rows`: NumPy, zarr, h5py."""

    def __init__(self, array, n_rows, n_features):
        if tuple(array.shape) != (n_rows, n_features):
            raise ValueError(f"out has shape {tuple(array.shape)}, but the result has {(n_rows, n_features)}.")
        self.array, self.place = array, 0

    def write(self, part):
        """Append rows (n, n_features)."""
        self.array[self.place : self.place + len(part)] = to_host(part)
        self.place += len(part)

    def close(self):
        pass

    def abandon(self):
        pass


def open_sink(out, n_rows, n_features, dtype):
    """Where `out` means: a path of a .npy file, or an array (n_rows, n_features) that can be assigned to."""
    if isinstance(out, str | os.PathLike):
        if Path(out).suffix != ".npy":
            raise ValueError(f"out={os.fspath(out)!r} must end in .npy, or be an array (zarr, h5py, memmap, ...).")
        return NpyFile(out, n_features, dtype, n_rows)
    return Into(out, n_rows, n_features)
