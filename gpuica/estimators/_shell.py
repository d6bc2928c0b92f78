"""What every estimator does at its two ends: X of any kind becomes an array that rows can be opened on, and results
become arrays of X's kind.
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils.validation import assert_all_finite, check_array, validate_data

from ..device import CPU, array_device, memory_size, to_host
from ..device.arrays import BFloat16, as_numpy, unwrap
from ..device.products import ROUNDED_PRECISIONS
from ..io.files import shards
from ..io.iterables import IterableSource, first_matrix
from ..io.raw import mapped_file
from ..io.sources import Array, Concatenated, Source, check_shape
from ..io.stores import check_not_pickled
from ..io.tables import open_table
from ..oracle import NotFiniteError
from ..rows.base import MAX_COUNT, check_weights
from ..rows.shared import Shared

HALF = ("float16", "bfloat16")
CHUNK = 1 << 16  # rows that are looked at at once for NaN


@dataclass(frozen=True)
class InputData:
    """The caller's X: its array, the dtype to work in, and how results are handed back.

    array: (n_rows, n_features), NumPy or CuPy, half-precision numbers that are read as float32 when sliced, a
    `Source` that is read piece by piece, a Dask array, or `Shared`.
    back: turns a NumPy or CuPy result into an array of the caller's kind, on the caller's device.
    weights: (n_rows,) the caller's, float64, divided by unit; or None.  total: their sum, as the caller gave them.
    unchecked: whether NaN must be looked for in every chunk that is read, because nobody has done so and no sum will
    show it.
    """

    array: Any
    dtype: np.dtype
    back: Any
    weights: Any = None
    unit: float = 1.0
    total: float = 0.0
    unchecked: bool = False

    @property
    def shape(self):
        return self.array.shape

    @property
    def n_here(self):
        """Rows that results are handed back for: this rank's, where X is shared."""
        return self.array.local.shape[0] if isinstance(self.array, Shared) else self.shape[0]

    @property
    def on_host(self):
        """Whether X is on the host, and so where results go."""
        return array_device(self.array.local if isinstance(self.array, Shared) else self.array) == CPU

    def prepare(self, then=None):
        """What a chunk goes through when it is read, or None: a look for NaN where that is needed, `then` then."""
        if not self.unchecked:
            return then
        return partial(_checked, then=then)

    @property
    def weight(self):
        """Σ of the caller's weights; n_rows without."""
        return self.shape[0] if self.weights is None else self.total

    def worked_on_in(self, precision):
        """The same, to be worked on in "float64" or "float32" ("tf32", "bf16"); None for the dtype that X asks for."""
        return replace(self, dtype=np.dtype("float32" if precision in ROUNDED_PRECISIONS else precision or self.dtype))

    def weighted(self, sample_weight):
        """The same with weights (n_rows,), an array of any kind, or None.  ValueError for what cannot be weights."""
        if isinstance(self.array, Shared):
            from ._spread import global_weights

            weights, total, largest = global_weights(self.array, sample_weight)
        elif sample_weight is not None:
            weights = host_weights(sample_weight, self.shape[0])
            total, largest = float(weights.sum()), float(weights.max())
        else:
            weights = None
        if weights is None:
            return self
        range_ = np.finfo(self.dtype)
        if not float(range_.tiny) <= total <= float(range_.max):
            raise ValueError(f"sample_weight must add up to a number that {self.dtype} holds: rescale it.")
        # the dtype must hold squares too; powers of 2 cost no digit; small weights may be counts and stay as they are
        unit = 1.0 if 1 <= largest <= MAX_COUNT else 2.0 ** float(np.frexp(largest)[1] - 1)
        return replace(self, weights=weights / unit, unit=unit, total=total)


def check_input(estimator, X, *, reset, min_rows=1, finite=True):
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
    refuse_deep(array)
    if isinstance(array, np.memmap) and not _fits(estimator, array):  # its pages would count as memory
        array = mapped_file(array) or array
    if isinstance(array, BFloat16 | Source) or array_device(array) != CPU:
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
    return InputData(array, work_dtype(array.dtype), back)


