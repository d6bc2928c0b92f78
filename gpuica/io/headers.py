"""Headers of .npy and .safetensors files, checked before any data are read.

A header is text that anybody may have written.  NumPy's reader judges .npy headers, and what it accepts is checked
further; .safetensors headers are judged as the format's own parser judges them.  No header causes an allocation larger
than the header itself.
"""

import ast
import io
import json
import os
import stat
from typing import NamedTuple

import numpy as np

NPY_HEADER = 10_000  # characters of a .npy header, the most that NumPy reads
SAFETENSORS_HEADER = 100_000_000  # bytes of a .safetensors header, the format's own limit
# bits of a number of each dtype of the format
BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64},
    **{"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
    **{"F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
}
LISTED = 20  # names of tensors that a message lists
LONGEST = 200  # characters of a parser's complaint, or of a name, that a message quotes


class Stamp(NamedTuple):
    """What tells a file from another one at the same path, and from itself after it was written to."""

    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, status):
        """The stamp of an `os.stat_result`."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def open_regular(path):
    """A regular file, open for reading bytes; ValueError as of `regular_descriptor`."""
    return os.fdopen(regular_descriptor(path), "rb")


def regular_descriptor(path):
    """A descriptor of a regular file; ValueError for a directory, pipe or device, without waiting for it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe would wait for its writer
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist.") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"{path} is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a regular file: copy it to one.")
    return descriptor


class NpyHeader(NamedTuple):
    """What a .npy file holds: bytes before the data, shape, whether by columns, dtype, whether bits of bfloat16."""

    offset: int
    shape: tuple[int, ...]
    by_columns: bool
    dtype: np.dtype
    is_bfloat16: bool
    stamp: Stamp


