"""Validated X, and checks that all kinds of X share."""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from ..device import CPU, array_device
from ..device.products import ROUNDED
from ..rows.shared import Shared
from .finite import check_chunk

HALF_PRECISION = ("float16", "bfloat16")


@dataclass(frozen=True)
class SampleWeights:
    """Weights of rows: `values` (n_rows,), float64, scaled by a power of 2; `total`, their sum before scaling."""

    values: Any
    total: float


@dataclass(frozen=True)
class InputData:
    """Validated X of shape (n_rows, n_features).

    array: a NumPy or CuPy array, a `BFloat16`, a `Source`, a Dask array or a `Shared`.  dtype: the working precision.
    to_caller: converts a NumPy or CuPy result to an array of the library and device of X.  sample_weights: None, or
    `SampleWeights`.  unchecked: whether chunks must be checked for NaN when they are read, because neither validation
    nor a sum does it.
    """

    array: Any
    dtype: np.dtype
    to_caller: Any
    sample_weights: SampleWeights | None = None
    unchecked: bool = False

    @property
    def shape(self):
        return self.array.shape

    @property
    def local(self):
        """The part of the array that this process holds: all of it, unless X is shared."""
        return self.array.local if isinstance(self.array, Shared) else self.array

    @property
    def n_local(self):
        """Number of rows that this process returns results for."""
        return self.local.shape[0]

    @property
    def on_host(self):
        """Whether X, and so the results, are on the host."""
        return array_device(self.local) == CPU

    @property
    def weights(self):
        """Weights of the rows (n_rows,), or None."""
        return self.sample_weights and self.sample_weights.values

    @property
    def n_samples(self):
        """Number of rows, or the sum of the caller's weights."""
        return self.shape[0] if self.sample_weights is None else self.sample_weights.total

    def prepare(self, then=None):
        """The function applied to each chunk when it is read, or None: the NaN check where needed, then `then`."""
        return partial(check_chunk, then=then) if self.unchecked else then

    def with_precision(self, precision):
        """The same data with another working precision: "float64", "float32", "tf32", "bf16", or None (unchanged)."""
        return replace(self, dtype=np.dtype("float32" if precision in ROUNDED else precision or self.dtype))


def working_dtype(dtype):
    """float32 for float32 and half precision, float64 for all other dtypes, as in scikit-learn."""
    return np.dtype(np.float32 if dtype == np.float32 or dtype.name in HALF_PRECISION else np.float64)


def check_not_deep(array):
    """ValueError for an array of more than two dimensions, with the remedy."""
    if getattr(array, "ndim", 2) > 2:
        raise ValueError(
            f"Found array with dim {array.ndim}, of shape {tuple(array.shape)}: X must hold rows (n_samples, "
            "n_features). Reshape it, X.reshape(-1, X.shape[-1])."
        )


def check_matrix(estimator, array, min_rows):
    """ValueError unless the array has two dimensions, a real dtype, at least min_rows rows and one feature."""
    if array.ndim != 2:
        raise ValueError(f"Expected 2D array, got {array.ndim}D array instead: X must be (n_samples, n_features).")
    if array.dtype.kind not in "iufb":
        raise ValueError(f"X must hold real numbers, got dtype {array.dtype}.")
    if array.shape[0] < min_rows or array.shape[1] < 1:
        raise ValueError(
            f"Found array with shape {array.shape} while a minimum of {min_rows} sample(s) and 1 feature is required "
            f"by {type(estimator).__name__}."
        )
