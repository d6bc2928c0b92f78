"""Arguments of metrics: arrays of any library, files and Dask arrays, read by chunks."""

import os
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment

from ..device import array_device
from ..device.arrays import as_numpy, unwrap
from ..io.files import shards
from ..rows import open_rows
from ..rows.base import check_weights

CHUNK_ELEMENTS = 1 << 22  # numbers of a chunk of codes or cosines


def match(similarity: Any) -> Any:
    """One-to-one matching of rows and columns with the largest sum of absolute similarities.

    Parameters
    ----------
    similarity : array-like of shape (n_rows, n_columns)
        Similarities, such as correlations; their signs are ignored.

    Returns
    -------
    similarities : ndarray of shape (min(n_rows, n_columns),)
        Absolute similarity of each matched pair, in the order of the rows.
    columns : ndarray of shape (min(n_rows, n_columns),)
        The column in each pair.

    See Also
    --------
    matched_correlation : Match the columns of two arrays by correlation.

    Examples
    --------
    >>> from gpuica.metrics import match
    >>> similarities, columns = match([[0.1, -0.9], [0.2, 0.8]])
    >>> similarities, columns
    (array([0.9, 0.2]), array([1, 0]))
    """
    similarity = np.abs(as_numpy(similarity))
    rows, columns = linear_sum_assignment(-similarity)
    return similarity[rows, columns], columns


def open_matrix(S: Any) -> Any:
    """S as a 2-D array of NumPy, CuPy or bfloat16 with known chunks, or as a source of files; ValueError if not 2-D."""
    if isinstance(S, str | os.PathLike):
        return shards(S)
    if type(S).__module__.partition(".")[0] == "dask":
        from ..rows.dask import with_known_chunks

        S = with_known_chunks(S)
    S = unwrap(S)[0] if hasattr(S, "ndim") else np.asarray(S)
    if S.ndim != 2:
        raise ValueError(f"Expected a 2D array (n_samples, n_components), got {S.ndim}D.")
    return S


def open_rows_of(X: Any, device: str, sample_weight: Any) -> Any:
    """X as Rows in float64, with its weights, on its device."""
    weights = None if sample_weight is None else check_weights(as_numpy(sample_weight), X.shape[0])
    return open_rows(X, dtype=np.dtype(np.float64), device=device, weights=weights)


def small_matrix(value: Any) -> Any:
    """A small array-like of any library, on any device, as a NumPy array of float64."""
    return np.asarray(as_numpy(value), dtype=np.float64)


def block_slices(X: Any) -> Any:
    """Slices of the rows of a Dask array, one for each block, which is then computed once; None for other arrays."""
    if type(X).__module__.partition(".")[0] != "dask":
        return None
    ends = np.cumsum(X.chunks[0]).tolist()
    return [slice(start, stop) for start, stop in zip([0, *ends], ends)]


def slices(n: Any, width: Any) -> Any:
    """Slices of n rows of this width, of about CHUNK_ELEMENTS numbers each."""
    size = max(1, CHUNK_ELEMENTS // max(1, width))
    return [slice(start, start + size) for start in range(0, n, size)]


class SideBySide:
    """The columns of two matrices S and T with the same rows, concatenated chunk by chunk."""

    def __init__(self, S: Any, T: Any) -> None:
        self.parts, self.dtype = (S, T), np.dtype(np.float64)
        self.shape = (len(S), S.shape[1] + T.shape[1])

    def __getitem__(self, rows: Any) -> Any:
        S, T = (part[rows] for part in self.parts)
        device = array_device(S)
        return device.xp.concatenate([S, device.put(T)], axis=1)
