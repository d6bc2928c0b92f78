"""`fastica` and `picard`: the ICA estimators as functions."""

from typing import Any

import numpy as np
from sklearn.utils._param_validation import validate_params
from sklearn.utils.validation import check_array

from ..contrasts import check_contrast
from ..device.arrays import as_numpy
from . import _fit
from .fastica import FastICA
from .picard import Picard


class ContrastError(ValueError, AssertionError):
    """The derivatives of a contrast or density are wrong."""


@validate_params(
    {
        "X": ["array-like"],
        "return_X_mean": ["boolean"],
        "compute_sources": ["boolean"],
        "return_n_iter": ["boolean"],
    },
    prefer_skip_nested_validation=False,
)
def fastica(
    X: Any,
    n_components: int | None = None,
    *,
    algorithm: str = "parallel",
    whiten: str | bool = "unit-variance",
    fun: Any = "logcosh",
    fun_args: dict[str, Any] | None = None,
    max_iter: int = 200,
    tol: float | str = 1e-04,
    w_init: Any = None,
    whiten_solver: str = "svd",
    random_state: int | np.random.RandomState | None = None,
    return_X_mean: bool = False,
    compute_sources: bool = True,
    return_n_iter: bool = False,
    device: str = "auto",
    verbose: int = 0,
    growth: str | float | None = None,
    n_init: int = 1,
    precision: str | None = None,
) -> list[Any]:
    """Perform fast independent component analysis, as scikit-learn's function `fastica`.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Data, of any type that `FastICA.fit` accepts.
    n_components : int, default=None
        Number of components to keep. None keeps all. If the rank of X is smaller, fewer are kept, with a warning.
    algorithm : {'parallel', 'deflation', 'picard'}, default='parallel'
        'parallel' estimates all components at once, 'deflation' one after the other. 'picard' finds the stationary
        points of 'parallel' with Picard-O, which converges where the fixed-point iteration oscillates, see `Picard`.
    whiten : {'unit-variance', 'arbitrary-variance', False}, default='unit-variance'
        'unit-variance' whitens X and rescales the sources to variance 1; 'arbitrary-variance' whitens X only. With
        False, X must be white already.
    fun : {'logcosh', 'tanh', 'exp', 'cube'}, callable, contrast or density, default='logcosh'
        The contrast G, or its derivative g; 'tanh' is another name of 'logcosh'. A callable is called with
        ``(x, **fun_args)``, where x is a block of shape (n_components, n_block), and returns g(x) and the mean of g'(x)
        over the last axis. A contrast is an object like `gpuica.LogCosh`; a density is an object of python-picard with
        `log_lik` and `score_and_der`. `gpuica.check_contrast` checks the derivatives.
    fun_args : dict, default=None
        For 'logcosh' ``{'alpha': alpha}`` with 1 <= alpha <= 2; for a callable its keyword arguments.
    max_iter : int, default=200
        Maximum number of iterations; for 'deflation', of each component.
    tol : float or 'auto', default=1e-4
        Stop when all rows of W change by less than tol, ``max(abs(abs(<w_new, w_old>) - 1)) < tol``; for 'picard', the
        change is that of the next Newton step. If the gradient is still more than 10 standard errors from zero, the fit
        has not converged, and warns (for tol < 1). 'auto' (not for 'deflation') stops when the relative gradient is
        within its standard error: further iterations would fit noise, see `Picard`.
    w_init : array-like of shape (n_components, n_components), default=None
        Starting point. None draws it from a normal distribution.
    whiten_solver : {'svd', 'eigh'}, default='svd'
        Algorithm of the whitening. 'svd' is accurate for data of any condition number. 'eigh' is slightly faster but
        does not resolve directions whose standard deviation is below 1e-7 of the largest.
    random_state : int, RandomState instance or None, default=None
        Determines `w_init` and the samples of `growth`. Numbers are drawn on the host, so that all devices start alike.
    return_X_mean : bool, default=False
        Whether to return the mean of X too.
    compute_sources : bool, default=True
        Whether to compute the sources. False returns None in their place.
    return_n_iter : bool, default=False
        Whether to return the number of iterations too.
    device : {'auto', 'cpu', 'cuda', 'cuda:N'}, default='auto'
        Device to compute on. With 'auto', arrays on a GPU are processed there, and arrays on the host are sent to a GPU
        if there is one and the work is worth the transfer.
    verbose : int, default=0
        1 prints a line for every tenth iteration and the last, 2 for every iteration.
    growth : {None, 'auto'} or float > 1, default=None
        Fit a small random sample first, and enlarge it by this factor until it contains all rows. 'auto' means 2 where
        X is large. This saves most passes over large data. Not for 'deflation'.
    n_init : int, default=1
        Number of starting points, which share every pass over the data. The solution farthest from Gaussian is kept.
        With `growth`, starting points compete on the samples and only the best one continues on all rows.
    precision : {None, 'float32', 'float64', 'tf32', 'bf16'}, default=None
        Working precision of the rows; totals are float64. None means float32 for X of float32 or lower precision,
        otherwise float64. 'tf32' and 'bf16' mean float32, but on a GPU the matrix products on growing samples are
        computed in TF32 or bfloat16; those on all rows never are.

    Returns
    -------
    K : ndarray of shape (n_components, n_features) or None
        Whitening matrix; None for whiten=False.
    W : ndarray of shape (n_components, n_components)
        Unmixing matrix of the whitened data: the sources are ``(X - mean) @ K.T @ W.T``.
    S : array of shape (n_samples, n_components) or None
        Sources, an array of the same library and on the same device as X; None for compute_sources=False.
    X_mean : ndarray of shape (n_features,)
        Mean of X. Only returned for return_X_mean=True.
    n_iter : int
        Number of iterations. Only returned for return_n_iter=True.

    Raises
    ------
    ValueError
        As for `FastICA.fit`.

    See Also
    --------
    FastICA : The same as an estimator.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from gpuica import fastica
    >>> X, _ = load_digits(return_X_y=True)
    >>> K, W, S = fastica(X, n_components=7, random_state=0)
    >>> K.shape, W.shape, S.shape
    ((7, 64), (7, 7), (1797, 7))
    """
    estimator = FastICA(
        n_components=n_components,
        algorithm=algorithm,
        whiten=whiten,
        fun=fun,
        fun_args=fun_args,
        max_iter=max_iter,
        tol=tol,
        w_init=w_init,
        whiten_solver=whiten_solver,
        random_state=random_state,
        device=device,
        verbose=verbose,
        growth=growth,
        n_init=n_init,
        precision=precision,
    )
    estimator._validate_params()
    S = _fit.fit_transform(estimator, X, compute_sources=compute_sources)
    returned = [estimator.whitening_ if whiten else None, estimator._unmixing, S]
    if return_X_mean:
        returned.append(estimator.mean_ if whiten else None)
    if return_n_iter:
        returned.append(estimator.n_iter_)
    return returned


