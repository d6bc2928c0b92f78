"""Tables and a figure of the results of the ICA comparison.

gpuica is compared with the fastest rival of equal quality, see `equally_good`, and with the fastest of any quality.
"""

from ..common.tables import Table
from .contestants import CONTESTANTS
from .measure import QUIET
from .problems import PROBLEMS

SCALE = "seconds of a fit, logarithmic; worse, better: quality compared with gpuica"
SLACK = 1.05  # quality measures within this ratio count as equal
RATIOS = Table(
    *("problem", "gpuica", "s:.3g"),
    *("fastest rival of equal quality", "s:.3g", "ratio:.2f"),
    *("fastest of any quality", "s:.3g", "ratio:.2f"),
)
DETAILS = Table(
    *("", "s, median:.3g", "s, least:.3g", "iterations", "Amari:.5f", "gradient", "not white:.0e", "loss:.4f"),
    "peak MB beyond input:.0f",
)
COLORS = {True: ("#d1495b", "#eda6ae"), False: ("#4a6fa5", "#b3c5df")}  # (float32, float64) of gpuica, of the others


def equally_good(rival, own):
    """Whether the quality of one result is at least that of another.

    Its Amari distance is at most 1.05 times the other's; its relative gradient is too, or is below the problem's
    `gradient`, where further digits are meaningless.  A result without a gradient is a failed fit.
    """
    if rival["gradient"] is None or own["gradient"] is None:
        return own["gradient"] is None
    if own["amari"] is not None and rival["amari"] > SLACK * own["amari"]:
        return False
    return rival["gradient"] <= max(SLACK * own["gradient"], PROBLEMS[rival["problem"]].gradient)


def latest(results):
    """The last result of each (problem, contestant, dtype)."""
    return list({(r["problem"], r["contestant"], r["dtype"]): r for r in results}.values())


def markdown(results):
    """Machine, versions and dates, a table of ratios, then one table per problem; a str.

    Of several results of the same problem, contestant and dtype the last one counts.
    """
    results = latest(results)
    names = [name for name in PROBLEMS if any(r["problem"] == name for r in results)]
    parts = [_where(results), _ratios(results, names)]
    parts += [_details([r for r in results if r["problem"] == name]) for name in names]
    return "\n\n".join(parts) + "\n"


def _where(results):
    """Machines, versions, commits and days of all results, and a warning if other programs used the machine."""
    places = dict.fromkeys(
        f"{r['machine']['cpu']}, {r['machine']['cores']} cores, GPU: {r['machine']['gpu'] or 'none'}; "
        f"Python {r['versions']['python']}, NumPy {r['versions']['numpy']}, "
        f"scikit-learn {r['versions']['scikit-learn']}"
        for r in results
    )
    commits, days = (sorted({str(r[key])[:10] for r in results}) for key in ("commit", "date"))
    busy = max((r["others"] or 0 for r in results), default=0)
    warning = [busy_warning(busy)] if busy > QUIET else []
    return "\n".join([*places, f"commit {', '.join(commits)}; {', '.join(days)}", *warning])


def busy_warning(fraction):
    """A sentence for times that were measured on a busy machine."""
    return f"Other programs used up to {fraction:.0%} of the machine meanwhile: the times are unreliable."


def _ratios(results, names):
    rows = []
    for name in names:
        done = [r for r in results if r["problem"] == name and not r["error"]]
        rivals = [r for r in done if not _ours(r)]
        for own in _by_speed(r for r in done if _ours(r)):
            equal = _by_speed(r for r in rivals if equally_good(r, own))
            rows.append([name, _label(own), own["seconds"], *_compared(own, equal), *_compared(own, _by_speed(rivals))])
    return "Ratio: the rival's seconds over gpuica's.\n\n" + RATIOS.text(rows)


def _compared(own, rivals):
    """Name, seconds and ratio of the fastest rival, for the table of ratios."""
    if not rivals:
        return [None] * 3
    best = rivals[0]
    return [_label(best), best["seconds"], best["seconds"] / own["seconds"]]


def _details(results):
    """One problem's results, the fastest first, failures last."""
    done, failed = _by_speed(r for r in results if not r["error"]), [r for r in results if r["error"]]
    rows = []
    for r in done:
        iterations = f"{r['n_iter']}{'' if r['converged'] else ', not converged'}"
        gradient = ("-" if r["gradient"] is None else f"{r['gradient']:.1e}") + _verdict(r, done)
        quality = [r["amari"], gradient, r["whiteness"], r["loss"]]
        rows.append([_label(r), r["seconds"], r["seconds_min"], iterations, *quality, r["peak_mb"]])
    rows += [[_label(r), r["error"]] for r in failed]
    return f"### {_title(results)}\n\n" + DETAILS.text(rows)


def _verdict(r, done):
    """How a rival's quality compares with that of the fastest gpuica; "" if they are equally good."""
    own = next((own for own in _by_speed(done) if _ours(own)), None)
    if own is None or _ours(r):
        return ""
    return " (worse)" if not equally_good(r, own) else " (better)" if not equally_good(own, r) else ""


def _title(results):
    name, size = results[0]["problem"], next((r for r in results if r["n_samples"]), None)
    if size is None:
        return name
    return f"{name}: {size['n_samples']:,} x {size['n_features']}, {size['n_components']} components"


def _label(r):
    return f"{r['contestant']} {r['dtype']}"


def _ours(r):
    return CONTESTANTS[r["contestant"]].ours


def _by_speed(results):
    return sorted(results, key=lambda r: r["seconds"])


def figure(results, path):
    """Seconds of every result as bars on a logarithmic scale, one panel per problem; written to path."""
    results = latest(results)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    problems = [name for name in PROBLEMS if any(r["problem"] == name for r in results)]
    most = max(len({r["contestant"] for r in results if r["problem"] == name}) for name in problems)
    columns = min(len(problems), 2)
    lines = -(-len(problems) // columns)
    size = (6.2 * columns, lines * (1 + 0.42 * most))
    drawing, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for axis, problem in zip(axes.flat, problems):
        _bars(axis, [r for r in results if r["problem"] == problem])
    for axis in axes.flat[len(problems) :]:
        axis.axis("off")
    shades = [
        Patch(color=COLORS[own][i], label=f"{who} {dtype}")
        for own, who in ((True, "gpuica"), (False, "others"))
        for i, dtype in enumerate(("float32", "float64"))
    ]
    drawing.legend(handles=shades, loc="outside lower center", ncols=4, frameon=False, title=SCALE)
    drawing.savefig(path, dpi=130)
    plt.close(drawing)


def _bars(axis, results):
    """The bars of one problem: a row per contestant, float32 above float64."""
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
