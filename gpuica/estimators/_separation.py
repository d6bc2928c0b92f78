"""What FastICA and Picard share: open X, whiten it, solve, store the answer."""

from contextlib import contextmanager
from copy import copy
from functools import cache
from typing import Any

import numpy as np
from sklearn.base import _fit_context
from sklearn.exceptions import ConvergenceWarning

from ..device import logger, to_host
from ..device.products import ROUNDED_PRECISIONS
from ..messages import warn
from ..oracle import ContrastOracle, MomentOracle
from ..rows import open_rows
from ..rows.replay import ReplayedRows
from ..solvers import Solution
from ..solvers.median import geometric_median
from ..solvers.whitening import WHITENERS
from ._parameters import check_parameters, refuse_many_starts, refuse_overflow, starting_point
from ._progress import Progress, print_line
from ._results import to_output
from ._resume import open_checkpoint
from ._shell import check_input, locate_nonfinite
from ._spread import random_state_for
from ._unmixing import Unmixing
from ._whole import transactional_fit, warn_of_interrupt

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
    ortho: Any
    n_init: int
    growth: Any
    stop_percentile: float
    sort: Any
    center: str
    checkpoint: Any
    precision: Any
    _watched: str  # what the solver watches: "delta" or "gradient"

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
            For weights that are not whole numbers (or are above 4096), standard errors (tol='auto') do not go by their
            sum, but by Kish's effective number of rows, (Σ w)² / Σ w², which does not depend on their scale; sizes of
            growing samples and the warning of few rows always do.

        Raises ValueError for weights that are negative, not finite, all zero, or not as many as rows.

        Ctrl-C (KeyboardInterrupt) leaves the components that the solver came to last, with a ConvergenceWarning; before
        its first iteration has ended, the estimator as it was.  algorithm='deflation' leaves the finished components.
        """
        with transactional_fit(self):
            self._fit_transform(X, sample_weight)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None, sample_weight=None):
        """`fit` the model to X (n_samples, n_features); return the sources of all rows, (n_samples, n_components)."""
        with transactional_fit(self):
            return self._fit_transform(X, sample_weight, compute_sources=True)

    def fit_runs(self, X, n_runs, sample_weight=None):
        """The components of n_runs fits from different starts, (n_runs, k, n_features), and the covariance of X.

        sample_weight: as for `fit`.  The runs share every pass over X; none is kept in the estimator.  For
        `gpuica.stability.stability`.
        """
        self = copy(self)  # what is learned of X here is not kept either
        check_parameters(self)
        given, device = self._taken(X, sample_weight)
        with device.active(), locate_nonfinite(self, given), self._opened(given, device) as rows:
            spectrum, white = self._whitened(rows, given)
            oracle, starts, rng = self._ready(white, device, n_runs, given)
            solutions = self._solve(oracle, starts, rng, None, keep="all")
            K = spectrum.whitening if spectrum else rows.xp.eye(rows.n_features)
            covariance = MomentOracle(rows).moments()[1]
            return np.stack([to_host(solution.W @ K) for solution in solutions]), to_host(covariance)

    def _fit_transform(self, X, sample_weight=None, compute_sources=False):
        """Fit; return the sources, or None without compute_sources."""
        self.__dict__.pop("_past", None)  # partial_fit's: this fit begins anew
        given, device = self._taken(X, sample_weight)
        with device.active(), locate_nonfinite(self, given), self._opened(given, device) as rows:
            spectrum, white = self._whitened(rows, given)
            oracle, starts, rng = self._ready(white, device, self.n_init, given)
            self.device_ = str(device)
            try:
                report = Progress(self, given.shape[0], white.n_features) if self.verbose else None
                solution = self._solve(oracle, starts, rng, report)
                oracle.accept(solution.W)
                self._refuse_useless(to_host(solution.W), to_host(solution.gradient), rows.dtype)
                if self.sort is not None:
                    solution = self._sorted(solution, oracle, spectrum)
            except KeyboardInterrupt:
                self._store_interrupted(oracle, spectrum, rows, given.weight)
                raise
            to_sources = self._store(solution, spectrum, rows, given.weight).astype(given.dtype)
            self.n_passes_ = white.n_passes + solution.sampled if solution.sampled else white.n_passes
            counted = white.n_passes
            if not solution.converged:
                warn(self._what_is_left(solution), ConvergenceWarning)
            sources = None
            if compute_sources:
                what = rotate, (to_sources,), len(to_sources)
                sources = to_output(self, given, device, white, *what, scratch=white.scratch)
            self.n_passes_ += white.n_passes - counted
        del rows, white, oracle, spectrum, starts, solution, to_sources  # before their memory can be given back
        device.release_for_torch()
        return sources

    @property
    def _growth(self):
        """The parameter growth, as a number of Python's: NumPy's small integers overflow."""
        return self.growth if self.growth is None or isinstance(self.growth, str) else float(self.growth)

    def _taken(self, X, sample_weight):
        """X and its weights as `InputData`, checked, and the device to work on."""
        given = check_input(self, X, reset=True, min_rows=2, finite=not self.whiten)
        given = given.worked_on_in(self.precision).weighted(sample_weight)
        self._check(self._contrast())  # complain of the parameters before the data are read
        k = min(int(self.n_components or given.shape[1]), *given.shape)
        return given, self._device(given, work=40 * given.shape[0] * k * k)

    @contextmanager
    def _opened(self, given, device):
        """Rows of X, in the `with` block answered by the checkpoint where there is one."""
        settings = {"prepare": given.prepare(self._prepare), "weights": given.weights}
        rows = open_rows(given.array, dtype=given.dtype, device=device, **settings).upload()
        if self.checkpoint is None:
            yield rows
            return
        with open_checkpoint(self, rows, device) as checkpoint:
            if self.verbose and checkpoint.n_results:
                print_line(self, f"resumed from {self.checkpoint}, which has {checkpoint.n_results} sums of the fit")
            yield ReplayedRows(rows, checkpoint)

    def _whitened(self, rows, given):
        """The spectrum of the rows (None without whitening), and the whitened rows."""
        k = self._requested_components(given.shape)
        if not self.whiten:
            return None, rows
        spectrum = self._spectrum(rows, k)
        return spectrum, rows.projected(spectrum.mean, spectrum.whitening)

    def _ready(self, white, device, n_starts, given):
        """The oracle on the whitened rows, n_starts starting points, and the RandomState that drew them."""
        rng = random_state_for(self.random_state, given)
        if self.checkpoint is not None:
            rng = white.checkpoint.same_draws(rng, white.all_ranks, afresh=self.random_state is None)
        refuse_many_starts(n_starts, white.n_features, device)
        starts = [device.put(self._start(white.n_features, white.dtype, rng)) for _ in range(n_starts)]
        sample_precision = self.precision if self.precision in ROUNDED_PRECISIONS else "float32"
        oracle = ContrastOracle(white, self._contrast(), white=bool(self.whiten), sample_precision=sample_precision)
        return oracle, starts, rng

    def _requested_components(self, shape):
        """n_components as far as the shape of X allows."""
        most = min(shape)
        if not self.whiten and self.n_components is not None:
            warn("Ignoring n_components with whiten=False.")
        elif (self.n_components or 0) > most:
            warn(f"n_components is too large: it will be set to {most}")
        return min(int(self.n_components or most), most) if self.whiten else shape[1]

    def _spectrum(self, rows, k):
        """The spectrum of the rows, cut to k components or the rank; warns when the rank is smaller."""
        center = geometric_median(MomentOracle(rows)) if self.center == "median" else None
        oracle = MomentOracle(rows, center)
        spectrum = WHITENERS[self.whiten_solver](oracle, eps=float(np.finfo(rows.dtype).eps))
        if spectrum.rank == 0:
            raise ValueError(
                "X has no variance: every row is the same, so there is nothing to separate; or numbers are so small, "
                "below 1e-154, that their squares are 0: then multiply X by a constant."
            )
        complaint = ""
        if self.whiten_solver == "eigh" and spectrum.rank < rows.n_features:
            complaint = (
                "There are some small singular values, using whiten_solver = 'svd' might lead to more accurate "
                "results. "
            )
        self._doubt(rows.n_kish, min(k, spectrum.rank), oracle.norm_uniformity)
        if spectrum.rank < k:
            complaint += (
                f"X has numerical rank {spectrum.rank} once centered, so {spectrum.rank} components are kept instead "
                f"of {k}: the other directions hold rounding noise. Set n_components={spectrum.rank} to say so."
            )
        if complaint:
            warn(complaint.rstrip())
        spectrum = spectrum.cut(min(k, spectrum.rank))
        with np.errstate(over="ignore"):
            whitening = spectrum.whitening.astype(rows.dtype)
        if not bool(rows.xp.isfinite(whitening).all()):
            remedy = "" if rows.dtype == np.float64 else ", or use precision='float64'"
            raise ValueError(f"X varies by too little for {rows.dtype} numbers to whiten it: rescale X{remedy}.")
        return spectrum

    def _doubt(self, n_rows, k, norm_uniformity):
        """Log what the rows cannot tell, or tell wrongly."""
        if n_rows < k**2:
            logger.warning(
                "%s: %d rows are few for %d components: the unmixing matrix has %d entries. Expect components that "
                "other rows or other starts do not confirm; see gpuica.stability.",
                *(type(self).__name__, n_rows, k, k**2),
            )
        if norm_uniformity < UNEVEN:
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
        return starting_point(self.w_init, k)

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

    def _refuse_useless(self, W, gradient, dtype):
        """ValueError for an unmixing matrix (k, k) that is not finite, or not orthonormal where it must be."""
        refuse_overflow(dtype, W, gradient)
        if self.ortho and np.abs(W @ W.T - np.eye(len(W))).max() > 0.1:
            remedy = "start elsewhere (random_state, w_init)" if self.whiten else "X must be white for whiten=False"
            raise ValueError(f"The iterations ended at a singular unmixing matrix: {remedy}.")

    def _store_interrupted(self, oracle, spectrum, rows, n_samples):
        """Set the fitted attributes from what the solver accepted last, if there is anything."""
        W, n_iter = oracle.accepted.iterate
        if W is None:
            return
        unknown = np.full(len(W), np.nan)
        solution = Solution(W, n_iter, unknown, False, np.zeros(len(W), bool), unknown)
        self._store(solution, spectrum, rows, n_samples)
        self.n_passes_ = oracle.n_passes
        left = "components are unfinished."
        if len(W) < oracle.n_features:
            left = f"only the {len(W)} finished of {oracle.n_features} components are kept."
        warn_of_interrupt(f"The fit was interrupted: {left}")

    def _store(self, solution, spectrum, rows, n_samples):
        """Set the fitted attributes; return the matrix (k, k) that takes whitened rows to sources.

        n_samples: as many rows as X stands for, Σ of its weights.
        """
        dtype, n_features, W = rows.dtype, rows.n_features, solution.W
        fitted: dict[str, Any] = {}  # set at once: an estimator is never of two fits
        if spectrum is None:
            for name in ("mean_", "whitening_", "_rounded_off"):  # of a fit before
                self.__dict__.pop(name, None)
            components, to_sources = W, W
            mixing = inverse(to_host(W))
        else:
            shrink = n_samples**-0.5  # scikit-learn's whitening makes rows of variance 1 / n_samples
            K = spectrum.whitening * shrink
            components = W @ K
            if self.whiten == "unit-variance":
                rounded = components.astype(dtype).astype(np.float64)
                W = W / rows.xp.sqrt(spectrum.variances(rounded))[:, None]
                components = W @ K
            to_sources = W * shrink
            fitted["mean_"] = (mean := to_host(spectrum.mean)).astype(dtype)
            fitted["_rounded_off"] = mean - fitted["mean_"]
            fitted["whitening_"] = to_host(K).astype(dtype)
            mixing = to_host(spectrum.unwhitening) @ inverse(to_host(to_sources))
        fitted["components_"] = to_host(components).astype(dtype)
        fitted["mixing_"] = mixing.astype(dtype)
        fitted["_unmixing"] = to_host(W).astype(dtype)
        fitted["n_iter_"] = max(solution.n_iter, 1)  # to find the start at rest is an iteration too
        fitted["delta_"] = to_host(solution.delta)
        fitted["converged_components_"] = to_host(solution.converged_components)
        fitted["gradient_norm_"] = float(solution.gradient.max())
        fitted["gradient_z_"] = np.full(len(W), np.nan) if solution.z is None else to_host(solution.z)
        fitted["losses_"] = np.array(solution.losses)
        fitted["rank_"] = n_features if spectrum is None else spectrum.rank
        fitted["converged_"] = solution.converged
        self.__dict__.update(fitted)
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
    """W^-1 of a square matrix, or its pseudo-inverse where it has none: (k, m) of a matrix (m, k) too."""
    if len(W) < W.shape[1]:
        return np.linalg.pinv(W)
    try:
        return np.linalg.inv(W)
    except np.linalg.LinAlgError:
        return np.linalg.pinv(W)
