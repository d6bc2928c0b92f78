"""Centering and whitening of the rows before a fit."""

import numpy as np

from ..device import logger
from ..messages import warn
from ..oracle import MomentOracle
from ..rows import open_rows
from ..solvers.median import geometric_median
from ..solvers.whitening import WHITENERS

# (E r)² / E r² of the row norms r, below which a few rows dominate: 0.98 for digits, 0.4 for image patches, 0.37 for
# log-normal norms of sigma 1, 0.11 where one row in a thousand has 100 times the norm of the others
MIN_NORM_UNIFORMITY = 0.15


def open_data(data, device, prepare=None):
    """The `Rows` of an `InputData` on a device; prepare: a function applied to each chunk, or None."""
    settings = {"prepare": data.prepare(prepare), "weights": data.weights}
    return open_rows(data.array, dtype=data.dtype, device=device, **settings)


def requested_components(n_components, shape, whiten):
    """n_components, limited by the shape of X; warns where the parameter cannot be met."""
    largest = min(shape)
    if not whiten and n_components is not None:
        warn("Ignoring n_components with whiten=False.")
    elif (n_components or 0) > largest:
        warn(f"n_components is too large: it will be set to {largest}")
    return min(int(n_components or largest), largest) if whiten else shape[1]


def whiten_rows(rows, n_components, *, solver, center, name):
    """The `Spectrum` of the rows, cut to n_components or to the numerical rank, and the whitened rows.

    solver: a key of WHITENERS.  center: "mean" or "median".  name: of the estimator, for log messages.  Two passes,
    about ten more for the median.  Warns about a smaller rank, logs what makes the components unreliable.
    """
    oracle = MomentOracle(rows, geometric_median(MomentOracle(rows)) if center == "median" else None)
    spectrum = WHITENERS[solver](oracle, eps=float(np.finfo(rows.dtype).eps))
    if spectrum.rank == 0:
        raise ValueError(
            "X has no variance: all rows are equal, or the values are below 1e-154, so that their squares underflow; "
            "in the latter case multiply X by a constant."
        )
    k = min(n_components, spectrum.rank)
    _warn_of_rank(spectrum.rank, n_components, rows.n_features, solver)
    _log_unreliable(name, rows.n_kish, k, oracle.norm_uniformity)
    spectrum = spectrum.cut(k)
    _check_representable(spectrum, rows)
    return spectrum, rows.projected(spectrum.mean, spectrum.whitening)


def _warn_of_rank(rank, n_components, n_features, solver):
    """Warn where fewer components are kept than requested, or where eigh may have missed directions."""
    text = ""
    if solver == "eigh" and rank < n_features:
        text = "There are some small singular values, using whiten_solver = 'svd' might lead to more accurate results. "
    if rank < n_components:
        text += (
            f"X has numerical rank {rank} after centering: {rank} components are kept instead of {n_components}, since "
            f"the other directions contain rounding errors only. Pass n_components={rank} to silence this warning."
        )
    if text:
        warn(text.rstrip())


def _log_unreliable(name, n_rows, k, norm_uniformity):
    """Log a warning where there are few rows for k components, or where a few rows dominate the moments."""
    if n_rows < k**2:
        logger.warning(
            "%s: %d rows are few for %d components, whose unmixing matrix has %d entries. Components may not be "
            "reproducible with other rows or starting points; see gpuica.stability.",
            *(name, n_rows, k, k**2),
        )
    if norm_uniformity < MIN_NORM_UNIFORMITY:
        logger.warning(
            "%s: a few rows of very large norm carry most of the variance of X and will dominate the fit. "
            "normalize_rows=True gives all rows the same norm, sample_weight can exclude these rows, center='median' "
            "makes the center robust to them.",
            name,
        )


def _check_representable(spectrum, rows):
    """ValueError where the working dtype cannot hold the whitening matrix."""
    with np.errstate(over="ignore"):
        whitening = spectrum.whitening.astype(rows.dtype)
    if not bool(rows.xp.isfinite(whitening).all()):
        remedy = "" if rows.dtype == np.float64 else ", or use precision='float64'"
        raise ValueError(f"The variance of X is too small to whiten X in {rows.dtype}: rescale X{remedy}.")
