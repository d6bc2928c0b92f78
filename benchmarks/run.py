"""Problems x contestants, each measured in a process of its own.

    python -m benchmarks.run --quick                 three small problems, under three minutes on two cores
    python -m benchmarks.run                         everything that can run here
    python -m benchmarks.run --problems patches --contestants gpuica sklearn-eigh --repeats 5

Results are appended to benchmarks/results/local/<date>.jsonl, or to --out, one JSON line each.
"""

import argparse
import json
import time
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

from .contestants import CONTESTANTS
from .measure import measure
from .problems import PROBLEMS
from .report import markdown

LOCAL = Path(__file__).parent / "results" / "local"
QUICK = ("small-1k-4", "mixture-20k-32", "mixture-100k-64")
QUICK_LIMIT, QUICK_END = 8.0, 140.0  # seconds: of a fit; after which nothing more is begun


def who_can(registry, names):
    """Those of a registry that are named and can run here; says of the others why they cannot."""
    for name in names:
        if reason := registry[name].why_not():
            print(f"skipped {name}: {reason}")
        else:
            yield registry[name]


def say(result):
    """One line for one result."""
    who = f"{result['problem']:18} {result['contestant']:18} {result['dtype']:8}"
    if result["error"]:
        print(f"{who} {result['error']}", flush=True)
        return
    amari = "" if result["amari"] is None else f"Amari {result['amari']:.5f}  "
    gradient = "dependent sources" if result["gradient"] is None else f"gradient {result['gradient']:.1e}"
    print(
        f"{who} {result['seconds']:8.3g} s  {result['n_iter']:4} iterations"
        f"{'  ' if result['converged'] else '! '}{amari}{gradient}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{', '.join(QUICK)}; at most {QUICK_LIMIT:g} s a fit")
    parser.add_argument("--problems", nargs="+", choices=PROBLEMS, metavar="NAME", help=", ".join(PROBLEMS))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, metavar="NAME", help=", ".join(CONTESTANTS))
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=("float32", "float64"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, help="seconds that one fit may take; 300, with --quick 8")
    parser.add_argument("--out", type=Path, help="file to append results to")
    args = parser.parse_args()

    limit = args.limit or (QUICK_LIMIT if args.quick else 300.0)
    out = args.out or LOCAL / f"{datetime.now(UTC):%Y-%m-%d}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    problems = list(who_can(PROBLEMS, args.problems or (QUICK if args.quick else PROBLEMS)))
    contestants = list(who_can(CONTESTANTS, args.contestants or CONTESTANTS))
    began, results = time.monotonic(), []
    for problem, contestant, dtype in product(problems, contestants, args.dtypes):
        if dtype not in contestant.dtypes:
            continue
        if args.quick and time.monotonic() - began > QUICK_END:
            print(f"left out, no time: {problem.name} {contestant.name} {dtype}")
            continue
        results.append(measure(problem.name, contestant.name, dtype, repeats=args.repeats, limit=limit))
        say(results[-1])
        with out.open("a") as file:
            file.write(json.dumps(results[-1]) + "\n")
    print(f"\n{markdown(results)}\nResults: {out}")


if __name__ == "__main__":
    main()
