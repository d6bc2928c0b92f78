"""ICA of raw activations, layer by layer: convergence, passes, quality.  Command: python -m benchmarks.layers."""

import sys
import tempfile
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np

from .common.command import LOCAL, Benchmark, append, main, read
from .common.tables import Table
from .ica.contestants import Contestant, as_fit, without_warning
from .ica.measure import measure_in_process, measured
from .ica.problems import Problem, load_activations

PASSES = 40  # that a fit with the defaults should stay below
SLACK = 1e-3  # relative: losses within it count as equal; other starting points differ by more
RESOLVED = 1e3 * float(np.finfo(np.float32).eps)  # eigenvalues relative to the largest; float32 has three digits of it
NULL = 1e-12  # eigenvalues relative to the largest; below it float32 rows have no variance


def gpuica(X, problem, seed, tol, max_iter, *, notes, **options):
    """gpuica's Picard with these options and else its defaults."""
    from gpuica import Picard

    estimator = Picard(random_state=seed, tol=tol, max_iter=max_iter, **options)
    without_warning("did not converge", estimator.fit, X)
    notes |= {"rank": estimator.rank_, "settings": f"{options or 'defaults'}", "device": estimator.device_}
    return as_fit(estimator.components_, estimator.mean_, estimator.n_iter_, estimator.n_passes_, estimator.converged_)


def scikit_learn(X, problem, seed, tol, max_iter, *, notes):
    """scikit-learn's FastICA; `spectrum` determines its n_components and its whitening."""
    from sklearn.decomposition import FastICA

    solver = "eigh" if problem.gradient > RESOLVED or X.dtype == np.float64 else "svd"
    estimator = FastICA(problem.n_components, whiten_solver=solver, random_state=seed, tol=tol, max_iter=max_iter)
    converged = without_warning("did not converge", estimator.fit, X)[1]
    notes |= {"rank": len(estimator.components_), "settings": f"{{'whiten_solver': '{solver}'}}", "device": "cpu"}
    return as_fit(estimator.components_, estimator.mean_, estimator.n_iter_, None, converged)


# name: fit, dtype, tol, max_iter
CONTESTANTS = {
    "gpuica": (gpuica, "float32", "auto", 500),
    "gpuica-full": (partial(gpuica, growth=None), "float32", "auto", 500),
    "sklearn": (scikit_learn, "float32", 1e-4, 200),
    "sklearn-64": (scikit_learn, "float64", 1e-4, 200),
}


def spectrum(X):
    """Numerical rank of the rows X (n, d), in float64, and the smallest eigenvalue in it over the largest."""
    total, scatter = np.zeros(X.shape[1]), np.zeros((X.shape[1],) * 2)
    shift = X[:1000].mean(axis=0, dtype=np.float64)
    for start in range(0, len(X), 10_000):
        block = X[start : start + 10_000] - shift
        total += block.sum(axis=0)
        scatter += block.T @ block
    eigenvalues = np.linalg.eigvalsh(scatter / len(X) - np.outer(total, total) / len(X) ** 2)[::-1]
    rank = int((eigenvalues > NULL * eigenvalues[0]).sum())
    return rank, float(eigenvalues[rank - 1] / eigenvalues[0])


def measured_file(path, name, limit):
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
    """`measured_file` in a process of its own; what ends that process is a result too."""
    known = {"problem": path.stem, "contestant": name, "dtype": CONTESTANTS[name][1]}
    return measure_in_process(measured_file, path, name, known=known, limit=limit)


def _finite(result):
    return all(result[key] is not None and bool(np.isfinite(result[key])) for key in ("gradient", "loss"))


TABLE = Table(
    *("layer", "contestant", "converged", "passes:.1f", "iterations", "s:.0f", "rank"),
    *("gradient:.1e", "unrest:.2f", "farthest:.1f", "loss:.3f"),
)


def cells(r):
    """The cells of a result's line."""
    if r["error"]:
        return [r["problem"], r["contestant"], r["error"]]
    converged = ("yes" if r["converged"] else "**no**") + ("" if r["finite"] else ", NaN")
    counts = [converged, r["n_passes"], r["n_iter"], r["seconds"], r["rank"]]
    return [r["problem"], r["contestant"], *counts, *map(r.get, ("gradient", "unrest", "farthest", "loss"))]


def markdown(results):
    """A table with a line for the last result of each (layer, contestant), and the sentences of `verdict`."""
    results = list(latest(results).values())
    order = sorted(results, key=lambda r: (_layer(r["problem"]), list(CONTESTANTS).index(r["contestant"])))
    return f"{TABLE.text(map(cells, order))}\n\n{verdict(results)}"


def _layer(layer):
    """The key that sorts minilm-l3 before minilm-l10."""
    model, _, number = layer.rpartition("-l")
    return model, int(number) if number.isdigit() else 0


