"""What every estimator does at its two ends: X of any kind becomes an array that rows can be opened on, and results
become arrays of X's kind.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.utils.validation import assert_all_finite, check_array, validate_data

from ..device import CPU, array_device, to_host
from ..rows import check_weights
from ..rows.shared import Shared

HALF = ("float16", "bfloat16")


@dataclass(frozen=True)
class Given:
    """The caller's X: its array, the dtype to work in, and how results are handed back.

    array: (n_rows, n_features), NumPy or CuPy, or half-precision numbers that are read as float32 when sliced; or a
    Dask array, or `Shared`.
    back: turns a NumPy or CuPy result into an array of the caller's kind, on the caller's device.
    weights: (n_rows,) the caller's, float64, divided by unit; or None.  total: their sum, as the caller gave them.
    """

    array: Any
    dtype: np.dtype
    back: Any
    weights: Any = None
    unit: float = 1.0
    total: float = 0.0

    @property
    def shape(self):
        return self.array.shape

    @property
    def weight(self):
        """Σ of the caller's weights; n_rows without."""
        return self.shape[0] if self.weights is None else self.total

    def weighted(self, sample_weight):
        """The same with weights (n_rows,), an array of any kind, or None.  ValueError for what cannot be weights."""
        if isinstance(self.array, Shared):
            from ._spread import weights_of_all

            weights, total, largest = weights_of_all(self.array, sample_weight)
        elif sample_weight is not None:
            weights = host_weights(sample_weight, self.shape[0])
            total, largest = float(weights.sum()), float(weights.max())
        else:
            weights = None
        if weights is None:
            return self
        range_ = np.finfo(self.dtype)
        if not range_.tiny <= total <= range_.max:
            raise ValueError(f"sample_weight must add up to a number that {self.dtype} holds: rescale it.")
        unit = 2.0 ** float(np.frexp(largest)[1] - 1)  # the dtype must hold squares too; powers of 2 cost no digit
        return replace(self, weights=weights / unit, unit=unit, total=total)


def take(estimator, X, *, reset, min_rows=1, finite=True):
    """Check X as scikit-learn does, and find out what it is.  No copy of the whole, unless X is a list or a frame.

    reset: True to fit (sets n_features_in_), False to apply (compares), None where X has not the estimator's features.
    min_rows: at least so many rows.  finite: whether to look for NaN and infinity now; a fit sees them in its sums.
    Raises ValueError or TypeError, in scikit-learn's words, for what is not a 2-D array of real, finite numbers.
    """
    if isinstance(X, Shared) or is_dask(X):
        from . import _spread

        take_it = _spread.take_shared if isinstance(X, Shared) else _spread.take_dask
        return take_it(estimator, X, reset=reset, min_rows=min_rows, finite=finite)
    array, back = _unwrap(X)
    if isinstance(array, BFloat16) or array_device(array) != CPU:
        return _take_unknown_to_sklearn(estimator, array, back, reset, min_rows, finite)
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
    return Given(array, work_dtype(array.dtype), back)


def refuse_non_finite(estimator, array):
    """Raise scikit-learn's ValueError if the array holds NaN or infinity."""
    if isinstance(array, np.ndarray):
        assert_all_finite(array, estimator_name=type(estimator).__name__, input_name="X")


def _take_unknown_to_sklearn(estimator, array, back, reset, min_rows, finite):
    if array.ndim != 2:
        raise ValueError(f"Expected 2D array, got {array.ndim}D array instead: X must be (n_samples, n_features).")
    if array.dtype.kind not in "iufb":
        raise ValueError(f"X must hold real numbers, got dtype {array.dtype}.")
    n_rows, n_features = array.shape
    if n_rows < min_rows or n_features < 1:
        raise ValueError(
            f"Found array with shape {array.shape} while a minimum of {min_rows} sample(s) and 1 feature is required "
            f"by {type(estimator).__name__}."
        )
    if reset is not None:
        validate_data(estimator, array, reset=reset, skip_check_array=True)
    if finite and not _all_finite(array):
        raise ValueError(f"Input X contains NaN or infinity: {type(estimator).__name__} does not accept them.")
    return Given(array, work_dtype(array.dtype), back)


def _all_finite(array, chunk=1 << 16):
    """Whether every entry is finite, looked at by chunks of rows."""
    xp = array_device(array).xp
    return all(bool(xp.isfinite(array[i : i + chunk]).all()) for i in range(0, len(array), chunk))


def host_weights(sample_weight, n_rows, some_row=True):
    """`check_weights` of weights of any kind."""
    array, _ = _unwrap(sample_weight)
    return check_weights(array[:] if isinstance(array, BFloat16) else array, n_rows, some_row)


def is_dask(X):
    """Whether X is a collection of Dask's."""
    return type(X).__module__.partition(".")[0] in ("dask", "dask_expr")


def work_dtype(dtype):
    """float32 for float32 and half precision, float64 for all else, as scikit-learn does."""
    return np.dtype(np.float32 if dtype == np.float32 or dtype.name in HALF else np.float64)


def _unwrap(X):
    """(array, back) of a torch tensor, a CuPy array, a bfloat16 array, or anything scikit-learn knows."""
    library = type(X).__module__.partition(".")[0]
    if library == "torch":
        return _unwrap_torch(X)
    if library == "cupy":
        return X, array_device(X).put
    if isinstance(X, np.ndarray) and X.dtype.name == "bfloat16":
        return BFloat16(X.view(np.uint16)), to_host
    return X, to_host


def _unwrap_torch(tensor):
    """A tensor by DLPack, without a copy; results go back to torch on the tensor's device."""
    import torch

    def back(result):
        return torch.from_dlpack(home.put(result)).to(tensor.device)

    if tensor.layout != torch.strided:
        raise TypeError("sparse torch tensors are not supported: pass tensor.to_dense().")
    if tensor.device.type not in ("cpu", "cuda"):
        raise TypeError(f"torch tensors on {tensor.device.type!r} are not supported: pass tensor.cpu().")
    brain = tensor.dtype == torch.bfloat16  # unknown to NumPy: its bits travel as integers
    source = tensor.detach()
    source = source.view(torch.int16) if brain else source
    if tensor.device.type == "cuda":
        import cupy

        array = cupy.from_dlpack(source)
    else:
        array = np.from_dlpack(source)
    home = array_device(array)
    return (BFloat16(array.view(np.uint16)) if brain else array), back


class BFloat16:
    """A matrix of bfloat16 bits, (n_rows, n_features) of uint16, that gives float32 rows when sliced."""

    dtype = np.dtype(np.float32)
    ndim = property(lambda self: self.bits.ndim)
    shape = property(lambda self: self.bits.shape)
    device = property(lambda self: self.bits.device)

    def __init__(self, bits):
        self.bits = bits

    def __len__(self):
        return len(self.bits)

    def __getitem__(self, rows):
        """bfloat16 is the upper half of a float32."""
        return (self.bits[rows].astype(np.uint32) << 16).view(np.float32)
