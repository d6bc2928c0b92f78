"""Validation of Dask arrays, whose chunks stay on the workers."""

import numpy as np
from sklearn.utils.validation import validate_data

from .data import InputData, check_matrix, check_not_deep, working_dtype


def is_dask(X):
    """Whether X is a Dask collection."""
    return type(X).__module__.partition(".")[0] in ("dask", "dask_expr")


def check_dask(estimator, X, *, reset, min_rows, finite):
    """Validate a Dask array; parameters and errors of `check_input`.

    NaN and infinity, where they are to be found, are found when a chunk is computed, without a pass of their own.
    """
    from ..rows.dask import with_known_chunks

    array = with_known_chunks(X)
    check_not_deep(array)
    check_matrix(estimator, array, min_rows)
    if reset is not None:
        validate_data(estimator, array, reset=reset, skip_check_array=True)
    if finite and array.dtype.kind == "f":
        array = array.map_blocks(_check_block, name_of=type(estimator).__name__, dtype=array.dtype, meta=array._meta)
    return InputData(array, working_dtype(array.dtype), lambda result: result)


def _check_block(block, name_of):
    """The block; ValueError if an entry is not finite."""
    if not bool(np.isfinite(block).all()):
        raise ValueError(f"Input X contains NaN or infinity: {name_of} does not accept them.")
    return block
