"""Sparsity and accuracy of codes C (n, K) of rows x by a dictionary D (K, d), x ~ c D."""

from typing import Any

import numpy as np
from scipy import sparse

from ..device import CPU, array_device, to_host
from ._data import block_slices, open_matrix, slices


def l0(C: Any) -> float:
    """Mean number of non-zero codes of a row.

    Parameters
    ----------
    C : array, sparse matrix, path or Dask array of shape (n_samples, n_atoms)
        Codes.

    Returns
    -------
    mean : float
        Σ_j E [c_j ≠ 0].

    See Also
    --------
    l1 : Mean sum of absolute values.
    firing_frequencies : The same for each atom.

    Examples
    --------
    >>> from gpuica.metrics import l0
    >>> import numpy as np
    >>> C = np.array([[0, 2.0, 0, -1], [0, 0, 0, 1], [0, -3, 0, 0], [0, 0, 0, 4]])
    >>> l0(C)
    1.25
    """
    return float(firing_frequencies(C).sum())


def l1(C: Any) -> float:
    """Mean sum of absolute values of the codes of a row.

    Parameters
    ----------
    C : array, sparse matrix, path or Dask array of shape (n_samples, n_atoms)
        Codes.

    Returns
    -------
    mean : float
        Σ_j E |c_j|.

    See Also
    --------
    l0 : Mean number of non-zero codes.

    Examples
    --------
    >>> from gpuica.metrics import l1
    >>> import numpy as np
    >>> C = np.array([[0, 2.0, 0, -1], [0, 0, 0, 1], [0, -3, 0, 0], [0, 0, 0, 4]])
    >>> l1(C)
    2.75
    """
    C = _codes(C)
    return sum(float(abs(part).sum(dtype=np.float64)) for part in _parts(C)) / C.shape[0]


def firing_frequencies(C: Any) -> np.ndarray:
    """Fraction of the rows in which the code of each atom is not 0.

    Parameters
    ----------
    C : array, sparse matrix, path or Dask array of shape (n_samples, n_atoms)
        Codes.

    Returns
    -------
    frequencies : ndarray of shape (n_atoms,)
        E [c_j ≠ 0] for each atom j.

    See Also
    --------
    dead_atoms : Atoms that are never used.
    dense_atoms : Atoms that are used in many rows.

    Examples
    --------
    >>> from gpuica.metrics import firing_frequencies
    >>> import numpy as np
    >>> C = np.array([[0, 2.0, 0, -1], [0, 0, 0, 1], [0, -3, 0, 0], [0, 0, 0, 4]])
    >>> firing_frequencies(C)
    array([0.  , 0.5 , 0.  , 0.75])
    """
    C = _codes(C)
    return to_host(sum(_uses(part) for part in _parts(C))) / C.shape[0]


def dead_atoms(C: Any, threshold: float = 0.0) -> np.ndarray:
    """Find the atoms that are used in at most a given fraction of the rows.

    Parameters
    ----------
    C : array, sparse matrix, path or Dask array of shape (n_samples, n_atoms)
        Codes.
    threshold : float, default=0.0
        Largest `firing_frequencies` of a dead atom; 0 for atoms that no row uses.

    Returns
    -------
    indices : ndarray of int
        Dead atoms, ascending.

    See Also
    --------
    dense_atoms : Atoms that are used in many rows.

    Examples
    --------
    >>> from gpuica.metrics import dead_atoms
    >>> import numpy as np
    >>> C = np.array([[0, 2.0, 0, -1], [0, 0, 0, 1], [0, -3, 0, 0], [0, 0, 0, 4]])
    >>> dead_atoms(C)
    array([0, 2])
    """
    return np.flatnonzero(firing_frequencies(C) <= threshold)


def dense_atoms(C: Any, threshold: float = 0.1) -> np.ndarray:
    """Find the atoms that are used in more than a given fraction of the rows.

    Such atoms are not sparse; they often represent a mean or a bias.

    Parameters
    ----------
    C : array, sparse matrix, path or Dask array of shape (n_samples, n_atoms)
        Codes.
    threshold : float, default=0.1
        `firing_frequencies` above which an atom is dense.

    Returns
    -------
    indices : ndarray of int
        Dense atoms, ascending.

    See Also
    --------
    dead_atoms : Atoms that are used in few rows or none.

    Examples
    --------
    >>> from gpuica.metrics import dense_atoms
    >>> import numpy as np
    >>> C = np.array([[0, 2.0, 0, -1], [0, 0, 0, 1], [0, -3, 0, 0], [0, 0, 0, 4]])
    >>> dense_atoms(C, threshold=0.6)
    array([3])
    """
    return np.flatnonzero(firing_frequencies(C) > threshold)


