"""partial_fit of the ICA estimators."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils.metaestimators import available_if

from ..device import to_host
from ..oracle import ContrastOracle, MomentOracle
from ..rows import open_rows
from ..solvers import Solution
from ..solvers.online import RunningMoments, online_step
from ..solvers.orthonormal import orthonormal
from ._parameters import checks_parameters
from ._separation import Separation
from ._shell import check_input, locate_nonfinite
from ._whole import transactional_fit


@dataclass(frozen=True)
class Past:
    """What partial_fit keeps between batches, as NumPy arrays.

    W (k, k): the unmixing of whitened rows.  average: of `follow`, or None.  n_effective: Kish's number of all rows.
    """

    seen: RunningMoments
    W: Any
    average: Any
    n_effective: float

    def to(self, put):
        """The same with every array put(array)."""
        parts = ("mean", "covariance", "whitening")
        seen = replace(self.seen, **{name: put(getattr(self.seen, name)) for name in parts})
        average = self.average and type(self.average)(*map(put, self.average))
        return Past(seen, put(self.W), average, self.n_effective)


def _follows_rotations(estimator):
    """For `available_if`."""
    if not estimator.ortho:
        raise AttributeError("partial_fit follows rotations of white rows: it needs ortho=True.")
    return True


class Online(Separation):
    """An ICA estimator that can also follow rows batch by batch."""

    ortho: Any = True

    @available_if(_follows_rotations)
    @checks_parameters  # the next does so before the first call only
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None, sample_weight=None):
        """Follow one more batch of rows, X (n_samples, n_features) of any kind; nothing of it is kept.  y is ignored.

        The first batch is fitted by `fit` and sets what the others correct: make it thousands of rows, and every batch
        a fair sample of the data.  Then running moments renew the whitening, and each batch turns the components by one
        step of stochastic Picard-O, whatever the algorithm of `fit`.  Approximate: docs/streaming.md has figures; `fit`
        reads files of any size, and is more accurate.  `delta_` and `converged_components_` are of the last step,
        `gradient_norm_` and `gradient_z_` of its average over batches.  The first call begins anew, also after `fit`.

        sample_weight : array-like of shape (n_samples,), default=None
            As for `fit`.

        Raises ValueError without whitening and for center='median'.  Picard(ortho=False) does not have it.
        """
        with transactional_fit(self):
            self._partial_fit(X, sample_weight)
        return self

    def _partial_fit(self, X, sample_weight):
        self._check_online()
        if not hasattr(self, "_past"):
            self.fit(X, sample_weight=sample_weight)
        given = check_input(self, X, reset=False, finite=False).worked_on_in(self.precision).weighted(sample_weight)
        device = self._device(given, work=8 * given.shape[0] * given.shape[1] * len(self._unmixing))
        with device.active(), locate_nonfinite(self, given):
            settings = {"prepare": given.prepare(self._prepare), "weights": given.weights}
            rows = open_rows(given.array, dtype=given.dtype, device=device, **settings)
            mean, covariance = MomentOracle(rows).moments()
            if hasattr(self, "_past"):
                self._step(rows, mean, covariance, given.weight, device)
            else:
                K = self.whitening_.astype(np.float64) * given.weight**0.5
                seen = RunningMoments(given.weight, mean, covariance, device.put(K), given.weight)
                W = device.put(orthonormal(self._unmixing.astype(np.float64)))
                self._past, self.n_steps_ = Past(seen, W, None, rows.n_effective).to(to_host), 1
        self.n_samples_seen_ = self._past.seen.weight
        self.device_ = str(device)

    def _step(self, rows, mean, covariance, weight, device):
        """Take the batch `rows`, of this weight and these moments, into the past and the fitted attributes."""
        past, eps = self._past.to(device.put), float(np.finfo(rows.dtype).eps)
        seen, W = past.seen.with_batch(weight, mean, covariance, rows.xp).refresh_whitening(past.W, eps=eps, xp=rows.xp)
        n_effective = past.n_effective + rows.n_effective
        oracle = ContrastOracle(rows.projected(seen.mean, seen.whitening), self._contrast())
        covariance = seen.whitening @ covariance @ seen.whitening.T
        step = online_step(oracle, W, covariance, past.average, n_effective, tol=self.tol)
        self._past = Past(seen, step.W, step.average, n_effective).to(to_host)
        self.n_steps_ += 1
        converged = bool(step.converged_components.all())
        solution = Solution(
            step.W, self.n_steps_, step.delta, converged, step.converged_components, step.gradient, z=step.z
        )
        self._store(solution, seen, rows, seen.weight)

    def _check_online(self):
        complaints = {
            "whiten=False": not self.whiten,
            "center='median'": self.center == "median",
        }
        for what, is_so in complaints.items():
            if is_so:
                raise ValueError(f"partial_fit does not go with {what}: it follows white rows about their mean.")
        if not hasattr(self._contrast(), "loss"):
            raise ValueError("partial_fit needs a contrast whose G is known: a name, or an object with `loss`.")
