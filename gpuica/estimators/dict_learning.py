"""Dictionary learning as functions, drop-in for scikit-learn's."""

from typing import Any

import numpy as np
from sklearn.utils._param_validation import StrOptions, validate_params

from .dictionary import DictionaryLearning
from .minibatch import MiniBatchDictionaryLearning


@validate_params(
    {
        "X": ["array-like"],
        "method": [StrOptions({"lars", "cd"})],
        "return_n_iter": ["boolean"],
        "method_max_iter": DictionaryLearning._parameter_constraints["transform_max_iter"],
    },
    prefer_skip_nested_validation=False,
)
def dict_learning(
    X: Any,
    n_components: int | None,
    *,
    alpha: float,
    max_iter: int = 100,
    tol: float | str = 1e-8,
    method: str = "lars",
    n_jobs: int | None = None,
    dict_init: Any = None,
    code_init: Any = None,
    callback: Any = None,
    verbose: int = False,
    random_state: int | np.random.RandomState | None = None,
    return_n_iter: bool = False,
    positive_dict: bool = False,
    positive_code: bool = False,
    method_max_iter: int = 1000,
    device: str = "auto",
) -> tuple[Any, ...]:
    """Dictionary learning with all rows in each iteration, as a function.

    A drop-in replacement of `sklearn.decomposition.dict_learning`, on CPUs or GPUs.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows: an array of NumPy, CuPy, PyTorch or Dask, a DataFrame, a memory map, or paths of files.
    n_components : int
        Number of atoms.  None means n_features.
    alpha : float
        Weight of the l1 penalty.
    max_iter : int, default=100
        Maximum number of iterations, each a pass over X.
    tol : float, default=1e-8
        The fit has converged when an iteration reduces the cost by less than `tol` times the cost.
    method : {"lars", "cd"}, default="lars"
        Coder: two names of the lasso, solved to the precision of the dtype.
    n_jobs : int, default=None
        Not used, for compatibility with scikit-learn: all available cores are used.
    dict_init : array-like of shape (n_components, n_features), default=None
        Initial atoms, used only if `code_init` is given as well.
    code_init : array-like of shape (n_samples, n_components), default=None
        Initial codes.  Their values are not used, because the first iteration computes all codes; their presence makes
        `dict_init` effective, as in scikit-learn.
    callback : callable, default=None
        Function called every five iterations with a dict of "ii" (the iteration, from 0), "dictionary", "errors" and
        "current_cost".
    verbose : bool, default=False
        Whether to print a line per iteration.
    random_state : int, RandomState instance or None, default=None
        Determines the draws of rows that replace unused atoms.
    return_n_iter : bool, default=False
        Whether to return the number of iterations.
    positive_dict : bool, default=False
        Whether atoms are constrained to be non-negative.
    positive_code : bool, default=False
        Whether codes are constrained to be non-negative; requires `method="cd"`.
    method_max_iter : int, default=1000
        Maximum number of iterations for the lasso of a row.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Device for the computation.  "auto" means the device of X if X is a device array, and otherwise a GPU if there
        is one and the amount of work justifies the transfer.

    Returns
    -------
    code : array of shape (n_samples, n_components)
        Codes of the last iteration, for the atoms before their last update, in the library and on the device of X.
    dictionary : ndarray of shape (n_components, n_features)
        Atoms.
    errors : list of float
        Cost after each iteration, summed over rows.
    n_iter : int
        Number of iterations.  Returned only if `return_n_iter=True`.

    Raises
    ------
    ValueError
        If X or an initial array is not a finite real matrix of the required shape, or if the parameters are not valid.

    See Also
    --------
    DictionaryLearning : The same as an estimator, with more options.
    dict_learning_online : Learn from mini-batches.
    sparse_encode : Codes for a given dictionary.

    Notes
    -----
    Minimises Σ ½‖x - c D‖² + alpha ‖c‖₁ over the dictionary D and the codes c of the rows x, with ‖d‖ ≤ 1 for each atom
    d, by computing all codes and updating all atoms alternately [1]_.

    References
    ----------
    .. [1] J. Mairal, F. Bach, J. Ponce and G. Sapiro, "Online learning for matrix factorization and sparse coding",
       Journal of Machine Learning Research 11, 2010.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica import dict_learning
    >>> rng = np.random.default_rng(0)
    >>> X = rng.laplace(size=(200, 5)) @ rng.normal(size=(5, 8))
    >>> code, dictionary, errors = dict_learning(X, n_components=5, alpha=0.5, tol=1e-3, random_state=0)
    >>> code.shape, dictionary.shape
    ((200, 5), (5, 8))
    >>> errors[-1] < errors[0]
    True
    """
    estimator = DictionaryLearning(
        n_components=n_components,
        alpha=alpha,
        max_iter=max_iter,
        tol=tol,
        fit_algorithm=method,
        n_jobs=n_jobs,
        dict_init=dict_init,
        code_init=code_init,
        callback=callback,
        verbose=verbose,
        random_state=random_state,
        positive_dict=positive_dict,
        positive_code=positive_code,
        transform_max_iter=method_max_iter,
        device=device,
    ).set_output(transform="default")
    code = estimator.fit_transform(X)
    returned = code, estimator.components_, estimator.error_
    return (*returned, estimator.n_iter_) if return_n_iter else returned