def explained_variance(X: Any, C: Any, D: Any) -> float:
    """Fraction of the variance of the rows that their codes explain, 1 - `fvu`.

    Parameters
    ----------
    X : array, path or Dask array of shape (n_samples, n_features)
        Rows, of any kind that `gpuica.FastICA` takes; read by chunks.
    C : array, sparse matrix, path or Dask array of shape (n_samples, n_atoms)
        Codes.
    D : array-like of shape (n_atoms, n_features)
        Dictionary.

    Returns
    -------
    fraction : float
        1 for perfect codes, 0 for codes that always give the mean of X; negative where codes are worse than that.

    Raises
    ------
    ValueError
        If shapes do not match, or all rows of X are the same.

    See Also
    --------
    fvu : Fraction of variance unexplained.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica.metrics import explained_variance
    >>> X = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    >>> explained_variance(X, X, np.eye(2))
    1.0
    """
    return 1 - fvu(X, C, D)


def fvu(X: Any, C: Any, D: Any) -> float:
    """Fraction of variance unexplained, Σ ‖x - c D‖² / Σ ‖x - mean‖².

    Parameters
    ----------
    X : array, path or Dask array of shape (n_samples, n_features)
        Rows, of any kind that `gpuica.FastICA` takes; read by chunks.
    C : array, sparse matrix, path or Dask array of shape (n_samples, n_atoms)
        Codes.
    D : array-like of shape (n_atoms, n_features)
        Dictionary.

    Returns
    -------
    fraction : float
        0 for perfect codes, 1 for codes that always give the mean of X; larger where codes are worse than that.

    Raises
    ------
    ValueError
        If shapes do not match, or all rows of X are the same.

    See Also
    --------
    explained_variance : 1 - `fvu`.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica.metrics import fvu
    >>> X = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> fvu(X, X[:, :1], np.eye(2)[:1])
    0.5
    """
    X, C, device = open_matrix(X), _codes(C), array_device(X)
    D = device.put(open_matrix(D)[:]).astype(np.float64)
    if C.shape != (X.shape[0], D.shape[0]) or X.shape[1] != D.shape[1]:
        raise ValueError(f"X (n, d), C (n, k) and D (k, d) do not fit together: {X.shape}, {C.shape}, {D.shape}.")
    residual = square = 0.0
    shift = device.put(X[:1024]).astype(np.float64).mean(axis=0)  # without it, a large mean would cost digits
    total = device.xp.zeros(X.shape[1])
    for rows in block_slices(X) or slices(len(X), sum(D.shape)):
        x, c = device.put(X[rows]).astype(np.float64), C[rows]
        if not (sparse.issparse(c) and device == CPU):
            c = device.put(c.toarray() if sparse.issparse(c) else c)
        residual += ((x - c @ D) ** 2).sum()
        x -= shift
        total += x.sum(axis=0)
        square += (x * x).sum()
    variance = float(square - (total * total).sum() / len(X))
    if not variance > 0:
        raise ValueError("X has no variance to explain: all its rows are the same.")
    return float(residual) / variance


def _codes(C: Any) -> Any:
    """C as a matrix with rows that can be sliced."""
    return C.tocsr() if sparse.issparse(C) else open_matrix(C)


def _parts(C: Any) -> Any:
    """Chunks of rows; sparse codes are one chunk, because results computed from them are no larger than they are."""
    if sparse.issparse(C):
        return [C]
    return (C[rows] if array_device(C) != CPU else to_host(C[rows]) for rows in block_slices(C) or slices(*C.shape))


def _uses(C: Any) -> Any:
    """The number of rows of a chunk that use each atom, (K,)."""
    if sparse.issparse(C):
        return np.bincount(C.indices[C.data != 0], minlength=C.shape[1])
    return (C != 0).sum(axis=0)
