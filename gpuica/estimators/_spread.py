"""X that is not here as a whole: a Dask array, or one that several processes share (`gpuica.shared`)."""

from dataclasses import replace

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from ..device import CPU, choose_device, memory_size
from ..rows.shared import Shared, agree, gather
from ._shell import InputData, check_input, host_weights, is_dask, refuse_deep, work_dtype


def take_dask(estimator, X, *, reset, min_rows, finite):
    """A Dask array as `InputData`; parameters and errors of `_shell.take`.

    NaN and infinity are looked for, where that is asked for, when a chunk is computed, not in a pass of its own.
    """
    from ..rows.dask import with_known_chunks

    array = with_known_chunks(X)
    refuse_deep(array)
    if array.ndim != 2:
        raise ValueError(f"Expected 2D array, got {array.ndim}D array instead: X must be (n_samples, n_features).")
    if array.dtype.kind not in "iufb":
        raise ValueError(f"X must hold real numbers, got dtype {array.dtype}.")
    if array.shape[0] < min_rows or array.shape[1] < 1:
        raise ValueError(
            f"Found array with shape {array.shape} while a minimum of {min_rows} sample(s) and 1 feature is required "
            f"by {type(estimator).__name__}."
        )
    if reset is not None:
        validate_data(estimator, array, reset=reset, skip_check_array=True)
    if finite and array.dtype.kind == "f":
        array = array.map_blocks(_finite, name_of=type(estimator).__name__, dtype=array.dtype, meta=array._meta)
    return InputData(array, work_dtype(array.dtype), lambda result: result)


_NOT_FINITE = "Input X contains NaN or infinity: {} does not accept them."


def _finite(block, name_of):
    if not bool(np.isfinite(block).all()):
        raise ValueError(_NOT_FINITE.format(name_of))
    return block


def take_shared(estimator, X, *, reset, min_rows, finite):
    """This rank's rows as `InputData`, whose shape is that of all ranks' rows; parameters and errors of `_shell.take`.

    RuntimeError where another rank's rows were refused; ValueError where ranks differ in features or dtype.
    """

    def take_mine():
        mine = check_input(estimator, X.local, reset=reset, min_rows=0, finite=finite)
        if is_dask(mine.array):
            raise TypeError("a Dask array is spread over workers already: fit it without gpuica.shared.")
        return mine

    mine = agree(X.comm, take_mine)
    table = gather(X.comm, [*mine.shape, mine.dtype.itemsize])
    for what, column in (("features", table[:, 1]), ("bytes a number", table[:, 2])):
        if (column != column[0]).any():
            raise ValueError(f"all ranks must have rows of the same kind, but they have {column.astype(int)} {what}.")
    if table[:, 0].sum() < min_rows:
        raise ValueError(
            f"Found array with {int(table[:, 0].sum())} sample(s) on all ranks together while a minimum of {min_rows} "
            f"is required by {type(estimator).__name__}."
        )
    X = Shared(mine.array, X.comm, int(table[:, 0].sum()))
    return InputData(X, mine.dtype, mine.back, unchecked=mine.unchecked)


def global_weights(X, sample_weight):
    """This rank's weights, Σ and the largest of all ranks' weights; None for the first where no rank has weights."""
    n_rows = X.local.shape[0]

    def check_mine():
        return None if sample_weight is None else host_weights(sample_weight, n_rows, some_row=False)

    weights = agree(X.comm, check_mine)
    numbers = [0, 0, 0] if weights is None else [1, weights.sum(), weights.max(initial=0)]
    table = gather(X.comm, numbers)
    if len(set(table[:, 0])) > 1:
        raise ValueError("sample_weight must be given on every rank or on none.")
    if weights is not None and not table[:, 2].any():
        raise ValueError("sample_weight is zero for every row: at least one weight must be above zero.")
    return weights, float(table[:, 1].sum()), float(table[:, 2].max())


def select_device(estimator, given, *, work, refusal=None):
    """The device that an estimator's `device` and `memory_limit` mean for X; see `choose_device`.

    For a Dask array the CPU, where the solver works on totals: chunks are worked on where they are.
    """
    name, limit = estimator.device, estimator.memory_limit
    if is_dask(given.array):
        if name not in ("auto", "cpu"):
            raise ValueError(
                f"device={name!r} does not move the chunks of a Dask array: use device='auto', and hand over chunks "
                "that are on the workers' GPUs, X.map_blocks(cupy.asarray)."
            )
        return replace(CPU, limit=memory_size(limit))
    array = given.array.local if isinstance(given.array, Shared) else given.array
    return choose_device(name, array, work=work, refusal=refusal, memory_limit=limit)


def random_state_for(random_state, given):
    """scikit-learn's RandomState for `random_state`; where X is shared, that of rank 0 on every rank."""
    rng = check_random_state(random_state)
    if not isinstance(given.array, Shared) or isinstance(random_state, int | np.integer):
        return rng
    if random_state is None:  # NumPy's own, which is nobody's to set
        seed = gather(given.array.comm, [rng.randint(2**31 - 1)])[0, 0]
        return np.random.RandomState(int(seed))
    kind, keys, *rest = rng.get_state()
    first = gather(given.array.comm, [*keys, *rest])[0]
    rng.set_state((kind, first[: len(keys)].astype(np.uint32), int(first[-3]), int(first[-2]), float(first[-1])))
    return rng
