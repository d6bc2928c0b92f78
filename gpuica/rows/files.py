"""Rows in files: .npy, .safetensors, zarr, HDF5, Arrow tables; and writing rows to files once, to be read many times.

Files are read with positioned reads into buffers, not mapped: memory that the reading takes is then bounded by the
buffers, and an error of the disk is an exception, not a signal.  Nothing that is unpickled is ever read.
"""

import glob
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..device import logger, to_host
from .sources import Array, Parts, Source, check_dtype, check_shape, runs

SAFETENSORS = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"},
}
LONGEST_HEADER = 100 << 20  # bytes, the format's own limit
SPOOLED = 1 << 30  # bytes of a file that `spool` writes
KINDS = (".npy", ".safetensors")
READERS = 8  # threads that read short parts of a file: 64 MB in runs of 16 rows take 0.10 s instead of 0.24, uncached


class Flat(Source):
    """A matrix of rows in sequence somewhere in a file."""

    def __init__(self, path, offset, shape, stored, brain=False, tensor=None):
        """offset: bytes before the first row."""
        self.path, self.offset, self.tensor = os.fspath(path), offset, tensor
        self.shape, self.stored, self.brain = check_shape(shape, self.path), check_dtype(stored, self.path), brain
        self._row = self.shape[1] * stored.itemsize
        self._check_size(os.path.getsize(self.path))

    def read(self, start, stop, buffer=None):
        out = np.empty((stop - start, self.shape[1]), self.stored) if buffer is None else buffer[: stop - start]
        self._read([(start, out)])
        return out

    def at(self, indices):
        out, place, parts = np.empty((len(indices), self.shape[1]), self.stored), 0, []
        for start, stop in zip(*runs(indices), strict=True):
            parts.append((int(start), out[place : place + stop - start]))
            place += int(stop - start)
        if len(parts) < READERS**2:
            self._read(parts)
        else:  # a disk that is asked for one short part at a time is idle most of the time
            with ThreadPoolExecutor(READERS) as readers:
                list(readers.map(self._read, (parts[i::READERS] for i in range(READERS))))
        return out

    def where(self, row):
        return f"row {row} of {self.path}" + (f" ({self.tensor})" if self.tensor else "")

    def _read(self, parts):
        """Fill each (first row, array) from the file."""
        file = os.open(self.path, os.O_RDONLY)
        try:
            for start, out in (part for part in parts if part[1].size):
                view, place = memoryview(out).cast("B"), self.offset + start * self._row
                while len(view):  # a read may give less than was asked for
                    done = os.preadv(file, [view], place)
                    if not done:
                        self._check_size(os.fstat(file).st_size)
                        raise OSError(f"{self.path} ended while it was read.")
                    view, place = view[done:], place + done
        finally:
            os.close(file)

    def _check_size(self, size):
        needed = self.offset + self.shape[0] * self._row
        if size < needed:
            raise ValueError(
                f"{self.path} is truncated: its header promises {self.shape[0]} rows of {self.shape[1]} {self.stored}, "
                f"{needed} bytes, but it has {size}. Write or copy it again."
            )


def open_npy(path):
    """The matrix of a .npy file."""
    try:
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            of_version = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
            if version not in of_version:
                raise ValueError(f"version {version}")
            shape, by_columns, dtype = of_version[version](file)
            offset = file.tell()
    except (ValueError, EOFError, SyntaxError) as error:
        raise ValueError(f"{path} is not a .npy file, or its header is damaged ({error}).") from error
    if by_columns and min(shape, default=0) > 1:  # rows are not in sequence there
        return Array(np.load(path, mmap_mode="r", allow_pickle=False), str(path))
    brain = dtype.kind == "V" and dtype.itemsize == 2  # NumPy has no bfloat16 of its own to name
    return Flat(path, offset, shape, np.dtype("<u2") if brain else dtype, brain)


