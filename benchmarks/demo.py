"""The main job on real data: the edges that photographs are made of, by gpuica and by scikit-learn.

    python -m benchmarks.demo

ICA of small patches of photographs finds localised, oriented edges, as the visual cortex does (Bell and Sejnowski, The
"independent components" of natural scenes are edge filters, Vision Research 37, 1997).  Both programs fit the same
patches from the same starting point, each in a process of its own; demo.png shows what gpuica found.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

from .contestants import CONTESTANTS
from .measure import measure
from .problems import PROBLEMS
from .report import QUIET

PROBLEM = PROBLEMS["patches"]
RIVAL = ("sklearn-eigh", "float32")  # scikit-learn's fastest settings here
PICTURE = Path("demo.png")


def table(results):
    """A Markdown table with a line for each result; results: dict of name to result."""
    head = ["", "seconds", "iterations", "passes", "converged", "final relative gradient", "peak MB beyond input"]
    lines = [head, ["---"] * len(head)]
    for name, r in results.items():
        if r["error"]:
            lines.append([name, r["error"], *[""] * 5])
            continue
        peak = "-" if r["peak_mb"] is None else f"{r['peak_mb']:.0f}"
        peak += f" (GPU: {r['device_peak_mb']:.0f})" if r["device_peak_mb"] else ""
        converged = "yes" if r["converged"] else f"no, stopped after {r['max_iter']}"
        counts = [f"{r['n_iter']}", f"{r['n_passes'] or '-'}", converged]
        gradient = "-" if r["gradient"] is None else f"{r['gradient']:.1e}"
        lines.append([name, f"{r['seconds']:.1f}", *counts, gradient, peak])
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("| " + " | ".join(f"{cell:{w}}" for cell, w in zip(line, widths)) + " |" for line in lines)


def draw(components, path, title, subtitle):
    """The patterns of components (k, side²) as a grid of pictures, written to path.

    A pattern, a column of the pseudo-inverse, is what a source puts into a patch; mid-grey is nothing.
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


def main():
    if reason := PROBLEM.why_not():
        sys.exit(reason)
    own = next(CONTESTANTS[name] for name in ("gpuica-cuda", "gpuica") if not CONTESTANTS[name].why_not())
    device = "the GPU" if own.name == "gpuica-cuda" else "the CPU"
    print("Data: 100,000 patches of 12 x 12 pixels from two photographs, in float32.")
    print(
        f"Both look for {PROBLEM.n_components} components from the same start, with tol {PROBLEM.tol:g} and at most "
        f"{PROBLEM.max_iter} iterations."
    )
    with tempfile.TemporaryDirectory() as folder:
        answer = Path(folder) / "answer.npz"
        print(f"gpuica's FastICA on {device} ...", flush=True)
        ours = measure(PROBLEM.name, own.name, "float32", save=answer)
        print("scikit-learn's FastICA by its faster whitening, 'eigh'; this takes about half a minute ...", flush=True)
        theirs = measure(PROBLEM.name, *RIVAL, repeats=1, limit=150)
        print(f"\n{table({f'gpuica on {device}': ours, 'scikit-learn': theirs})}\n")
        if ours["error"]:
            sys.exit(1)
        components = np.load(answer)["components"]
    seconds = theirs["error"] or f"{theirs['seconds']:.1f} s"
    title = f"What photographs are made of: {PROBLEM.n_components} independent components"
    subtitle = (
        f"{ours['n_samples']:,} patches of 12 x 12 pixels; gpuica on {device} {ours['seconds']:.1f} s, "
        f"scikit-learn {seconds}"
    )
    draw(components, PICTURE, title, subtitle)
    if (busy := max(r["others"] or 0 for r in (ours, theirs))) > QUIET:
        print(f"Other programs took up to {busy:.0%} of the machine meanwhile: the times cannot be relied upon.")
    if not theirs["error"]:
        print(f"{theirs['seconds'] / ours['seconds']:.1f} times as fast as scikit-learn.", end=" ")
    print(f"Picture: {PICTURE}")


if __name__ == "__main__":
    main()