def refuse_deep(array):
    """ValueError for an array of three dimensions or more, with what to do."""
    if getattr(array, "ndim", 2) > 2:
        raise ValueError(
            f"Found array with dim {array.ndim}, of shape {tuple(array.shape)}: X must hold rows (n_samples, "
            "n_features). Reshape it, X.reshape(-1, X.shape[-1])."
        )


def _fits(estimator, array):
    """Whether an array may be held in memory, by the estimator's memory_limit."""
    return replace(CPU, limit=memory_size(getattr(estimator, "memory_limit", None))).fits(array.nbytes)


def refuse_non_finite(estimator, array):
    """Raise a ValueError if the array holds NaN or infinity: scikit-learn's, or one that says where."""
    if isinstance(array, np.ndarray):
        assert_all_finite(array, estimator_name=type(estimator).__name__, input_name="X")
    elif isinstance(array, Source):
        first = next((i for i in range(0, len(array), CHUNK) if not _all_finite(array[i : i + CHUNK])), None)
        if first is not None:
            row = first + int(np.argmin(np.isfinite(to_host(array[first : first + CHUNK])).all(axis=1)))
            raise ValueError(
                f"Input X contains NaN or infinity, first in {array.locate(row)}: {type(estimator).__name__} does not "
                "accept them."
            )


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
    if finite and not isinstance(array, Source) and not _all_finite(array):
        raise ValueError(f"Input X contains NaN or infinity: {type(estimator).__name__} does not accept them.")
    return InputData(array, work_dtype(array.dtype), back, unchecked=finite and isinstance(array, Source))


def _checked(chunk, then):
    if not array_device(chunk).xp.isfinite(chunk).all():
        raise NotFiniteError("Input X contains NaN or infinity: clean it.")
    return then(chunk) if then else chunk


@contextmanager
def locate_nonfinite(estimator, given):
    """A NotFiniteError becomes one that says where X is not finite, if that can be found out."""
    try:
        yield
    except NotFiniteError:
        refuse_non_finite(estimator, given.array)
        raise


def _all_finite(array):
    """Whether every entry is finite, looked at by chunks of rows."""
    xp = array_device(array).xp
    return all(bool(xp.isfinite(array[i : i + CHUNK]).all()) for i in range(0, len(array), CHUNK))


def host_weights(sample_weight, n_rows, some_row=True):
    """`check_weights` of weights of any kind."""
    if isinstance(sample_weight, str | bytes | os.PathLike):
        raise ValueError(
            f"sample_weight must be an array of numbers, one for each row of X, got {str(sample_weight)!r:.80}: load a "
            "file first, np.load(path)."
        )
    return check_weights(as_numpy(sample_weight), n_rows, some_row)


def is_dask(X):
    """Whether X is a collection of Dask's."""
    return type(X).__module__.partition(".")[0] in ("dask", "dask_expr")


def work_dtype(dtype):
    """float32 for float32 and half precision, float64 for all else, as scikit-learn does."""
    return np.dtype(np.float32 if dtype == np.float32 or dtype.name in HALF else np.float64)


def _unwrap(X):
    """(array, back) of a torch tensor, a CuPy array, a bfloat16 array, a source of rows, or what scikit-learn knows."""
    array, back = unwrap(X)
    source = as_source(X) if array is X else None
    return (array, back) if source is None else (source, to_host)


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
            check_not_pickled(X, name)
        return Array(X, name, slow=True)
    if library in ("pyarrow", "datasets") and hasattr(X, "__len__"):
        return open_table(X)
    arrays = "__array__", "shape", "__getitem__", "tocsr"
    if hasattr(X, "__iter__") and not any(hasattr(X, what) for what in arrays):
        return IterableSource(X, _stored)
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
    array, is_bfloat16 = _stored(part)
    return Array(array, name, is_bfloat16=is_bfloat16)


def _stored(chunk):
    """(array as stored, whether of bfloat16) of what an iterable gave: a matrix, or a tuple or dict that begins with
    one, as data loaders give with labels."""
    array, _ = _unwrap(first_matrix(chunk))
    if isinstance(array, BFloat16):
        return array.bits, True
    return (array if hasattr(array, "dtype") else np.asarray(array)), False  # a frame has several dtypes
