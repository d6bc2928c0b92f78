"""Mini-batch dictionary learning of many atoms; the first call of each kernel.

Commands: python -m benchmarks many_atoms | first_call.
"""

import os
import subprocess
import sys
import tempfile
from functools import partial

import gpuica
from gpuica.estimators import _learning

from .coding import compositions
from .common.command import Benchmark, main, print_machine
from .common.tables import Table
from .common.timing import MB, repeat

STATISTICS = {"codes of the last rows": 8, "sum of c cT": float("inf")}  # MAX_ATOMS_PER_FEATURE of each


def fit(X, n_atoms, alpha, batch):
    """A pass over the rows, without early stopping."""
    settings = {"fit_algorithm": "cd", "init": "data", "batch_size": batch, "max_iter": 1, "dead_atoms": "keep"}
    learner = gpuica.MiniBatchDictionaryLearning(n_atoms, alpha=alpha, tol=0, max_no_improvement=None, **settings)
    return learner.set_params(random_state=0, device="cpu").fit(X)


def many_atoms(args):
    print_machine()
    X, _ = compositions(args.rows, args.atoms, args.features)
    X = X.astype("f4")
    table = Table("statistics", "atoms:,", "features", "s:.1f", "us a row:.0f", "peak MB:.0f", "last cost:.5f").start()
    for name, limit in STATISTICS.items():
        _learning.MAX_ATOMS_PER_FEATURE = limit
        fit(X[: args.atoms // 10], args.atoms, args.alpha, args.atoms // 10)  # compilation
        timing = repeat(partial(fit, X, args.atoms, args.alpha, args.batch), repeats=1, warm_up=False, memory=True)
        microseconds, peak = 1e6 * timing.median / len(X), timing.peak and timing.peak / MB
        table.add(name, args.atoms, args.features, timing.median, microseconds, peak, float(timing.result.costs_[-1]))


def many_atoms_options(parser):
    parser.add_argument("--rows", type=int, default=32_768)
    parser.add_argument("--atoms", type=int, default=10_000)
    parser.add_argument("--features", type=int, default=139)
    parser.add_argument("--batch", type=int, default=4_096)
    parser.add_argument("--alpha", type=float, default=0.1)


# ---- the first call -------------------------------------------------------------------------------------------------
CALL = """
import time
import numpy as np
import gpuica

rng = np.random.default_rng(0)
X = rng.laplace(size=(20_000, 16)).astype("f4")
D = rng.normal(size=({atoms}, 16)).astype("f4")
D /= np.linalg.norm(D, axis=1, keepdims=True)
began = time.perf_counter()
{call}
print(time.perf_counter() - began)
"""
CALLS = {
    "FastICA": (16, "gpuica.FastICA(random_state=0, max_iter=5, tol=1).fit(X)"),
    "lasso with Gram matrix": (128, "gpuica.sparse_encode(X[:64], D, algorithm='lasso_cd', alpha=2.0, device='cpu')"),
    "lasso without it": (4_096, "gpuica.sparse_encode(X[:64], D, algorithm='lasso_cd', alpha=4.0, device='cpu')"),
    "OMP": (128, "gpuica.sparse_encode(X[:64], D, algorithm='omp', n_nonzero_coefs=4, device='cpu')"),
    "LARS": (128, "gpuica.sparse_encode(X[:64], D, algorithm='lars', n_nonzero_coefs=4, device='cpu')"),
}


def first_call(args):
    print_machine()
    table = Table("call", "first, s:.1f", "in a later process, s:.2f").start()
    for name in args.calls:
        atoms, call = CALLS[name]
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-c", CALL.format(atoms=atoms, call=call)]
            environment = os.environ | {"NUMBA_CACHE_DIR": folder}
            runs = (subprocess.run(command, env=environment, capture_output=True, check=True) for _ in range(2))
            table.add(name, *(float(run.stdout) for run in runs))


def first_call_options(parser):
    parser.add_argument("--calls", nargs="+", choices=CALLS, default=list(CALLS), metavar="CALL", help=", ".join(CALLS))


BENCHMARKS = (
    Benchmark(
        "many_atoms",
        "mini-batches of 10,000 atoms: codes of the last rows compared with sums over pairs of atoms",
        details="""\
Rows are sums of 20 of the atoms with positive weights, float32.  The peak is resident memory beyond the rows.""",
        takes="a minute on two cores",
        options=many_atoms_options,
        run=many_atoms,
        smoke={"rows": 400, "atoms": 100, "features": 5, "batch": 100},
    ),
    Benchmark(
        "first_call",
        "seconds that the first call of a kernel takes, with an empty cache of compiled code, and in a later process",
        details="""\
Each call in a process of its own, float32, 64 rows for codes; the import of Numba is included.""",
        takes="a minute",
        options=first_call_options,
        run=first_call,
        smoke={"calls": ["FastICA"]},
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:]))
