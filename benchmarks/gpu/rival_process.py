"""A rival's work on the host, on all cores, for some seconds: a process of its own for rival_figures.py.

    python -m benchmarks.gpu.rival_process NAME FOLDER SETTINGS

FOLDER contains the arrays as .npy files; SETTINGS is a JSON object with "seconds".  The last line of the output is a
JSON object; arrays are written to FOLDER.  It imports nothing of gpuica.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import time
import warnings
from pathlib import Path

import numpy as np


class EnoughError(Exception):
    """Raised inside the rival when its time is up."""


class Clock:
    """The times at which iterations begin."""

    def __init__(self, seconds):
        self.began, self.times, self.limit = time.perf_counter(), [], seconds

    def tick(self):
        """Record the beginning of an iteration; stop the rival after its time, but not before three iterations."""
        self.times.append(time.perf_counter())
        if self.times[-1] - self.began > self.limit and len(self.times) > 3:
            raise EnoughError

    def answer(self):
        """Seconds before the first iteration, median seconds of one, and their number."""
        steps = np.diff(self.times)
        return {"before": self.times[0] - self.began, "step": statistics.median(steps), "steps": len(steps)}


def scikit_learn(folder, seconds):
    """FastICA with its faster whitening."""
    from sklearn.decomposition import FastICA, _fastica

    X = np.load(folder / "X.npy")
    FastICA(random_state=0, whiten_solver="eigh", max_iter=2).fit(X[: 4 * X.shape[1]])
    clock, decorrelate = Clock(seconds), _fastica._sym_decorrelation

    def timed(W):  # called once before the first iteration, and at the end of each
        found = decorrelate(W)
        clock.tick()
        return found

    _fastica._sym_decorrelation = timed
    with contextlib.suppress(EnoughError):
        FastICA(random_state=0, whiten_solver="eigh", max_iter=1000, tol=0.0).fit(X)
    return clock.answer()


def python_picard(folder, seconds):
    """Picard-O, extended, as in gpuica."""
    from picard import densities, picard

    X = np.load(folder / "X.npy").T
    options = {"ortho": True, "extended": True, "random_state": 0, "tol": 0.0, "check_fun": False}
    picard(X[:, : 4 * len(X)], fun="tanh", max_iter=2, **options)

    class Timed(densities.Tanh):
        def score_and_der(self, Y):  # called at the beginning of each iteration
            clock.tick()
            return super().score_and_der(Y)

    clock = Clock(seconds)
    with contextlib.suppress(EnoughError):
        picard(X, fun=Timed(), max_iter=1000, **options)
    remark = "" if importlib.util.find_spec("numexpr") else "; numexpr is not installed"
    return clock.answer() | {"remark": remark}


def spams(folder, seconds, kind, setting):
    """Lasso or OMP of as many rows as fit into the time; writes the float64 objective of the first rows to a file."""
    import spams
    from scipy import sparse

    X, D = (np.asfortranarray(np.load(folder / f"{name}.npy").T) for name in "XD")

    def encode(X):
        if kind == "omp":
            return spams.omp(X, D, L=setting, eps=1e-12, numThreads=-1)
        return spams.lasso(X, D, lambda1=setting, mode=2, numThreads=-1)

    few = np.asfortranarray(X[:, :1000])
    encode(few)
    began = time.perf_counter()
    encode(few)
    once = time.perf_counter() - began
    X = np.asfortranarray(X[:, : max(1000, int(1000 * seconds / once))])
    began = time.perf_counter()
    C = sparse.csc_matrix(encode(X))
    took = time.perf_counter() - began
    m = min(2000, X.shape[1])
    first, C = X[:, :m].astype(np.float64), C[:, :m].astype(np.float64)
    cost = ((first - D.astype(np.float64) @ C) ** 2).sum(axis=0) / 2
    if kind == "lasso":
        cost = cost + setting * np.asarray(abs(C).sum(axis=0)).ravel()
    np.save(folder / "cost.npy", np.asarray(cost).ravel())
    n = X.shape[1]
    return {"n": n, "rate": n / took, "threads": len(os.sched_getaffinity(0)), "used": C.nnz / m}


RIVALS = {"scikit-learn": scikit_learn, "python-picard": python_picard, "spams": spams}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=RIVALS)
    parser.add_argument("folder", type=Path)
    parser.add_argument("settings", type=json.loads)
    args = parser.parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        answer = RIVALS[args.name](args.folder, **args.settings)
    print(json.dumps(answer | {"cores": len(os.sched_getaffinity(0))}))


if __name__ == "__main__":
    main()
