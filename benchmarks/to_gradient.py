"""Time to a relative gradient of 1e-3 on whitened activations: gpuica's Picard in float32 and float64, python-picard.

    python -m benchmarks.activations --rows 200000
    python -m benchmarks.to_gradient [--rows 50000]

All start from the same rotation, on rows that are white already, and stop by the largest entry of the relative
gradient, which is recomputed in float64.  All rows are read in every iteration, but with growing samples, Picard's
default, in the last ones only.  python-picard has float64 alone.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import numpy as np

from gpuica import Picard

from .environment import environment
from .problems import ACTIVATIONS

GRADIENT = 1e-3


def white(path, n_rows):
    """The first rows about their mean, whitened, without null directions, (n, k) float64."""
    X = np.load(path, mmap_mode="r")[:n_rows].astype(np.float64)
    X -= X.mean(axis=0)
    variances, directions = np.linalg.eigh(X.T @ X / len(X))
    kept = variances > 1e-9 * variances[-1]
    return X @ (directions[:, kept] / np.sqrt(variances[kept]))


def gradient(Z, W):
    """The largest entry of Picard-O's relative gradient, extended, contrast log cosh."""
    Y = Z @ W.T
    g = np.tanh(Y)
    M = g.T @ Y / len(Y)
    sign = np.where((1 - g * g).mean(axis=0) < np.diag(M), -1.0, 1.0)
    M *= sign[:, None]
    return abs((M - M.T) / 2).max()


def ours(Z, W, growth=None):
    fit = Picard(whiten=False, tol=GRADIENT, w_init=W, growth=growth, max_iter=1000, random_state=0).fit(Z)
    return fit.components_.astype(np.float64), fit.n_iter_


def python_picard(Z, W):
    from picard import picard

    options = {"whiten": False, "centering": False, "check_fun": False, "max_iter": 1000, "return_n_iter": True}
    _, W, _, n_iter = picard(Z.T, ortho=True, extended=True, tol=GRADIENT, w_init=W, **options)
    return W, n_iter


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--activations", type=Path, default=ACTIVATIONS)
    parser.add_argument("--rows", type=int, default=50_000)
    args = parser.parse_args()
    where = environment()
    print(f"{where['machine']['cpu']}, {where['machine']['cores']} cores; commit {where['commit']}, {where['date']}")
    Z = white(args.activations, args.rows)
    W = np.linalg.qr(np.random.RandomState(0).normal(size=(Z.shape[1],) * 2))[0]
    ours(Z[:2000].astype(np.float32), W)
    print(f"{Z.shape[0]:,} x {Z.shape[1]}, to a gradient of {GRADIENT}\n")
    for name, fit, rows in (
        ("gpuica float32", ours, Z.astype(np.float32)),
        ("gpuica float32, growing", partial(ours, growth="auto"), Z.astype(np.float32)),
        ("gpuica float64", ours, Z),
        ("python-picard", python_picard, Z),
    ):
        began = time.perf_counter()
        found, n_iter = fit(rows, W)
        seconds = time.perf_counter() - began
        print(f"{name:24} {seconds:7.1f} s  {n_iter:4} iterations  gradient {gradient(Z, found):.1e}", flush=True)


if __name__ == "__main__":
    main()
