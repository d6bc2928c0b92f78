"""Compilation of kernels ahead of the first fit."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..contrasts import CONTRASTS
from .fastica import FastICA
from .minibatch import MiniBatchDictionaryLearning
from .picard import Picard
from .sparse_encode import sparse_encode

PURSUITS = ("omp", "ormp", "nnomp", "lars", "matching_pursuit", "gradient_pursuit")


def warmup(*kernels: str, dtypes: Any = ("float32", "float64"), device: str = "cpu") -> None:
    """Compile kernels before they are needed.

    The first call of a kernel on a machine compiles it, which takes seconds, and stores the result on disk, from where
    later processes load it.  This function does so ahead of time: in an image of a container, or before a measurement.

    Parameters
    ----------
    *kernels : {"ica", "lasso", "pursuits", "dictionary"}
        Kernels to compile; all of them by default.  "ica" are those of `FastICA` and `Picard` for every contrast,
        "lasso" and "pursuits" those of `sparse_encode` and `SparseCoder`, and "dictionary" those of
        `MiniBatchDictionaryLearning` and `DictionaryLearning`, in addition to those of the coder.
    dtypes : sequence of {"float32", "float64"}, default=("float32", "float64")
        Floating-point types of the data.
    device : str, default="cpu"
        Device, such as "cpu" or "cuda".

    Raises
    ------
    ValueError
        If there are no kernels of that name.

    See Also
    --------
    FastICA, Picard, SparseCoder, MiniBatchDictionaryLearning : Use these kernels.

    Notes
    -----
    Small problems are solved.  Compilations of more than a second are logged by the logger "gpuica".  Numba stores
    kernels beside the package, or where that is read-only in a directory of the user; NUMBA_CACHE_DIR chooses another.

    Examples
    --------
    >>> import gpuica
    >>> gpuica.warmup("ica", dtypes=["float32"])
    """
    if unknown := set(kernels) - set(_PROBLEMS):
        raise ValueError(f"kernels must be among {', '.join(_PROBLEMS)}, got {', '.join(sorted(map(str, unknown)))}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small problems need not converge
        for name in kernels or _PROBLEMS:
            for dtype in dtypes:
                _PROBLEMS[name](np.random.default_rng(0), np.dtype(dtype), device)


def _ica(rng, dtype, device):
    """Fits of 5,000 x 16 rows, for which kernels are used, by every contrast."""
    X = rng.laplace(size=(5_000, 16)).astype(dtype)
    for fun in CONTRASTS:
        FastICA(fun=fun, max_iter=1, random_state=0, device=device).fit(X)
        Picard(fun=fun, max_iter=1, random_state=0, device=device).fit(X)


def _unit(rng, shape, dtype):
    """Random rows of norm 1."""
    A = rng.normal(size=shape)
    return (A / np.linalg.norm(A, axis=1, keepdims=True)).astype(dtype)


def _lasso(rng, dtype, device):
    """Codes by a small and a large dictionary, and by one with nearly dependent atoms."""
    X, small, large = (_unit(rng, (n, 8), dtype) for n in (64, 32, 2_000))
    dependent = np.concatenate([small, small + _unit(rng, (32, 8), dtype) * dtype.type(1e-6)])
    for D in (small, large, dependent):
        for sparse in (False, True):
            sparse_encode(X, D, algorithm="lasso_cd", alpha=0.05, device=device, sparse_output=sparse)


def _pursuits(rng, dtype, device):
    """Codes by every pursuit, of few enough atoms for OMP of float64 rows to choose them in float32."""
    X, D = _unit(rng, (64, 8), dtype), _unit(rng, (32, 8), dtype)
    for name in PURSUITS:
        for sparse in (False, True):
            sparse_encode(X, D, algorithm=name, n_nonzero_coefs=2, device=device, sparse_output=sparse)


def _dictionary(rng, dtype, device):
    """Batches of few and of many atoms for each feature."""
    X = _unit(rng, (300, 64), dtype)
    for rows, n_atoms in ((X, 100), (np.ascontiguousarray(X[:, :2]), 20)):
        settings: dict[str, Any] = {"fit_algorithm": "cd", "alpha": 0.1, "init": "data", "batch_size": 150}
        MiniBatchDictionaryLearning(n_atoms, max_iter=1, random_state=0, device=device, **settings).fit(rows)


_PROBLEMS: dict[str, Callable] = {"ica": _ica, "lasso": _lasso, "pursuits": _pursuits, "dictionary": _dictionary}
