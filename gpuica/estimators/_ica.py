"""The base class of the ICA estimators."""

from copy import copy
from functools import cache
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted

from ..contrasts import is_density
from ..input import check_input
from ..rows import open_rows
from ..rows.base import normalize_rows, project_chunk
from . import _fit, _online
from ._device import select_device
from ._interrupted import transactional_fit
from ._output import to_output
from ._parameters import check_parameters, checks_parameters, renamed


class ICA(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base class of `FastICA` and `Picard`: fit, transform and partial_fit.

    A subclass declares the parameters, those below among them, and implements `_contrast`, `_solve` and
    `_not_converged`; `_monitored` names the quantity that its stopping rule compares with tol.
    """

    n_components: Any
    whiten: Any
    fun: Any
    whiten_solver: str
    w_init: Any
    random_state: Any
    verbose: int
    tol: Any
    max_iter: int
    ortho: Any = True
    n_init: int
    growth: Any
    normalize_rows: bool
    stop_percentile: float
    sort: Any
    center: str
    memory_limit: Any
    checkpoint: Any
    precision: Any
    device: str
    components_: Any
    mixing_: Any
    mean_: Any
    whitening_: Any
    _unmixing: Any
    _monitored: str  # "delta" or "gradient"

    def _contrast(self) -> Any:
        """The contrast that the parameters specify."""
        raise NotImplementedError

    def _solve(self, oracle: Any, starts: Any, rng: Any, report: Any, *, keep_all: bool = False) -> Any:
        """The best `Solution` from the starting points (k, k), or with keep_all the solutions from all of them.

        rng: draws the samples.  report: the solver's callback, or None.
        """
        raise NotImplementedError

    def _not_converged(self, solution: Any) -> Any:
        """The text of the ConvergenceWarning: how far the solution is from convergence, and the remedy."""
        raise NotImplementedError

    def _check_settings(self, contrast: Any) -> None:
        """Raise ValueError for parameters that exclude each other."""
        if self.n_init > 1 and self.w_init is not None:
            raise ValueError("w_init is one starting point: use n_init=1, or w_init=None.")
        if self.center == "median" and not self.whiten:
            raise ValueError("center='median' needs whitening: with whiten=False nothing is centered.")

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit the model to X.

        A KeyboardInterrupt (Ctrl-C) during the iterations keeps the components of the last completed iteration, with a
        ConvergenceWarning; an earlier one leaves the estimator unchanged.  With algorithm='deflation' the components
        found so far are kept.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data: a NumPy, CuPy or Dask array, a torch tensor, a DataFrame, the path of a file or a list of
            paths, an iterable of matrices, or an array shared between processes (`gpuica.shared`).
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Nonnegative weights: a row of weight 2 is equivalent to two equal rows.  For weights that are not whole
            numbers (or above 4096), standard errors (tol='auto') use Kish's effective sample size (Σ w)² / Σ w², which
            does not depend on the scale of the weights, in place of their sum; the sizes of growing samples and the
            warning about few rows always do.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If X is not a matrix of finite real numbers, has fewer than 2 rows or no variance, if parameters exclude
            each other, or if weights are negative, not finite, all zero, or of the wrong shape.
        """
        with transactional_fit(self):
            _fit.fit_transform(self, X, sample_weight)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        """Fit the model to X and return the sources.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data, see `fit`.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Nonnegative weights, see `fit`.

        Returns
        -------
        S : array of shape (n_samples, n_components)
            Sources of all rows, an array of the same library and on the same device as X.

        Raises
        ------
        ValueError
            As for `fit`.
        """
        with transactional_fit(self):
            return _fit.fit_transform(self, X, sample_weight, compute_sources=True)

    def fit_runs(self, X: Any, n_runs: int, sample_weight: Any = None) -> tuple[np.ndarray, np.ndarray]:
        """Fit the model to X from several starting points, which share every pass over X.

        The estimator itself is not changed.  `gpuica.stability.stability` clusters the components.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Training data, see `fit`.
        n_runs : int
            Number of starting points.
        sample_weight : array-like of shape (n_samples,), default=None
            Nonnegative weights, see `fit`.

        Returns
        -------
        components : ndarray of shape (n_runs, n_components, n_features)
            Components of each run.
        covariance : ndarray of shape (n_features, n_features)
            Covariance matrix of X.

        Raises
        ------
        ValueError
            As for `fit`.
        """
        check_parameters(self)
        return _fit.fit_runs(copy(self), X, n_runs, sample_weight)

    @available_if(_online.check_available)
    @checks_parameters  # _fit_context checks before the first call only
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Update the model with one more batch of rows.

        The first batch is fitted by `fit`; it should have thousands of rows, and every batch should be a random sample
        of the data.  Each further batch updates the mean, the covariance and the whitening matrix, and rotates the
        components by one step of stochastic Picard-O, whatever the algorithm of `fit`.  The result is approximate;
        `fit` reads files of any size and is more accurate.  `delta_` and `converged_components_` refer to the last
        step, `gradient_norm_` and `gradient_z_` to a running average over batches.  The first call after `fit` starts
        anew.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            A batch of rows, see `fit`.
        y : Ignored
            Present for API consistency.
        sample_weight : array-like of shape (n_samples,), default=None
            Nonnegative weights, see `fit`.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            For whiten=False, center='median', or a contrast without `loss`; also as for `fit`.
        AttributeError
            For ``Picard(ortho=False)``.
        """
        with transactional_fit(self):
            _online.update(self, X, sample_weight)
        return self

    @checks_parameters
    def transform(self, X: Any, copy: bool = True, *, out: Any = None) -> Any:
        """Compute the sources of X, ``(X - mean_) @ components_.T``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Data, of any type that `fit` accepts.
        copy : bool, default=True
            Ignored: X is never modified.
        out : path or array of shape (n_samples, n_components), default=None
            Destination of results larger than memory: the path of a .npy file, or an array with assignable rows (zarr,
            h5py, memmap).

        Returns
        -------
        S : array of shape (n_samples, n_components)
            Sources, an array of the same library and on the same device as X; `out` if it is given.

        Raises
        ------
        ValueError
            If X has another number of features than in `fit`, or holds NaN or infinity.
        """
        check_is_fitted(self)
        data = check_input(self, X, reset=False)
        before, C = getattr(self, "mean_", 0.0), self.components_
        # what rounding removed from the mean: for float32 rows around 1e6 it can be a tenth of their deviation
        after = -C @ getattr(self, "_mean_rounding", np.zeros(C.shape[1]))
        return self._apply(data, C, before=before, after=after, prepare=self._prepare, out=out)

    @checks_parameters
    def inverse_transform(self, X: Any, copy: bool = True, *, out: Any = None) -> Any:
        """Reconstruct data from sources, ``X @ mixing_.T + mean_``.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_components)
            Sources.
        copy : bool, default=True
            Ignored: X is never modified.
        out : path or array of shape (n_samples, n_features), default=None
            As for `transform`.

        Returns
        -------
        X_original : array of shape (n_samples, n_features)
            Reconstructed data, an array of the same library and on the same device as X; `out` if it is given.

        Raises
        ------
        ValueError
            If the number of columns differs from the number of components.
        """
        check_is_fitted(self)
        data = check_input(self, X, reset=None)
        k = self.mixing_.shape[1]
        if data.shape[1] != k:
            raise ValueError(f"X has {data.shape[1]} columns, but this {type(self).__name__} has {k} components.")
        return self._apply(data, self.mixing_, after=getattr(self, "mean_", 0.0), out=out)

    at_rest_ = renamed("at_rest_", "converged_components_")
    movement_ = renamed("movement_", "delta_")

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "components_")  # a failed fit may have set other attributes

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.components_.shape[0]

    @classmethod
    @cache
    def _get_param_names(cls) -> Any:
        """scikit-learn's, cached: reading the signature takes 0.05 ms of every fit."""
        return super()._get_param_names()

    def _apply(
        self, data: Any, matrix: Any, before: Any = 0.0, after: Any = 0.0, prepare: Any = None, out: Any = None
    ) -> Any:
        """(X - before) @ matrixᵀ + after, computed in chunks."""
        dtype = np.result_type(data.dtype, matrix.dtype)
        device = self._device(data, work=2 * data.shape[0] * matrix.size)
        with device.active():
            rows = open_rows(data.array, dtype=dtype, device=device, prepare=data.prepare(prepare))
            projection = tuple(device.put(np.asarray(part, dtype=dtype)) for part in (before, matrix, -after))
            return to_output(self, data, device, rows, project_chunk, (projection,), len(matrix), out)

    @property
    def _prepare(self) -> Any:
        return normalize_rows if self.normalize_rows else None

    def _device(self, data: Any, work: Any) -> Any:
        user_code = callable(self.fun) or is_density(self.fun)
        refusal = "a contrast function is called with arrays of the kind that X has." if user_code else None
        return select_device(self, data, work=work, refusal=refusal)
