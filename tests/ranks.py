"""Ranks for tests: threads of this process, or processes that communicate through torch.distributed or MPI.

The script `python -m tests.ranks torch|mpi FILE` fits two of ESTIMATORS to the rows of this rank, and writes their
components to FILE with {} replaced by the rank.
"""

import os
import sys
import threading
import warnings
from datetime import timedelta

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import gpuica

from .problems import mixture

X0, _ = mixture(5000, 6)
ENDS = {1: (0, 5000), 2: (0, 1234, 5000), 3: (0, 100, 100, 5000)}  # the second of three ranks has no rows
ESTIMATORS = {
    "FastICA": lambda: gpuica.FastICA(random_state=0, tol=1e-6),
    "deflation": lambda: gpuica.FastICA(algorithm="deflation", random_state=0, n_components=4, tol=1e-6),
    "median": lambda: gpuica.FastICA(random_state=0, center="median", tol=1e-6),
    "Picard": lambda: gpuica.Picard(random_state=0, tol=1e-5, sort="variance"),
    "DictionaryLearning": lambda: gpuica.DictionaryLearning(8, alpha=2, max_iter=4, fit_algorithm="cd", random_state=0),
    "worst": lambda: gpuica.DictionaryLearning(
        12, alpha=9, max_iter=4, fit_algorithm="cd", init="data", dead_atoms="worst", random_state=0
    ),
    "resample": lambda: gpuica.DictionaryLearning(
        12, alpha=9, max_iter=4, fit_algorithm="cd", init="data", random_state=0
    ),
    "MiniBatch": lambda: gpuica.MiniBatchDictionaryLearning(
        8, alpha=2, max_iter=1, fit_algorithm="cd", init="data", random_state=0
    ),
}


def rows_of(comm):
    """Slice of the rows of X0 on this rank."""
    ends = ENDS[comm.size]
    return slice(ends[comm.rank], ends[comm.rank + 1])


def on_ranks(size, work, timeout=20.0):
    """Results of work(comm) for each rank, run in threads; an exception raised by a rank replaces its result."""
    results: list = [None] * size

    def run(comm):
        try:
            results[comm.rank] = work(comm)
        except Exception as error:
            results[comm.rank] = error

    threads = [threading.Thread(target=run, args=(comm,)) for comm in gpuica.comm.loopback(size, timeout)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def fit_some(comm):
    """Dictionary of the components_ of two of ESTIMATORS, fitted to the rows of this rank."""
    X = gpuica.shared(X0[rows_of(comm)], comm)
    return {name: ESTIMATORS[name]().fit(X).components_ for name in ("FastICA", "worst")}


def main(kind, file):
    if kind == "mpi":
        from mpi4py import MPI

        comm = gpuica.comm.MPIComm(MPI.COMM_WORLD)
    else:
        import torch.distributed as distributed

        store = f"file://{file}.store"
        rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
        distributed.init_process_group("gloo", store, timedelta(seconds=30), rank=rank, world_size=size)
        comm = gpuica.comm.TorchComm()
    if kind == "dying" and comm.rank == 1:
        os._exit(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    np.savez(file.format(comm.rank), **fit_some(comm))
    if kind != "mpi":
        distributed.destroy_process_group()  # otherwise running threads of gloo may abort the process when it exits


if __name__ == "__main__":
    main(*sys.argv[1:])
