"""Checkpoints of fits: what identifies a fit, and the state of dictionary learning."""

import json
import time

import numpy as np

from .._version import __version__
from ..device import to_host
from ..io.checkpoint import Checkpoint, CheckpointError, draws_of, on_all_ranks, set_draws
from ..io.digest import DigestError, describe, digest, label
from ..rows.shared import SharedRows

# parameters that the fitted model does not depend on (max_iter: only by when the fit ends; the resolved device counts)
IGNORED = (
    *("checkpoint", "verbose", "max_iter", "memory_limit", "callback", "n_jobs", "device"),
    *("sparse_output", "split_sign", "transform_algorithm", "transform_alpha"),
)
SNAPSHOT_INTERVAL = 30.0  # seconds
STATE = "state"  # name of the snapshot


def open_checkpoint(estimator, rows, device):
    """The `Checkpoint` of an estimator's fit to these rows.

    The fit is identified by all parameters that its result depends on, the weights, and a fixed sample of the rows.
    Raises CheckpointError, on all ranks where ranks share the rows.
    """
    fit = {
        "estimator": type(estimator).__name__,
        "shape of X": str((rows.n_rows, rows.n_features)),
        "dtype": str(rows.dtype),
        "device": device.kind,
        "sample of the rows of X": f"sha256:{digest(rows.fixed_sample())[:32]}",
        "sample_weight": "None" if rows.weights is None else label(to_host(rows.weights)),
    }
    if hasattr(estimator, "batch_size") and rows.batch_window is not None:
        fit["window that mini-batches are shuffled in (of memory_limit)"] = f"{rows.batch_window} bytes"

    def begin():
        for name, value in estimator.get_params(deep=False).items():
            if name not in IGNORED:
                fit[name] = _label(name, value)
        return Checkpoint(estimator.checkpoint, fit, __version__)

    return on_all_ranks(rows.all_ranks, begin)


def _label(name, value):
    """A text that identifies the value of a parameter; CheckpointError if there is none."""
    try:
        describe(value)
        return label(value)
    except DigestError as error:
        raise CheckpointError(
            f"a checkpoint cannot identify {name}={value!r} when the fit resumes ({error}): pass numbers, arrays, a "
            "function or class written in Python, or checkpoint=None."
        ) from error


def for_callback(estimator, **state):
    """The arguments of a callback: the state, read-only where there is a checkpoint.

    The result must not depend on the callback, which can be another one when the fit resumes.
    """
    if estimator.checkpoint is None:
        return state
    return {name: _read_only(value) for name, value in state.items()}


def _read_only(value):
    """A read-only view of an array, a copy of a list, or the value itself."""
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    return list(value) if isinstance(value, list) else value


class Snapshots:
    """Saves a `FitState` and the related state to a checkpoint and restores them; does nothing without a path.

    Must be closed: until then, no other fit can use the directory.
    """

    def __init__(self, estimator, rows, rng, device):
        """rng: a RandomState; its draws from its present state on are part of the fit."""
        self.rng, self.last = rng, time.monotonic()
        self.checkpoint: Checkpoint | None = None
        if estimator.checkpoint is None:
            return
        if isinstance(rows, SharedRows):
            raise ValueError(
                "checkpoint= of dictionary learning does not support shared rows: the states of ranks would differ."
            )
        self.checkpoint = open_checkpoint(estimator, rows, device)
        try:
            self.rng = self.checkpoint.same_draws(rng, rows.all_ranks, afresh=estimator.random_state is None)
        except BaseException:
            self.close()
            raise

    def close(self):
        if self.checkpoint is not None:
            self.checkpoint.close()

    def restore(self, learned, put, most, statistics=None, stop=None):
        """Restore the last snapshot, if there is one; each array is passed through put.

        most: max_iter; CheckpointError if the snapshot has more iterations.
        """
        if self.checkpoint is None or (found := self.checkpoint.load(STATE)) is None:
            return
        arrays, about = found
        state, costs = json.loads(about["state"]), arrays["costs"].tolist()
        if len(costs) > most:
            raise CheckpointError(
                f"checkpoint {self.checkpoint.path} is at iteration {len(costs)} (batch, for mini-batches), beyond "
                f"the {most} of this fit: increase max_iter, or use another path for this fit."
            )
        learned.D, learned.coded_with, learned.costs = put(arrays["D"].copy()), put(arrays["coded_with"].copy()), costs
        for name, value in state["learned"].items():
            setattr(learned, name, value)
        if statistics is not None:
            statistics.restore(arrays, put)
        if stop is not None:
            vars(stop).update(state["stop"])
        set_draws(self.rng, state["draws"], self.checkpoint.path)

    def save(self, learned, statistics=None, stop=None, now=False):
        """Save a snapshot, if the last one is SNAPSHOT_INTERVAL seconds old, or immediately."""
        if self.checkpoint is None or not (now or time.monotonic() - self.last >= SNAPSHOT_INTERVAL):
            return
        arrays = {"D": learned.D, "coded_with": learned.coded_with, "costs": np.array(learned.costs)}
        if statistics is not None:
            arrays |= statistics.arrays
        state = {
            "learned": {name: getattr(learned, name) for name in ("converged", "n_replaced", "n_unfinished")},
            "stop": None if stop is None else vars(stop),
            "draws": draws_of(self.rng),
        }
        self.checkpoint.save(STATE, arrays, {"state": json.dumps(state)})
        self.last = time.monotonic()
