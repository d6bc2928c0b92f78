"""Layer after layer of a language model: does ICA converge on raw activations, after how many passes, and how well?

    python -m benchmarks.activations --layers all --rows 200000
    python -m benchmarks.activations --model smollm2 --layers 0 6 12 18 24 30 --rows 200000
    python -m benchmarks.layers benchmarks/data/*-l*.npy --contestants gpuica gpuica-full sklearn

gpuica       `Picard()` as it comes.
gpuica-full  the same with growth=None: every iteration reads all rows.
sklearn      scikit-learn's FastICA on the same float32 rows, at most 200 iterations, told the rank, which it cannot
             find: with null directions it divides by rounding errors.  whiten_solver="eigh", its faster one, where a
             covariance in float32 resolves the smallest direction, else "svd".
sklearn-64   the same on the rows in float64.

Each fit has a process of its own (`measure.measured`); the referee judges it in float64: gradient, the largest entry
of the relative gradient; unrest and farthest, the same in standard errors, in root mean square and its largest entry,
which tol="auto" wants below 0.5 and about 5; loss.  scikit-learn takes minutes a layer, so results are appended to
--out one by one, and what is there already is not measured again.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from .contestants import Contestant, _answer, _without_complaint
from .environment import environment
from .measure import KEYS, measured
from .problems import Problem
from .run import LOCAL

PASSES = 40  # what a fit with the defaults may take
SLACK = 1e-3  # relative: a loss so much higher counts as not worse; other starts differ by more
RESOLVED = 1e3 * float(np.finfo(np.float32).eps)  # an eigenvalue over the largest: float32 keeps three digits of it
NULL = 1e-12  # an eigenvalue over the largest: float32 rows hold nothing there


def gpuica(X, problem, seed, tol, max_iter, *, notes, **options):
    """gpuica's Picard with its defaults and these options."""
    from gpuica import Picard

    estimator = Picard(random_state=seed, tol=tol, max_iter=max_iter, **options)
    _without_complaint("did not converge", estimator.fit, X)
    notes |= {"rank": estimator.rank_, "settings": f"{options or 'defaults'}", "device": estimator.device_}
    return _answer(estimator.components_, estimator.mean_, estimator.n_iter_, estimator.n_passes_, estimator.converged_)


def scikit_learn(X, problem, seed, tol, max_iter, *, notes):
    """scikit-learn's FastICA; its rank and its whitening are chosen beforehand, by `spectrum`."""
    from sklearn.decomposition import FastICA

    solver = "eigh" if problem.gradient > RESOLVED or X.dtype == np.float64 else "svd"
    estimator = FastICA(problem.n_components, whiten_solver=solver, random_state=seed, tol=tol, max_iter=max_iter)
    converged = _without_complaint("did not converge", estimator.fit, X)[1]
    notes |= {"rank": len(estimator.components_), "settings": f"{{'whiten_solver': '{solver}'}}", "device": "cpu"}
    return _answer(estimator.components_, estimator.mean_, estimator.n_iter_, None, converged)


# name: fit, dtype, tol, max_iter
CONTESTANTS = {
    "gpuica": (gpuica, "float32", "auto", 500),
    "gpuica-full": (partial(gpuica, growth=None), "float32", "auto", 500),
    "sklearn": (scikit_learn, "float32", 1e-4, 200),
    "sklearn-64": (scikit_learn, "float64", 1e-4, 200),
}


def spectrum(X):
    """Numerical rank of the rows X (n, d), in float64, and the least eigenvalue of that rank over the largest."""
    total, scatter = np.zeros(X.shape[1]), np.zeros((X.shape[1],) * 2)
    shift = X[:1000].mean(axis=0, dtype=np.float64)
    for start in range(0, len(X), 10_000):
        block = X[start : start + 10_000] - shift
        total += block.sum(axis=0)
        scatter += block.T @ block
    eigenvalues = np.linalg.eigvalsh(scatter / len(X) - np.outer(total, total) / len(X) ** 2)[::-1]
    rank = int((eigenvalues > NULL * eigenvalues[0]).sum())
    return rank, float(eigenvalues[rank - 1] / eigenvalues[0])


def one(path, name, limit):
    """Measure one contestant on one file, in this process; a result as of `measured`, and rank, settings, device."""
    X = np.load(path)
    fit, dtype, tol, max_iter = CONTESTANTS[name]
    rank, least = spectrum(X)
    notes: dict = {}
    problem = Problem(path.stem, rank, lambda seed: (X, None), gradient=least, tol=tol, max_iter=max_iter)
    contestant = Contestant(name, partial(fit, notes=notes))
    result = measured(problem, contestant, dtype, repeats=1, limit=limit, seed=0)
    return result | notes | {"least_eigenvalue": least, "finite": not result["error"] and _finite(result)}


