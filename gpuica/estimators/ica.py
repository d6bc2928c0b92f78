"""FastICA, scikit-learn's on the outside."""

import time
import warnings

import numpy as np
from sklearn.decomposition import FastICA as SklearnFastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import HasMethods, validate_params
from sklearn.utils.validation import check_is_fitted

from ..contrasts import as_contrast
from ..device import choose_device, to_host
from ..oracle import ContrastOracle, MomentOracle, NotFiniteError
from ..rows import open_rows, project
from ..solvers.fixed_point import SOLVERS
from ..solvers.whitening import WHITENERS
from ._shell import refuse_non_finite, take


class FastICA(SklearnFastICA):
    """FastICA: fast independent component analysis, on the CPU or a GPU.

    scikit-learn's `FastICA` with the same parameters, attributes, starting point and path, and two parameters more.
    X ≈ S @ mixing_.T + mean_ with sources S as independent as can be; S = (X - mean_) @ components_.T.

    Parameters
    ----------
    n_components : int, default=None
        Number of components; None for all.  Fewer are kept, with a warning, when X has a smaller rank.
    algorithm : {'parallel', 'deflation'}, default='parallel'
        All components at once, or one after the other.
    whiten : {'unit-variance', 'arbitrary-variance', False}, default='unit-variance'
        Whiten X, and rescale the sources to variance 1 or not; False: X is white already.
    fun : {'logcosh', 'exp', 'cube'}, callable or contrast, default='logcosh'
        The derivative g of the contrast G.  A callable gets (x, **fun_args), x a block (n_components, n_block), and
        returns g(x) and the mean of g'(x) over the last axis; see also `gpuica.check_contrast`.
    fun_args : dict, default=None
        For 'logcosh' {'alpha': α}, α in [1, 2]; for a callable its keyword arguments.
    max_iter : int, default=200
        Largest number of iterations (for 'deflation' of each component).
    tol : float, default=1e-4
        Stop when no row of W moves more than this: max | |<new, old>| - 1 | < tol.
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

    Attributes
    ----------
    components_ : ndarray of shape (n_components, n_features)
        Filters: sources are (X - mean_) @ components_.T.  NumPy arrays, all of them, whatever X is.
    mixing_ : ndarray of shape (n_features, n_components)
        Pseudo-inverse of components_.  Its columns are the sources' patterns in the data: the "dictionary".
    mean_ : ndarray of shape (n_features,)
        Mean of X; only with whitening.
    whitening_ : ndarray of shape (n_components, n_features)
        The whitening matrix, scaled as scikit-learn's: (X - mean_) @ whitening_.T has variance 1 / n_samples.
    n_iter_ : int
        Iterations ('deflation': the largest of all components).
    converged_ : bool
        Whether every component came to rest.
    movement_ : ndarray of shape (n_components,)
        How far each component still moved in its last iteration; compare with tol.
    n_passes_ : int
        How often the data, raw or whitened, were read.
    device_ : str
        Where the fit ran.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Notes
    -----
    X may be a NumPy, CuPy or memory-mapped array, a torch tensor, a DataFrame or a list.  `transform` gives back an
    array of the same kind on the same device.  float32, float16 and bfloat16 are worked on in float32 with totals in
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
        "fun": [*SklearnFastICA._parameter_constraints["fun"], HasMethods("at")],
        "device": [str],
        "verbose": ["verbose"],
    }

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
    ):
        super().__init__(
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

    def _fit_transform(self, X, compute_sources=False):
        """Fit; return the sources, or None without compute_sources.  scikit-learn's fit and fit_transform end here."""
        given = take(self, X, reset=True, min_rows=2, finite=not self.whiten)
        contrast = as_contrast(self.fun, self.fun_args)
        k = self._requested_components(given.shape)
        device = self._device(given.array, work=40 * given.shape[0] * k * k)
        with device.active():
            rows = open_rows(given.array, dtype=given.dtype, device=device)
            spectrum = self._spectrum(rows, given.array, k) if self.whiten else None
            white = rows.projected(spectrum.mean, spectrum.whitening) if spectrum else rows
            solution = SOLVERS[self.algorithm](
                ContrastOracle(white, contrast),
                device.put(self._start(white.n_features, given.dtype)),
                max_iter=self.max_iter,
                tol=self.tol,
                report=_progress(self) if self.verbose else None,
            )
            to_sources = self._store(solution, spectrum, rows)
            sources = white.map(rotate, to_sources.astype(given.dtype), out=white.scratch) if compute_sources else None
        self.n_passes_ = white.n_passes
        self.device_ = str(device)
        return None if sources is None else given.back(sources)

    def _requested_components(self, shape):
        """n_components as far as the shape of X allows."""
        most = min(shape)
        if not self.whiten and self.n_components is not None:
            warnings.warn("Ignoring n_components with whiten=False.", stacklevel=5)
        elif (self.n_components or 0) > most:
            warnings.warn(f"n_components is too large: it will be set to {most}", stacklevel=5)
        return min(self.n_components or most, most) if self.whiten else shape[1]

    def _device(self, array, work):
        numpy_only = "a contrast function is called with arrays of the kind that X has." if callable(self.fun) else None
        return choose_device(self.device, array, work=work, refusal=numpy_only)

    def _spectrum(self, rows, array, k):
        """The spectrum of the rows, cut to k components or the rank; warns when the rank is smaller."""
        try:
            spectrum = WHITENERS[self.whiten_solver](MomentOracle(rows), eps=float(np.finfo(rows.dtype).eps))
        except NotFiniteError:
            refuse_non_finite(self, array)
            raise
        if spectrum.rank == 0:
            raise ValueError("X has no variance: every row is the same, so there is nothing to separate.")
        complaint = ""
        if self.whiten_solver == "eigh" and spectrum.rank < rows.n_features:
            complaint = (
                "There are some small singular values, using whiten_solver = 'svd' might lead to more accurate "
                "results. "
            )
        if spectrum.rank < k:
            complaint += (
                f"X has numerical rank {spectrum.rank} once centered, so {spectrum.rank} components are kept instead "
                f"of {k}: the other directions hold rounding noise. Set n_components={spectrum.rank} to say so."
            )
        if complaint:
            warnings.warn(complaint.rstrip(), stacklevel=5)
        return spectrum.cut(min(k, spectrum.rank))

    def _start(self, k, dtype):
        """The starting point (k, k), drawn or given, rounded to the dtype of X as scikit-learn rounds it."""
        random_state = check_random_state(self.random_state)
        if self.w_init is None:
            return random_state.normal(size=(k, k)).astype(dtype).astype(np.float64)
        start = np.asarray(to_host(self.w_init), dtype=np.float64)
        if start.shape != (k, k):
            raise ValueError(f"w_init has invalid shape -- should be {(k, k)}")
        if not np.isfinite(start).all():
            raise ValueError("w_init contains NaN or infinity.")
        return start

    def _store(self, solution, spectrum, rows):
        """Set the fitted attributes; return the matrix (k, k) that takes whitened rows to sources."""
        dtype, W = rows.dtype, solution.W
        if spectrum is None:
            components, to_sources = W, W
        else:
            # scikit-learn's whitening makes rows of variance 1 / n
            shrink = rows.n_rows**-0.5
            K = spectrum.whitening * shrink
            components = W @ K
            if self.whiten == "unit-variance":
                rounded = components.astype(dtype).astype(np.float64)
                W = W / rows.xp.sqrt(spectrum.variances(rounded))[:, None]
                components = W @ K
            to_sources = W * shrink
            self.mean_ = to_host(spectrum.mean).astype(dtype)
            self.whitening_ = to_host(K).astype(dtype)
        components = to_host(components)
        self.components_ = components.astype(dtype)
        self.mixing_ = np.linalg.pinv(components).astype(dtype)
        self._unmixing = to_host(W).astype(dtype)
        self.n_iter_ = solution.n_iter
        self.movement_ = to_host(solution.movement)
        self.converged_ = solution.converged
        if not solution.converged:
            warnings.warn(_what_is_left(solution, self.tol), ConvergenceWarning, stacklevel=6)
        return to_sources

    def transform(self, X, copy=True):
        """Recover the sources of X: (X - mean_) @ components_.T.

        X : array of shape (n_samples, n_features), of any kind that `fit` takes.
        copy : ignored; X is never written to.
        Returns an array (n_samples, n_components) of the kind of X.
        """
        check_is_fitted(self)
        given = take(self, X, reset=False)
        return self._apply(given, self.components_, before=self.mean_ if self.whiten else 0.0)

    def inverse_transform(self, X, copy=True):
        """Mix sources back: X @ mixing_.T + mean_.

        X : array of shape (n_samples, n_components).
        copy : ignored; X is never written to.
        Returns an array (n_samples, n_features) of the kind of X.
        """
        check_is_fitted(self)
        given = take(self, X, reset=None)
        if given.shape[1] != self.mixing_.shape[1]:
            raise ValueError(
                f"X has {given.shape[1]} columns, but this {type(self).__name__} has {self.mixing_.shape[1]} "
                "components."
            )
        return self._apply(given, self.mixing_, after=self.mean_ if self.whiten else 0.0)

    def _apply(self, given, matrix, before=0.0, after=0.0):
        """(X - before) @ matrixᵀ + after, chunk by chunk, on the device that X asks for."""
        dtype = np.result_type(given.dtype, matrix.dtype)
        device = self._device(given.array, work=2 * given.shape[0] * matrix.size)
        with device.active():
            rows = open_rows(given.array, dtype=dtype, device=device)
            ready = tuple(device.put(np.asarray(part, dtype=dtype)) for part in (before, matrix, -after))
            return given.back(rows.map(project, ready))


