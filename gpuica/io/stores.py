"""Arrays in zarr directories and HDF5 files; only those of plain numbers are opened.

The libraries trust the file: zarr unpickles chunks if the metadata name a pickle codec, HDF5 reads any other file that
a link or an external storage names.  Both are rejected before the library opens the array.
"""

import json
import os
import re
from math import prod
from pathlib import Path

import numpy as np

from ..device import CPU
from .opening import choose_array, open_regular, shorten
from .sources import Array, check_dtype

MAX_METADATA_BYTES = 1 << 20  # of a zarr array
MAX_VISITED = 1000  # directories or groups that are searched for arrays
MAX_SOFT_LINKS = 16  # in a chain of an HDF5 file
# codecs of numcodecs and of zarr's format 3 that return bytes and numbers, never Python objects
CODECS = {
    *("adler32", "astype", "bitround", "blosc", "bz2", "crc32", "crc32c", "delta", "fixedscaleoffset", "fletcher32"),
    *("gzip", "jenkins_lookup3", "lz4", "lzma", "packbits", "pcodec", "quantize", "shuffle", "zfpy", "zlib", "zstd"),
    *("bytes", "endian", "transpose", "sharding_indexed"),
}
DTYPES = re.compile(r"bool|u?int(8|16|32|64)|float(16|32|64)")  # format 3's names of real numbers


def open_zarr(path, tensor=None):
    """The array of a zarr directory, or the array of this name in it.

    The array is opened by its own metadata, which were checked, not by those that a group may repeat.
    """
    zarr = _needs("zarr", path)
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"{path} is not a zarr directory.")
    name = Path(tensor or "")
    found = path / name
    if ".." in name.parts or name.is_absolute() or _metadata(found) is None:
        arrays = _arrays(path)
        found = path / choose_array(
            path, {name: _sizes(about.get("shape")) or () for name, about in arrays.items()}, tensor
        )
    about = _metadata(found)
    _check_metadata(found, about)
    newer = int(zarr.__version__.partition(".")[0]) >= 3
    if about["zarr_format"] == 3 and not newer:
        raise ValueError(f"{found} is of zarr's format 3, which zarr {zarr.__version__} cannot read: install zarr>=3.")
    options = {"zarr_format": about["zarr_format"]} if newer else {}
    try:
        array = zarr.open_array(os.fspath(found), mode="r", **options)
    except Exception as error:  # zarr raises errors of many kinds for invalid metadata
        raise ValueError(f"{found} cannot be opened by zarr ({shorten(error)}): write or copy it again.") from error
    check_not_pickled(array, str(found))
    return Stored(array, str(found), slow=True)


class Stored(Array):
    """An array whose chunks a library decodes; its errors are reraised with the name of the store."""

    def read(self, start, stop, buffer=None):
        try:
            return super().read(start, stop, buffer)
        except Exception as error:  # codecs raise errors of many kinds for damaged chunks
            raise OSError(
                f"{self.name}: rows {start} to {stop} cannot be read ({shorten(error)}): write or copy it again."
            ) from error


def check_not_pickled(array, name):
    """ValueError if the chunks of an open zarr array would be unpickled."""
    about = getattr(array, "metadata", array)  # of zarr 3; the array itself of zarr 2
    codecs = [getattr(about, "compressor", None), *(getattr(about, "filters", None) or ())]
    if any(getattr(codec, "codec_id", "") == "pickle" for codec in codecs):
        raise ValueError(_unknown_codec(name, "pickle"))


def _unknown_codec(name, codec):
    """The message for a codec that may run code."""
    return (
        f"{name} is stored with the codec {codec!r:.80}, which is not known to give numbers only: pickled data can run "
        "any code. Store it with a codec for numbers, Blosc or Zstd say."
    )


def _metadata(path):
    """The metadata of the zarr array at a path, or None if there is none."""
    for name in ("zarr.json", ".zarray"):
        file = path / name
        if file.exists():
            break
    else:
        return None
    try:
        with open_regular(file) as opened:
            about = json.loads(opened.read(MAX_METADATA_BYTES))
        if not isinstance(about, dict):
            raise ValueError("no JSON object")
        if about.get("zarr_format") != (2 if name == ".zarray" else 3):
            raise ValueError("it has another zarr_format than its name says")
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file} is damaged ({shorten(error)}): write or copy it again.") from error
    return None if about.get("node_type") == "group" else about


def _arrays(path):
    """{name: metadata} of the arrays in a zarr group."""
    found = {}
    for visited, (folder, folders, _) in enumerate(os.walk(path)):
        if visited >= MAX_VISITED:
            break
        if (about := _metadata(Path(folder))) is not None:
            found[os.path.relpath(folder, path)] = about
            folders.clear()  # of its chunks
        folders.sort()
    return found