@validate_params(
    {
        "X": ["array-like"],
        "return_code": ["boolean"],
        "method": [StrOptions({"cd", "lars"})],
        "method_max_iter": MiniBatchDictionaryLearning._parameter_constraints["transform_max_iter"],
    },
    prefer_skip_nested_validation=False,
)
def dict_learning_online(
    X: Any,
    n_components: int | None = 2,
    *,
    alpha: float = 1,
    max_iter: int = 100,
    return_code: Any = True,
    dict_init: Any = None,
    callback: Any = None,
    batch_size: int = 256,
    verbose: int = False,
    shuffle: bool = True,
    n_jobs: int | None = None,
    method: str = "lars",
    random_state: int | np.random.RandomState | None = None,
    positive_dict: bool = False,
    positive_code: bool = False,
    method_max_iter: int = 1000,
    tol: float | str = 1e-3,
    max_no_improvement: int | None = 10,
    device: str = "auto",
) -> Any:
    """Dictionary learning from mini-batches, as a function.

    A drop-in replacement of `sklearn.decomposition.dict_learning_online`, on CPUs or GPUs.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows: an array of NumPy, CuPy, PyTorch or Dask, a DataFrame, a memory map, or paths of files.
    n_components : int, default=2
        Number of atoms.  None means n_features.
    alpha : float, default=1
        Weight of the l1 penalty.
    max_iter : int, default=100
        Maximum number of passes over X.
    return_code : bool, default=True
        Whether to return the codes.
    dict_init : array-like of shape (n_components, n_features), default=None
        Initial atoms.  None means right singular vectors of X times singular values.
    callback : callable, default=None
        Function called after each batch, unless the fit has converged, with a dict of "i" (the batch, from 0),
        "dictionary", "batch_cost" and "self", the estimator.
    batch_size : int or "auto", default=256
        Number of rows of a batch.  "auto" means n_components, but at least 256 and at most 4096: in a smaller batch a
        large dictionary has atoms that no row uses.
    verbose : bool or int, default=False
        Whether to print a line for the first batch, then one every two seconds; 2 prints a line per batch.
    shuffle : bool, default=True
        Whether rows are shuffled before they are divided into batches: an array in memory once, so that all passes have
        the same batches, as in scikit-learn; out-of-core data in each pass, within windows that fit in memory.
    n_jobs : int, default=None
        Not used, for compatibility with scikit-learn: all available cores are used.
    method : {"lars", "cd"}, default="lars"
        Coder: two names of the lasso, solved to the precision of the dtype.
    random_state : int, RandomState instance or None, default=None
        Determines the initial atoms, the order of the batches and the draws of replaced atoms.  The random
        numbers are the same on every device.
    positive_dict : bool, default=False
        Whether atoms are constrained to be non-negative.
    positive_code : bool, default=False
        Whether codes are constrained to be non-negative; requires `method="cd"`.
    method_max_iter : int, default=1000
        Maximum number of iterations for the lasso of a row.
    tol : float, default=1e-3
        The fit has converged when a batch changes the dictionary by at most `tol`: ‖D_new - D_old‖ / n_components.
        0 disables this rule.
    max_no_improvement : int, default=10
        The fit has converged after this number of consecutive batches without a new minimum of the exponentially
        weighted average of the batch costs.  None disables this rule.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Device for the computation.  "auto" means the device of X if X is a device array, and otherwise a GPU if there
        is one and the amount of work justifies the transfer.

    Returns
    -------
    code : array of shape (n_samples, n_components)
        The lasso codes of all rows for the learned atoms, in the library and on the device of X.  Returned only if
        `return_code=True`.
    dictionary : ndarray of shape (n_components, n_features)
        Atoms.

    Raises
    ------
    ValueError
        If X or `dict_init` is not a finite real matrix of the required shape, or if the parameters are not valid.

    See Also
    --------
    MiniBatchDictionaryLearning : The same as an estimator, with more options and `partial_fit`.
    dict_learning : Learn with all rows in each iteration.
    sparse_encode : Codes for a given dictionary.

    Notes
    -----
    Minimises Σ ½‖x - c D‖² + alpha ‖c‖₁ over the dictionary D and the codes c of the rows x, with ‖d‖ ≤ 1 for each atom
    d.  A step computes the codes of one batch and updates the atoms for weighted sums over all batches so far [1]_.

    References
    ----------
    .. [1] J. Mairal, F. Bach, J. Ponce and G. Sapiro, "Online dictionary learning for sparse coding", ICML 2009.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica import dict_learning_online
    >>> rng = np.random.default_rng(0)
    >>> X = rng.laplace(size=(1000, 5)) @ rng.normal(size=(5, 8))
    >>> code, dictionary = dict_learning_online(
    ...     X, n_components=5, alpha=0.5, batch_size=100, max_iter=20, random_state=0
    ... )
    >>> code.shape, dictionary.shape
    ((1000, 5), (5, 8))
    """
    estimator = MiniBatchDictionaryLearning(
        n_components=n_components,
        alpha=alpha,
        max_iter=max_iter,
        n_jobs=n_jobs,
        fit_algorithm=method,
        batch_size=batch_size,
        shuffle=shuffle,
        dict_init=dict_init,
        random_state=random_state,
        transform_algorithm="lasso_" + method,
        transform_alpha=alpha,
        positive_code=positive_code,
        positive_dict=positive_dict,
        transform_max_iter=method_max_iter,
        verbose=verbose,
        callback=callback,
        tol=tol,
        max_no_improvement=max_no_improvement,
        device=device,
    ).set_output(transform="default")
    estimator.fit(X)
    return (estimator.transform(X), estimator.components_) if return_code else estimator.components_