def measure(path, name, limit):
    """`one` in a process of its own; what ends that process is a result too."""
    began = time.perf_counter()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(one, path, name, limit).result()
        except BrokenProcessPool:
            spent = time.perf_counter() - began
    error = f"over {limit:g} s" if spent > limit else "failed: the process was killed"
    known = {"problem": path.stem, "contestant": name, "dtype": CONTESTANTS[name][1], "error": error}
    return dict.fromkeys(KEYS) | known | environment()


def _finite(result):
    return all(result[key] is not None and bool(np.isfinite(result[key])) for key in ("gradient", "loss"))


def table(results):
    """A Markdown table, a line for each result."""
    head = ["layer", "contestant", "converged", "passes", "iterations", "s", "rank", *QUALITY]
    lines = [head, ["---"] * len(head)]
    for r in sorted(results, key=lambda r: (_place(r["problem"]), list(CONTESTANTS).index(r["contestant"]))):
        if r["error"]:
            lines.append([r["problem"], r["contestant"], r["error"].replace("|", "/"), *[""] * 8])
            continue
        quality = ["-" if r.get(key) is None else f"{r[key]:{form}}" for key, form in QUALITY.items()]
        passes = "-" if r["n_passes"] is None else f"{r['n_passes']:.1f}"
        converged = ("yes" if r["converged"] else "**no**") + ("" if r["finite"] else ", NaN")
        counts = [converged, passes, f"{r['n_iter']}", f"{r['seconds']:.0f}", f"{r['rank']}"]
        lines.append([r["problem"], r["contestant"], *counts, *quality])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


QUALITY = {"gradient": ".1e", "unrest": ".2f", "farthest": ".1f", "loss": ".3f"}


def _place(layer):
    """To sort minilm-l3 before minilm-l10."""
    model, _, number = layer.rpartition("-l")
    return model, int(number) if number.isdigit() else 0


def verdict(results):
    """Sentences: how many layers converged, in how many passes; what growing samples cost and bought."""
    done = {(r["problem"], r["contestant"]): r for r in results if not r["error"]}
    own = {layer: r for (layer, name), r in done.items() if name == "gpuica"}
    says = []
    if own:
        settled = [r for r in own.values() if r["converged"] and r["finite"]]
        few = [r for r in settled if r["n_passes"] < PASSES]
        most = max(r["n_passes"] for r in own.values())
        says.append(
            f"Picard's defaults: {len(settled)} of {len(own)} layers converged, {len(few)} in under {PASSES} passes; "
            f"at most {most:.1f}."
        )
    pairs = [(r, done[layer, "gpuica-full"]) for layer, r in own.items() if (layer, "gpuica-full") in done]
    if pairs:
        no_worse = [grown["loss"] <= full["loss"] + SLACK * abs(full["loss"]) for grown, full in pairs]
        half = [grown["n_passes"] < full["n_passes"] / 2 for grown, full in pairs]
        ratios = sorted(grown["n_passes"] / full["n_passes"] for grown, full in pairs)
        says.append(
            f"Growing samples beside all rows throughout: a loss not worse (by {SLACK:g} of it) on {sum(no_worse)} of "
            f"{len(pairs)}, under half the passes on {sum(half)}, both on {sum(map(all, zip(no_worse, half)))}; passes "
            f"{ratios[0]:.2f} to {ratios[-1]:.2f} of theirs, median {np.median(ratios):.2f}."
        )
    for name in ("sklearn", "sklearn-64"):
        rivals = [r for (_, who), r in done.items() if who == name]
        if rivals:
            settled = sum(r["converged"] for r in rivals)
            says.append(f"{name}: {settled} of {len(rivals)} layers converged in {rivals[0]['max_iter']} iterations.")
    if any(r.get("shared") for r in results):
        says.append("Some of these were measured on a machine with other work: their seconds mean nothing.")
    return "\n".join(says)


def read(path):
    """The results of a file, the last of each (layer, contestant)."""
    lines = path.read_text().splitlines() if path.exists() else []
    return {(r["problem"], r["contestant"]): r for r in map(json.loads, filter(None, lines))}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="*", type=Path, help="rows of activations, .npy; none: print what is there")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=("gpuica", "gpuica-full"))
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds that one fit may take")
    parser.add_argument("--out", type=Path, default=LOCAL / "layers.jsonl", help="file to append results to")
    parser.add_argument("--again", action="store_true", help="measure anew what is there")
    parser.add_argument("--shared", action="store_true", help="note that the machine has other work meanwhile")
    args = parser.parse_args()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    there = {} if args.again else read(args.out)
    files = sorted(args.files, key=lambda path: _place(path.stem))
    for name, path in product(args.contestants, files):
        if (path.stem, name) in there:
            continue
        result = measure(path, name, args.limit) | {"shared": args.shared}
        with args.out.open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(table([result]).splitlines()[-1], flush=True)
    results = list(read(args.out).values())
    print(f"\n{table(results)}\n\n{verdict(results)}\n\nResults: {args.out}")


if __name__ == "__main__":
    main()
