"""The comparison of ICA implementations: problems x contestants.  Command: python -m benchmarks.run."""

import sys
import time
from itertools import product
from pathlib import Path

from .common.command import Benchmark, append, main, results_path
from .ica.contestants import CONTESTANTS
from .ica.measure import measure
from .ica.problems import PROBLEMS
from .ica.tables import markdown

QUICK = ("small-1k-4", "mixture-20k-32", "mixture-100k-64")
LIMIT, QUICK_LIMIT = 300.0, 8.0  # seconds of one fit
QUICK_TOTAL = 140.0  # seconds after which --quick starts no further measurement


def available(registry, names):
    """The members of a registry that are named and can run on this machine; prints why the others cannot."""
    for name in names:
        if reason := registry[name].why_not():
            print(f"skipped {name}: {reason}")
        else:
            yield registry[name]


def as_line(result):
    """One line of text for one result."""
    who = f"{result['problem']:18} {result['contestant']:18} {result['dtype']:8}"
    if result["error"]:
        return f"{who} {result['error']}"
    amari = "" if result["amari"] is None else f"Amari {result['amari']:.5f}  "
    gradient = "dependent sources" if result["gradient"] is None else f"gradient {result['gradient']:.1e}"
    converged = "converged    " if result["converged"] else "not converged"
    return f"{who} {result['seconds']:8.3g} s  {result['n_iter']:4} iterations, {converged}  {amari}{gradient}"


def options(parser):
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)}; at most {QUICK_LIMIT:g} s a fit")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, metavar="NAME", help=", ".join(PROBLEMS))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, metavar="NAME", help=", ".join(CONTESTANTS))
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=("float32", "float64"))
    parser.add_argument("--rows", type=int, help="number of rows of every problem in place of its own")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, help=f"seconds of one fit; {LIMIT:g}, with --quick {QUICK_LIMIT:g}")
    parser.add_argument("--out", type=Path, help="file to append results to; benchmarks/results/local/<date>.jsonl")


def run(args):
    limit = args.limit or (QUICK_LIMIT if args.quick else LIMIT)
    path = results_path(args)
    problems = list(available(PROBLEMS, args.problems or (QUICK if args.quick else PROBLEMS)))
    contestants = list(available(CONTESTANTS, args.contestants or CONTESTANTS))
    began, results = time.monotonic(), []
    for problem, contestant, dtype in product(problems, contestants, args.dtypes):
        if dtype not in contestant.dtypes:
            continue
        if args.quick and time.monotonic() - began > QUICK_TOTAL:
            print(f"skipped for lack of time: {problem.name} {contestant.name} {dtype}")
            continue
        names = problem.name, contestant.name, dtype
        results.append(measure(*names, repeats=args.repeats, limit=limit, rows=args.rows))
        print(as_line(results[-1]), flush=True)
        append(path, results[-1])
    print(f"\n{markdown(results)}")
    if path:
        print(f"Results: {path}")


BENCHMARKS = (
    Benchmark(
        "run",
        "ICA on mixtures, image patches and activations: gpuica, scikit-learn, python-picard, icalens, fastica-torch",
        details="""\
Every contestant fits every problem in float32 and float64, each fit in a process of its own, warmed up, from the same
starting point.  A referee recomputes Amari distance, relative gradient and loss in float64.  Prints a table of ratios
and a table for each problem; `python -m benchmarks report FILE` prints them again.

    python -m benchmarks.run --quick
    python -m benchmarks.run --problems patches --contestants gpuica sklearn-eigh --repeats 5""",
        takes="an hour on two cores; with --quick under three minutes",
        needs="nothing; skips contestants that are not installed and problems whose data are missing",
        options=options,
        run=run,
        smoke={"problems": ["small-1k-4"], "dtypes": ["float64"], "repeats": 1, "limit": 30.0},
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:], default="run"))
