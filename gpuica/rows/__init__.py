"""Rows of data by where they are stored; `open_rows` chooses."""

from ..io.sources import Source
from .memory import MemoryRows
from .shared import Shared, SharedRows
from .stream import StreamRows


def open_rows(X, *, dtype, device, chunk_rows=None, prepare=None, work=None, weights=None):
    """The Rows that hold X.

    X: (n_rows, n_features), an array of any library whose slices are arrays, a `Source`, a Dask array, or `Shared`.
    dtype: float32 or float64 to work in.  device: a `Device`.  chunk_rows: rows of a chunk; by default what stays in a
    cache.  prepare: a function of a chunk that gives the chunk to use, `normalize_rows` say.  work: operations
    that a pass costs for a row, by default those of ICA.  weights: (n_rows,) as `check_weights` gives them.
    """
    if type(X).__module__.partition(".")[0] == "dask":
        from .dask import DaskRows

        return DaskRows(X, dtype=dtype, chunk_rows=chunk_rows, prepare=prepare, work=work, weights=weights)
    if isinstance(X, Shared):
        options = {"chunk_rows": chunk_rows, "prepare": prepare, "work": work, "weights": weights}
        return SharedRows(open_rows(X.local, dtype=dtype, device=device, **options), X.comm)

    kind = StreamRows if isinstance(X, Source) else MemoryRows
    return kind(X, dtype=dtype, device=device, chunk_rows=chunk_rows, prepare=prepare, work=work, weights=weights)
