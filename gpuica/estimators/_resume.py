"""What a fit must agree with to go on from a checkpoint, and the state of dictionary learning in one."""

import json
import time

import numpy as np

from ..device import to_host
from ..rows.checkpoint import Checkpoint
from ..rows.files import read_tensors, write_tensors
from ..rows.shared import SharedRows

FREE = ("checkpoint", "verbose", "random_state", "max_iter", "memory_limit", "callback", "n_jobs", "sparse_output")
EVERY = 30.0  # seconds between two snapshots


def fingerprint(estimator, rows):
    """What must be the same for a fit to go on: the data, and every parameter that the answer depends on."""
    parameters = estimator.get_params()
    return {
        "estimator": type(estimator).__name__,
        "parameters": {name: repr(value) for name, value in parameters.items() if name not in FREE},
        "shape": [rows.n_rows, rows.n_features],
        "dtype": str(rows.dtype),
        "first_row": to_host(rows.take([0]))[0].tolist(),
    }


class Snapshots:
    """Keeps a `Learned` and what goes with it in a checkpoint, and brings it back; does nothing without a path."""

    def __init__(self, estimator, rows, rng):
        """rng: a RandomState, whose draws since its present state are part of the fit."""
        self.rng, self.last, self.path = rng, time.monotonic(), None
        if estimator.checkpoint is not None and isinstance(rows, SharedRows):
            raise ValueError(
                "checkpoint= of dictionary learning is not for shared rows: ranks would keep unlike states."
            )
        if estimator.checkpoint is not None:
            checkpoint = Checkpoint(estimator.checkpoint, fingerprint(estimator, rows))
            self.rng, self.path = checkpoint.same_draws(rng), checkpoint.path / "state.safetensors"

    def restore(self, learned, put, statistics=None, stop=None):
        """Set these to what they were at the last snapshot, arrays by put(array); if there is one."""
        if self.path is None or not self.path.exists():
            return
        arrays, about = read_tensors(self.path)
        state = json.loads(about["state"])
        learned.D, learned.coded_with = put(arrays["D"].copy()), put(arrays["coded_with"].copy())
        learned.costs = arrays["costs"].tolist()
        for name, value in state["learned"].items():
            setattr(learned, name, value)
        if statistics is not None:
            statistics.A, statistics.B = put(arrays["A"].copy()), put(arrays["B"].copy())
        if stop is not None:
            vars(stop).update(state["stop"])
        kind, key, *rest = state["draws"]
        self.rng.set_state((kind, np.array(key, dtype=np.uint32), *rest))

    def keep(self, learned, statistics=None, stop=None, at_once=False):
        """Take a snapshot, if the last one is EVERY seconds old, or at once."""
        if self.path is None or not (at_once or time.monotonic() - self.last >= EVERY):
            return
        arrays = {"D": learned.D, "coded_with": learned.coded_with, "costs": np.array(learned.costs)}
        if statistics is not None:
            arrays |= {"A": statistics.A, "B": statistics.B}
        kind, key, *rest = self.rng.get_state()
        state = {
            "learned": {name: getattr(learned, name) for name in ("converged", "n_replaced", "n_unfinished")},
            "stop": None if stop is None else vars(stop),
            "draws": [kind, key.tolist(), *rest],
        }
        write_tensors(self.path, arrays, {"state": json.dumps(state)})
        self.last = time.monotonic()