def npy_header(path):
    """The header of a .npy file; ValueError in one sentence that names the file."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with open_regular(path) as file:
        stamp = Stamp.of(os.fstat(file.fileno()))
        head = io.BytesIO(file.read(12 + NPY_HEADER))  # a copy, so that no length in it is believed
    try:
        version = np.lib.format.read_magic(head)
        if version not in readers:
            raise ValueError(f"version {version}")
        shape, by_columns, dtype = readers[version](head)
        if any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"shape {shape} does not consist of numbers >= 0")
    except Exception as error:  # NumPy's parser raises what its parts raise: TokenError, RecursionError, KeyError, ...
        raise ValueError(
            f"{path} is not a .npy file, or its header is damaged ({shortened(error)}): write or copy it again."
        ) from error
    offset = head.tell()
    text = head.getvalue()[10 if version == (1, 0) else 12 : offset]
    if dtype.kind == "V" and dtype.names is None and dtype.itemsize == 2:
        if _descr(text) != "<V2":
            raise ValueError(
                f"{path} holds items of 2 bytes without a type ({dtype}): if they are bfloat16 numbers, save them as "
                "such, np.save(path, X.view(ml_dtypes.bfloat16))."
            )
        return NpyHeader(offset, shape, by_columns, np.dtype("<u2"), True, stamp)
    return NpyHeader(offset, shape, by_columns, dtype, False, stamp)


def _descr(text):
    """The dtype as a .npy header spells it: ml_dtypes writes bfloat16 as '<V2', which NumPy reads as '|V2'."""
    try:
        return ast.literal_eval(text.decode("latin1"))["descr"]
    except SyntaxError:  # a header by Python 2, which NumPy has mended
        return None


class Tensor(NamedTuple):
    """A tensor of a .safetensors file: its dtype's name, shape, and bytes from start to stop after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsHeader(NamedTuple):
    """{name: Tensor}, {name: text} of the file's metadata, and bytes before the data."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    offset: int
    stamp: Stamp


def safetensors_header(path):
    """The header of a .safetensors file; ValueError in one sentence that names the file.

    Format: 8 bytes with the length of a JSON header, the header {name: {dtype, shape, data_offsets}}, the data.
    Refused is what the format's own parser refuses (the Rust crate `safetensors`: gaps, overlaps and overhanging data
    too), and what the format forbids though that parser takes it: names given twice, a header that does not begin with
    an opening brace.
    """
    with open_regular(path) as file:
        stamp = Stamp.of(os.fstat(file.fileno()))
        length = int.from_bytes(file.read(8), "little")
        try:
            if not 2 <= length <= min(SAFETENSORS_HEADER, stamp.size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {stamp.size}")
            header = _object(file.read(length))
            metadata = header.pop("__metadata__", None) or {}
            if not (isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())):
                raise ValueError("__metadata__ holds other things than texts")
            tensors = {name: _tensor(name, about) for name, about in header.items()}
            _check_offsets(tensors)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a safetensors file, or its header is damaged ({shortened(error)}): write or copy it "
                "again."
            ) from error
    needed = 8 + length + max((tensor.stop for tensor in tensors.values()), default=0)
    if needed != stamp.size:
        what = "is truncated" if stamp.size < needed else "is damaged"
        raise ValueError(
            f"{path} {what}: its header promises {needed} bytes, but it has {stamp.size}. Write or copy it again."
        )
    return SafetensorsHeader(tensors, metadata, 8 + length, stamp)


def _object(text):
    """The JSON object of a header, whose numbers are natural, and NaN where they are not."""
    if text[:1] != b"{":
        raise ValueError("it does not begin with '{'")

    def once(pairs):
        names = dict(pairs)
        if len(names) < len(pairs):
            raise ValueError("a name is given twice")
        return names

    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")

    def natural(digits):
        return float("nan") if digits.startswith("-") else int(digits)

    def finite(digits):
        return float(digits) if np.isfinite(float(digits)) else refuse(digits)

    return json.loads(
        text.decode(), object_pairs_hook=once, parse_constant=refuse, parse_int=natural, parse_float=finite
    )


def _tensor(name, about):
    """What a header says of a tensor, if it is what the format allows."""
    name.encode()  # halves of surrogate pairs are no text
    quoted = repr(name[:LONGEST])
    if not (isinstance(about, dict) and {"dtype", "shape", "data_offsets"} <= about.keys()):
        raise ValueError(f"tensor {quoted} lacks dtype, shape or data_offsets")
    dtype, shape, offsets = about["dtype"], about["shape"], about["data_offsets"]
    for what, numbers in (("shape", shape), ("data_offsets", offsets)):
        if not isinstance(numbers, list) or any(type(n) is not int or n >= 1 << 64 for n in numbers):
            raise ValueError(f"the {what} of tensor {quoted} are not whole numbers >= 0")
    if len(offsets) != 2:
        raise ValueError(f"the data_offsets of tensor {quoted} are not two numbers")
    if not isinstance(dtype, str) or dtype not in BITS:
        raise ValueError(f"tensor {quoted} has dtype {dtype!r:.40}, which the format does not have")
    bits = BITS[dtype]
    for n in shape:
        if (bits := bits * n) >= 1 << 64:
            raise ValueError(f"the shape of tensor {quoted} overflows")
    if bits != 8 * (offsets[1] - offsets[0]):
        raise ValueError(f"the size of tensor {quoted} is not that of its shape {shortened(shape)}")
    return Tensor(dtype, tuple(shape), *offsets)


def _check_offsets(tensors):
    """ValueError unless the tensors lie one after the other from 0 on, without gap or overlap."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if tensor.start != end:
            raise ValueError(f"tensor {name[:LONGEST]!r} does not begin where the one before it ends")
        end = tensor.stop


def chosen(path, shapes, name):
    """The name of the array to be read of a file with arrays {name: shape}: this one, or the only matrix there is."""
    matrices = [found for found, shape in shapes.items() if len(shape) == 2]
    if name is None and len(matrices) == 1:
        return matrices[0]
    if name in shapes:
        return name
    listed = ", ".join(
        f"{found[:LONGEST]!r} {shortened(tuple(shape))}" for found, shape in list(shapes.items())[:LISTED]
    )
    listed += ", ..." if len(shapes) > LISTED else ""
    if not shapes:
        raise ValueError(f"{path} holds no array of numbers at all.")
    if name is not None:
        raise ValueError(f"{path} has no tensor {name!r}: it holds {listed}.")
    if matrices:
        raise ValueError(
            f"{path} has several matrices: name one with gpuica.shards(paths, tensor=...). It holds {listed}."
        )
    raise ValueError(
        f"{path} has no matrix (n_samples, n_features), but {listed}: save it as one, X.reshape(-1, X.shape[-1])."
    )


def shortened(what):
    """A text of what is quoted in a message, on one line and of a bounded length."""
    named = isinstance(what, Exception) and not isinstance(what, ValueError)
    text = " ".join((f"{type(what).__name__}: {what}" if named else str(what)).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
