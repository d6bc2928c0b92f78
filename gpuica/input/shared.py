"""Validation of X that several processes share (`gpuica.shared`), and draws that all ranks share."""

import numpy as np
from sklearn.utils import check_random_state

from ..rows.shared import Shared, agree, gather
from .dask import is_dask
from .data import InputData
from .local import check_local


def is_shared(X):
    """Whether X is a `Shared` array."""
    return isinstance(X, Shared)


def check_shared(estimator, X, *, reset, min_rows, finite):
    """Validate this rank's rows; the shape of the result is that of the rows of all ranks together.

    Parameters and errors of `check_input`; also RuntimeError where the rows of another rank are invalid, ValueError
    where ranks differ in the number of features or the dtype.
    """

    def check():
        if is_dask(X.local):
            raise TypeError("a Dask array is distributed over workers already: fit it without gpuica.shared.")
        return check_local(estimator, X.local, reset=reset, min_rows=0, finite=finite)

    local = agree(X.comm, check)
    table = gather(X.comm, [*local.shape, local.dtype.itemsize])
    for what, column in (("features", table[:, 1]), ("bytes a number", table[:, 2])):
        if (column != column[0]).any():
            raise ValueError(f"all ranks must have rows of the same kind, but they have {column.astype(int)} {what}.")
    n_rows = int(table[:, 0].sum())
    if n_rows < min_rows:
        raise ValueError(
            f"Found array with {n_rows} sample(s) on all ranks together while a minimum of {min_rows} is required by "
            f"{type(estimator).__name__}."
        )
    return InputData(Shared(local.array, X.comm, n_rows), local.dtype, local.to_caller, unchecked=local.unchecked)


def common_random_state(random_state, data):
    """scikit-learn's RandomState for `random_state`; for shared data the state of rank 0 on every rank."""
    rng = check_random_state(random_state)
    if not isinstance(data.array, Shared) or isinstance(random_state, int | np.integer):
        return rng
    if random_state is None:  # NumPy's global RandomState, which must not be set
        seed = gather(data.array.comm, [rng.randint(2**31 - 1)])[0, 0]
        return np.random.RandomState(int(seed))
    kind, keys, *rest = rng.get_state()
    first = gather(data.array.comm, [*keys, *rest])[0]
    rng.set_state((kind, first[: len(keys)].astype(np.uint32), int(first[-3]), int(first[-2]), float(first[-1])))
    return rng