@validate_params(
    {name: ["boolean"] for name in "ortho whiten return_X_mean return_n_iter centering check_fun".split()}
    | {"verbose": ["verbose"]},
    prefer_skip_nested_validation=False,
)
def picard(
    X: Any,
    fun: Any = "tanh",
    n_components: int | None = None,
    ortho: bool = True,
    extended: bool | None = None,
    whiten: bool = True,
    return_X_mean: bool = False,
    return_n_iter: bool = False,
    centering: bool = True,
    max_iter: int = 500,
    tol: float | str = 1e-7,
    m: int = 7,
    ls_tries: int = 10,
    lambda_min: float = 0.01,
    check_fun: bool = True,
    w_init: Any = None,
    fastica_it: int | None = None,
    random_state: int | np.random.RandomState | None = None,
    verbose: int = False,
    *,
    growth: str | float | None = None,
    device: str = "auto",
    precision: str | None = None,
) -> tuple[Any, ...]:
    """Perform maximum-likelihood ICA, with the conventions of python-picard's function `picard`.

    X has features in rows, and results are in python-picard's order and scale.

    Parameters
    ----------
    X : array-like of shape (n_features, n_samples)
        Data: a NumPy, CuPy or Dask array or a torch tensor.
    fun : {'tanh', 'logcosh', 'exp', 'cube'}, contrast or density, default='tanh'
        The score function g; 'logcosh' is another name of 'tanh'; 'exp' is u exp(-0.05 u²), as in python-picard. A
        contrast is an object like `gpuica.LogCosh` with `loss`; a density is an object of python-picard with `log_lik`
        and `score_and_der`.
    n_components : int, default=None
        Number of components to keep. None keeps all. If the rank of X is smaller, fewer are kept, with a warning.
    ortho : bool, default=True
        Constrain the sources to be uncorrelated.
    extended : bool, default=None
        Estimate sub-Gaussian sources too. None means the value of `ortho`.
    whiten : bool, default=True
        Whether to whiten X. False requires white data.
    return_X_mean : bool, default=False
        Whether to return the mean of X too.
    return_n_iter : bool, default=False
        Whether to return the number of iterations too.
    centering : bool, default=True
        Whether to subtract the mean of each feature. False requires whiten=False.
    max_iter : int, default=500
        Maximum number of iterations.
    tol : float or 'auto', default=1e-7
        Upper bound of the largest entry of the relative gradient; 'auto' as for `Picard`.
    m : int, default=7
        Number of update pairs that L-BFGS stores.
    ls_tries : int, default=10
        Maximum number of step halvings of a line search before the gradient direction is tried.
    lambda_min : float, default=0.01
        Lower bound of the eigenvalues of the approximate Hessian.
    check_fun : bool, default=True
        Whether to check the derivatives of a contrast object first, see `gpuica.check_contrast`.
    w_init : array-like of shape (n_components, n_components), default=None
        Starting point. None draws a random rotation.
    fastica_it : int, default=None
        Number of FastICA iterations before the first iteration of Picard.
    random_state : int, RandomState instance or None, default=None
        Determines `w_init` and the samples of `growth`.
    verbose : int, default=False
        1 prints a line for every tenth iteration and the last, 2 for every iteration.
    growth : {'auto', None} or float > 1, default=None
        Fit growing samples first, as for `Picard`.
    device : {'auto', 'cpu', 'cuda', 'cuda:N'}, default='auto'
        Device to compute on. With 'auto', arrays on a GPU are processed there, and arrays on the host are sent to a GPU
        if there is one and the work is worth the transfer.
    precision : {None, 'float32', 'float64', 'tf32', 'bf16'}, default=None
        Working precision of the rows; totals are float64. None means float32 for X of float32 or lower precision,
        otherwise float64. 'tf32' and 'bf16' mean float32, but on a GPU the matrix products on growing samples are
        computed in TF32 or bfloat16; those on all rows never are.

    Returns
    -------
    K : ndarray of shape (n_components, n_features) or None
        Whitening matrix; None for whiten=False.
    W : ndarray of shape (n_components, n_components)
        Unmixing matrix of the whitened data: the sources are ``W @ K @ (X - mean)``.
    Y : array of shape (n_components, n_samples)
        Sources, an array of the same library and on the same device as X.
    X_mean : ndarray of shape (n_features,)
        Mean of X, or zeros for centering=False. Only returned for return_X_mean=True.
    n_iter : int
        Number of iterations, minus 1 as in python-picard. Only returned for return_n_iter=True.

    Raises
    ------
    ContrastError
        If the derivatives of a contrast object are wrong. It is a ValueError, and an AssertionError as in
        python-picard.
    ValueError
        For whiten=True with centering=False; also as for `Picard.fit`.

    See Also
    --------
    Picard : The same as an estimator, with scikit-learn's conventions.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica import picard
    >>> X = np.random.default_rng(0).laplace(size=(3, 1000))
    >>> K, W, Y = picard(X, random_state=0)
    >>> K.shape, W.shape, Y.shape
    ((3, 3), (3, 3), (3, 1000))
    """
    if check_fun and not isinstance(fun, str):
        try:
            check_contrast(fun)
        except ValueError as error:
            raise ContrastError(str(error)) from error
    if getattr(X, "ndim", 0) != 2 or not hasattr(X, "T"):
        X = check_array(X, dtype=None, ensure_all_finite=False)
    if whiten and not centering:
        raise ValueError("whiten=True centers X: use centering=True, or center and whiten X yourself and whiten=False.")
    estimator = Picard(
        n_components,
        ortho=ortho,
        extended=extended,
        whiten="arbitrary-variance" if whiten else False,
        fun=fun,
        max_iter=max_iter,
        tol=tol,
        m=m,
        ls_tries=ls_tries,
        lambda_min=lambda_min,
        w_init=w_init,
        fastica_it=fastica_it,
        random_state=random_state,
        growth=growth,
        device=device,
        verbose=verbose,
        precision=precision,
    )
    samples_first = X.T
    mean = None
    if not whiten and centering:
        mean = samples_first.mean(0)
        samples_first = samples_first - mean
    Y = estimator.fit_transform(samples_first).T
    root = len(samples_first) ** 0.5
    K = estimator.whitening_ * root if whiten else None  # scikit-learn's is smaller by sqrt(n_samples)
    returned = [K, estimator._unmixing, Y * root if whiten else Y]
    if return_X_mean:
        returned.append(estimator.mean_ if whiten else as_numpy(mean) if centering else np.zeros(len(X)))
    if return_n_iter:
        returned.append(min(len(estimator.losses_), max_iter) - 1)
    return tuple(returned)
