"""partial_fit of the ICA estimators."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..device import to_host
from ..input import check_input, report_nonfinite, with_sample_weight
from ..oracle import ContrastOracle, MomentOracle
from ..solvers import Solution
from ..solvers.online import RunningMoments, online_step
from ..solvers.orthonormal import orthonormal
from ._fit import store
from ._preprocess import open_data


@dataclass(frozen=True)
class OnlineState:
    """State of partial_fit between batches, as NumPy arrays.

    moments: of all rows so far.  W: unmixing matrix of whitened rows (k, k).  average: the `RunningAverages` of
    `online_step`, or None.  n_effective: effective sample size of all rows.
    """

    moments: RunningMoments
    W: Any
    average: Any
    n_effective: float

    def to(self, put):
        """The same state with each array replaced by put(array)."""
        parts = ("mean", "covariance", "whitening")
        moments = replace(self.moments, **{name: put(getattr(self.moments, name)) for name in parts})
        average = self.average and type(self.average)(*map(put, self.average))
        return OnlineState(moments, put(self.W), average, self.n_effective)


def check_available(estimator):
    """For `available_if`: AttributeError unless the estimator constrains W to be orthonormal."""
    if not estimator.ortho:
        raise AttributeError("partial_fit updates W by rotations: it needs ortho=True.")
    return True


def update(estimator, X, sample_weight):
    """Fit the first batch, or update the estimator with a further batch."""
    _check_settings(estimator)
    if not hasattr(estimator, "_online_state"):
        estimator.fit(X, sample_weight=sample_weight)
    data = check_input(estimator, X, reset=False, finite=False).with_precision(estimator.precision)
    data = with_sample_weight(data, sample_weight)
    device = estimator._device(data, work=8 * data.shape[0] * data.shape[1] * len(estimator._unmixing))
    with device.active(), report_nonfinite(estimator, data):
        rows = open_data(data, device, estimator._prepare)
        mean, covariance = MomentOracle(rows).moments()
        if hasattr(estimator, "_online_state"):
            _step(estimator, rows, mean, covariance, data.n_samples, device)
        else:
            K = estimator.whitening_.astype(np.float64) * data.n_samples**0.5
            moments = RunningMoments(data.n_samples, mean, covariance, device.put(K), data.n_samples)
            W = device.put(orthonormal(estimator._unmixing.astype(np.float64)))
            estimator._online_state = OnlineState(moments, W, None, rows.n_effective).to(to_host)
            estimator.n_steps_ = 1
    estimator.n_samples_seen_ = estimator._online_state.moments.weight
    estimator.device_ = str(device)


def _step(estimator, rows, mean, covariance, weight, device):
    """Update the state and the fitted attributes with a batch of this weight and these moments."""
    state, eps = estimator._online_state.to(device.put), float(np.finfo(rows.dtype).eps)
    moments = state.moments.with_batch(weight, mean, covariance, rows.xp)
    moments, W = moments.refresh_whitening(state.W, eps=eps, xp=rows.xp)
    n_effective = state.n_effective + rows.n_effective
    oracle = ContrastOracle(rows.projected(moments.mean, moments.whitening), estimator._contrast())
    covariance = moments.whitening @ covariance @ moments.whitening.T
    step = online_step(oracle, W, covariance, state.average, n_effective, tol=estimator.tol)
    estimator._online_state = OnlineState(moments, step.W, step.average, n_effective).to(to_host)
    estimator.n_steps_ += 1
    converged = bool(step.converged_components.all())
    parts = step.delta, converged, step.converged_components, step.gradient
    solution = Solution(step.W, estimator.n_steps_, *parts, z=step.z)
    store(estimator, solution, moments, rows, moments.weight)


def _check_settings(estimator):
    """ValueError for parameters that partial_fit does not support."""
    unsupported = {"whiten=False": not estimator.whiten, "center='median'": estimator.center == "median"}
    for setting, is_set in unsupported.items():
        if is_set:
            raise ValueError(f"partial_fit does not support {setting}: it whitens the rows about their running mean.")
    if not hasattr(estimator._contrast(), "loss"):
        raise ValueError("partial_fit needs a contrast with a known G: a name, or an object with `loss`.")
