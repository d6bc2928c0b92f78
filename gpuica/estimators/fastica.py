"""FastICA."""

from numbers import Integral, Real
from os import PathLike
from typing import Any

import numpy as np
from sklearn.decomposition import FastICA as SklearnFastICA
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from ..contrasts import NAMES, as_contrast
from ..device.products import ROUNDED_PRECISIONS
from ..solvers import SOLVERS
from ..solvers.growth import run, run_all
from ..solvers.stochastic import stochastic_picard
from ._convergence import describe_fastica
from ._ica import ICA
from ._parameters import as_number
from ._progress import by_batches


class FastICA(ICA, SklearnFastICA):
    """FastICA: fast independent component analysis, on CPUs and GPUs.

    A subclass of scikit-learn's `FastICA` with the same parameters, attributes, starting point and iterates, and with
    further parameters from `device` on. The model is ``X = S @ mixing_.T + mean_`` with sources S as independent as
    possible, which are recovered as ``S = (X - mean_) @ components_.T``.

    Parameters
    ----------
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
    normalize_rows : bool, default=False
        Divide each row of X by its Euclidean norm first, also in `transform`. This prevents a few high-norm rows, as
        the activations of language models have, from dominating the fit.
    stop_percentile : float in (0, 100], default=100
        Percentage of components that must have converged for the fit to stop.
    sort : {None, 'objective', 'variance'}, default=None
        Order of the components: unsorted as in scikit-learn; by decreasing distance from Gaussian; or by decreasing
        explained variance of X.
    center : {'mean', 'median'}, default='mean'
        The center that whitening subtracts: the mean of X or its geometric median, which a few high-norm rows do not
        affect (about ten more passes). Second moments are then taken about the median. Needs whitening.
    memory_limit : int, str or None, default=None
        Memory that a fit can use beyond X, in bytes or as a string such as "2GB"; None means the free memory. Whitened
        rows that do not fit are recomputed in every pass instead of being stored.
    checkpoint : path or None, default=None
        Directory in which the sums of every pass are stored. An interrupted fit that is run again with the same
        checkpoint, data and parameters resumes and returns the same result; `max_iter` can be increased. Other data or
        parameters raise an error. With random_state=None the draws of the first run are reused.
    precision : {None, 'float32', 'float64', 'tf32', 'bf16'}, default=None
        Working precision of the rows; totals are float64. None means float32 for X of float32 or lower precision,
        otherwise float64. 'tf32' and 'bf16' mean float32, but on a GPU the matrix products on growing samples are
        computed in TF32 or bfloat16; those on all rows never are.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Unmixing matrix of X: the sources are ``(X - mean_) @ components_.T``. All fitted attributes are NumPy arrays.
    mixing_ : ndarray of shape (n_features, n_components)
        Pseudo-inverse of `components_`; its columns are the patterns of the sources in X.
    mean_ : ndarray of shape (n_features,)
        Mean of X, or its geometric median for center='median'. Only set with whitening.
    whitening_ : ndarray of shape (n_components, n_features)
        Whitening matrix, scaled as in scikit-learn: the columns of ``(X - mean_) @ whitening_.T`` have variance
        1 / n_samples, where n_samples is the sum of the weights if there are any. Only set with whitening.
    n_iter_ : int
        Number of iterations; for 'deflation', the maximum over the components.
    converged_ : bool
        Whether the solver converged: every component met tol, at a gradient near zero (see `gradient_z_`).
    converged_components_ : ndarray of shape (n_components,)
        Which components converged.
    delta_ : ndarray of shape (n_components,)
        Change of each component in the last iteration, to be compared with tol.
    gradient_norm_ : float
        Largest entry of the relative gradient at the last pass over all rows; 0 at a stationary point.
    gradient_z_ : ndarray of shape (n_components,)
        Largest entry of each component's relative gradient in standard errors, sqrt(Var / n_samples), at the last pass
        (for 'deflation', among the components found later). Var is measured for tol='auto', for 'deflation', and where
        a fit may have stopped far from a stationary point; otherwise it is that of independent sources. NaN after an
        interrupt, and where Var overflows, as for rows that are not white with whiten=False.
    losses_ : ndarray
        Loss at each pass over all rows, for 'picard'; otherwise empty.
    n_passes_ : int or float
        Number of passes over the data; passes over samples count as fractions.
    rank_ : int
        Numerical rank of X.
    device_ : str
        Device of the fit.
    n_samples_seen_ : int or float
        Number of rows, or sum of their weights, seen by `partial_fit`. Only set by `partial_fit`.
    n_steps_ : int
        Number of batches seen by `partial_fit`. Only set by `partial_fit`.
    n_features_in_ : int
        Number of features of X.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X has feature names that are all strings.

    See Also
    --------
    Picard : Maximum-likelihood ICA by preconditioned L-BFGS, which also converges where FastICA oscillates.
    fastica : The same estimator as a function.
    gpuica.stability.stability : Components that are found again from other starting points.

    Notes
    -----
    X can be a NumPy, CuPy, Dask or memory-mapped array, a torch tensor, a DataFrame, a list, a file or an iterable of
    matrices. `transform` returns an array of the same library on the same device; for a DataFrame or a list, a NumPy
    array, unless `set_output` says otherwise. float32, float16 and bfloat16 are processed in float32 with totals in
    float64, all other dtypes in float64. X is read in chunks; besides X, a fit needs memory for one whitened copy.

    References
    ----------
    A. Hyvärinen and E. Oja, "Independent component analysis: algorithms and applications", Neural Networks 13, 2000.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from gpuica import FastICA
    >>> X, _ = load_digits(return_X_y=True)
    >>> FastICA(n_components=7, random_state=0).fit_transform(X).shape
    (1797, 7)
    """

    _parameter_constraints: dict = {
        **SklearnFastICA._parameter_constraints,
        "fun": [StrOptions(NAMES), callable, HasMethods("at"), HasMethods(["log_lik", "score_and_der"])],
        "algorithm": [StrOptions(set(SOLVERS))],
        "tol": [Interval(Real, 0, None, closed="left"), StrOptions({"auto"})],
        "device": [str],
        "verbose": ["verbose"],
        "growth": [StrOptions({"auto"}), None, Interval(Real, 1, None, closed="neither")],
        "n_init": [Interval(Integral, 1, None, closed="left")],
        "normalize_rows": ["boolean"],
        "stop_percentile": [Interval(Real, 0, 100, closed="right")],
        "sort": [StrOptions({"objective", "variance"}), None],
        "center": [StrOptions({"mean", "median"})],
        "memory_limit": [Interval(Integral, 1, None, closed="left"), str, None],
        "checkpoint": [str, PathLike, None],
        "precision": [StrOptions({"float32", "float64", *ROUNDED_PRECISIONS}), None],
    }
    _monitored = "delta"

    def __init__(
        self,
        n_components: int | None = None,
        *,
        algorithm: str = "parallel",
        whiten: str | bool = "unit-variance",
        fun: Any = "logcosh",
        fun_args: dict[str, Any] | None = None,
        max_iter: int = 200,
        tol: float | str = 1e-4,
        w_init: Any = None,
        whiten_solver: str = "svd",
        random_state: int | np.random.RandomState | None = None,
        device: str = "auto",
        verbose: int = 0,
        growth: str | float | None = None,
        n_init: int = 1,
        normalize_rows: bool = False,
        stop_percentile: float = 100,
        sort: str | None = None,
        center: str = "mean",
        memory_limit: int | str | None = None,
        checkpoint: str | PathLike[str] | None = None,
        precision: str | None = None,
    ) -> None:
        SklearnFastICA.__init__(
            self,
            n_components,
            algorithm=algorithm,
            whiten=whiten,
            fun=fun,
            fun_args=fun_args,
            max_iter=max_iter,
            tol=tol,
            w_init=w_init,
            whiten_solver=whiten_solver,
            random_state=random_state,
        )
        self.device = device
        self.verbose = verbose
        self.growth = growth
        self.n_init = n_init
        self.normalize_rows = normalize_rows
        self.stop_percentile = stop_percentile
        self.sort = sort
        self.center = center
        self.memory_limit = memory_limit
        self.checkpoint = checkpoint
        self.precision = precision

    def _contrast(self) -> Any:
        return as_contrast(self.fun, self.fun_args)

    def _check_settings(self, contrast: Any) -> None:
        super()._check_settings(contrast)
        if self.algorithm == "deflation" and (
            self.tol == "auto" or self.growth is not None or self.stop_percentile < 100
        ):
            raise ValueError(
                "tol='auto', growth= and stop_percentile= need algorithm='parallel' or 'picard', not 'deflation'."
            )
        needs_loss = {
            "algorithm='picard'": self.algorithm == "picard",
            "sort='objective'": self.sort == "objective",
            "n_init > 1": self.n_init > 1,
        }
        for setting, is_set in needs_loss.items():
            if is_set and not hasattr(contrast, "loss"):
                raise ValueError(f"{setting} needs a contrast with a known G: a name, or an object with `loss`.")

    def _solve(self, oracle: Any, starts: Any, rng: Any, report: Any, *, keep_all: bool = False) -> Any:
        options: dict[str, Any] = {"fraction": self.stop_percentile / 100}
        if self.algorithm == "picard":
            options |= {"by": "delta", "stochastic": by_batches(stochastic_picard)}
        elif self.algorithm == "deflation":
            options = {"stage_tol": self.tol}
        options |= {"growth": as_number(self.growth), "max_iter": self.max_iter, "tol": self.tol}
        return (run_all if keep_all else run)(
            SOLVERS[self.algorithm], oracle, starts, rng=rng, report=report, **options
        )

    def _not_converged(self, solution: Any) -> Any:
        return describe_fastica(self, solution)
