"""Rows of data, by storage.  `open_rows` chooses the storage of X."""

from ..io.sources import Source
from .memory import memory_rows
from .shared import Shared, SharedRows
from .stream import open_stream


def _is_dask(X):
    return type(X).__module__.partition(".")[0] == "dask"


def _open_dask(X, *, device, **settings):
    """Rows of a Dask array; Dask is imported here, because it is optional."""
    from .dask import DaskRows

    return DaskRows(X, **settings)


def _open_shared(X, **settings):
    return SharedRows(open_rows(X.local, **settings), X.comm)


# (whether X has this storage, a function that opens it as Rows): the first match counts, else X is an array in memory
STORAGES = (
    (_is_dask, _open_dask),
    (lambda X: isinstance(X, Shared), _open_shared),
    (lambda X: isinstance(X, Source), open_stream),
)


def open_rows(X, *, dtype, device, chunk_rows=None, prepare=None, work=None, weights=None):
    """The `Rows` of X.

    X: (n_rows, n_features), an array of any library whose slices are arrays, a `Source`, a Dask array, or `Shared`.
    dtype: the working dtype, float32 or float64.  device: the `Device` that processes the chunks.  chunk_rows: rows of
    a chunk, by default as many as fit a cache.  prepare: a function that is applied to every chunk first,
    `normalize_rows` for instance.  work: floating-point operations per row and pass, by default those of ICA.
    weights: (n_rows,) as `check_weights` returns them.
    """
    open_storage = next((opener for matches, opener in STORAGES if matches(X)), memory_rows)
    settings = {"chunk_rows": chunk_rows, "prepare": prepare, "work": work, "weights": weights}
    return open_storage(X, dtype=dtype, device=device, **settings)
