"""Where rows are written to, in order: .npy files, arrays of any library, files of compressed codes.

A file gets its name when all of what it belongs to is complete; until then its name ends in .partial, which no pattern
for files of its kind matches.  An error or interrupt removes it, a killed process leaves it.
"""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, save_npz

from ..device import array_device, to_host

SHARD = 1 << 28  # bytes of a file of compressed codes
PARTIAL = ".partial"


class NpyWriter:
    """A .npy file of rows, written from the first to the last.  It bears its name once it is complete.

    Written, not mapped: a full disk is then an error that can be told, where a mapped page ends the process.
    """

    def __init__(self, path, n_features, dtype, n_rows=None):
        """n_rows: if known, room on the disk is asked for now, before work is done that could not be stored."""
        self.path, self.dtype, self.n_features, self.n_rows = Path(path), np.dtype(dtype), n_features, 0
        self.partial = partial_of(self.path)
        self.file = open_partial(self.path)
        try:
            self._write_header(n_rows or 0)
            if n_rows:
                self._reserve(n_rows * n_features * self.dtype.itemsize)
        except BaseException:
            self.abort()
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
            raise _not_written(self.path, error) from error
        self.n_rows += len(part)

    def complete(self):
        """Write how many rows there are; the file has yet to get its name."""
        try:
            self._write_header(self.n_rows)
            self.file.flush()
            self.file.close()
        except OSError as error:
            raise _not_written(self.path, error) from error

    def close(self):
        """Write how many rows there are, and give the file its name."""
        self.complete()
        give_names([self.path])

    def abort(self):
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
                raise _not_written(self.path, error) from error


class NpyShardWriter:
    """.npy files of a directory, rows-00000.npy, ..., of some bytes each.  All get their names when all are complete,
    the first one last: where there is a rows-00000.npy, there are all."""

    def __init__(self, path, size):
        self.directory, self.size = make_directory(path), size
        if any(self.directory.glob("*.npy")):
            raise FileExistsError(f"{path} holds .npy files already: spool to an empty directory, or use shards().")
        remove_partial(self.directory, "rows-*.npy")
        self.files: list[NpyWriter] = []

    def write(self, part):
        """Append rows (n, n_features)."""
        if not self.files or self.files[-1].file.closed:
            path = self.directory / f"rows-{len(self.files):05d}.npy"
            self.files.append(NpyWriter(path, part.shape[1], part.dtype))
        file = self.files[-1]
        file.write(part)
        if file.n_rows * file.n_features * file.dtype.itemsize >= self.size:
            file.complete()

    def close(self):
        """Give the files their names; return their paths."""
        if self.files and not self.files[-1].file.closed:
            self.files[-1].complete()
        paths = [file.path for file in self.files]
        give_names(paths)
        return paths

    def abort(self):
        """Remove what was written."""
        for file in self.files:
            file.abort()
            file.path.unlink(missing_ok=True)


