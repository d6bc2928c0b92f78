"""Smaller studies of ICA: time to a gradient, cost of restarts, agreement of two seeds, `partial_fit`.

Commands: python -m benchmarks to_gradient | restarts | agreement | online.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np

from gpuica import FastICA, Picard
from gpuica.metrics import amari_distance, matched_correlation
from gpuica.stability import stability

from .common.command import Benchmark, main, print_machine
from .common.tables import Table
from .common.timing import repeat
from .ica.contestants import needs
from .ica.problems import ACTIVATIONS, load_activations, mixture

GRADIENT = 1e-3  # to which the fits of `to_gradient` go


# ---- to_gradient ----------------------------------------------------------------------------------------------------
def whitened(X):
    """The rows X (n, d) centered and whitened in float64, without null directions, (n, k)."""
    X = X.astype(np.float64)
    X -= X.mean(axis=0)
    variances, directions = np.linalg.eigh(X.T @ X / len(X))
    kept = variances > 1e-9 * variances[-1]
    return X @ (directions[:, kept] / np.sqrt(variances[kept]))


def relative_gradient(Z, W):
    """The largest entry of the relative gradient of extended Picard-O with log cosh, at W (k, k), of rows Z (n, k)."""
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


def to_gradient(args):
    print_machine()
    Z = whitened(load_activations(args.activations, args.smoke)[: args.rows])
    W = np.linalg.qr(np.random.RandomState(0).normal(size=(Z.shape[1],) * 2))[0]
    ours(Z[:2000].astype(np.float32), W)
    print(f"{Z.shape[0]:,} x {Z.shape[1]}, to a gradient of {GRADIENT}\n")
    table = Table("", "s:.1f", "iterations", "gradient:.1e").start()
    for name, fit, rows in (
        ("gpuica float32", ours, Z.astype(np.float32)),
        ("gpuica float32, growing", partial(ours, growth="auto"), Z.astype(np.float32)),
        ("gpuica float64", ours, Z),
        ("python-picard", python_picard, Z),
    ):
        if name == "python-picard" and (reason := needs("picard", "python-picard")()):
            print(f"\nskipped: {reason}")
            continue
        timing = repeat(partial(fit, rows, W), repeats=1, warm_up=False)
        found, n_iter = timing.result
        table.add(name, timing.median, n_iter, relative_gradient(Z, found))


# ---- restarts, agreement --------------------------------------------------------------------------------------------
def restarts(args):
    print_machine()
    X, A = mixture(0, args.rows, args.components)
    X = X.astype(np.float32)
    print(f"{args.rows:,} x {args.components} float32, {args.starts} starts\n")
    seconds = ("one fit, s:.2f", "with restarts, s:.2f", "ratio:.1f")
    table = Table("estimator", *seconds, "Amari, one:.5f", "Amari, restarts:.5f").start()
    for name, make in {
        "Picard()": Picard,
        "FastICA()": FastICA,
        "FastICA(algorithm='picard')": partial(FastICA, algorithm="picard"),
    }.items():
        one, many = (
            repeat(lambda n=n, make=make: make(random_state=0, n_init=n).fit(X), repeats=args.repeats)
            for n in (1, args.starts)
        )
        quality = [amari_distance(timing.result.components_, A) for timing in (one, many)]
        table.add(name, one.median, many.median, many.median / one.median, *quality)


def agreement(args):
    print_machine()
    X = np.asarray(load_activations(args.file, args.smoke)[: args.rows])
    components = min(args.components, X.shape[1])
    print(f"{len(X):,} x {X.shape[1]}, {components} components\n")
    shares = ("share of components above 0.9:.2f", "mean:.2f", "stability index:.2f")
    table = Table("settings", "passes:.0f", *shares).start()
    for settings in ({"growth": None}, {}, {"n_init": 5}):
        first, second = (Picard(components, random_state=seed, **settings).fit(X) for seed in (0, 1))
        correlation = matched_correlation(first.transform(X), second.transform(X))[0]
        shared = {name: value for name, value in settings.items() if name != "n_init"}
        index = stability(Picard(components, **shared), X, n_runs=10, random_state=0).index
        shown = ", ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"
        table.add(shown, first.n_passes_, (correlation > 0.9).mean(), correlation.mean(), index.mean())


# ---- online ---------------------------------------------------------------------------------------------------------
def batches(n, size, A, kind, rng):
    """n batches (size, k) of sources mixed by A (k, k), half of them uniform, half of them of this kind."""
    k = len(A)
    for _ in range(n):
        S = rng.uniform(-(3**0.5), 3**0.5, size=(size, k))
        S[:, 1::2] = (
            rng.laplace(size=(size, k // 2)) / 2**0.5 if kind == "laplace" else rng.standard_t(2.2, (size, k // 2))
        )
        yield S @ A.T


def online(args):
    print_machine()
    table = Table("batches", "rows each:,", "sources", "partial_fit:.5f", "fit:.5f", "ratio:.2f").start()
    for size in args.sizes:
        for n in args.batches:
            for kind in ("laplace", "student"):
                distances = []
                for seed in range(args.repeats):
                    rng = np.random.default_rng(seed)
                    A = rng.normal(size=(args.sources, args.sources))
                    parts = list(batches(n, size, A, kind, rng))
                    updated = Picard(random_state=0)
                    for part in parts:
                        updated.partial_fit(part)
                    fitted = Picard(random_state=0).fit(np.concatenate(parts))
                    distances.append([amari_distance(model.components_, A) for model in (updated, fitted)])
                of_batches, of_all = np.mean(distances, axis=0)
                table.add(n, size, kind, of_batches, of_all, of_batches / of_all)


def to_gradient_options(parser):
    parser.add_argument("--activations", type=Path, default=ACTIVATIONS, help="rows, .npy")
    parser.add_argument("--rows", type=int, default=50_000)


def restarts_options(parser):
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--components", type=int, default=64)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)


def agreement_options(parser):
    parser.add_argument("file", nargs="?", type=Path, default=ACTIVATIONS, help="rows, .npy")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--components", type=int, default=100)


def online_options(parser):
    parser.add_argument("--sources", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5, help="random data sets, whose distances are averaged")
    parser.add_argument("--batches", type=int, nargs="+", default=(10, 40))
    parser.add_argument("--sizes", type=int, nargs="+", default=(2_000, 10_000), help="rows of a batch")


STORED = "stored activations: python -m benchmarks activations --rows 200000"
BENCHMARKS = (
    Benchmark(
        "to_gradient",
        "time of Picard to a relative gradient of 1e-3 on whitened activations, and of python-picard",
        details="""\
