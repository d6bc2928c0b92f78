"""What a fit must agree with to go on from a checkpoint, and the state of dictionary learning in one."""

import json
import time

import numpy as np

from .._version import __version__
from ..device import to_host
from ..io.checkpoint import Checkpoint, CheckpointError, draws_of, on_all_ranks, set_draws
from ..io.digest import DigestError, describe, digest, label
from ..rows.shared import SharedRows

# parameters that the learned model does not depend on, or, max_iter, only by when the fit ends; device: as it resolves
FREE = (
    *("checkpoint", "verbose", "max_iter", "memory_limit", "callback", "n_jobs", "device"),
    *("sparse_output", "split_sign", "transform_algorithm", "transform_alpha"),
)
EVERY = 30.0  # seconds between two snapshots
STATE = "state"


def open_checkpoint(estimator, rows, device):
    """The Checkpoint of an estimator's fit to these rows.  CheckpointError, on every rank where ranks share the rows.

    The fit is described by every parameter that the answer depends on, the weights, and a sample of the rows.
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
            if name not in FREE:
                fit[name] = _label(name, value)
        return Checkpoint(estimator.checkpoint, fit, __version__)

    return on_all_ranks(rows.all_ranks, begin)


def _label(name, value):
    try:
        describe(value)
        return label(value)
    except DigestError as error:
        raise CheckpointError(
            f"a checkpoint cannot tell {name}={value!r} from another value when the fit goes on ({error}): pass "
            "numbers, arrays, a function or class written in Python, or checkpoint=None."
        ) from error


def for_callback(estimator, **state):
    """What a callback is called with: the state, but read-only where there is a checkpoint.

    The answer then does not depend on the callback, which may be another when the fit goes on.
    """
    if estimator.checkpoint is None:
        return state
    return {name: _read_only(value) for name, value in state.items()}


def _read_only(value):
    if isinstance(value, np.ndarray):
        value = value.view()
        value.flags.writeable = False
    return list(value) if isinstance(value, list) else value


class Snapshots:
    """Keeps a `FitState` and what goes with it in a checkpoint, and brings it back; does nothing without a path.

    To be closed: until then, no other fit can work in the directory.
    """

    def __init__(self, estimator, rows, rng, device):
        """rng: a RandomState, whose draws since its present state are part of the fit."""
        self.rng, self.last = rng, time.monotonic()
        self.checkpoint: Checkpoint | None = None
        if estimator.checkpoint is None:
            return
        if isinstance(rows, SharedRows):
            raise ValueError(
                "checkpoint= of dictionary learning is not for shared rows: ranks would keep unlike states."
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
        """Set these to what they were at the last snapshot, arrays by put(array); if there is one.

        most: iterations that are asked for; CheckpointError if the snapshot has more.
        """
        if self.checkpoint is None or (found := self.checkpoint.load(STATE)) is None:
            return
        arrays, about = found
        state, costs = json.loads(about["state"]), arrays["costs"].tolist()
        if len(costs) > most:
            raise CheckpointError(
                f"checkpoint {self.checkpoint.path} has {len(costs)} iterations (batches, of mini-batches) behind it, "
                f"and this fit asks for {most}: raise max_iter, or give this fit a path of its own."
            )
        learned.D, learned.coded_with, learned.costs = put(arrays["D"].copy()), put(arrays["coded_with"].copy()), costs
        for name, value in state["learned"].items():
            setattr(learned, name, value)
        if statistics is not None:
            statistics.A, statistics.B = put(arrays["A"].copy()), put(arrays["B"].copy())
        if stop is not None:
            vars(stop).update(state["stop"])
        set_draws(self.rng, state["draws"], self.checkpoint.path)

    def keep(self, learned, statistics=None, stop=None, at_once=False):
        """Take a snapshot, if the last one is EVERY seconds old, or at once."""
        if self.checkpoint is None or not (at_once or time.monotonic() - self.last >= EVERY):
            return
        arrays = {"D": learned.D, "coded_with": learned.coded_with, "costs": np.array(learned.costs)}
        if statistics is not None:
            arrays |= {"A": statistics.A, "B": statistics.B}
        state = {
            "learned": {name: getattr(learned, name) for name in ("converged", "n_replaced", "n_unfinished")},
            "stop": None if stop is None else vars(stop),
            "draws": draws_of(self.rng),
        }
        self.checkpoint.save(STATE, arrays, {"state": json.dumps(state)})
        self.last = time.monotonic()
