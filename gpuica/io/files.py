"""Rows in files: .npy, .safetensors, zarr, HDF5, Arrow tables; and writing rows to files once, to be read many times.

Nothing that would be unpickled is ever read.
"""

import glob
import json
import os
from pathlib import Path

import numpy as np

from ..device import logger, to_host
from ..device.arrays import as_numpy
from .headers import chosen, npy_header, safetensors_header
from .raw import RawColumns, RawMatrix
from .sources import Concatenated, check_shape
from .stores import open_hdf5, open_zarr

SAFETENSORS = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"},
}
SPOOLED = 1 << 30  # bytes of a file that `spool` writes
KINDS = (".npy", ".safetensors")


def open_npy(path):
    """The matrix of a .npy file."""
    header = npy_header(path)
    by_columns = header.by_columns and min(header.shape, default=0) > 1
    kind = RawColumns if by_columns else RawMatrix
    return kind(path, header.offset, header.shape, header.dtype, header.is_bfloat16, stamp=header.stamp)


def open_safetensors(path, tensor=None):
    """A matrix of a .safetensors file: the one of this name, or the only one there is."""
    header = safetensors_header(path)
    tensor = chosen(path, {name: found.shape for name, found in header.tensors.items()}, tensor)
    kind, shape, start, _ = header.tensors[tensor]
    if kind not in SAFETENSORS:
        raise ValueError(f"{path}: tensor {tensor!r} has dtype {kind}, which cannot be read: save it as float32.")
    stored = np.dtype(SAFETENSORS[kind])
    return RawMatrix(path, header.offset + start, shape, stored, kind == "BF16", tensor, header.stamp)


def write_tensors(path, arrays, about, is_bfloat16=False):
    """Write arrays {name: float64, float32, ... array} to a .safetensors file that bears its name once it is whole.

    about: {name: text}, the file's metadata.  brain: whether arrays of uint16 are bits of bfloat16.
    """
    kinds = {
        np.dtype(stored): kind for kind, stored in SAFETENSORS.items() if kind != ("U16" if is_bfloat16 else "BF16")
    }
    header, place = {"__metadata__": about}, 0
    arrays = {name: np.ascontiguousarray(to_host(array)) for name, array in arrays.items()}
    for name, array in arrays.items():
        shape, offsets = list(array.shape), [place, place + array.nbytes]
        header[name] = {"dtype": kinds[array.dtype], "shape": shape, "data_offsets": offsets}
        place += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = Path(path).with_name(Path(path).name + ".partial")
    with open(partial, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def read_tensors(path):
    """({name: array}, {name: text}): the arrays of a .safetensors file, and its metadata."""
    header = safetensors_header(path)
    data = Path(path).read_bytes()[header.offset :]
    arrays = {}
    for name, (kind, shape, start, stop) in header.tensors.items():
        if kind not in SAFETENSORS:
            raise ValueError(f"{path}: tensor {name!r} has dtype {kind}, which cannot be read.")
        arrays[name] = np.frombuffer(data[start:stop], SAFETENSORS[kind]).reshape(shape)
    return arrays, header.metadata


def open_file(path, tensor=None):
    """The source that a path names; ValueError or FileNotFoundError in one sentence."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    kind = path.suffix.lower()
    if kind == ".npy":
        return open_npy(path)
    if kind == ".safetensors":
        return open_safetensors(path, tensor)
    if kind == ".zarr":
        return open_zarr(path, tensor)
    if kind in (".h5", ".hdf5"):
        return open_hdf5(path, tensor)
    raise ValueError(f"{path}: files of kind {kind or 'none'!r} cannot be read; .npy, .safetensors, .zarr and .h5 can.")


def shards(paths, tensor=None):
    """Rows in files, as one X for every estimator; files are opened and checked, not read.

    paths: a path, a pattern ("acts/*.npy", files in the order of their names), a directory of .npy or .safetensors
    files, or a list of these, whose order is kept.  tensor: the name of the matrix in files that hold several.

    Returns what `fit`, `transform` and the rest take as X.  Raises FileNotFoundError for a path or pattern without
    file, ValueError for files that are damaged, truncated, or differ in width or dtype; each names the file.
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found = [file for path in given for file in _files(os.path.expanduser(os.fspath(path)))]
    if not found:
        raise FileNotFoundError("no files: the list of paths is empty.")
    sources = [open_file(path, tensor) for path in found]
    for path, source in zip(found, sources, strict=True):
        if not source.shape[0]:
            logger.warning("%s has no rows: left out.", path)
    return sources[0] if len(sources) == 1 else Concatenated(sources)


def _files(path):
    """The files that a path, pattern or directory means."""
    if glob.has_magic(path) and not os.path.exists(path):
        found = sorted(glob.glob(path, recursive=True))
        if not found:
            raise FileNotFoundError(f"no file matches {path!r}.")
        return found
    if os.path.isdir(path) and not path.rstrip("/").endswith(".zarr"):
        found = sorted(entry.path for entry in os.scandir(path) if entry.name.endswith(KINDS))
        if not found:
            raise FileNotFoundError(f"{path} holds no .npy or .safetensors file.")
        return found
    return [path]


def spool(chunks, directory):
    """Write 2-D arrays, as they come from an iterable or generator, to .npy files once; return them as an X.

    chunks: gives arrays (n, n_features) of NumPy, CuPy or torch, alike in width and dtype.  bfloat16 is written as
    float32.  directory: made if need be; must not hold .npy files yet.

    Files are renamed to their names when all are complete, rows-00000.npy last; an error or interrupt removes them, and
    what a killed process leaves is marked .partial.
    """
    from .writers import NpyShardWriter

    files, like = NpyShardWriter(directory, SPOOLED), None
    try:
        for part in chunks:
            part = as_numpy(part)
            kind = check_shape(part.shape, "a chunk")[1], part.dtype
            if kind != (like := like or kind):
                raise ValueError("a chunk of {} {} after chunks of {} {}: all must be alike.".format(*kind, *like))
            files.write(part)
        paths = files.close()
    except BaseException:
        files.abort()
        raise
    return shards(paths)
