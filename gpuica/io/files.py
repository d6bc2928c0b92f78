"""Files as sources, and writing chunks to files once, to be read many times.

Nothing that would be unpickled is read.
"""

import glob
import os
from pathlib import Path
from typing import Any

from ..device import logger
from ..device.arrays import as_numpy
from .npy import open_npy
from .safetensors import open_safetensors
from .sources import Concatenated, check_shape
from .stores import open_hdf5, open_zarr
from .writers import NpyShardWriter

# suffix -> function of (path, name of the matrix or None) that returns the Source
OPENERS = {
    ".npy": open_npy,
    ".safetensors": open_safetensors,
    ".zarr": open_zarr,
    ".h5": open_hdf5,
    ".hdf5": open_hdf5,
}
DIRECTORY_SUFFIXES = (".npy", ".safetensors")  # the files that a path of a directory stands for
SPOOL_FILE_BYTES = 1 << 30


def open_file(path: Any, tensor: Any = None) -> Any:
    """The source of a file; ValueError or FileNotFoundError in one sentence."""
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    suffix = path.suffix.lower()
    if suffix not in OPENERS:
        raise ValueError(
            f"{path}: files of kind {suffix or 'none'!r} cannot be read; .npy, .safetensors, .zarr and .h5 can."
        )
    return OPENERS[suffix](path, tensor)


def shards(paths: Any, tensor: Any = None) -> Any:
    """Use rows in files as one X.

    Files are opened and checked; their rows are read in every pass of a fit.

    Parameters
    ----------
    paths : str, path-like, or list of these
        A file (.npy, .safetensors, .zarr, .h5), a pattern such as ``"acts/*.npy"``, whose files are sorted by
        name, a directory of .npy or .safetensors files, or a list of these, whose order is kept.
    tensor : str, default=None
        The name of the matrix in files that hold several.

    Returns
    -------
    X : Source of shape (n_samples, n_features)
        What every estimator accepts as X.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or no file matches a pattern.
    ValueError
        If a file is damaged or truncated, or files differ in the number of features or in dtype. The message names
        the file.

    See Also
    --------
    spool : Write an iterable or generator of arrays to files.

    Examples
    --------
    >>> import tempfile, numpy as np, gpuica
    >>> rng = np.random.default_rng(0)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     for i in range(2):
    ...         np.save(f"{directory}/part-{i}.npy", rng.laplace(size=(1000, 4)))
    ...     X = gpuica.shards(f"{directory}/part-*.npy")
    ...     shape = gpuica.FastICA(random_state=0).fit(X).components_.shape
    >>> X.shape, shape
    ((2000, 4), (4, 4))
    """
    given = [paths] if isinstance(paths, str | os.PathLike) else list(paths)
    found = [file for path in given for file in _expand(os.path.expanduser(os.fspath(path)))]
    if not found:
        raise FileNotFoundError("no files: the list of paths is empty.")
    sources = [open_file(path, tensor) for path in found]
    for path, source in zip(found, sources, strict=True):
        if not source.shape[0]:
            logger.warning("%s has no rows: it is skipped.", path)
    return sources[0] if len(sources) == 1 else Concatenated(sources)


def _expand(path: Any) -> Any:
    """The files that a path, pattern or directory stands for."""
    if glob.has_magic(path) and not os.path.exists(path):
        found = sorted(glob.glob(path, recursive=True))
        if not found:
            raise FileNotFoundError(f"no file matches {path!r}.")
        return found
    if os.path.isdir(path) and not path.rstrip("/").endswith(".zarr"):
        found = sorted(entry.path for entry in os.scandir(path) if entry.name.endswith(DIRECTORY_SUFFIXES))
        if not found:
            raise FileNotFoundError(f"{path} holds no .npy or .safetensors file.")
        return found
    return [path]


def spool(chunks: Any, directory: Any) -> Any:
    """Write the chunks of an iterable or generator to .npy files, and return them as an X.

    Files are renamed to their final names when all of them are complete, rows-00000.npy last. An error or interrupt
    removes them; a killed process leaves files that end in .partial.

    Parameters
    ----------
    chunks : iterable of array-like of shape (n, n_features)
        Arrays of NumPy, CuPy or torch, of the same width and dtype. bfloat16 is written as float32.
    directory : str or path-like
        Created if it does not exist. It must not contain .npy files.

    Returns
    -------
    X : Source of shape (n_samples, n_features)
        What every estimator accepts as X.

    Raises
    ------
    ValueError
        If chunks differ in the number of features or in dtype.
    FileExistsError
        If the directory contains .npy files.

    See Also
    --------
    shards : Use rows in files as one X.
    limited : The first rows of an endless iterable.

    Examples
    --------
    >>> import tempfile, numpy as np, gpuica
    >>> rng = np.random.default_rng(0)
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     gpuica.spool((rng.laplace(size=(500, 4)) for _ in range(3)), directory).shape
    (1500, 4)
    """
    files, first = NpyShardWriter(directory, SPOOL_FILE_BYTES), None
    try:
        for part in chunks:
            part = as_numpy(part)
            kind = check_shape(part.shape, "a chunk")[1], part.dtype
            if kind != (first := first or kind):
                raise ValueError("a chunk of {} {} after chunks of {} {}: all must be alike.".format(*kind, *first))
            files.write(part)
        paths = files.close()
    except BaseException:
        files.abort()
        raise
    return shards(paths)