def verdict(results):
    """Sentences: how many layers converged, in how many passes, and the effect of growing samples."""
    done = {(r["problem"], r["contestant"]): r for r in results if not r["error"]}
    own = {layer: r for (layer, name), r in done.items() if name == "gpuica"}
    sentences = []
    if own:
        converged = [r for r in own.values() if r["converged"] and r["finite"]]
        few = [r for r in converged if r["n_passes"] < PASSES]
        most = max(r["n_passes"] for r in own.values())
        sentences.append(
            f"Picard's defaults: {len(converged)} of {len(own)} layers converged, {len(few)} in under {PASSES} passes; "
            f"at most {most:.1f}."
        )
    pairs = [(r, done[layer, "gpuica-full"]) for layer, r in own.items() if (layer, "gpuica-full") in done]
    if pairs:
        no_worse = [grown["loss"] <= full["loss"] + SLACK * abs(full["loss"]) for grown, full in pairs]
        half = [grown["n_passes"] < full["n_passes"] / 2 for grown, full in pairs]
        ratios = sorted(grown["n_passes"] / full["n_passes"] for grown, full in pairs)
        sentences.append(
            f"Growing samples compared with all rows throughout: loss not worse (by {SLACK:.1%}) on {sum(no_worse)} of "
            f"{len(pairs)}, under half the passes on {sum(half)}, both on {sum(map(all, zip(no_worse, half)))}; ratio "
            f"of passes {ratios[0]:.2f} to {ratios[-1]:.2f}, median {np.median(ratios):.2f}."
        )
    for name in ("sklearn", "sklearn-64"):
        rivals = [r for (_, who), r in done.items() if who == name]
        if rivals:
            converged = sum(r["converged"] for r in rivals)
            most = rivals[0]["max_iter"]
            sentences.append(f"{name}: {converged} of {len(rivals)} layers converged in {most} iterations.")
    if any(r.get("shared") for r in results):
        sentences.append("Some were measured while other programs used the machine: their seconds are unreliable.")
    return "\n".join(sentences)


def latest(results):
    """{(layer, contestant): its last result}."""
    return {(r["problem"], r["contestant"]): r for r in results}


def options(parser):
    parser.add_argument("files", nargs="*", type=Path, help="rows of activations, .npy; without: print stored results")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=("gpuica", "gpuica-full"))
    parser.add_argument("--limit", type=float, default=3600.0, help="seconds that one fit may take")
    parser.add_argument("--out", type=Path, default=LOCAL / "layers.jsonl", help="file to append results to")
    parser.add_argument("--again", action="store_true", help="repeat measurements that --out already contains")
    parser.add_argument("--shared", action="store_true", help="note that other programs use the machine meanwhile")


def run(args):
    with tempfile.TemporaryDirectory() as folder:
        if args.smoke and not args.files:
            args.files, args.out = [Path(folder) / "simulated-l0.npy"], Path(folder) / "layers.jsonl"
            np.save(args.files[0], load_activations(args.files[0], smoke=True))
        stored = read(args.out) if args.out.exists() else []
        known = {} if args.again else latest(stored)
        for name, path in product(args.contestants, sorted(args.files, key=lambda path: _layer(path.stem))):
            if (path.stem, name) in known:
                continue
            stored.append(measure(path, name, args.limit) | {"shared": args.shared})
            append(args.out, stored[-1])
            print(TABLE.row(*cells(stored[-1])), flush=True)
        print(f"\n{markdown(stored)}\n\nResults: {args.out}")


BENCHMARKS = (
    Benchmark(
        "layers",
        "ICA of a language model's raw activations, layer by layer: convergence, passes, quality",
        details="""\
gpuica       Picard() with its defaults.
gpuica-full  the same with growth=None: every iteration reads all rows.
sklearn      scikit-learn's FastICA on the same float32 rows, at most 200 iterations, with n_components set to the
             rank, which it does not determine: null directions make it divide by rounding errors.
             whiten_solver="eigh", the faster one, if a covariance in float32 resolves the smallest direction, else
             "svd".
sklearn-64   the same on the rows in float64.

Each fit has a process of its own.  The referee judges it in float64: gradient, the largest entry of the relative
gradient; unrest and farthest, the gradient in standard errors, its root mean square and its largest entry, which
tol="auto" requires below 0.5 and about 5; loss.  Results are appended to --out one by one, and those that it already
contains are not measured again.

    python -m benchmarks activations --layers all --rows 200000
    python -m benchmarks activations --model smollm2 --layers 0 6 12 18 24 30 --rows 200000
    python -m benchmarks.layers benchmarks/data/*-l*.npy --contestants gpuica gpuica-full sklearn""",
        takes="half a minute to two minutes a layer for gpuica, up to ten for scikit-learn, on two cores",
        needs="files of activations",
        options=options,
        run=run,
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:], default="layers"))
