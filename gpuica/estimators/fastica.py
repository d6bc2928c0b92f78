"""FastICA, scikit-learn's on the outside."""

from numbers import Integral, Real
from os import PathLike

from sklearn.decomposition import FastICA as SklearnFastICA
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions, validate_params

from ..contrasts import NAMES, as_contrast
from ..device.products import ROUNDED
from ..solvers import SOLVERS
from ..solvers.growth import run, run_all
from ..solvers.stochastic import stochastic_picard
from ._online import Online
from ._progress import by_batches
from ._remedies import of_fastica


class FastICA(Online, SklearnFastICA):
    """FastICA: fast independent component analysis, on the CPU or a GPU.

    scikit-learn's `FastICA` with the same parameters, attributes, starting point and path; parameters from `device` on
    are its own.
    X ≈ S @ mixing_.T + mean_ with sources S as independent as can be; S = (X - mean_) @ components_.T.

    Parameters
    ----------
    n_components : int, default=None
        Number of components; None for all.  Fewer are kept, with a warning, when X has a smaller rank.
    algorithm : {'parallel', 'deflation', 'picard'}, default='parallel'
        All components at once, or one after the other; or the same solutions by Picard-O, which converges where the
        fixed-point iteration oscillates (see `Picard`).
    whiten : {'unit-variance', 'arbitrary-variance', False}, default='unit-variance'
        Whiten X, and rescale the sources to variance 1 or not; False: X is white already.
    fun : {'logcosh', 'tanh', 'exp', 'cube'}, callable, contrast or density, default='logcosh'
        The derivative g of the contrast G; 'tanh' is another name of 'logcosh'.  A callable gets (x, **fun_args), x a
        block (n_components, n_block), and returns g(x) and the mean of g'(x) over the last axis; see also
        `gpuica.check_contrast`.  A density: as for `Picard`.
    fun_args : dict, default=None
        For 'logcosh' {'alpha': α}, α in [1, 2]; for a callable its keyword arguments.
    max_iter : int, default=200
        Largest number of iterations (for 'deflation' of each component).
    tol : float or 'auto', default=1e-4
        Stop when no row of W moves more than this: max | |<new, old>| - 1 | < tol; for 'picard' the
        same of the turn that its Newton step would make.  A fit (of tol < 1) that ends so more than 10 standard errors
        from a zero gradient has not converged, and warns.  'auto' (not for 'deflation'): stop when the relative
        gradient is within its standard error, beyond which the data have little to say; see `Picard`.
    w_init : array-like of shape (n_components, n_components), default=None
        Start; None draws it from a normal distribution.
    whiten_solver : {'svd', 'eigh'}, default='svd'
        'svd': full accuracy for data of any condition.  'eigh': a little cheaper, blind to directions whose standard
        deviation is below 1e-7 of the largest.
    random_state : int, RandomState or None, default=None
        Draws w_init, on the host, so that every device starts alike.
    device : {'auto', 'cpu', 'cuda', 'cuda:N'}, default='auto'
        Where to compute.  'auto': a device array stays where it is; a host array goes to a GPU when there is one and
        the work is worth the transfer.
    verbose : int, default=0
        1: a line for every tenth iteration and the last; 2: for every iteration.
    growth : None, 'auto' or float > 1, default=None
        Start on a small random sample and enlarge it by this factor up to all rows; 'auto': by 2 where X is large.
        Saves most of the passes over large data; not for 'deflation'.
    n_init : int, default=1
        Starting points, run at once; the answer farthest from Gaussian is kept.  With growth only the best of the
        samples goes on to all rows.
    normalize_rows : bool, default=False
        Divide every row of X by its norm first, in `transform` too: language models have a few tokens of enormous norm
        that would rule every contrast.  (A fit that meets such rows says so on the logger "gpuica".)
    stop_percentile : float in (0, 100], default=100
        Stop when so many per cent of the components are at rest; 100 is scikit-learn's rule, the worst component's.
    sort : None, 'objective' or 'variance', default=None
        Order of the components: as the start finds them (scikit-learn's); the farthest from Gaussian first; or the one
        that explains most variance of X first.
    center : {'mean', 'median'}, default='mean'
        What whitening subtracts: the mean of X, or its geometric median, which a few rows of enormous norm cannot move
        (about ten passes more).  Second moments, and so variances, are then those about the median; not for
        whiten=False.
    memory_limit : int, str or None, default=None
        Bytes, or a text as "2GB", that a fit may use beyond X; None: what is free.  Whitened rows that do not fit are
        computed in every pass instead of being stored.
    checkpoint : path or None, default=None
        A directory where every pass leaves its sums.  A fit that was interrupted and is run again with the same
        checkpoint, data and parameters goes on where it was, to the same answer; max_iter may be raised.  Other data or
        parameters are refused; random_state=None goes on with the first run's draws (docs/streaming.md).
    precision : {None, 'float32', 'float64', 'tf32', 'bf16'}, default=None
        What rows are worked on in, with totals in float64; None: float32 for X of float32 or less, else float64.
        'tf32', 'bf16': float32, but on a GPU the products of growing samples (growth=) are TF32's or bfloat16's; those
        of all rows never are.

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Filters: sources are (X - mean_) @ components_.T.  NumPy arrays, all of them, whatever X is.
    mixing_ : ndarray of shape (n_features, n_components)
        Pseudo-inverse of components_.  Its columns are the sources' patterns in the data: the "dictionary".
    mean_ : ndarray of shape (n_features,)
        Mean of X, or its geometric median for center='median'; only with whitening.
    whitening_ : ndarray of shape (n_components, n_features)
        The whitening matrix, scaled as scikit-learn's: (X - mean_) @ whitening_.T has variance 1 / n_samples, n_samples
        being the sum of the weights where there are any.
    n_iter_ : int
        Iterations ('deflation': the largest of all components).
    converged_ : bool
        Whether every component came to rest, and at a gradient that is not far from 0 (`gradient_z_`).
    converged_components_ : ndarray of shape (n_components,)
        Which components did.
    delta_ : ndarray of shape (n_components,)
        How far each component still moved in its last iteration; compare with tol.
    gradient_norm_ : float
        Largest entry of the relative gradient at the last pass: 0 at a perfect answer.
    gradient_z_ : ndarray of shape (n_components,)
        Largest entry of each component's relative gradient in standard errors, sqrt(Var / n_samples), at the last pass
        (for 'deflation' among the components found later).  tol='auto' and 'deflation' measure Var on the rows, and so
        does a fit that seems to end far from 0; otherwise it is that of independent sources.  NaN after an interrupt,
        and where Var overflows, as for rows that are not white with whiten=False.
    losses_ : ndarray
        Loss at each pass over all rows, for 'picard'; empty otherwise.
    n_passes_ : int or float
        How often the data, raw or whitened, were read; samples count by their share.
    rank_ : int
        Numerical rank of X.
    device_ : str
        Where the fit ran.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    X may be a NumPy, CuPy or memory-mapped array, a torch tensor, a DataFrame or a list.  `transform` gives back an
    array of the same kind on the same device; for a DataFrame or a list a NumPy array, unless `set_output` says
    otherwise.  float32, float16 and bfloat16 are worked on in float32 with totals in
    float64, everything else in float64.  X is read by chunks; beside it a fit needs one whitened copy.

    References
    ----------
    A. Hyvärinen and E. Oja, Independent Component Analysis: Algorithms and Applications, Neural Networks 13, 2000.

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
        "precision": [StrOptions({"float32", "float64", *ROUNDED}), None],
    }
    _watched = "delta"

    def __init__(
        self,
        n_components=None,
        *,
        algorithm="parallel",
        whiten="unit-variance",
        fun="logcosh",
        fun_args=None,
        max_iter=200,
        tol=1e-4,
        w_init=None,
        whiten_solver="svd",
        random_state=None,
        device="auto",
        verbose=0,
        growth=None,
        n_init=1,
        normalize_rows=False,
        stop_percentile=100,
        sort=None,
        center="mean",
        memory_limit=None,
        checkpoint=None,
        precision=None,
    ):
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

    def _contrast(self):
        return as_contrast(self.fun, self.fun_args)

    def _check(self, contrast):
        super()._check(contrast)
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
        for what, asked in needs_loss.items():
            if asked and not hasattr(contrast, "loss"):
                raise ValueError(f"{what} needs a contrast whose G is known: a name, or an object with `loss`.")

    def _solve(self, oracle, starts, rng, report, keep="best"):
        return (run_all if keep == "all" else run)(
            SOLVERS[self.algorithm],
            oracle,
            starts,
            growth=self._growth,
            rng=rng,
            max_iter=self.max_iter,
            tol=self.tol,
            report=report,
            **({"by": "delta", "stochastic": by_batches(stochastic_picard)} if self.algorithm == "picard" else {}),
            **({"stage_tol": self.tol} if self.algorithm == "deflation" else {"fraction": self.stop_percentile / 100}),
        )

    def _what_is_left(self, solution):
        return of_fastica(self, solution)


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
    X,
    n_components=None,
    *,
    algorithm="parallel",
    whiten="unit-variance",
    fun="logcosh",
    fun_args=None,
    max_iter=200,
    tol=1e-04,
    w_init=None,
    whiten_solver="svd",
    random_state=None,
    return_X_mean=False,
    compute_sources=True,
    return_n_iter=False,
    device="auto",
    verbose=0,
    growth=None,
    n_init=1,
    precision=None,
):
    """Fast independent component analysis, as a function; scikit-learn's `fastica`.

    X : array of shape (n_samples, n_features).  Parameters are those of `FastICA`, and:
    return_X_mean, return_n_iter : bool, default=False
        Append the mean, the number of iterations to the result.
    compute_sources : bool, default=True
        False: None in place of the sources.

    Returns
    -------
    K : ndarray of shape (n_components, n_features)
        Whitening matrix, or None with whiten=False.
    W : ndarray of shape (n_components, n_components)
        Unmixing matrix: sources are (X - mean) @ K.T @ W.T.
    S : array of shape (n_samples, n_components), of the kind of X, or None.
    X_mean : ndarray of shape (n_features,), if asked for.
    n_iter : int, if asked for.

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
    S = estimator._fit_transform(X, compute_sources=compute_sources)
    returned = [estimator.whitening_ if whiten else None, estimator._unmixing, S]
    if return_X_mean:
        returned.append(estimator.mean_ if whiten else None)
    if return_n_iter:
        returned.append(estimator.n_iter_)
    return returned