def open_safetensors(path, tensor=None):
    """A matrix of a .safetensors file: the one of this name, or the only one there is."""
    tensors, begin = _safetensors_header(path)
    matrices = [name for name, (_, shape, _, _) in tensors.items() if len(shape) == 2]
    if tensor is None and len(matrices) == 1:
        tensor = matrices[0]
    if tensor not in tensors:
        what = "has several matrices" if tensor is None and matrices else f"has no tensor {tensor or ''!r}"
        raise ValueError(
            f"{path} {what}: name one of {', '.join(map(repr, matrices)) or 'none'} with "
            "gpuica.shards(paths, tensor=...)."
        )
    kind, shape, start, stop = tensors[tensor]
    if kind not in SAFETENSORS:
        raise ValueError(f"{path}: tensor {tensor!r} has dtype {kind}, which cannot be read: save it as float32.")
    stored = np.dtype(SAFETENSORS[kind])
    source = Flat(path, begin + start, shape, stored, kind == "BF16", tensor)
    if stop - start != source.shape[0] * source.shape[1] * stored.itemsize:
        raise ValueError(f"{path} is damaged: the size of tensor {tensor!r} is not that of its shape {shape}.")
    return source


def _safetensors_header(path):
    """{name: (dtype, shape, start, stop)} and where the data begin.

    Format: 8 bytes with the length of a JSON header, the header {name: {dtype, shape, data_offsets}}, the data.
    """
    size = os.path.getsize(path)
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(LONGEST_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(file.read(length))
        header.pop("__metadata__", None)
        tensors = {
            name: (about["dtype"], tuple(map(int, about["shape"])), *map(int, about["data_offsets"]))
            for name, about in header.items()
        }
        if any(len(about) != 4 for about in tensors.values()):
            raise ValueError("data_offsets are not two numbers")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a safetensors file, or its header is damaged ({error}).") from error
    return tensors, 8 + length


def write_tensors(path, arrays, about, brain=False):
    """Write arrays {name: float64, float32, ... array} to a .safetensors file that bears its name once it is whole.

    about: {name: text}, the file's metadata.  brain: whether arrays of uint16 are bits of bfloat16.
    """
    kinds = {np.dtype(stored): kind for kind, stored in SAFETENSORS.items() if kind != ("U16" if brain else "BF16")}
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
    tensors, begin = _safetensors_header(path)
    data = Path(path).read_bytes()
    arrays = {}
    for name, (kind, shape, start, stop) in tensors.items():
        arrays[name] = np.frombuffer(data[begin + start : begin + stop], SAFETENSORS[kind]).reshape(shape)
    return arrays, json.loads(data[8:begin]).get("__metadata__", {})


def mapped_file(array):
    """The source behind a memory-mapped array, or None where its rows are not in sequence in a file."""
    root = array
    while isinstance(root.base, np.memmap):
        root = root.base
    if array.filename is None or array.mode == "c" or not array.flags.c_contiguous or array.dtype.byteorder == ">":
        return None
    places = [part.__array_interface__["data"][0] for part in (array, root)]
    return Flat(array.filename, root.offset + places[0] - places[1], array.shape, array.dtype)


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
        found = _needs("zarr", path).open(os.fspath(path), mode="r")
        return Array(found[tensor] if tensor else found, str(path), slow=True)
    if kind in (".h5", ".hdf5"):
        found = _needs("h5py", path).File(path, "r")
        if tensor not in found:
            raise ValueError(f"{path}: name one of {list(found)} with gpuica.shards(paths, tensor=...).")
        return Array(found[tensor], f"{path} ({tensor})", slow=True)
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
    return sources[0] if len(sources) == 1 else Parts(sources)


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
    from .sink import NpyFiles

    files, like = NpyFiles(directory, SPOOLED), None
    try:
        for part in chunks:
            part = to_host(part) if not hasattr(part, "detach") else _from_torch(part)
            kind = check_shape(part.shape, "a chunk")[1], part.dtype
            if kind != (like := like or kind):
                raise ValueError("a chunk of {} {} after chunks of {} {}: all must be alike.".format(*kind, *like))
            files.write(part)
        paths = files.close()
    except BaseException:
        files.abandon()
        raise
    return shards(paths)


def _from_torch(tensor):
    """A NumPy array of a torch tensor; bfloat16 as float32."""
    tensor = tensor.detach()
    return (tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor).cpu().numpy()


def _needs(module, path):
    try:
        return __import__(module)
    except ImportError as error:
        raise ImportError(f"{path} needs {module}: pip install {module}.") from error
