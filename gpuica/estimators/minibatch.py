"""Dictionary learning from mini-batches, drop-in for scikit-learn's."""

from numbers import Integral
from os import PathLike
from typing import Any, Self

import numpy as np
from sklearn.base import _fit_context
from sklearn.decomposition import MiniBatchDictionaryLearning as SklearnMiniBatchDictionaryLearning
from sklearn.utils._param_validation import Interval, StrOptions

from ._dictionary import DictionaryEstimator
from ._interrupted import transactional_fit
from ._learning import LEARNING_CONSTRAINTS, score
from ._minibatch_fit import fit_minibatches, fit_one_batch
from ._parameters import checks_parameters


class MiniBatchDictionaryLearning(DictionaryEstimator, SklearnMiniBatchDictionaryLearning):
    """Dictionary learning from mini-batches, on CPUs or GPUs.

    Finds a dictionary D, whose rows are called atoms, that gives the rows of X sparse codes C with X ≈ C D.  A drop-in
    replacement of `sklearn.decomposition.MiniBatchDictionaryLearning`, with the same initial atoms, random draws and
    iterations.

    Parameters
    ----------
    n_components : int, default=None
        Number of atoms.  None means n_features.
    alpha : float, default=1
        Weight of the l1 penalty in the fit, and the threshold of `fit_algorithm="threshold"`.  For a pursuit as
        `fit_algorithm` it is not used.
    max_iter : int, default=1000
        Maximum number of passes over X.
    fit_algorithm : {"lars", "cd", "lasso_lars", "lasso_cd", "fista", "threshold", "omp", "nnomp", "ormp", \
            "matching_pursuit", "gradient_pursuit", "topk"}, default="lars"
        Coder of the fit.  "lars" and "cd" are scikit-learn's names of "lasso_lars" and "lasso_cd"; all four are the
        lasso, solved to the precision of the dtype.  Pursuits and "topk" use `transform_n_nonzero_coefs` atoms.
    n_jobs : int, default=None
        Not used, for compatibility with scikit-learn: all available cores are used.
    batch_size : int or "auto", default=256
        Number of rows of a batch.  "auto" means n_components, but at least 256 and at most 4096: in a smaller batch a
        large dictionary has atoms that no row uses.
    shuffle : bool, default=True
        Whether rows are shuffled before they are divided into batches: an array in memory once, so that all passes have
        the same batches, as in scikit-learn; out-of-core data in each pass, within windows that fit in memory.
    dict_init : array-like of shape (n_components, n_features), default=None
        Initial atoms; takes precedence over `init`.
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
    verbose : bool or int, default=False
        Whether to print a line for the first batch, then one every two seconds; 2 prints a line per batch.
    split_sign : bool, default=False
        Whether `transform` returns the positive parts of the codes and the absolute values of their negative parts in
        separate columns, 2 * n_components in total.
    random_state : int, RandomState instance or None, default=None
        Determines the initial atoms, the order of the batches and the draws of replaced atoms.  The random
        numbers are the same on every device.
    positive_code : bool, default=False
        Whether codes are constrained to be non-negative, for the lasso other than `fit_algorithm="lars"`, "threshold"
        and "topk".
    positive_dict : bool, default=False
        Whether atoms are constrained to be non-negative.
    transform_max_iter : int, default=1000
        Maximum number of iterations for the lasso of a row, in `transform` and in the fit.
    callback : callable, default=None
        Function called after each batch, unless the fit has converged, with a dict of "i" (the batch, from 0),
        "dictionary", "batch_cost" and "self", the estimator.
    tol : float, default=1e-3
        The fit has converged when a batch changes the dictionary by at most `tol`: ‖D_new - D_old‖ / n_components.
        0 disables this rule.
    max_no_improvement : int, default=10
        The fit has converged after this number of consecutive batches without a new minimum of the exponentially
        weighted average of the batch costs.  None disables this rule.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Device for the computation.  "auto" means the device of X if X is a device array, and otherwise a GPU if there
        is one and the amount of work justifies the transfer.
    sparse_output : bool, default=False
        Whether codes are returned as a `scipy.sparse.csr_array`.
    init : {"svd", "data"} or array-like of shape (n_components, n_features), default="svd"
        Initial atoms: right singular vectors of X times singular values, as in scikit-learn, zero beyond the rank;
        random rows of X scaled to norm 1; or the given ones.  `dict_init` takes precedence.
    dead_atoms : {"resample", "worst", "keep"}, default="resample"
        Treatment of atoms that no code uses: "resample" replaces them by random rows with a little noise, as in
        scikit-learn; "worst" by the rows with the largest residuals; "keep" leaves them unchanged.
    update : {"block_descent", "least_squares", "approximate_ksvd"}, default="block_descent"
        Update of the atoms for given codes: block coordinate descent [1]_, as in scikit-learn; the least-squares
        solution, known as the method of optimal directions [3]_; or one parallel step of approximate K-SVD [4]_.
    memory : int, default=None
        Effective number of rows in the exponential window of the sufficient statistics.  None means scikit-learn's
        weights, about batch_size ** 2 rows; 10 to 30 rows per atom need fewer passes on small data.  On CPUs with more
        than 8 atoms per feature, at most the last 8 rows per atom count, so that no K x K matrix is needed.
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
    costs_ : ndarray of shape (n_steps_,)
        Mean cost of a row of each batch, with the atoms before their update; set by `fit`.
    n_iter_ : float
        Number of passes over X that were begun; set by `fit`.
    n_steps_ : int
        Number of batches.
    converged_ : bool
        Whether one of the two rules, `tol` and `max_no_improvement`, ended the fit; set by `fit`.
    n_replaced_ : int
        Number of unused atoms that were replaced, over all batches.
    device_ : str
        Device of the fit.
    n_features_in_ : int
        Number of features seen by `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features seen by `fit`, if X had names that are all strings.

    See Also
    --------
    DictionaryLearning : Learn with all rows in each iteration.
    SparseCoder : Codes for a given dictionary.
    dict_learning_online : The same as a function.

    Notes
    -----
    The fit minimises over D and C::

        Σ ½‖x - c D‖² + alpha ‖c‖₁    with ‖d‖ ≤ 1 for each atom d

    where the sum runs over the rows x of X and c is the code of x [1]_.  A step computes the codes of one batch, adds
    them to the sufficient statistics A = Σ cᵀ c and B = Σ cᵀ x, in which earlier batches have decreasing weights, and
    updates each atom once for these statistics.  Pursuits as `fit_algorithm` bound the number of non-zeros instead of
    adding the penalty.  The rules `tol` and `max_no_improvement` apply after one pass or 100 batches, whichever comes
    first.

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
    >>> from gpuica import MiniBatchDictionaryLearning
    >>> rng = np.random.default_rng(0)
    >>> X = rng.laplace(size=(1000, 5)) @ rng.normal(size=(5, 8))
    >>> model = MiniBatchDictionaryLearning(
    ...     5, alpha=0.5, batch_size=100, max_iter=20, transform_algorithm="lasso_cd", random_state=0
    ... ).fit(X)
    >>> model.components_.shape
    (5, 8)
    >>> model.transform(X[:10]).shape
    (10, 5)
    """

    _parameter_constraints: dict = {
        **SklearnMiniBatchDictionaryLearning._parameter_constraints,
        **LEARNING_CONSTRAINTS,
        "memory": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [*SklearnMiniBatchDictionaryLearning._parameter_constraints["batch_size"], StrOptions({"auto"})],
    }

    def __init__(
        self,
        n_components: int | None = None,
        *,
        alpha: float = 1,
        max_iter: int = 1_000,
        fit_algorithm: str = "lars",
        n_jobs: int | None = None,
        batch_size: int = 256,
        shuffle: bool = True,
        dict_init: Any = None,
        transform_algorithm: str = "omp",
        transform_n_nonzero_coefs: int | None = None,
        transform_alpha: float | None = None,
        verbose: int = False,
        split_sign: bool = False,
        random_state: int | np.random.RandomState | None = None,
        positive_code: bool = False,
        positive_dict: bool = False,
        transform_max_iter: int = 1000,
        callback: Any = None,
        tol: float | str = 1e-3,
        max_no_improvement: int | None = 10,
        device: str = "auto",
        sparse_output: bool = False,
        init: Any = "svd",
        dead_atoms: str = "resample",
        update: str = "block_descent",
        memory: Any = None,
        memory_limit: int | str | None = None,
        checkpoint: str | PathLike[str] | None = None,
    ) -> None:
        SklearnMiniBatchDictionaryLearning.__init__(
            self,
            n_components,
            alpha=alpha,
            max_iter=max_iter,
            fit_algorithm=fit_algorithm,
            n_jobs=n_jobs,
            batch_size=batch_size,
            shuffle=shuffle,
            dict_init=dict_init,
            transform_algorithm=transform_algorithm,
            transform_n_nonzero_coefs=transform_n_nonzero_coefs,
            transform_alpha=transform_alpha,
            verbose=verbose,
            split_sign=split_sign,
            random_state=random_state,
            positive_code=positive_code,
            positive_dict=positive_dict,
            transform_max_iter=transform_max_iter,
            callback=callback,
            tol=tol,
            max_no_improvement=max_no_improvement,
        )
        self.device = device
        self.sparse_output = sparse_output
        self.init = init
        self.dead_atoms = dead_atoms
        self.update = update
        self.memory = memory
        self.memory_limit = memory_limit
        self.checkpoint = checkpoint

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None) -> Self:
        """Learn the atoms from X, batch by batch.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows: an array of NumPy, CuPy, PyTorch or Dask, a DataFrame, a memory map, or paths of files.
        y : None
            Ignored.

        Returns
        -------
        self : MiniBatchDictionaryLearning
            The fitted estimator.

        Raises
        ------
        ValueError
            If X or an initial dictionary is not a finite real matrix of the required shape, or if the coder does not
            support the parameters.

        Warns
        -----
        ConvergenceWarning
            If the codes of some rows of the last batch are unfinished.
        """
        with transactional_fit(self):
            fit_minibatches(self, X)
        return self

    @checks_parameters  # `_fit_context` validates only on the first call
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Update the atoms with X as one batch.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows: an array of NumPy, CuPy, PyTorch or Dask, a DataFrame, a memory map, or paths of files.
        y : None
            Ignored.

        Returns
        -------
        self : MiniBatchDictionaryLearning
            The updated estimator.

        Raises
        ------
        ValueError
            As in `fit`; if X does not have the features of the first call.  The estimator is then unchanged.
        """
        with transactional_fit(self):
            fit_one_batch(self, X)
        return self

    score = score

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "components_")  # scikit-learn's default accepts any attribute that ends in "_"

    @property
    def _A(self) -> Any:
        """scikit-learn's name of Σ cᵀ c (K, K)."""
        return self._statistics.A

    @property
    def _B(self) -> Any:
        """scikit-learn's name of Σ xᵀ c (n_features, K)."""
        return self._statistics.B.T
