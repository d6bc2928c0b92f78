"""Dictionary learning with all rows in each iteration, drop-in for scikit-learn's."""

from os import PathLike
from typing import Any, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.decomposition import DictionaryLearning as SklearnDictionaryLearning

from ..device import to_host
from ._alternating_fit import fit_alternating
from ._codes import encode
from ._dictionary import DictionaryEstimator
from ._interrupted import transactional_fit
from ._learning import ARRAY_OR_NONE, LEARNING_CONSTRAINTS, score


class DictionaryLearning(DictionaryEstimator, SklearnDictionaryLearning):
    """Dictionary learning with all rows in each iteration, on CPUs or GPUs.

    Finds a dictionary D, whose rows are called atoms, that gives the rows of X sparse codes C with X ≈ C D.  A drop-in
    replacement of `sklearn.decomposition.DictionaryLearning`, with the same initial atoms, random draws and iterations.

    Parameters
    ----------
    n_components : int, default=None
        Number of atoms.  None means n_features.
    alpha : float, default=1
        Weight of the l1 penalty in the fit, and the threshold of `fit_algorithm="threshold"`.  For a pursuit as
        `fit_algorithm` it is not used.
    max_iter : int, default=1000
        Maximum number of iterations, each a pass over X.
    tol : float, default=1e-8
        The fit has converged when an iteration reduces the cost by less than `tol` times the cost.
    fit_algorithm : {"lars", "cd", "lasso_lars", "lasso_cd", "fista", "threshold", "omp", "nnomp", "ormp", \
            "matching_pursuit", "gradient_pursuit", "topk"}, default="lars"
        Coder of the fit.  "lars" and "cd" are scikit-learn's names of "lasso_lars" and "lasso_cd"; all four are the
        lasso, solved to the precision of the dtype.  Pursuits and "topk" use `transform_n_nonzero_coefs` atoms.
    transform_algorithm : {"lasso_lars", "lasso_cd", "fista", "threshold", "lars", "omp", "nnomp", "ormp", \
            "matching_pursuit", "gradient_pursuit", "topk"}, default="omp"
        Coder of `transform`:

        - "lasso_lars", "lasso_cd": argmin ½‖x - c D‖² + alpha ‖c‖₁ for each row x; two names of one coder;
        - "fista": the same minimum, by accelerated proximal gradient steps;
        - "threshold": sign(q) max(|q| - alpha, 0), q = x Dᵀ;
        - "lars": least angle regression;
        - "omp": orthogonal matching pursuit; "nnomp": with c ≥ 0; "ormp": order-recursive;
        - "matching_pursuit", "gradient_pursuit": one coefficient, or all selected ones along the gradient, per step;
        - "topk": the entries of q of largest magnitude.
    transform_n_nonzero_coefs : int, default=None
        Number of non-zeros of a code, in `transform` and in the fit, for all coders but the lasso and "threshold".
        None means n_features / 10, rounded down, but at least 1.
    transform_alpha : float, default=None
        For the lasso and "threshold", the penalty or threshold of `transform`; None means `alpha`.  For the pursuits,
        the squared residual at which a code is complete, which then replaces `transform_n_nonzero_coefs`.
    n_jobs : int, default=None
        Not used, for compatibility with scikit-learn: all available cores are used.
    code_init : array-like of shape (n_samples, n_components), default=None
        Initial codes.  Their values are not used, because the first iteration computes all codes; their presence makes
        `dict_init` effective, as in scikit-learn.
    dict_init : array-like of shape (n_components, n_features), default=None
        Initial atoms, used only if `code_init` is given as well; see `init` for initial atoms alone.
    callback : callable, default=None
        Function called every five iterations with a dict of "ii" (the iteration, from 0), "dictionary", "errors" and
        "current_cost".
    verbose : bool, default=False
        Whether to print a line per iteration.
    split_sign : bool, default=False
        Whether `transform` returns the positive parts of the codes and the absolute values of their negative parts in
        separate columns, 2 * n_components in total.
    random_state : int, RandomState instance or None, default=None
        Determines the draws of `init="data"` and of replaced atoms.  The random numbers are the same on every
        device.
    positive_code : bool, default=False
        Whether codes are constrained to be non-negative, for the lasso other than `fit_algorithm="lars"`, "threshold"
        and "topk".
    positive_dict : bool, default=False
        Whether atoms are constrained to be non-negative.
    transform_max_iter : int, default=1000
        Maximum number of iterations for the lasso of a row, in `transform` and in the fit.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Device for the computation.  "auto" means the device of X if X is a device array, and otherwise a GPU if there
        is one and the amount of work justifies the transfer.
    sparse_output : bool, default=False
        Whether codes are returned as a `scipy.sparse.csr_array`.
    init : {"svd", "data"} or array-like of shape (n_components, n_features), default="svd"
        Initial atoms: right singular vectors of X times singular values, as in scikit-learn, zero beyond the rank;
        random rows of X scaled to norm 1; or the given ones.  `dict_init` and `code_init` together take precedence.
    dead_atoms : {"resample", "worst", "keep"}, default="resample"
        Treatment of atoms that no code uses: "resample" replaces them by random rows with a little noise, as in
        scikit-learn; "worst" by the rows with the largest residuals; "keep" leaves them unchanged.
    update : {"block_descent", "least_squares", "approximate_ksvd"}, default="block_descent"
        Update of the atoms for given codes: block coordinate descent [1]_, as in scikit-learn; the least-squares
        solution, known as the method of optimal directions [3]_; or one parallel step of approximate K-SVD [4]_.
    memory_limit : int or str, default=None
        Memory budget in bytes, or as a string such as "2GB", in addition to X.  None means the free memory.
    checkpoint : path-like, default=None
        Directory for the state of the fit, which is saved every 30 seconds and at the end.  A fit that was interrupted
        resumes from it, with the same result, if it is repeated with the same data and parameters; `max_iter` may be
        increased.  Other data or parameters raise an error.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Atoms.
    error_ : list of float
        Cost after each iteration, summed over rows.
    n_iter_ : int
        Number of iterations.
    converged_ : bool
        Whether the fit converged, as defined by `tol`, within `max_iter` iterations.
    n_replaced_ : int
        Number of unused atoms that were replaced, over all iterations.
    device_ : str
        Device of the fit.
    n_features_in_ : int
        Number of features seen by `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features seen by `fit`, if X had names that are all strings.

    See Also
    --------
    MiniBatchDictionaryLearning : Learn from mini-batches; needs fewer passes over large data.
    SparseCoder : Codes for a given dictionary.
    dict_learning : The same as a function.

    Notes
    -----
    The fit minimises over D and C::

        Σ ½‖x - c D‖² + alpha ‖c‖₁    with ‖d‖ ≤ 1 for each atom d

    where the sum runs over the rows x of X and c is the code of x.  An iteration computes the codes of all rows and
    then updates each atom once [2]_.  The update depends on A = Σ cᵀ c and B = Σ cᵀ x alone, so that the codes of all
    rows are never stored.  Pursuits as `fit_algorithm` bound the number of non-zeros instead of adding the penalty.

    References
    ----------
    .. [1] J. Mairal, F. Bach, J. Ponce and G. Sapiro, "Online dictionary learning for sparse coding", ICML 2009.
    .. [2] J. Mairal, F. Bach, J. Ponce and G. Sapiro, "Online learning for matrix factorization and sparse coding",
       Journal of Machine Learning Research 11, 2010.
    .. [3] K. Engan, S. Aase and J. Husøy, "Method of optimal directions for frame design", ICASSP 1999.
    .. [4] R. Rubinstein, M. Zibulevsky and M. Elad, "Efficient implementation of the K-SVD algorithm using batch
       orthogonal matching pursuit", Technion CS-2008-08, 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica import DictionaryLearning
    >>> rng = np.random.default_rng(0)
    >>> X = rng.laplace(size=(200, 5)) @ rng.normal(size=(5, 8))
    >>> model = DictionaryLearning(
    ...     5, alpha=0.5, tol=1e-3, transform_algorithm="lasso_cd", random_state=0
    ... ).fit(X)
    >>> model.components_.shape
    (5, 8)
    >>> codes = model.transform(X)
    >>> residual = X - model.inverse_transform(codes)
    >>> bool((residual**2).sum() < 0.05 * (X**2).sum())
    True
    """

    _parameter_constraints: dict = {
        **SklearnDictionaryLearning._parameter_constraints,
        **LEARNING_CONSTRAINTS,
        "code_init": ARRAY_OR_NONE,
    }

    def __init__(
        self,
        n_components: int | None = None,
        *,
        alpha: float = 1,
        max_iter: int = 1000,
        tol: float | str = 1e-8,
        fit_algorithm: str = "lars",
        transform_algorithm: str = "omp",
        transform_n_nonzero_coefs: int | None = None,
        transform_alpha: float | None = None,
        n_jobs: int | None = None,
        code_init: Any = None,
        dict_init: Any = None,
        callback: Any = None,
        verbose: int = False,
        split_sign: bool = False,
        random_state: int | np.random.RandomState | None = None,
        positive_code: bool = False,
        positive_dict: bool = False,
        transform_max_iter: int = 1000,
        device: str = "auto",
        sparse_output: bool = False,
        init: Any = "svd",
        dead_atoms: str = "resample",
        update: str = "block_descent",
        memory_limit: int | str | None = None,
        checkpoint: str | PathLike[str] | None = None,
    ) -> None:
        SklearnDictionaryLearning.__init__(
            self,
            n_components,
            alpha=alpha,
            max_iter=max_iter,
            tol=tol,
            fit_algorithm=fit_algorithm,
            transform_algorithm=transform_algorithm,
            transform_n_nonzero_coefs=transform_n_nonzero_coefs,
            transform_alpha=transform_alpha,
            n_jobs=n_jobs,
            code_init=code_init,
            dict_init=dict_init,
            callback=callback,
            verbose=verbose,
            split_sign=split_sign,
            random_state=random_state,
            positive_code=positive_code,
            positive_dict=positive_dict,
            transform_max_iter=transform_max_iter,
        )
        self.device = device
        self.sparse_output = sparse_output
        self.init = init
        self.dead_atoms = dead_atoms
        self.update = update
        self.memory_limit = memory_limit
        self.checkpoint = checkpoint

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the atoms from X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows: an array of NumPy, CuPy, PyTorch or Dask, a DataFrame, a memory map, or paths of files.
        y : None
            Ignored.

        Returns
        -------
        self : DictionaryLearning
            The fitted estimator.

        Raises
        ------
        ValueError
            If X or an initial dictionary is not a finite real matrix of the required shape, or if the coder does not
            support the parameters.

        Warns
        -----
        ConvergenceWarning
            If the fit did not converge within `max_iter` iterations, or if the codes of some rows are unfinished.
        """
        with transactional_fit(self):
            fit_alternating(self, X)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X: Any, y: Any = None) -> Any:
        """Learn the atoms from X and return the codes of the fit.

        As in scikit-learn these are the codes of the last iteration, by `fit_algorithm`, for the atoms before their
        last update; `transform` may give others.  They cost one more pass over X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows: an array of NumPy, CuPy, PyTorch or Dask, a DataFrame, a memory map, or paths of files.
        y : None
            Ignored.

        Returns
        -------
        codes : array of shape (n_samples, n_components)
            Codes, in the library and on the device of X; a `scipy.sparse.csr_array` with `sparse_output=True`.
            `split_sign` does not apply.
        """
        with transactional_fit(self):
            data, coder, state = fit_alternating(self, X)
            codes = encode(self, data, to_host(state.coded_with), coder)
        return codes if self.sparse_output else data.to_caller(codes)

    score = score

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "components_")  # scikit-learn's default accepts any attribute that ends in "_"