All start from the same rotation, on the same whitened rows, and stop by the largest entry of the relative gradient,
which is recomputed in float64.  Every iteration reads all rows, except with growing samples, Picard's default, where
only the last ones do.  python-picard supports float64 only.""",
        takes="ten minutes on two cores",
        needs=f"{STORED}; python-picard",
        options=to_gradient_options,
        run=to_gradient,
        smoke={"rows": 2_000},
    ),
    Benchmark(
        "restarts",
        "time of a fit with n_init=20 compared with n_init=1",
        details="""\
Medians of three fits, after one that is not timed, on a mixture of Laplace and uniform sources, and the Amari distances
to the mixing matrix.""",
        takes="five minutes on two cores",
        options=restarts_options,
        run=restarts,
        smoke={"rows": 2_000, "components": 4, "starts": 2, "repeats": 1},
    ),
    Benchmark(
        "agreement",
        "share of the components of activations that two seeds have in common, and their stability index",
        details="""\
Two components agree if |correlation| > 0.9 after matching.  Without growing samples, with them, and with restarts; and
the mean stability index (Icasso) of ten runs.""",
        takes="half an hour on two cores",
        needs=STORED,
        options=agreement_options,
        run=agreement,
        smoke={"rows": 2_000, "components": 4},
    ),
    Benchmark(
        "online",
        "Picard.partial_fit on batches compared with a fit of all their rows, by Amari distance",
        details="Half of the sources are uniform, half Laplace or Student's t with 2.2 degrees of freedom.",
        takes="ten minutes on two cores",
        options=online_options,
        run=online,
        smoke={"sources": 4, "repeats": 1, "batches": (3,), "sizes": (500,)},
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:]))
