"""Picard and Infomax: ICA by maximum likelihood."""

from functools import partial
from numbers import Integral, Real
from os import PathLike
from typing import Any

import numpy as np
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from ..contrasts import NAMES, Exp, as_contrast
from ..solvers import SOLVERS
from ..solvers.growth import run, run_all
from ..solvers.multistart import solve_all
from ..solvers.orthonormal import orthonormal
from ..solvers.stochastic import stochastic_picard
from ._convergence import describe_picard
from ._ica import ICA
from ._parameters import as_number
from ._progress import by_batches
from .fastica import FastICA


class Picard(ICA):
    """Picard: maximum-likelihood ICA by preconditioned L-BFGS.

    ortho=True, extended=True (the default) is Picard-O, which converges reliably to FastICA's stationary points.
    ortho=False is maximum likelihood without the constraint of white sources: Infomax for extended=False, extended
    Infomax for extended=True. Large data are read only a few times: the fit starts on a small sample and enlarges it.

    Parameters
    ----------
    n_components : int, default=None
        Number of components to keep. None keeps all. If the rank of X is smaller, fewer are kept, with a warning.
    ortho : bool, default=True
        Constrain the sources to be uncorrelated.
    extended : bool, default=None
        Estimate sub-Gaussian sources too. None means the value of `ortho`.
    whiten : {'unit-variance', 'arbitrary-variance', False}, default='unit-variance'
        'unit-variance' whitens X and rescales the sources to variance 1; 'arbitrary-variance' whitens X only. With
        False, X must be white already.
    fun : {'tanh', 'logcosh', 'exp', 'cube'}, contrast or density, default='tanh'
        The score function g; 'logcosh' is another name of 'tanh'; 'exp' is u exp(-0.05 u²), as in python-picard. A
        contrast is an object like `gpuica.LogCosh` with `loss`; a density is an object of python-picard with `log_lik`
        and `score_and_der`.
    fun_args : dict, default=None
        For 'tanh' ``{'alpha': alpha}`` with 1 <= alpha <= 2.
    max_iter : int, default=500
        Maximum number of iterations on all rows.
    tol : float or 'auto', default='auto'
        Upper bound of the largest entry of the relative gradient. 'auto' stops once the entries of each component's
        gradient are below half their standard error, sqrt(Var / n_samples), in root mean square, and none exceeds
        sqrt(2 log k²) standard errors, about the maximum of k² standard normal numbers for k components: further
        iterations would mostly fit noise. Var is measured on the rows. With sample_weight, n_samples is the sum of
        whole-number weights, otherwise Kish's effective sample size.
    m : int, default=7
        Number of update pairs that L-BFGS stores.
    ls_tries : int, default=10
        Maximum number of step halvings of a line search before the gradient direction is tried.
    lambda_min : float, default=0.01
        Lower bound of the eigenvalues of the approximate Hessian.
    w_init : array-like of shape (n_components, n_components), default=None
        Starting point. None draws a random rotation.
    fastica_it : int, default=None
        Number of FastICA iterations before the first iteration of Picard.
    whiten_solver : {'svd', 'eigh'}, default='svd'
        Algorithm of the whitening. 'svd' is accurate for data of any condition number. 'eigh' is slightly faster but
        does not resolve directions whose standard deviation is below 1e-7 of the largest.
    random_state : int, RandomState instance or None, default=None
        Determines `w_init` and the samples of `growth`.
    growth : {'auto', None} or float > 1, default='auto'
        Fit a random sample of max(10000, 30 n_components) rows first, and enlarge it by this factor until it contains
        all rows. 'auto' means 2 where X has at least four times as many rows. With ortho=True, where a sample does not
        converge within a few iterations, stochastic steps of decreasing size on random batches of all rows follow.
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
    device : {'auto', 'cpu', 'cuda', 'cuda:N'}, default='auto'
        Device to compute on. With 'auto', arrays on a GPU are processed there, and arrays on the host are sent to a GPU
        if there is one and the work is worth the transfer.
    verbose : int, default=0
        1 prints a line for every tenth iteration and the last, 2 for every iteration.
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
        Number of iterations.
    converged_ : bool
        Whether every component's gradient met tol.
    converged_components_ : ndarray of shape (n_components,)
        Which components' gradients did.
    delta_ : ndarray of shape (n_components,)
        Change of each component in the last iteration.
    gradient_norm_ : float
        Largest entry of the relative gradient at the last pass over all rows; 0 at a stationary point.
    gradient_z_ : ndarray of shape (n_components,)
        Largest entry of each component's relative gradient in standard errors, sqrt(Var / n_samples), on all rows. Var
        is measured for tol='auto'; otherwise it is that of independent sources. NaN after an interrupt, and where Var
        overflows, as for rows that are not white with whiten=False.
    losses_ : ndarray
        Loss at each iteration on all rows.
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
    FastICA : The fixed-point algorithm, as in scikit-learn.
    picard : The same estimator as a function, with python-picard's conventions.
    gpuica.stability.stability : Components that are found again from other starting points.

    References
    ----------
    P. Ablin, J.-F. Cardoso and A. Gramfort, "Faster independent component analysis by preconditioning with Hessian
    approximations", IEEE Transactions on Signal Processing 66, 2018 (arXiv 1706.08171).

    P. Ablin, J.-F. Cardoso and A. Gramfort, "Faster ICA under orthogonal constraint", ICASSP 2018 (arXiv 1711.10873).

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from gpuica import Picard
    >>> X, _ = load_digits(return_X_y=True)
    >>> Picard(n_components=7, random_state=0).fit_transform(X).shape
    (1797, 7)
    """

    _parameter_constraints: dict = {
        name: FastICA._parameter_constraints[name]
        for name in (
            "n_components whiten whiten_solver fun_args w_init max_iter tol random_state growth n_init normalize_rows "
            "stop_percentile sort center device verbose memory_limit checkpoint "
            "precision"
        ).split()
    } | {
        "ortho": ["boolean"],
        "extended": ["boolean", None],
        "fun": [StrOptions(NAMES), HasMethods(["at", "loss"]), HasMethods(["log_lik", "score_and_der"])],
        "m": [Interval(Integral, 1, None, closed="left")],
        "ls_tries": [Interval(Integral, 1, None, closed="left")],
        "lambda_min": [Interval(Real, 0, None, closed="neither")],
        "fastica_it": [Interval(Integral, 1, None, closed="left"), None],
    }
    _monitored = "gradient"

    def __init__(
        self,
        n_components: int | None = None,
        *,
        ortho: bool = True,
        extended: bool | None = None,
        whiten: str | bool = "unit-variance",
        fun: Any = "tanh",
        fun_args: dict[str, Any] | None = None,
        max_iter: int = 500,
        tol: float | str = "auto",
        m: int = 7,
        ls_tries: int = 10,
        lambda_min: float = 0.01,
        w_init: Any = None,
        fastica_it: int | None = None,
        whiten_solver: str = "svd",
        random_state: int | np.random.RandomState | None = None,
        growth: str | float | None = "auto",
        n_init: int = 1,
        normalize_rows: bool = False,
        stop_percentile: float = 100,
        sort: str | None = None,
        center: str = "mean",
        device: str = "auto",
        verbose: int = 0,
        memory_limit: int | str | None = None,
        checkpoint: str | PathLike[str] | None = None,
        precision: str | None = None,
    ) -> None:
        self.n_components = n_components
        self.ortho = ortho
        self.extended = extended
        self.whiten = whiten
        self.fun = fun
        self.fun_args = fun_args
        self.max_iter = max_iter
        self.tol = tol
        self.m = m
        self.ls_tries = ls_tries
        self.lambda_min = lambda_min
        self.w_init = w_init
        self.fastica_it = fastica_it
        self.whiten_solver = whiten_solver
        self.random_state = random_state
        self.growth = growth
        self.n_init = n_init
        self.normalize_rows = normalize_rows
        self.stop_percentile = stop_percentile
        self.sort = sort
        self.center = center
        self.memory_limit = memory_limit
        self.checkpoint = checkpoint
        self.precision = precision
        self.device = device
        self.verbose = verbose

    def _contrast(self) -> Any:
        contrast = as_contrast(self.fun, self.fun_args)
        return Exp(0.1) if isinstance(self.fun, str) and self.fun == "exp" else contrast

    def _solve(self, oracle: Any, starts: Any, rng: Any, report: Any, *, keep_all: bool = False) -> Any:
        extended = self.ortho if self.extended is None else self.extended
        return (run_all if keep_all else run)(
            SOLVERS["picard"],
            oracle,
            self._refined(oracle, starts, report),
            growth=as_number(self.growth),
            stochastic=by_batches(partial(stochastic_picard, extended=extended)) if self.ortho else None,
            rng=rng,
            max_iter=self.max_iter,
            tol=self.tol,
            report=report,
            fraction=self.stop_percentile / 100,
            ortho=self.ortho,
            extended=extended,
            memory=self.m,
            ls_tries=self.ls_tries,
            lambda_min=self.lambda_min,
        )

    def _refined(self, oracle: Any, starts: Any, report: Any) -> Any:
        """The starting points (k, k), made orthonormal if they were drawn, after `fastica_it` iterations of FastICA."""
        if self.w_init is None:
            starts = [orthonormal(start, oracle.xp) for start in starts]
        if self.fastica_it:
            options = {"max_iter": self.fastica_it, "tol": 0.0, "report": report and report.of_fastica()}
            starts = [solution.W for solution in solve_all(SOLVERS["parallel"], oracle, starts, **options)]
        return starts

    def _not_converged(self, solution: Any) -> Any:
        return describe_picard(self, solution)
