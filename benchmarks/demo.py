"""ICA of image patches by gpuica and scikit-learn, with a table and a figure.  Command: python -m benchmarks.demo."""

import sys
import tempfile
from pathlib import Path

import numpy as np

from .common.command import Benchmark, main
from .common.tables import Table
from .ica.contestants import CONTESTANTS
from .ica.measure import QUIET, measure
from .ica.problems import PROBLEMS
from .ica.tables import busy_warning

PROBLEM = PROBLEMS["patches"]
RIVAL = ("sklearn-eigh", "float32")  # scikit-learn's fastest settings on these data
FIGURE = Path("demo.png")


def table(results):
    """A Markdown table, a line for each result; results: {name: result}."""
    rows = []
    for name, r in results.items():
        if r["error"]:
            rows.append([name, r["error"]])
            continue
        peak = "-" if r["peak_mb"] is None else f"{r['peak_mb']:.0f}"
        peak += f" (GPU: {r['device_peak_mb']:.0f})" if r["device_peak_mb"] else ""
        converged = "yes" if r["converged"] else f"no, stopped after {r['max_iter']}"
        rows.append([name, r["seconds"], r["n_iter"], r["n_passes"], converged, r["gradient"], peak])
    counts = ("iterations", "passes", "converged")
    return Table("", "seconds:.1f", *counts, "final relative gradient:.1e", "peak MB beyond input").text(rows)


def draw(components, path, title, subtitle):
    """Write the patterns of components (k, side²) to path, as a grid of images.

    A pattern, a column of the pseudo-inverse, is what a source adds to a patch; mid-grey is zero.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    patterns = np.linalg.pinv(components).T
    side, columns = round(patterns.shape[1] ** 0.5), round(len(patterns) ** 0.5)
    patterns = patterns[np.argsort(-np.linalg.norm(patterns, axis=1))]
    patterns = patterns / np.abs(patterns).max(axis=1, keepdims=True)
    lines, gap = -(-len(patterns) // columns), 2
    canvas = np.full((lines * (side + gap) - gap, columns * (side + gap) - gap), np.nan)
    for i, pattern in enumerate(patterns):
        row, column = (side + gap) * (i // columns), (side + gap) * (i % columns)
        canvas[row : row + side, column : column + side] = pattern.reshape(side, side)
    figure, axis = plt.subplots(figsize=(7, 7.6), layout="constrained")
    axis.imshow(canvas, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
    axis.axis("off")
    figure.suptitle(title, fontsize=13)
    axis.set_title(subtitle, fontsize=9, color="#555555")
    figure.savefig(path, dpi=150)
    plt.close(figure)


def options(parser):
    parser.add_argument("--rows", type=int, help="number of patches; 100,000")
    parser.add_argument("--out", type=Path, default=FIGURE, help=f"file for the figure; {FIGURE}")


def run(args):
    if reason := PROBLEM.why_not():
        sys.exit(reason)
    own = next(CONTESTANTS[name] for name in ("gpuica-cuda", "gpuica") if not CONTESTANTS[name].why_not())
    device = "the GPU" if own.name == "gpuica-cuda" else "the CPU"
    print(f"Data: {args.rows or 100_000:,} patches of 12 x 12 pixels from two photographs, in float32.")
    print(
        f"Both fit {PROBLEM.n_components} components from the same starting point, with tol={PROBLEM.tol:g} and "
        f"max_iter={PROBLEM.max_iter}."
    )
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.npz"
        print(f"gpuica's FastICA on {device} ...", flush=True)
        ours = measure(PROBLEM.name, own.name, "float32", rows=args.rows, save=answer)
        print("scikit-learn's FastICA with its faster whitening, 'eigh'; it takes about half a minute ...", flush=True)
        theirs = measure(PROBLEM.name, *RIVAL, repeats=1, limit=150, rows=args.rows)
        print(f"\n{table({f'gpuica on {device}': ours, 'scikit-learn': theirs})}\n")
        if ours["error"]:
            return 1
        components = np.load(answer)["components"]
    seconds = theirs["error"] or f"{theirs['seconds']:.1f} s"
    title = f"{PROBLEM.n_components} independent components of photographs"
    subtitle = (
        f"{ours['n_samples']:,} patches of 12 x 12 pixels; gpuica on {device} {ours['seconds']:.1f} s, "
        f"scikit-learn {seconds}"
    )
    draw(components, args.out, title, subtitle)
    if (busy := max(r["others"] or 0 for r in (ours, theirs))) > QUIET:
        print(busy_warning(busy))
    if not theirs["error"]:
        print(f"{theirs['seconds'] / ours['seconds']:.1f} times as fast as scikit-learn.", end=" ")
    print(f"Figure: {args.out}")
    return 0


BENCHMARKS = (
    Benchmark(
        "demo",
        "FastICA of 100,000 image patches by gpuica and scikit-learn, with a figure of the components",
        details="""\
ICA of small patches of photographs yields localised, oriented edge filters, like those of the visual cortex (Bell and
Sejnowski, The "independent components" of natural scenes are edge filters, Vision Research 37, 1997).  Both
implementations fit the same patches from the same starting point, each in a process of its own.""",
        takes="a minute on two cores",
        needs="pillow and matplotlib: pip install 'gpuica[bench]'",
        options=options,
        run=run,
        smoke={"rows": 1_000, "out": Path(tempfile.gettempdir()) / "demo-smoke.png"},
        why_not=PROBLEM.why_not,
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:], default="demo"))
