"""The steps of an ICA fit: validate, open, whiten, solve, store."""

from contextlib import contextmanager

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from ..device import to_host
from ..device.products import ROUNDED
from ..input import check_input, report_nonfinite, with_sample_weight
from ..input.shared import common_random_state
from ..messages import warn
from ..oracle import ContrastOracle, MomentOracle
from ..rows.replay import ReplayedRows
from ._checkpoint import open_checkpoint
from ._output import to_output
from ._parameters import check_n_starts, check_w_init
from ._preprocess import open_data, requested_components, whiten_rows
from ._progress import Progress, print_line
from ._solution import check_solution, fitted_attributes, interrupted_solution, rotate, sort_components


def fit_transform(estimator, X, sample_weight=None, compute_sources=False):
    """Fit the estimator; return the sources (n, k), or None unless compute_sources."""
    vars(estimator).pop("_online_state", None)
    data, device = _validate(estimator, X, sample_weight)
    with device.active(), report_nonfinite(estimator, data), _open(estimator, data, device) as rows:
        spectrum, white = _whiten(estimator, rows, data)
        oracle, starts, rng = _initialize(estimator, white, device, estimator.n_init, data)
        estimator.device_ = str(device)
        try:
            report = Progress(estimator, data.shape[0], white.n_features) if estimator.verbose else None
            solution = estimator._solve(oracle, starts, rng, report)
            oracle.accept(solution.W)
            check_solution(estimator, solution, rows.dtype)
            solution = sort_components(solution, oracle, spectrum, estimator.sort)
        except KeyboardInterrupt:
            if solution := interrupted_solution(oracle):
                store(estimator, solution, spectrum, rows, data.n_samples)
                estimator.n_passes_ = oracle.n_passes
            raise
        to_sources = store(estimator, solution, spectrum, rows, data.n_samples).astype(data.dtype)
        estimator.n_passes_ = white.n_passes + solution.sampled if solution.sampled else white.n_passes
        n_passes_of_fit = white.n_passes
        if not solution.converged:
            warn(estimator._not_converged(solution), ConvergenceWarning)
        sources = None
        if compute_sources:
            call = rotate, (to_sources,), len(to_sources)
            sources = to_output(estimator, data, device, white, *call, scratch=white.scratch)
        estimator.n_passes_ += white.n_passes - n_passes_of_fit
    del rows, white, oracle, spectrum, starts, solution, to_sources  # before their memory can be released
    device.release_for_torch()
    return sources


def fit_runs(estimator, X, n_runs, sample_weight):
    """Components (n_runs, k, d) from n_runs starting points, and the covariance matrix (d, d) of X."""
    data, device = _validate(estimator, X, sample_weight)
    with device.active(), report_nonfinite(estimator, data), _open(estimator, data, device) as rows:
        spectrum, white = _whiten(estimator, rows, data)
        oracle, starts, rng = _initialize(estimator, white, device, n_runs, data)
        solutions = estimator._solve(oracle, starts, rng, None, keep_all=True)
        K = spectrum.whitening if spectrum else rows.xp.eye(rows.n_features)
        covariance = MomentOracle(rows).moments()[1]
        return np.stack([to_host(solution.W @ K) for solution in solutions]), to_host(covariance)


def _validate(estimator, X, sample_weight):
    """X and its weights as `InputData`, and the device; parameters are checked before the data are read."""
    data = check_input(estimator, X, reset=True, min_rows=2, finite=not estimator.whiten)
    data = with_sample_weight(data.with_precision(estimator.precision), sample_weight)
    estimator._check_settings(estimator._contrast())
    k = min(int(estimator.n_components or data.shape[1]), *data.shape)
    return data, estimator._device(data, work=40 * data.shape[0] * k * k)


@contextmanager
def _open(estimator, data, device):
    """The rows of X; in the `with` block their sums are replayed from the checkpoint, where there is one."""
    rows = open_data(data, device, estimator._prepare).upload()
    if estimator.checkpoint is None:
        yield rows
        return
    with open_checkpoint(estimator, rows, device) as checkpoint:
        if estimator.verbose and checkpoint.n_answers:
            text = f"resumed from {estimator.checkpoint}, which has {checkpoint.n_answers} sums of the fit"
            print_line(estimator, text)
        yield ReplayedRows(rows, checkpoint)


def _whiten(estimator, rows, data):
    """The spectrum of the rows (None without whitening) and the whitened rows."""
    k = requested_components(estimator.n_components, data.shape, estimator.whiten)
    if not estimator.whiten:
        return None, rows
    name = type(estimator).__name__
    return whiten_rows(rows, k, solver=estimator.whiten_solver, center=estimator.center, name=name)


def _initialize(estimator, white, device, n_starts, data):
    """The oracle on the whitened rows, n_starts starting points (k, k), and the RandomState that drew them."""
    rng, k = common_random_state(estimator.random_state, data), white.n_features
    if estimator.checkpoint is not None:
        rng = white.checkpoint.same_draws(rng, white.all_ranks, afresh=estimator.random_state is None)
    check_n_starts(n_starts, k, device)
    starts = [device.put(_start(estimator.w_init, k, white.dtype, rng)) for _ in range(n_starts)]
    precision = estimator.precision if estimator.precision in ROUNDED else "float32"
    oracle = ContrastOracle(white, estimator._contrast(), white=bool(estimator.whiten), sample_precision=precision)
    return oracle, starts, rng


def _start(w_init, k, dtype, rng):
    """The starting point (k, k), given or drawn; a draw is rounded to the dtype of X, as in scikit-learn."""
    if w_init is None:
        return rng.normal(size=(k, k)).astype(dtype).astype(np.float64)
    return check_w_init(w_init, k)


def store(estimator, solution, spectrum, rows, n_samples):
    """Set the fitted attributes; return the matrix (k, k) that maps whitened rows to sources."""
    fitted, to_sources = fitted_attributes(solution, spectrum, rows, n_samples, estimator.whiten)
    attributes = vars(estimator)
    if spectrum is None:
        for name in ("mean_", "whitening_", "_mean_rounding"):  # of an earlier fit
            attributes.pop(name, None)
    attributes.update(fitted)  # at once: the attributes never mix two fits
    return to_sources
