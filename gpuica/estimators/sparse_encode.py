"""Sparse coding as a function, drop-in for scikit-learn's."""

import time
from numbers import Integral
from typing import Any

from sklearn.utils._param_validation import validate_params

from .coding import SparseCoder


@validate_params(
    {
        "dictionary": ["array-like"],
        "algorithm": SparseCoder._parameter_constraints["transform_algorithm"],
        "n_nonzero_coefs": SparseCoder._parameter_constraints["transform_n_nonzero_coefs"],
        "alpha": SparseCoder._parameter_constraints["transform_alpha"],
        "max_iter": SparseCoder._parameter_constraints["transform_max_iter"],
        "positive": ["boolean"],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
        "device": [str],
        "sparse_output": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def sparse_encode(
    X: Any,
    dictionary: Any,
    *,
    gram: Any = None,
    cov: Any = None,
    algorithm: str = "lasso_lars",
    n_nonzero_coefs: int | None = None,
    alpha: float | None = None,
    copy_cov: Any = True,
    init: Any = None,
    max_iter: int = 1000,
    n_jobs: int | None = None,
    check_input: Any = True,
    verbose: int = 0,
    positive: bool = False,
    device: str = "auto",
    sparse_output: bool = False,
) -> Any:
    """Compute sparse codes C of X for a dictionary D, with X ≈ C D, on CPUs or GPUs.

    A drop-in replacement of `sklearn.decomposition.sparse_encode`.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows: an array of NumPy, CuPy, PyTorch or Dask, a DataFrame, a memory map, or paths of files.
    dictionary : array-like of shape (n_components, n_features)
        Atoms, the rows of D.  They need not have norm 1.
    gram : array-like of shape (n_components, n_components), default=None
        Not used, for compatibility with scikit-learn.
    cov : array-like of shape (n_components, n_samples), default=None
        Not used, for compatibility with scikit-learn.
    algorithm : {"lasso_lars", "lasso_cd", "fista", "threshold", "lars", "omp", "nnomp", "ormp", "matching_pursuit", \
            "gradient_pursuit", "topk"}, default="lasso_lars"
        Coder:

        - "lasso_lars", "lasso_cd": argmin ½‖x - c D‖² + alpha ‖c‖₁ for each row x; two names of one coder;
        - "fista": the same minimum, by accelerated proximal gradient steps;
        - "threshold": sign(q) max(|q| - alpha, 0), q = x Dᵀ;
        - "lars": least angle regression;
        - "omp": orthogonal matching pursuit; "nnomp": with c ≥ 0; "ormp": order-recursive;
        - "matching_pursuit", "gradient_pursuit": one coefficient, or all selected ones along the gradient, per step;
        - "topk": the entries of q of largest magnitude.
    n_nonzero_coefs : int, default=None
        Number of non-zeros of a code, for all coders but the lasso and "threshold".  None means n_features / 10,
        rounded down, but at least 1.
    alpha : float, default=None
        For the lasso, the weight of the l1 penalty; for "threshold", the threshold; None means 1 for both.  For the
        pursuits, the squared residual at which a code is complete, which then replaces `n_nonzero_coefs`.
    copy_cov : bool, default=True
        Not used, for compatibility with scikit-learn.
    init : array-like of shape (n_samples, n_components), default=None
        Not used, for compatibility with scikit-learn: the solution does not depend on a starting point.
    max_iter : int, default=1000
        Maximum number of iterations for the lasso of a row.
    n_jobs : int, default=None
        Not used, for compatibility with scikit-learn: all available cores are used.
    check_input : bool, default=True
        Not used, for compatibility with scikit-learn: X is always validated.
    verbose : int, default=0
        Whether to print a line before and after the computation.
    positive : bool, default=False
        Whether codes are constrained to be non-negative, for the lasso, "threshold" and "topk".
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Device for the computation.  "auto" means the device of X if X is a device array, and otherwise a GPU if there
        is one and the amount of work justifies the transfer.
    sparse_output : bool, default=False
        Whether to return a `scipy.sparse.csr_array`.

    Returns
    -------
    code : array of shape (n_samples, n_components)
        Codes, in the library and on the device of X; a `scipy.sparse.csr_array` with `sparse_output=True`.

    Raises
    ------
    ValueError
        If X or the dictionary is not a finite real matrix, if their numbers of features differ, or if the coder does
        not support the parameters.

    See Also
    --------
    SparseCoder : The same as an estimator; its Notes give each coder's definition and reference.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica import sparse_encode
    >>> D = np.array([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8], [0.0, 0.8, -0.6]])
    >>> sparse_encode(np.array([[3.0, 0.0, 0.0], [0.0, 1.2, 1.6]]), D, algorithm="omp", n_nonzero_coefs=1)
    array([[3., 0., 0.],
           [0., 2., 0.]])
    """
    coder = SparseCoder(
        dictionary,
        transform_algorithm=algorithm,
        transform_n_nonzero_coefs=n_nonzero_coefs,
        transform_alpha=alpha,
        positive_code=positive,
        transform_max_iter=max_iter,
        device=device,
        sparse_output=sparse_output,
    )
    if not verbose:
        return coder.transform(X)
    start = time.perf_counter()
    print(f"[sparse_encode] coding by {algorithm!r}", flush=True)
    codes = coder.transform(X)
    seconds = time.perf_counter() - start
    print(f"[sparse_encode] codes of shape {codes.shape}, {seconds:.1f} s", flush=True)
    return codes