class CodesWriter:
    """Compressed codes in .npz files of a directory, as scipy.sparse.load_npz reads them: codes-00000.npz, ...  All get
    their names when all are complete, the first one last: where there is a codes-00000.npz, there are all."""

    def __init__(self, directory, n_atoms):
        if not isinstance(directory, str | os.PathLike):
            raise TypeError(
                f"out must be a directory for files of sparse codes, got {type(directory).__name__}: use "
                "sparse_output=False to write to an array."
            )
        self.directory, self.n_atoms, self.paths = make_directory(directory), n_atoms, []
        if any(self.directory.glob("codes-*.npz")):
            raise FileExistsError(f"{directory} holds codes already: remove them, or write to another directory.")
        remove_partial(self.directory, "codes-*.npz")
        self._parts, self._size = [], 0

    def write(self, part):
        """Append codes: (non-zeros a row (n,), their columns, their values)."""
        self._parts.append(part)
        self._size += sum(array.nbytes for array in part)
        if self._size >= SHARD:
            self._flush()

    def close(self):
        """Write what is left, and give the files their names."""
        if self._parts:
            self._flush()
        give_names(self.paths)

    def abort(self):
        """Remove what was written."""
        for path in self.paths:
            partial_of(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def _flush(self):
        path = self.directory / f"codes-{len(self.paths):05d}.npz"
        self.paths.append(path)
        file = open_partial(path)
        try:
            with file:
                save_npz(file, as_csr(self._parts, self.n_atoms, None), compressed=False)
        except OSError as error:
            raise _not_written(path, error) from error
        self._parts, self._size = [], 0


def as_csr(parts, n_atoms, dtype):
    """csr_array (n, n_atoms) of this dtype, of parts (non-zeros a row, columns, values)."""
    if not parts:  # a rank without rows
        return csr_array((0, n_atoms), dtype=dtype)
    counts, indices, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return csr_array((values, indices, np.concatenate([[0], np.cumsum(counts)])), shape=(len(counts), n_atoms))


class ArrayWriter:
    """Rows put into an array, of any library that takes `array[a:b] = rows`: NumPy, CuPy, zarr, h5py.

    The array is the caller's: what was put into it before an error or interrupt stays there.
    """

    def __init__(self, array, n_rows, n_features, dtype):
        """dtype: of the rows.  TypeError for an array that would hold other numbers than these."""
        kind = type(array).__name__
        if not hasattr(array, "shape") or not hasattr(array, "__setitem__"):
            raise TypeError(f"out must be the path of a .npy file, or an array (zarr, h5py, memmap, ...); got {kind}.")
        if tuple(array.shape) != (n_rows, n_features):
            raise ValueError(f"out has shape {tuple(array.shape)}, but the result has {(n_rows, n_features)}.")
        flags = getattr(array, "flags", None)
        if flags is not None and not getattr(flags, "writeable", True):
            raise ValueError("out is read-only: pass an array that can be written to (mode='r+' of a memmap).")
        self.array, self.place, self.dtype = array, 0, _dtype_for(array, dtype)
        self.device = array_device(array)

    def write(self, part):
        """Append rows (n, n_features).  ValueError for numbers that overflow in the array."""
        given, xp = self.device.put(part), self.device.xp
        with np.errstate(over="ignore"):
            part = given.astype(self.dtype, copy=False)
        narrower = part.dtype.kind == "f" and part.itemsize < given.itemsize
        if narrower and bool((~xp.isfinite(part) & xp.isfinite(given)).any()):
            raise ValueError(
                f"out holds {self.dtype}, which ends at {float(np.finfo(self.dtype).max):.3g}, and the result has "
                f"{float(abs(given[xp.isfinite(given)]).max()):.3g}: pass an array of {given.dtype}."
            )
        self.array[self.place : self.place + len(part)] = part
        self.place += len(part)

    def close(self):
        pass

    def abort(self):
        pass


def _dtype_for(array, dtype):
    """The dtype of an array that is to hold numbers of this dtype; TypeError if it holds other numbers."""
    try:
        holds = np.dtype(array.dtype)
    except (AttributeError, TypeError):
        raise TypeError(
            f"out is a {type(array).__name__} whose dtype is none of NumPy's: pass an array of NumPy, zarr or h5py."
        ) from None
    if not np.can_cast(dtype, holds, "same_kind"):
        raise TypeError(f"out holds {holds}, and the result is {dtype}, which it would cut: pass an array of {dtype}.")
    return holds


def open_writer(out, n_rows, n_features, dtype):
    """Where `out` means: a path of a .npy file, or an array (n_rows, n_features) that can be assigned to."""
    if isinstance(out, str | os.PathLike):
        if Path(out).suffix != ".npy":
            raise ValueError(f"out={os.fspath(out)!r} must end in .npy, or be an array (zarr, h5py, memmap, ...).")
        return NpyWriter(out, n_features, dtype, n_rows)
    return ArrayWriter(out, n_rows, n_features, dtype)


# ---- names -----------------------------------------------------------------------------------------------------------
def partial_of(path):
    """The name of a file before it is complete."""
    return path.with_name(path.name + PARTIAL)


def open_partial(path):
    """The file that will get this path, open to be written; OSError in one sentence, that names path."""
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory: name a file.")
    try:
        return open(partial_of(path), "wb")
    except OSError as error:
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path} cannot be written: there is no directory {path.parent}.") from None
        raise OSError(error.errno, f"{path} cannot be written ({error.strerror}): name another directory") from error


def give_names(paths):
    """Rename complete files from their partial names; the first one last."""
    for path in reversed(paths):
        try:
            os.replace(partial_of(path), path)
        except OSError as error:
            raise _not_written(path, error) from error


def make_directory(path):
    """The directory, made if need be; OSError in one sentence."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(f"{path} cannot be a directory: it, or a part of its path, is a file.") from None
    except OSError as error:
        raise OSError(error.errno, f"{path} cannot be made ({error.strerror}): name another directory") from error
    return Path(path)


def remove_partial(directory, pattern):
    """Remove what a process that was killed left of files of this pattern."""
    for path in directory.glob(pattern + PARTIAL):
        path.unlink(missing_ok=True)


def _not_written(path, error):
    return OSError(error.errno, f"{path} could not be written ({error.strerror}); what was written is removed")
