"""The .npy format: headers are checked before any data are read.

A header is text from an untrusted source.  NumPy's parser judges it, and what it accepts is checked further.  No header
causes an allocation larger than the header itself, and nothing is unpickled.
"""

import ast
import io
import os
from typing import NamedTuple

import numpy as np

from .opening import Stamp, open_regular, shorten
from .raw import RawColumns, RawMatrix

MAX_HEADER = 10_000  # characters of a header, the most that NumPy reads


def open_npy(path, tensor=None):
    """The matrix of a .npy file.  tensor: ignored, a .npy file has one array."""
    header = npy_header(path)
    by_columns = header.by_columns and min(header.shape, default=0) > 1
    kind = RawColumns if by_columns else RawMatrix
    return kind(path, header.offset, header.shape, header.dtype, header.is_bfloat16, stamp=header.stamp)


class NpyHeader(NamedTuple):
    """Header of a .npy file.  offset: bytes before the data.  by_columns: whether the array is in Fortran order."""

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
        head = io.BytesIO(file.read(12 + MAX_HEADER))  # a copy of bounded size, whatever length the header claims
    try:
        version = np.lib.format.read_magic(head)
        if version not in readers:
            raise ValueError(f"version {version}")
        shape, by_columns, dtype = readers[version](head)
        if any(type(n) is not int or n < 0 for n in shape):
            raise ValueError(f"shape {shape} does not consist of numbers >= 0")
    except Exception as error:  # the parser raises TokenError, RecursionError, KeyError, ...
        raise ValueError(
            f"{path} is not a .npy file, or its header is damaged ({shorten(error)}): write or copy it again."
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
    """The dtype string of a .npy header: ml_dtypes writes bfloat16 as '<V2', which NumPy reads as '|V2'."""
    try:
        return ast.literal_eval(text.decode("latin1"))["descr"]
    except SyntaxError:  # a header by Python 2, which NumPy repairs
        return None
