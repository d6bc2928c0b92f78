"""Out-of-core X as a `Source` of rows."""

import os

import numpy as np

from ..device import to_host
from ..device.arrays import BFloat16, known
from ..io.files import shards
from ..io.iterables import IterableSource, first_matrix
from ..io.sources import Array, Concatenated, Source, check_shape
from ..io.stores import refuse_pickled
from ..io.tables import open_table


def unwrap(X):
    """X as a NumPy or CuPy array, a `BFloat16`, a `Source`, or an object that scikit-learn validates; and the function
    that converts results to the library of X."""
    array, to_caller = known(X)
    source = as_source(X) if array is X else None
    return (array, to_caller) if source is None else (source, to_host)


def as_source(X):
    """X as a `Source`, if it is rows that lie elsewhere than in one array, else None.

    A path or list of paths, a list of matrices, a zarr or HDF5 array, an Arrow table or data set of Hugging Face, or
    what gives matrices when iterated over, again and again.
    """
    library = type(X).__module__.partition(".")[0]
    if isinstance(X, Source | np.ndarray):
        return X if isinstance(X, Source) else None
    if isinstance(X, str | os.PathLike):
        return shards(X)
    if isinstance(X, list | tuple):
        if X and all(isinstance(part, str | os.PathLike) for part in X):
            return shards(X)
        if any(getattr(part, "ndim", 0) >= 2 for part in X):
            return Concatenated([_part(part, f"part {i} of X") for i, part in enumerate(X)])
        return None
    a_dict = isinstance(X, dict) and not hasattr(X, "tocsr")  # SciPy's dok_array is one
    if a_dict or (library in ("zarr", "h5py") and hasattr(X, "keys")):
        raise TypeError(f"X is a {type(X).__name__} of {len(X)} items: pass one of its arrays.")
    name = str(getattr(X, "name", "") or "X")
    if library in ("zarr", "h5py"):
        if library == "zarr":
            refuse_pickled(X, name)
        return Array(X, name, slow=True)
    if library in ("pyarrow", "datasets") and hasattr(X, "__len__"):
        return open_table(X)
    arrays = "__array__", "shape", "__getitem__", "tocsr"
    if hasattr(X, "__iter__") and not any(hasattr(X, what) for what in arrays):
        return IterableSource(X, _as_stored)
    return None


def _part(part, name):
    """The source of one matrix of any kind."""
    if (source := as_source(part)) is not None:
        return source
    if not hasattr(part, "ndim"):
        raise TypeError(f"{name} is of type {type(part).__name__}, where other parts are matrices: pass matrices only.")
    if hasattr(part, "tocsr"):
        raise TypeError(f"{name} is a sparse matrix: pass dense ones, part.toarray().")
    check_shape(tuple(part.shape), name)
    array, is_bfloat16 = _as_stored(part)
    return Array(array, name, is_bfloat16=is_bfloat16)


def _as_stored(chunk):
    """(array as stored, whether of bfloat16) of what an iterable gave: a matrix, or a tuple or dict that begins with
    one, as data loaders give with labels."""
    array, _ = unwrap(first_matrix(chunk))
    if isinstance(array, BFloat16):
        return array.bits, True
    return (array if hasattr(array, "dtype") else np.asarray(array)), False  # a frame has several dtypes
