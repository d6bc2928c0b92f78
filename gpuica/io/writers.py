"""Writers of rows, in order: to .npy files, to arrays of any library, to files of compressed codes.

A writer has `write(part)`, `close()`, and `abort()` after an error.  Files get their names when all are complete, see
`partial`.
"""

import os
from contextlib import suppress
from pathlib import Path

import numpy as np
from scipy.sparse import csr_array, save_npz

from ..device import array_device, to_host
from .partial import make_directory, not_written, open_partial, partial_of, remove_partial, rename_complete

CODES_FILE_BYTES = 1 << 28


class NpyWriter:
    """A .npy file of rows, which gets its name once it is complete.

    Written, not memory-mapped: a full disk then raises an error, where a mapped page would end the process.
    """

    def __init__(self, path, n_features, dtype, n_rows=None):
        """n_rows: if known, disk space is reserved now, before results are computed that could not be stored."""
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
            raise not_written(self.path, error) from error
        self.n_rows += len(part)

    def complete(self):
        """Write the final header and close the file, still under its partial name."""
        try:
            self._write_header(self.n_rows)
            self.file.flush()
            self.file.close()
        except OSError as error:
            raise not_written(self.path, error) from error

    def close(self):
        """Complete the file and rename it to its final name."""
        self.complete()
        rename_complete([self.path])

    def abort(self):
        """Remove the files written so far."""
        with suppress(OSError):  # the buffered rest may not fit on the disk either
            self.file.close()
        self.partial.unlink(missing_ok=True)

    def _write_header(self, n_rows):
        """Write the header to the start of the file; NumPy pads it, so that its length is the same for any n_rows."""
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False}
        self.file.seek(0)
        np.lib.format.write_array_header_1_0(self.file, header | {"shape": (n_rows, self.n_features)})

    def _reserve(self, size):
        """Allocate disk space for so many bytes, so that a full disk is detected before the work."""
        if not hasattr(os, "posix_fallocate"):
            return
        self.file.flush()
        try:
            os.posix_fallocate(self.file.fileno(), self.file.tell(), size)
        except OSError as error:
            if error.errno in (28, 122):  # no space left, quota exceeded
                raise not_written(self.path, error) from error


class NpyShardWriter:
    """.npy files rows-00000.npy, ... of a directory, of about `size` bytes each.

    All get their names when all are complete, the first one last: if rows-00000.npy exists, all do.
    """

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
        """Complete the files and rename them to their final names; return their paths."""
        if self.files and not self.files[-1].file.closed:
            self.files[-1].complete()
        paths = [file.path for file in self.files]
        rename_complete(paths)
        return paths

    def abort(self):
        """Remove the files written so far."""
        for file in self.files:
            file.abort()
            file.path.unlink(missing_ok=True)


class CodesWriter:
    """Compressed codes in files codes-00000.npz, ... of a directory, which scipy.sparse.load_npz reads.

    All get their names when all are complete, the first one last: if codes-00000.npz exists, all do.
    """

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
        """Append codes (number of non-zeros of each row (n,), their columns, their values)."""
        self._parts.append(part)
        self._size += sum(array.nbytes for array in part)
        if self._size >= CODES_FILE_BYTES:
            self._flush()

    def close(self):
        """Write the rest, and rename the files to their final names."""
        if self._parts:
            self._flush()
        rename_complete(self.paths)

    def abort(self):
        """Remove the files written so far."""
        for path in self.paths:
            partial_of(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)

    def _flush(self):
        """Write the codes that are held in memory to the next file."""
        path = self.directory / f"codes-{len(self.paths):05d}.npz"
        self.paths.append(path)
        file = open_partial(path)
        try:
            with file:
                save_npz(file, as_csr(self._parts, self.n_atoms, None), compressed=False)
        except OSError as error:
            raise not_written(path, error) from error
        self._parts, self._size = [], 0


def as_csr(parts, n_atoms, dtype):
    """csr_array (n, n_atoms) of this dtype, from parts (number of non-zeros of each row, columns, values)."""
    if not parts:  # a rank without rows
        return csr_array((0, n_atoms), dtype=dtype)
    counts, indices, values = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return csr_array((values, indices, np.concatenate([[0], np.cumsum(counts)])), shape=(len(counts), n_atoms))


class ArrayWriter:
    """Rows of an array of any library that supports `array[a:b] = rows`: NumPy, CuPy, zarr, h5py.

    The array belongs to the caller: rows written before an error or interrupt stay in it.
    """

    def __init__(self, array, n_rows, n_features, dtype):
        """dtype: of the rows.  TypeError for an array whose dtype cannot hold them."""
        kind = type(array).__name__
        if not hasattr(array, "shape") or not hasattr(array, "__setitem__"):
            raise TypeError(f"out must be the path of a .npy file, or an array (zarr, h5py, memmap, ...); got {kind}.")
        if tuple(array.shape) != (n_rows, n_features):
            raise ValueError(f"out has shape {tuple(array.shape)}, but the result has {(n_rows, n_features)}.")
        flags = getattr(array, "flags", None)
        if flags is not None and not getattr(flags, "writeable", True):
            raise ValueError("out is read-only: pass an array that can be written to (mode='r+' of a memmap).")
        self.array, self.n_rows, self.dtype = array, 0, _dtype_for(array, dtype)
        self.device = array_device(array)

    def write(self, part):
        """Append rows (n, n_features).  ValueError if they overflow the dtype of the array."""
        given, xp = self.device.put(part), self.device.xp
        with np.errstate(over="ignore"):
            part = given.astype(self.dtype, copy=False)
        narrower = part.dtype.kind == "f" and part.itemsize < given.itemsize
        if narrower and bool((~xp.isfinite(part) & xp.isfinite(given)).any()):
            raise ValueError(
                f"out holds {self.dtype}, whose largest number is {float(np.finfo(self.dtype).max):.3g}, and the "
                f"result has {float(abs(given[xp.isfinite(given)]).max()):.3g}: pass an array of {given.dtype}."
            )
        self.array[self.n_rows : self.n_rows + len(part)] = part
        self.n_rows += len(part)

    def close(self):
        """Nothing to complete."""

    def abort(self):
        """Nothing to remove."""


def _dtype_for(array, dtype):
    """The dtype of the array; TypeError if it cannot hold numbers of the given dtype."""
    try:
        holds = np.dtype(array.dtype)
    except (AttributeError, TypeError):
        raise TypeError(
            f"out is a {type(array).__name__} whose dtype is none of NumPy's: pass an array of NumPy, zarr or h5py."
        ) from None
    if not np.can_cast(dtype, holds, "same_kind"):
        raise TypeError(f"out holds {holds}, which cannot represent the result, {dtype}: pass an array of {dtype}.")
    return holds


def open_writer(out, n_rows, n_features, dtype):
    """The writer for a parameter `out`: a path of a .npy file, or an array (n_rows, n_features)."""
    if isinstance(out, str | os.PathLike):
        if Path(out).suffix != ".npy":
            raise ValueError(f"out={os.fspath(out)!r} must end in .npy, or be an array (zarr, h5py, memmap, ...).")
        return NpyWriter(out, n_features, dtype, n_rows)
    return ArrayWriter(out, n_rows, n_features, dtype)
