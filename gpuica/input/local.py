"""Validation of X that this process can read: arrays of any library, files, and other sources of rows."""

from dataclasses import replace

import numpy as np
from sklearn.utils.validation import check_array, validate_data

from ..device import CPU, array_device, memory_size
from ..device.arrays import BFloat16
from ..io.raw import mapped_file
from ..io.sources import Source
from .data import InputData, check_matrix, check_not_deep, working_dtype
from .finite import all_finite
from .sources import unwrap


def check_local(estimator, X, *, reset, min_rows, finite):
    """Validate X; parameters and errors of `check_input`."""
    array, to_caller = unwrap(X)
    check_not_deep(array)
    if isinstance(array, np.memmap) and not _fits(estimator, array):  # its pages would count as memory
        array = mapped_file(array) or array
    if isinstance(array, BFloat16 | Source) or array_device(array) != CPU:
        unchecked = _check_unknown_to_sklearn(estimator, array, reset, min_rows, finite)
        return InputData(array, working_dtype(array.dtype), to_caller, unchecked=unchecked)
    keep = isinstance(array, np.ndarray) and array.dtype.kind in "iuf" and array.dtype.itemsize <= 8
    checks = {
        "dtype": None if keep else [np.float64, np.float32],  # other dtypes are converted chunk by chunk
        "ensure_min_samples": min_rows,
        "ensure_all_finite": finite,
    }
    if reset is None:
        array = check_array(array, estimator=estimator, input_name="X", **checks)
    else:
        array = validate_data(estimator, array, reset=reset, **checks)
    return InputData(array, working_dtype(array.dtype), to_caller)


def _fits(estimator, array):
    """Whether an array can be held in memory, by the estimator's memory_limit."""
    return replace(CPU, limit=memory_size(getattr(estimator, "memory_limit", None))).fits(array.nbytes)


def _check_unknown_to_sklearn(estimator, array, reset, min_rows, finite):
    """The checks of scikit-learn's `validate_data` on other arrays.  Returns whether NaN must be checked for when
    chunks are read: a source is not read for it here."""
    check_matrix(estimator, array, min_rows)
    if reset is not None:
        validate_data(estimator, array, reset=reset, skip_check_array=True)
    if finite and not isinstance(array, Source) and not all_finite(array):
        raise ValueError(f"Input X contains NaN or infinity: {type(estimator).__name__} does not accept them.")
    return finite and isinstance(array, Source)
