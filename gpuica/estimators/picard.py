"""Picard and Infomax: ICA that converges, with scikit-learn's contract."""

from functools import partial
from numbers import Integral, Real

import numpy as np
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions, validate_params
from sklearn.utils.validation import check_array

from ..contrasts import NAMES, Exp, as_contrast, check_contrast
from ..device.arrays import host
from ..solvers import SOLVERS
from ..solvers.growth import run, run_all
from ..solvers.multistart import solve_all
from ..solvers.orthonormal import orthonormal
from ..solvers.stochastic import stochastic_picard
from ._online import Online
from ._progress import by_batches
from ._remedies import of_picard
from .fastica import FastICA


class ContrastError(ValueError, AssertionError):
    """A contrast or density whose derivatives are wrong."""


class Picard(Online):
    """Picard: maximum-likelihood ICA that converges, by preconditioned L-BFGS.

    ortho=True, extended=True (the default) is Picard-O: FastICA's solutions, found surely.  ortho=False is maximum
    likelihood without the constraint of white sources: extended=False Infomax, extended=True extended Infomax.  Large
    data are not read more often than they need to be: the fit starts on a sample and grows it.

    Parameters
    ----------
    n_components : int, default=None
        Number of components; None for all.  Fewer are kept, with a warning, when X has a smaller rank.
    ortho : bool, default=True
        Keep the sources uncorrelated.
    extended : bool, default=None
        Find sub-Gaussian sources too; None: as ortho.
    whiten : {'unit-variance', 'arbitrary-variance', False}, default='unit-variance'
        As for `FastICA`.
    fun : {'tanh', 'logcosh', 'exp', 'cube'}, contrast or density, default='tanh'
        The score g; 'logcosh' is another name of 'tanh'; 'exp' is u exp(-0.05 u²), as in python-picard.  A contrast
        must know its G (`loss`).  A density is an object of python-picard's kind, with `log_lik` and `score_and_der`.
    fun_args : dict, default=None
        For 'tanh' {'alpha': α}, α in [1, 2].
    max_iter : int, default=500
        Largest number of iterations (on all rows).
    tol : float or 'auto', default='auto'
        Bound for the largest entry of the relative gradient.  'auto': each component's entries below
        half their standard error sqrt(Var / n_samples) in root mean square, and none beyond sqrt(2 log k²) standard
        errors, about the largest of k² numbers of noise for k components: optimising further would mostly fit noise.
        Var is measured on the rows.  (With sample_weight n_samples is the sum of whole-number weights, else Kish's
        effective number.)
    m : int, default=7
        Pairs that L-BFGS keeps.
    ls_tries : int, default=10
        Halvings of a step before the gradient is tried instead.
    lambda_min : float, default=0.01
        Floor of the approximate curvature.
    w_init : array-like of shape (n_components, n_components), default=None
        Start; None draws a random rotation.
    fastica_it : int, default=None
        Iterations of FastICA before the first of Picard.
    whiten_solver : {'svd', 'eigh'}, default='svd'
        As for `FastICA`.
    random_state : int, RandomState or None, default=None
        Draws w_init and the samples.
    growth : 'auto', None or float > 1, default='auto'
        Start on a random sample of max(10000, 30 n_components) rows, enlarge it by this factor up to all rows.
        'auto': by 2, where X has four times as many rows.  With ortho, where a sample does not come to rest soon,
        random batches of all rows take over, with steps that shrink to nothing.
    n_init, normalize_rows, stop_percentile, sort, center, device, verbose, memory_limit, checkpoint, precision
        As for `FastICA`.

    Attributes
    ----------
    components_, mixing_, mean_, whitening_, n_iter_, n_passes_, rank_, device_, n_features_in_, feature_names_in_
        As for `FastICA`.
    converged_ : bool
        Whether the gradient is as small as tol asks, for every component.
    converged_components_ : ndarray of shape (n_components,)
        Which components' entries are.
    gradient_norm_ : float
        Largest entry of the relative gradient, on all rows.
    gradient_z_ : ndarray of shape (n_components,)
        Largest entry of each component's relative gradient in standard errors, sqrt(Var / n_samples), on all rows.
        Var is measured on the rows by tol='auto'; else it is that of independent sources.  NaN after an interrupt, and
        where Var overflows, as for rows that are not white with whiten=False.
    losses_ : ndarray
        Loss at each iteration on all rows.
    delta_ : ndarray of shape (n_components,)
        How far each component moved in the last iteration.

    References
    ----------
    P. Ablin, J.-F. Cardoso, A. Gramfort, Faster independent component analysis by preconditioning with Hessian
    approximations, IEEE Trans. Signal Processing 66, 2018; Faster ICA under orthogonal constraint, ICASSP 2018.

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
    _watched = "gradient"

    def __init__(
        self,
        n_components=None,
        *,
        ortho=True,
        extended=None,
        whiten="unit-variance",
        fun="tanh",
        fun_args=None,
        max_iter=500,
        tol="auto",
        m=7,
        ls_tries=10,
        lambda_min=0.01,
        w_init=None,
        fastica_it=None,
        whiten_solver="svd",
        random_state=None,
        growth="auto",
        n_init=1,
        normalize_rows=False,
        stop_percentile=100,
        sort=None,
        center="mean",
        device="auto",
        verbose=0,
        memory_limit=None,
        checkpoint=None,
        precision=None,
    ):
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

    def _contrast(self):
        contrast = as_contrast(self.fun, self.fun_args)
        return Exp(0.1) if isinstance(self.fun, str) and self.fun == "exp" else contrast

    def _solve(self, oracle, starts, rng, report, keep="best"):
        if self.w_init is None:
            starts = [orthonormal(start, oracle.xp) for start in starts]
        if self.fastica_it:
            first = {"max_iter": self.fastica_it, "tol": 0.0, "report": report and report.of_fastica()}
            starts = [solution.W for solution in solve_all(SOLVERS["parallel"], oracle, starts, **first)]
        extended = self.ortho if self.extended is None else self.extended
        return (run_all if keep == "all" else run)(
            SOLVERS["picard"],
            oracle,
            starts,
            growth=self._growth,
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

    def _what_is_left(self, solution):
        return of_picard(self, solution)


@validate_params(
    {name: ["boolean"] for name in "ortho whiten return_X_mean return_n_iter centering check_fun".split()}
    | {"verbose": ["verbose"]},
    prefer_skip_nested_validation=False,
)
def picard(
    X,
    fun="tanh",
    n_components=None,
    ortho=True,
    extended=None,
    whiten=True,
    return_X_mean=False,
    return_n_iter=False,
    centering=True,
    max_iter=500,
    tol=1e-7,
    m=7,
    ls_tries=10,
    lambda_min=0.01,
    check_fun=True,
    w_init=None,
    fastica_it=None,
    random_state=None,
    verbose=False,
    *,
    growth=None,
    device="auto",
    precision=None,
):
    """Picard as python-picard's function: features first, its order of results, its defaults.

    X : array of shape (n_features, n_samples), of any kind that `FastICA` takes.
    fun : {"tanh", "exp", "cube"}, a contrast, or a density of python-picard's, with `log_lik` and `score_and_der`.
    whiten : bool; False needs white X, and centering is then up to the caller too.
    check_fun : check a contrast object's derivatives first (`check_contrast`).
    growth, device, precision : as for `Picard`.  The other parameters are those of `Picard`.

    Returns
    -------
    K : ndarray of shape (n_components, n_features)
        Whitening matrix, or None with whiten=False.
    W : ndarray of shape (n_components, n_components)
        Unmixing matrix: sources are W @ K @ (X - mean).
    Y : array of shape (n_components, n_samples), of the kind of X
        Sources.
    X_mean : ndarray of shape (n_features,), if asked for; 0 without centering.
    n_iter : int, if asked for: counted from 0, so that one iteration and max_iter of them give 0 and max_iter - 1.

    Raises ContrastError (a ValueError, and an AssertionError as in python-picard) where derivatives are wrong.
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
        returned.append(estimator.mean_ if whiten else host(mean) if centering else np.zeros(len(X)))
    if return_n_iter:
        returned.append(min(len(estimator.losses_), max_iter) - 1)
    return tuple(returned)
