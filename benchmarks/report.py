"""Tables and a picture of results.

    python -m benchmarks.report results.jsonl [--md out.md] [--png out.png]

A rival counts at full only where its answer is as good as gpuica's: see `equally_good`.  The fastest rival of any
quality stands beside it.
"""

import argparse
import json
from pathlib import Path

from .contestants import CONTESTANTS
from .problems import PROBLEMS

SCALE = "seconds of a fit, logarithmic; worse, better: the answer beside gpuica's"
SLACK = 1.05  # a measure of quality may be so many times another's and count as equal
QUIET = 0.1  # share of the machine that other programs may have before the report warns
COLORS = {True: ("#d1495b", "#eda6ae"), False: ("#4a6fa5", "#b3c5df")}  # (float32, float64) of gpuica, of the others


def read(*paths):
    """The results in JSON-lines files, the last one of each (problem, contestant, dtype)."""
    results = [json.loads(line) for path in paths for line in Path(path).read_text().splitlines() if line.strip()]
    return list({(r["problem"], r["contestant"], r["dtype"]): r for r in results}.values())


def equally_good(rival, own):
    """Whether a result's quality is that of another or better.

    Its Amari distance is at most 1.05 times the other's, and so is its relative gradient, or this is below the
    problem's `gradient`, where more digits mean nothing.  An answer without a gradient is no answer.
    """
    if rival["gradient"] is None or own["gradient"] is None:
        return own["gradient"] is None
    if own["amari"] is not None and rival["amari"] > SLACK * own["amari"]:
        return False
    return rival["gradient"] <= max(SLACK * own["gradient"], PROBLEMS[rival["problem"]].gradient)


def markdown(results):
    """Where and when, a table of ratios, then one table per problem; a str."""
    names = [name for name in PROBLEMS if any(r["problem"] == name for r in results)]
    parts = [_where(results), _ratios(results, names)]
    parts += [_details([r for r in results if r["problem"] == name]) for name in names]
    return "\n\n".join(parts) + "\n"


def _where(results):
    """Machine, versions, commits and days of all results; and whether the machine had other work."""
    places = dict.fromkeys(
        f"{r['machine']['cpu']}, {r['machine']['cores']} cores, GPU: {r['machine']['gpu'] or 'none'}; "
        f"Python {r['versions']['python']}, NumPy {r['versions']['numpy']}, "
        f"scikit-learn {r['versions']['scikit-learn']}"
        for r in results
    )
    commits, days = (sorted({str(r[key])[:10] for r in results}) for key in ("commit", "date"))
    busy = max((r["others"] or 0 for r in results), default=0)
    warning = f"Other programs took up to {busy:.0%} of the machine meanwhile: the times cannot be relied upon."
    return "\n".join([*places, f"commit {', '.join(commits)}; {', '.join(days)}", *([warning] if busy > QUIET else [])])


def _ratios(results, names):
    rows = []
    for name in names:
        done = [r for r in results if r["problem"] == name and not r["error"]]
        rivals = [r for r in done if not _ours(r)]
        for own in _by_speed(r for r in done if _ours(r)):
            equal = _by_speed(r for r in rivals if equally_good(r, own))
            rows.append(
                [name, _label(own), f"{own['seconds']:.3g}", *_beside(own, equal), *_beside(own, _by_speed(rivals))]
            )
    head = [
        "problem",
        "gpuica",
        "s",
        "fastest rival of equal quality",
        "s",
        "ratio",
        "fastest of any quality",
        "s",
        "ratio",
    ]
    return "Ratio: the rival's seconds to gpuica's.\n\n" + _table(head, rows)


def _beside(own, rivals):
    """Name, seconds and ratio of the fastest rival, for the table of ratios."""
    if not rivals:
        return ["-"] * 3
    best = rivals[0]
    return [_label(best), f"{best['seconds']:.3g}", f"{best['seconds'] / own['seconds']:.2f}"]