def rotate(Z, W):
    """Z @ Wᵀ: the sources of whitened rows."""
    return Z @ W.T


def _progress(estimator):
    """A reporter for a solver: prints iteration, largest movement, components at rest, seconds."""
    began, name, tol = time.perf_counter(), type(estimator).__name__, estimator.tol

    def report(n_iter, movement):
        worst = float(movement.max())
        if estimator.verbose > 1 or n_iter % 10 == 0 or worst < tol or n_iter == estimator.max_iter:
            at_rest = int((movement < tol).sum())
            print(
                f"[{name}] iteration {n_iter}: {at_rest} of {len(movement)} components at rest, largest movement "
                f"{worst:.1e} (tol {tol:g}), {time.perf_counter() - began:.1f} s",
                flush=True,
            )

    return report


def _what_is_left(solution, tol):
    """scikit-learn's sentence, then how far the fit is and what to do."""
    moving = int((solution.movement >= tol).sum())
    return (
        "FastICA did not converge. Consider increasing tolerance or the maximum number of iterations. "
        f"After {solution.n_iter} iterations {moving} of {len(solution.movement)} components still moved, the worst by "
        f"{float(solution.movement.max()):.1e} (tol {tol:g}; see movement_). If they oscillate, more iterations do not "
        "help: try fewer components, or fun='exp' where outliers rule."
    )


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
    )
    estimator._validate_params()
    S = estimator._fit_transform(X, compute_sources=compute_sources)
    returned = [estimator.whitening_ if whiten else None, estimator._unmixing, S]
    if return_X_mean:
        returned.append(estimator.mean_ if whiten else None)
    if return_n_iter:
        returned.append(estimator.n_iter_)
    return returned
