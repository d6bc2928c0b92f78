"""What restarts cost, and how alike the answers of two seeds are.

    python -m benchmarks.restarts [--rows 100000] [--components 64] [--starts 20]
    python -m benchmarks.restarts --agreement benchmarks/data/minilm-l3.npy [--components 100]

Cost: a fit with n_init=20 against one with n_init=1, medians of three, on a mixture of Laplace and uniform sources.

Agreement: the share of components that two seeds have in common, |correlation| above 0.9 after matching, and the mean
of it; without growing samples, with them, and with restarts; and the mean stability index (Icasso, ten runs) beside.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from gpuica import FastICA, Picard
from gpuica.metrics import amari_distance, matched_correlation
from gpuica.stability import stability

from .environment import environment
from .problems import mixture


def median_seconds(fit, repeats=3):
    """(median seconds, last result) of calls, after one that is not counted."""
    fit()
    seconds, result = [], None
    for _ in range(repeats):
        began = time.perf_counter()
        result = fit()
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds)), result


def cost(n_rows, k, starts):
    X, A = mixture(0, n_rows, k)
    X = X.astype(np.float32)
    print(f"{n_rows:,} x {k} float32, {starts} starts\n")
    print("| estimator | one fit, s | with restarts, s | ratio | Amari, one | Amari, restarts |\n" + "| --- " * 6 + "|")
    for name, make in {
        "Picard()": Picard,
        "FastICA()": FastICA,
        "FastICA(algorithm='picard')": lambda **options: FastICA(algorithm="picard", **options),
    }.items():
        runs = [median_seconds(lambda n=n, make=make: make(random_state=0, n_init=n).fit(X)) for n in (1, starts)]
        (one, single), (many, best) = runs
        quality = [f"{amari_distance(ica.components_, A):.5f}" for ica in (single, best)]
        print(f"| {name} | {one:.2f} | {many:.2f} | {many / one:.1f} | {' | '.join(quality)} |", flush=True)


def agreement(X, components):
    print(f"{len(X):,} x {X.shape[1]}, {components} components\n")
    print("| settings | passes | share of components above 0.9 | mean | stability index |\n" + "| --- " * 5 + "|")
    for settings in ({"growth": None}, {}, {"n_init": 5}):
        first, second = (Picard(components, random_state=seed, **settings).fit(X) for seed in (0, 1))
        alike = matched_correlation(first.transform(X), second.transform(X))[0]
        runs = {name: value for name, value in settings.items() if name != "n_init"}
        index = stability(Picard(components, **runs), X, n_runs=10, random_state=0).index
        shown = ", ".join(f"{name}={value}" for name, value in settings.items()) or "defaults"
        found = f"{(alike > 0.9).mean():.2f} | {alike.mean():.2f} | {index.mean():.2f}"
        print(f"| {shown} | {first.n_passes_:.0f} | {found} |", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--components", type=int)
    parser.add_argument("--starts", type=int, default=20)
    parser.add_argument("--agreement", type=Path, help="rows (.npy) on which two seeds are compared")
    args = parser.parse_args()
    where = environment()
    print(f"{where['machine']['cpu']}, {where['machine']['cores']} cores; commit {where['commit']}, {where['date']}")
    if args.agreement:
        agreement(np.load(args.agreement)[: args.rows], args.components or 100)
    else:
        cost(args.rows, args.components or 64, args.starts)


if __name__ == "__main__":
    main()