def _details(results):
    """One problem's results, the fastest first, failures last."""
    done, failed = _by_speed(r for r in results if not r["error"]), [r for r in results if r["error"]]
    rows = []
    for r in done:
        iterations = f"{r['n_iter']}{'' if r['converged'] else ', not converged'}"
        formats = {"amari": ".5f", "gradient": ".1e", "whiteness": ".0e", "loss": ".4f", "peak_mb": ".0f"}
        measures = ["-" if r[key] is None else f"{r[key]:{form}}" for key, form in formats.items()]
        measures[1] += _verdict(r, done)
        rows.append([_label(r), f"{r['seconds']:.3g}", f"{r['seconds_min']:.3g}", iterations, *measures])
    rows += [[_label(r), r["error"].replace("|", "\\|"), *[""] * 7] for r in failed]
    head = ["", "s, median", "s, least", "iterations", "Amari", "gradient", "not white", "loss", "peak MB beyond input"]
    return f"### {_title(results)}\n\n" + _table(head, rows)


def _verdict(r, done):
    """How a rival's answer compares with that of the fastest gpuica; "" where they are equally good."""
    own = next((own for own in _by_speed(done) if _ours(own)), None)
    if own is None or _ours(r):
        return ""
    return " (worse)" if not equally_good(r, own) else " (better)" if not equally_good(own, r) else ""


def _title(results):
    name, size = results[0]["problem"], next((r for r in results if r["n_samples"]), None)
    if size is None:
        return name
    return f"{name}: {size['n_samples']:,} x {size['n_features']}, {size['n_components']} components"


def _table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _label(r):
    return f"{r['contestant']} {r['dtype']}"


def _ours(r):
    return CONTESTANTS[r["contestant"]].ours


def _by_speed(results):
    return sorted(results, key=lambda r: r["seconds"])


def picture(results, path):
    """Seconds of every result as bars on a logarithmic scale, a panel for each problem; written to path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    problems = [name for name in PROBLEMS if any(r["problem"] == name for r in results)]
    most = max(len({r["contestant"] for r in results if r["problem"] == name}) for name in problems)
    columns = min(len(problems), 2)
    lines = -(-len(problems) // columns)
    size = (6.2 * columns, lines * (1 + 0.42 * most))
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis, problem in zip(axes.flat, problems):
        _bars(axis, [r for r in results if r["problem"] == problem])
    for axis in axes.flat[len(problems) :]:
        axis.axis("off")
    shades = [
        Patch(color=COLORS[own][i], label=f"{who} {dtype}")
        for own, who in ((True, "gpuica"), (False, "others"))
        for i, dtype in enumerate(("float32", "float64"))
    ]
    figure.legend(handles=shades, loc="outside lower center", ncols=4, frameon=False, title=SCALE)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _bars(axis, results):
    """One problem's bars: a line for each contestant, float32 above float64."""
    from matplotlib.ticker import NullFormatter

    done = [r for r in results if not r["error"]]
    names = [name for name in CONTESTANTS if any(r["contestant"] == name for r in results)]
    left, right = (f(r["seconds"] for r in done) if done else 1.0 for f in (min, max))
    left /= 2
    for r in results:
        single = r["dtype"] == "float32"
        y = names.index(r["contestant"]) + (-0.2 if single else 0.2)
        if r["error"]:
            text = r["error"].removeprefix("failed: ")[:60]
            axis.text(left, y, f" {text}", va="center", fontsize=7, color="#777777", style="italic")
        else:
            axis.barh(y, r["seconds"] - left, 0.38, left=left, color=COLORS[_ours(r)][0 if single else 1])
            axis.text(r["seconds"], y, f" {r['seconds']:.3g}{_verdict(r, done)}", va="center", fontsize=7)
    axis.set_xscale("log")
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlim(left, 4 * right)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_title(_title(results), fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", nargs="+", type=Path, help="JSON-lines files of benchmarks.run")
    parser.add_argument("--md", type=Path)
    parser.add_argument("--png", type=Path)
    args = parser.parse_args()
    results = read(*args.results)
    text = markdown(results)
    if args.md:
        args.md.write_text(text)
    else:
        print(text)
    if args.png:
        picture(results, args.png)


if __name__ == "__main__":
    main()
