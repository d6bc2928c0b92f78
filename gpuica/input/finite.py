"""NaN and infinity in X: where they are, and how they are reported."""

from contextlib import contextmanager

import numpy as np
from sklearn.utils.validation import assert_all_finite

from ..device import array_device, to_host
from ..exceptions import NotFiniteError
from ..io.sources import Source

CHUNK_ROWS = 1 << 16  # rows checked at once


def all_finite(array):
    """Whether all entries are finite, checked in chunks of rows."""
    xp = array_device(array).xp
    return all(bool(xp.isfinite(array[i : i + CHUNK_ROWS]).all()) for i in range(0, len(array), CHUNK_ROWS))


def check_chunk(chunk, then=None):
    """The chunk, or then(chunk); NotFiniteError if an entry is not finite."""
    if not array_device(chunk).xp.isfinite(chunk).all():
        raise NotFiniteError("Input X contains NaN or infinity: clean it.")
    return then(chunk) if then else chunk


@contextmanager
def report_nonfinite(estimator, data):
    """In the `with` block, replace a NotFiniteError by one that states where X is not finite, if that can be found."""
    try:
        yield
    except NotFiniteError:
        raise_nonfinite(estimator, data.array)
        raise


def raise_nonfinite(estimator, array):
    """Raise ValueError if an array on the host or a source has NaN or infinity: scikit-learn's, or with the row."""
    if isinstance(array, np.ndarray):
        assert_all_finite(array, estimator_name=type(estimator).__name__, input_name="X")
    elif isinstance(array, Source):
        starts = range(0, len(array), CHUNK_ROWS)
        first = next((i for i in starts if not all_finite(array[i : i + CHUNK_ROWS])), None)
        if first is not None:
            row = first + int(np.argmin(np.isfinite(to_host(array[first : first + CHUNK_ROWS])).all(axis=1)))
            raise ValueError(
                f"Input X contains NaN or infinity, first in {array.where(row)}: {type(estimator).__name__} does not "
                "accept them."
            )
