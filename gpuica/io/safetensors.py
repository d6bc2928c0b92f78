"""The .safetensors format: headers are checked before any data are read, and judged as the format's own parser does.

No header causes an allocation larger than the header itself.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..device import to_host
from .opening import MAX_QUOTED_LENGTH, Stamp, choose_array, open_regular, shorten
from .partial import write_atomically
from .raw import RawMatrix

MAX_HEADER = 100_000_000  # bytes of a header, the limit of the format
DTYPES = {
    **{"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"},
    **{"I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1"},
    **{"U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?"},
}
# bits per number of every dtype of the format; those of DTYPES can be read
BITS = {
    **{"BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64},
    **{"F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6},
    **{"F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
}


def open_safetensors(path, tensor=None):
    """The matrix of this name in a .safetensors file, or its only matrix."""
    header = safetensors_header(path)
    tensor = choose_array(path, {name: found.shape for name, found in header.tensors.items()}, tensor)
    kind, shape, start, _ = header.tensors[tensor]
    if kind not in DTYPES:
        raise ValueError(f"{path}: tensor {tensor!r} has dtype {kind}, which cannot be read: save it as float32.")
    stored = np.dtype(DTYPES[kind])
    return RawMatrix(path, header.offset + start, shape, stored, kind == "BF16", tensor, header.stamp)


def write_tensors(path, arrays, about, is_bfloat16=False):
    """Write arrays {name: array} to a .safetensors file, atomically.

    about: {name: text}, the metadata of the file.  is_bfloat16: whether arrays of uint16 are bits of bfloat16.
    """
    kinds = {np.dtype(stored): kind for kind, stored in DTYPES.items() if kind != ("U16" if is_bfloat16 else "BF16")}
    header, end = {"__metadata__": about}, 0
    arrays = {name: np.ascontiguousarray(to_host(array)) for name, array in arrays.items()}
    for name, array in arrays.items():
        shape, offsets = list(array.shape), [end, end + array.nbytes]
        header[name] = {"dtype": kinds[array.dtype], "shape": shape, "data_offsets": offsets}
        end += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with write_atomically(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            file.write(array)


def read_tensors(path):
    """({name: array}, {name: text}): the arrays and the metadata of a .safetensors file."""
    header = safetensors_header(path)
    data = Path(path).read_bytes()[header.offset :]
    arrays = {}
    for name, (kind, shape, start, stop) in header.tensors.items():
        if kind not in DTYPES:
            raise ValueError(f"{path}: tensor {name!r} has dtype {kind}, which cannot be read.")
        arrays[name] = np.frombuffer(data[start:stop], DTYPES[kind]).reshape(shape)
    return arrays, header.metadata


class Tensor(NamedTuple):
    """A tensor of a .safetensors file: name of its dtype, shape, and range of bytes after the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int


class SafetensorsHeader(NamedTuple):
    """Header of a .safetensors file.  offset: bytes before the data.  stamp: of the file."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    offset: int
    stamp: Stamp


def safetensors_header(path):
    """The header of a .safetensors file; ValueError in one sentence that names the file.

    Format: 8 bytes with the length of a JSON header, the header {name: {dtype, shape, data_offsets}}, the data.
    Rejects what the format's own parser, the Rust crate `safetensors`, rejects (also gaps, overlaps and trailing data),
    and what the format forbids although that parser accepts it: duplicate names, a header that does not begin with an
    opening brace.
    """
    with open_regular(path) as file:
        stamp = Stamp.of(os.fstat(file.fileno()))
        length = int.from_bytes(file.read(8), "little")
        try:
            if not 2 <= length <= min(MAX_HEADER, stamp.size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {stamp.size}")
            header = _object(file.read(length))
            metadata = header.pop("__metadata__", None) or {}
            if not (isinstance(metadata, dict) and all(isinstance(text, str) for text in metadata.values())):
                raise ValueError("__metadata__ holds other things than texts")
            tensors = {name: _tensor(name, about) for name, about in header.items()}
            _check_offsets(tensors)
        except (ValueError, RecursionError) as error:
            raise ValueError(
                f"{path} is not a safetensors file, or its header is damaged ({shorten(error)}): write or copy it "
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
    """The JSON object of a header; negative integers become NaN, which no check accepts."""
    if text[:1] != b"{":
        raise ValueError("it does not begin with '{'")

    def once(pairs):
        names = dict(pairs)
        if len(names) < len(pairs):
            raise ValueError("a name is given twice")
        return names

    def refuse(constant):
        raise ValueError(f"{constant} is not JSON")

    def natural(digits):
        return float("nan") if digits.startswith("-") else int(digits)

    def finite(digits):
        return float(digits) if np.isfinite(float(digits)) else refuse(digits)

    return json.loads(
        text.decode(), object_pairs_hook=once, parse_constant=refuse, parse_int=natural, parse_float=finite
    )


def _tensor(name, about):
    """The `Tensor` of an entry of the header; ValueError for what the format does not allow."""
    name.encode()  # UnicodeEncodeError for lone surrogates
    quoted = repr(name[:MAX_QUOTED_LENGTH])
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
        raise ValueError(f"the size of tensor {quoted} is not that of its shape {shorten(shape)}")
    return Tensor(dtype, tuple(shape), *offsets)


def _check_offsets(tensors):
    """ValueError unless the tensors are contiguous from byte 0 on, without gap or overlap."""
    end = 0
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1][2:]):
        if tensor.start != end:
            raise ValueError(f"tensor {name[:MAX_QUOTED_LENGTH]!r} does not begin where the one before it ends")
        end = tensor.stop