def _check_metadata(path, about):
    """ValueError unless the metadata describe plain numbers in chunks that fit the memory."""
    if about["zarr_format"] == 2:
        filters = about.get("filters") or []
        codecs = [about.get("compressor"), *(filters if isinstance(filters, list) else [filters])]
        codecs, chunks = [codec for codec in codecs if codec is not None], about.get("chunks")
        dtype = about.get("dtype")
        dtype = _dtype(dtype) if isinstance(dtype, str) else None
    else:
        codecs, dtype = about.get("codecs"), about.get("data_type")
        chunks = _object(_object(about.get("chunk_grid")).get("configuration")).get("chunk_shape")
        dtype = _dtype(dtype) if isinstance(dtype, str) and DTYPES.fullmatch(dtype) else None
        if about.get("storage_transformers"):
            raise ValueError(f"{path} has storage transformers, which are not supported: store it without.")
    if dtype is None:
        what = about.get("dtype", about.get("data_type"))
        raise ValueError(f"{path} must hold real numbers, got dtype {what!r:.80}.")
    check_dtype(dtype, str(path))
    _check_codecs(path, codecs, "id" if about["zarr_format"] == 2 else "name")
    shape, chunks = _sizes(about.get("shape")), _sizes(chunks)
    if shape is None or chunks is None or len(shape) != len(chunks):
        raise ValueError(f"{path} is damaged: its shape and that of its chunks are not as many numbers >= 0.")
    if prod(chunks[:64]) * dtype.itemsize > CPU.budget():
        raise ValueError(
            f"{path} has chunks of {shorten(chunks)} {dtype}, more than half of the free memory: store smaller ones."
        )


def _sizes(numbers):
    """A list of integers >= 0, or None for anything else."""
    natural = isinstance(numbers, list) and all(type(n) is int and n >= 0 for n in numbers)
    return numbers if natural else None


def _object(found):
    """A JSON object; an empty one for anything else."""
    return found if isinstance(found, dict) else {}


def _check_codecs(path, codecs, key):
    """ValueError unless all codecs, also nested ones, are in CODECS.  key: the key of their names."""
    if not isinstance(codecs, list):
        raise ValueError(f"{path} is damaged: its codecs are not a list.")
    for codec in codecs:
        about = {key: codec} if isinstance(codec, str) else _object(codec)
        name = about.get(key)
        if not isinstance(name, str) or name.removeprefix("numcodecs.") not in CODECS:
            raise ValueError(_unknown_codec(path, name))
        settings = about if key == "id" else _object(about.get("configuration"))
        for what in ("dtype", "astype", "encode_dtype", "decode_dtype"):
            if what in settings and _dtype(settings[what]) is None:
                raise ValueError(f"{path} has the codec {name!r} with {what} {settings[what]!r:.80}, no real numbers.")
        for what in ("codecs", "index_codecs"):
            if what in settings:
                _check_codecs(path, settings[what], key)


def _dtype(text):
    """The dtype of this name if it is one of real numbers, else None."""
    try:
        dtype = np.dtype(text) if isinstance(text, str) else None
    except (TypeError, ValueError, SyntaxError):
        return None
    return dtype if dtype is not None and dtype.kind in "iufb" else None


def open_hdf5(path, tensor=None):
    """The array of this name in an HDF5 file, or its only matrix."""
    h5py = _needs("h5py", path)
    open_regular(path).close()
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ValueError(f"{path} is not an HDF5 file, or damaged ({error}): write or copy it again.") from error
    found = _linked(h5py, path, file, tensor) if tensor else None
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        shapes: dict = {}

        def note(name, item):
            if isinstance(item, h5py.Dataset) and item.shape is not None:
                shapes[name] = item.shape
            return True if len(shapes) >= MAX_VISITED else None

        file.visititems(note)  # does not follow soft and external links
        tensor = choose_array(path, shapes, tensor)
        found = file[tensor]
    if found.is_virtual or found.external:
        raise ValueError(
            f"{path}: {tensor!r} is stored in other files (a virtual dataset or external storage), which are not read: "
            "name those files, or copy the numbers into this one."
        )
    return Stored(found, f"{path} ({tensor})", slow=True)


def _linked(h5py, path, file, name):
    """The object of this name within the file, or None; ValueError for a link to another file, which is not opened."""
    found, steps, followed = file, [part for part in name.split("/") if part], 0
    while steps:
        step, *steps = steps
        links = found.id.links if isinstance(found, h5py.Group) else None
        if links is None or step == ".." or not links.exists(step.encode()):
            return None
        kind = links.get_info(step.encode()).type
        if kind == h5py.h5l.TYPE_HARD:
            found = found[step]
        elif kind == h5py.h5l.TYPE_SOFT and followed < MAX_SOFT_LINKS:
            followed += 1
            target = links.get_val(step.encode()).decode()
            found = file if target.startswith("/") else found
            steps = [part for part in target.split("/") if part not in ("", ".")] + steps
        else:
            raise ValueError(
                f"{path}: {name!r} is a link to another file, which is not read: name that file, or copy the numbers "
                "into this one."
            )
    return found


def _needs(module, path):
    """The imported module; ImportError with the remedy if it is not installed."""
    try:
        return __import__(module)
    except ImportError as error:
        raise ImportError(f"{path} needs {module}: pip install {module}.") from error
