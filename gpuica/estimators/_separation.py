"""What FastICA and Picard share: open X, whiten it, solve, store the answer."""

import time
import warnings
from functools import cache
from typing import Any

import numpy as np
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning

from ..device import logger, to_host
from ..oracle import ContrastOracle, MomentOracle
from ..products import ROUNDED
from ..rows import open_rows
from ..rows.checkpoint import Checkpoint, RecordedRows
from ..solvers import Solution
from ..solvers.median import geometric_median
from ..solvers.whitening import WHITENERS
from ._results import hand_out
from ._resume import fingerprint
from ._shell import locating_nan, take
from ._spread import draw_from
from ._unmixing import Unmixing

# (E r)² / E r² of the norms r, below which rows are called uneven: 0.98 for digits, 0.4 for image patches, 0.37 for
# log-normal norms of sigma 1, 0.11 where one row in a thousand is 100 times as long as the rest
UNEVEN = 0.15


class Separation(Unmixing):
    """The part of an ICA estimator between scikit-learn's contract and a solver.

    A subclass declares scikit-learn's parameters, those below among them, and says how to solve.
    """

    n_components: Any
    whiten_solver: str
    w_init: Any
    random_state: Any
    verbose: int
    tol: Any
    max_iter: int
    n_init: int
    stop_percentile: float
    sort: Any
    center: str
    checkpoint: Any
    precision: Any
    _watched: str  # what the solver brings to rest: "movement" or "gradient"

    def _contrast(self):
        """The contrast that the parameters name."""
        raise NotImplementedError

    def _check(self, contrast):
        """Raise ValueError for parameters that do not go together."""
        if self.n_init > 1 and self.w_init is not None:
            raise ValueError("w_init is one starting point: use n_init=1, or w_init=None.")
        if self.center == "median" and not self.whiten:
            raise ValueError("center='median' needs whitening: with whiten=False nothing is centered.")

    def _solve(self, oracle, starts, rng, report, keep="best"):
        """The best Solution from starts (k, k), or keep="all".  rng: to be drawn from.  report: for the solver."""
        raise NotImplementedError

    def _what_is_left(self, solution):
        """The sentence for a solution that did not converge: how far it is, and what to do."""
        raise NotImplementedError

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None, sample_weight=None):
        """Fit the model to X, array of shape (n_samples, n_features) of any kind.  y is ignored.

        sample_weight : array-like of shape (n_samples,), default=None
            As how many rows each row counts, >= 0: a row of weight 2 is the same as two rows, of weight 0 as none.
            Only standard errors (tol='auto', the warning of few rows) do not go by the sum of the weights, but by
            Kish's effective number of rows, (Σ w)² / Σ w².

        Raises ValueError for weights that are negative, not finite, all zero, or not as many as rows.
        """
        self._fit_transform(X, sample_weight)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None, sample_weight=None):
        """`fit` the model to X (n_samples, n_features); return the sources of all rows, (n_samples, n_components)."""
        return self._fit_transform(X, sample_weight, compute_sources=True)

    def fit_runs(self, X, n_runs, sample_weight=None):
        """The components of n_runs fits from different starts, (n_runs, k, n_features), and the covariance of X.

        sample_weight: as for `fit`.  The runs share every pass over X; none is kept in the estimator.  For
        `gpuica.stability.stability`.
        """
        self._validate_params()
        given, device = self._taken(X, sample_weight)
        with device.active(), locating_nan(self, given):
            rows, spectrum, white = self._whitened(given, device)
            oracle, starts, rng = self._ready(white, device, n_runs, given)
            solutions = self._solve(oracle, starts, rng, None, keep="all")
            K = spectrum.whitening if spectrum else rows.xp.eye(rows.n_features)
            covariance = MomentOracle(rows).moments()[1]
            return np.stack([to_host(solution.W @ K) for solution in solutions]), to_host(covariance)

    def _fit_transform(self, X, sample_weight=None, compute_sources=False):
        """Fit; return the sources, or None without compute_sources."""
        self.__dict__.pop("_past", None)  # partial_fit's: this fit begins anew
        given, device = self._taken(X, sample_weight)
        with device.active(), locating_nan(self, given):
            rows, spectrum, white = self._whitened(given, device)
            oracle, starts, rng = self._ready(white, device, self.n_init, given)
            self.device_ = str(device)
            try:
                solution = self._solve(oracle, starts, rng, _progress(self) if self.verbose else None)
            except KeyboardInterrupt:
                self._store_interrupted(oracle, spectrum, rows, given.weight)
                raise
            if self.sort is not None:
                solution = self._sorted(solution, oracle, spectrum)
            to_sources = self._store(solution, spectrum, rows, given.weight).astype(given.dtype)
            if not solution.converged:
                warnings.warn(self._what_is_left(solution), ConvergenceWarning, stacklevel=5)
            sources = None
            if compute_sources and white.scratch is not None:
                sources = given.back(white.map(rotate, to_sources, out=white.scratch))
            elif compute_sources:
                sources = hand_out(self, given, device, white, rotate, (to_sources,), len(to_sources))
        self.n_passes_ = white.n_passes + solution.sampled if solution.sampled else white.n_passes
        del rows, white, oracle, spectrum, starts, solution, to_sources  # before their memory can be given back
        device.share()
        return sources

    def _taken(self, X, sample_weight):
        """X and its weights as `Given`, checked, and the device to work on."""
        given = take(self, X, reset=True, min_rows=2, finite=not self.whiten)
        given = given.worked_on_in(self.precision).weighted(sample_weight)
        self._check(self._contrast())  # complain of the parameters before the data are read
        k = min(self.n_components or given.shape[1], *given.shape)
        return given, self._device(given, work=40 * given.shape[0] * k * k)

    def _whitened(self, given, device):
        """Rows of X, their spectrum (None without whitening), and the whitened rows."""
        settings = {"prepare": given.prepare(self._prepare), "weights": given.weights}
        rows = open_rows(given.array, dtype=given.dtype, device=device, **settings)
        if self.checkpoint is not None:
            rows = RecordedRows(rows, Checkpoint(self.checkpoint, fingerprint(self, rows)))
        k = self._requested_components(given.shape)
        if not self.whiten:
            return rows, None, rows
        spectrum = self._spectrum(rows, k)
        return rows, spectrum, rows.projected(spectrum.mean, spectrum.whitening)

    def _ready(self, white, device, n_starts, given):
        """The oracle on the whitened rows, n_starts starting points, and the RandomState that drew them."""
        rng = draw_from(self.random_state, given)
        if self.checkpoint is not None:
            rng = white.checkpoint.same_draws(rng)
        starts = [device.put(self._start(white.n_features, white.dtype, rng)) for _ in range(n_starts)]
        of_samples = self.precision if self.precision in ROUNDED else "float32"
        oracle = ContrastOracle(white, self._contrast(), white=bool(self.whiten), of_samples=of_samples)
        return oracle, starts, rng

    def _requested_components(self, shape):
        """n_components as far as the shape of X allows."""
        most = min(shape)
        if not self.whiten and self.n_components is not None:
            warnings.warn("Ignoring n_components with whiten=False.", stacklevel=5)
        elif (self.n_components or 0) > most:
            warnings.warn(f"n_components is too large: it will be set to {most}", stacklevel=5)
        return min(self.n_components or most, most) if self.whiten else shape[1]

    def _spectrum(self, rows, k):
        """The spectrum of the rows, cut to k components or the rank; warns when the rank is smaller."""
        center = geometric_median(MomentOracle(rows)) if self.center == "median" else None
        oracle = MomentOracle(rows, center)
        spectrum = WHITENERS[self.whiten_solver](oracle, eps=float(np.finfo(rows.dtype).eps))
        if spectrum.rank == 0:
            raise ValueError("X has no variance: every row is the same, so there is nothing to separate.")
        complaint = ""
        if self.whiten_solver == "eigh" and spectrum.rank < rows.n_features:
            complaint = (
                "There are some small singular values, using whiten_solver = 'svd' might lead to more accurate "
                "results. "
            )
        self._doubt(rows.n_effective, min(k, spectrum.rank), oracle.evenness)
        if spectrum.rank < k:
            complaint += (
                f"X has numerical rank {spectrum.rank} once centered, so {spectrum.rank} components are kept instead "
                f"of {k}: the other directions hold rounding noise. Set n_components={spectrum.rank} to say so."
            )
        if complaint:
            warnings.warn(complaint.rstrip(), stacklevel=5)
        return spectrum.cut(min(k, spectrum.rank))

    def _doubt(self, n_rows, k, evenness):
        """Log what the rows cannot tell, or tell wrongly."""
        if n_rows < k**2:
            logger.warning(
                "%s: %d rows are few for %d components: the unmixing matrix has %d entries. Expect components that "
                "other rows or other starts do not confirm; see gpuica.stability.",
                *(type(self).__name__, n_rows, k, k**2),
            )
        if evenness < UNEVEN:
            logger.warning(
                "%s: a few rows of enormous norm carry most of the variance of X, and will rule the answer. "
                "normalize_rows=True makes all rows count the same, sample_weight can take out these few, "
                "center='median' keeps the center from following them.",
                type(self).__name__,
            )

    def _start(self, k, dtype, rng):
        """The starting point (k, k), drawn or given, rounded to the dtype of X as scikit-learn rounds it."""
        if self.w_init is None:
            return rng.normal(size=(k, k)).astype(dtype).astype(np.float64)
        start = np.asarray(to_host(self.w_init), dtype=np.float64)
        if start.shape != (k, k):
            raise ValueError(f"w_init has invalid shape -- should be {(k, k)}")
        if not np.isfinite(start).all():
            raise ValueError("w_init contains NaN or infinity.")
        return start

    def _sorted(self, solution, oracle, spectrum):
        """The solution with its components in the order that `sort` asks for."""
        if self.sort == "objective":
            size = abs(oracle.likelihood(solution.W).loss - oracle.gaussian_loss())
        else:  # a source of variance 1 adds the squared norm of its column of the mixing matrix
            mixing = oracle.xp.linalg.inv(solution.W)
            if spectrum:
                mixing = spectrum.deviations[: spectrum.kept, None] * mixing
            size = (mixing**2).sum(axis=0)
        return solution.reordered(oracle.xp.argsort(-size))

    def _store_interrupted(self, oracle, spectrum, rows, n_samples):
        """Set the fitted attributes from what the solver asked about last, if that was a whole unmixing matrix."""
        W = oracle.latest[0]
        if W is None or len(W) != oracle.n_features:
            return
        unknown = np.full(len(W), np.nan)
        solution = Solution(W, oracle.n_passes, unknown, False, np.zeros(len(W), bool), unknown)
        self._store(solution, spectrum, rows, n_samples)
        self.n_passes_ = oracle.n_passes
        warnings.warn("The fit was interrupted: components are unfinished.", ConvergenceWarning, stacklevel=6)

    def _store(self, solution, spectrum, rows, n_samples):
        """Set the fitted attributes; return the matrix (k, k) that takes whitened rows to sources.

        n_samples: as many rows as X stands for, Σ of its weights.
        """
        dtype, n_features, W = rows.dtype, rows.n_features, solution.W
        if spectrum is None:
            components, to_sources = W, W
            mixing = inverse(to_host(W))
        else:
            # scikit-learn's whitening makes rows of variance 1 / n_samples
            shrink = n_samples**-0.5
            K = spectrum.whitening * shrink
            components = W @ K
            if self.whiten == "unit-variance":
                rounded = components.astype(dtype).astype(np.float64)
                W = W / rows.xp.sqrt(spectrum.variances(rounded))[:, None]
                components = W @ K
            to_sources = W * shrink
            self.mean_ = to_host(spectrum.mean).astype(dtype)
            self.whitening_ = to_host(K).astype(dtype)
            mixing = to_host(spectrum.unwhitening) @ inverse(to_host(to_sources))
        self.components_ = to_host(components).astype(dtype)
        self.mixing_ = mixing.astype(dtype)
        self._unmixing = to_host(W).astype(dtype)
        self.n_iter_ = solution.n_iter
        self.movement_ = to_host(solution.movement)
        self.at_rest_ = to_host(solution.at_rest)
        self.gradient_norm_ = float(solution.gradient.max())
        self.gradient_z_ = np.full(len(W), np.nan) if solution.z is None else to_host(solution.z)
        self.losses_ = np.array(solution.losses)
        self.rank_ = n_features if spectrum is None else spectrum.rank
        self.converged_ = solution.converged
        return to_sources

    @classmethod
    @cache
    def _get_param_names(cls):
        """As scikit-learn's, read from the signature once instead of at every fit (0.05 ms of a small one)."""
        return super()._get_param_names()


def rotate(Z, W):
    """Z @ Wᵀ: the sources of whitened rows."""
    return Z @ W.T


def inverse(W):
    """W^-1 of a square matrix, or its pseudo-inverse where it has none."""
    try:
        return np.linalg.inv(W)
    except np.linalg.LinAlgError:
        return np.linalg.pinv(W)


def _progress(estimator):
    """A reporter for a solver: prints iteration, components at rest, what moves most, seconds."""
    began, name = time.perf_counter(), type(estimator).__name__

    def report(n_iter, sizes, at_rest, n_rows):
        resting = int(at_rest.sum())
        if estimator.verbose > 1 or n_iter % 10 == 0 or resting == len(sizes) or n_iter == estimator.max_iter:
            print(
                f"[{name}] {n_rows} rows, iteration {n_iter}: {resting} of {len(sizes)} components at rest, largest "
                f"{estimator._watched} {float(sizes.max()):.1e} (tol {estimator.tol}), "
                f"{time.perf_counter() - began:.1f} s",
                flush=True,
            )

    return report
