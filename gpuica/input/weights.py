"""Validation of sample_weight."""

import os
from dataclasses import replace

import numpy as np

from ..device.arrays import as_numpy
from ..rows.base import MAX_COUNT, check_weights
from ..rows.shared import Shared, agree, gather
from .data import SampleWeights


def with_sample_weight(data, sample_weight):
    """The `InputData` with weights of its rows (n_rows,), an array-like of any library, or None.

    The weights are divided by a power of 2, because the working precision must hold their squares; weights up to
    MAX_COUNT stay as they are, because they may be counts.  ValueError if they are not valid weights.
    """
    if isinstance(data.array, Shared):
        weights, total, largest = _global_weights(data.array, sample_weight)
    elif sample_weight is not None:
        weights = _check_local(sample_weight, data.shape[0])
        total, largest = float(weights.sum()), float(weights.max())
    else:
        weights = None
    if weights is None:
        return data
    limits = np.finfo(data.dtype)
    if not float(limits.tiny) <= total <= float(limits.max):
        raise ValueError(f"sample_weight must add up to a number that {data.dtype} holds: rescale it.")
    unit = 1.0 if 1 <= largest <= MAX_COUNT else 2.0 ** float(np.frexp(largest)[1] - 1)
    return replace(data, sample_weights=SampleWeights(weights / unit, total))


def _check_local(sample_weight, n_rows, some_row=True):
    """Weights (n_rows,) on the host, see `check_weights`."""
    if isinstance(sample_weight, str | bytes | os.PathLike):
        raise ValueError(
            f"sample_weight must be an array of numbers, one for each row of X, got {str(sample_weight)!r:.80}: load a "
            "file first, np.load(path)."
        )
    return check_weights(as_numpy(sample_weight), n_rows, some_row)


def _global_weights(X, sample_weight):
    """Weights of this rank's rows, and the sum and the largest of all ranks' weights; None if no rank has weights."""

    def check():
        return None if sample_weight is None else _check_local(sample_weight, X.local.shape[0], some_row=False)

    weights = agree(X.comm, check)
    table = gather(X.comm, [0, 0, 0] if weights is None else [1, weights.sum(), weights.max(initial=0)])
    if len(set(table[:, 0])) > 1:
        raise ValueError("sample_weight must be given on every rank or on none.")
    if weights is not None and not table[:, 2].any():
        raise ValueError("sample_weight is zero for every row: at least one weight must be above zero.")
    return weights, float(table[:, 1].sum()), float(table[:, 2].max())
