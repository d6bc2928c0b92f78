"""What opening a file of any kind needs: regular files only, their identity, the choice of an array, messages."""

import os
import stat
from typing import NamedTuple

MAX_LISTED_NAMES = 20  # names of arrays that a message lists
MAX_QUOTED_LENGTH = 200  # characters of a parser's error, or of a name, that a message quotes


class Stamp(NamedTuple):
    """Identifies a file and its version: another file at the same path, or a later write, has another stamp."""

    device: int
    inode: int
    size: int
    modified: int

    @classmethod
    def of(cls, status):
        """The stamp of an `os.stat_result`."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def open_regular(path):
    """A regular file, open for reading bytes; ValueError as `regular_descriptor` raises it."""
    return os.fdopen(regular_descriptor(path), "rb")


def regular_descriptor(path):
    """A descriptor of a regular file; ValueError for a directory, pipe or device, without blocking."""
    try:
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)  # a pipe without a writer would block
        descriptor = os.open(path, flags)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist.") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        raise ValueError(f"{path} is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a regular file: copy it to one.")
    return descriptor


def choose_array(path, shapes, name):
    """The array to read of a file with arrays {name: shape}: this name, or that of the only matrix."""
    matrices = [found for found, shape in shapes.items() if len(shape) == 2]
    if name is None and len(matrices) == 1:
        return matrices[0]
    if name in shapes:
        return name
    listed = ", ".join(
        f"{found[:MAX_QUOTED_LENGTH]!r} {shorten(tuple(shape))}"
        for found, shape in list(shapes.items())[:MAX_LISTED_NAMES]
    )
    listed += ", ..." if len(shapes) > MAX_LISTED_NAMES else ""
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


def shorten(value):
    """The text of a value or exception for a message, on one line and of bounded length."""
    named = isinstance(value, Exception) and not isinstance(value, ValueError)
    text = " ".join((f"{type(value).__name__}: {value}" if named else str(value)).split())
    return text if len(text) <= MAX_QUOTED_LENGTH else text[: MAX_QUOTED_LENGTH - 3] + "..."
