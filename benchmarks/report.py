"""Tables and figures of files of results.  Command: python -m benchmarks report FILE."""

import sys
from pathlib import Path

from . import coding, dictionary, layers
from .common.command import Benchmark, main, read
from .gpu import runner
from .ica import tables


def kind(result):
    """Which benchmark a result comes from."""
    if "figure" in result or "scale" in result:
        return "gpu"
    if "shared" in result:
        return "layers"
    if "microseconds" in result:
        return "coding"
    return "minibatch" if "passes" in result else "run"


PRINTERS = {
    "run": tables.markdown,
    "layers": layers.markdown,
    "coding": coding.markdown,
    "minibatch": dictionary.markdown,
    "gpu": runner.as_table,
}


def markdown(results):
    """The tables of results of any benchmark."""
    kinds = list(dict.fromkeys(map(kind, results)))
    return "\n\n".join(PRINTERS[name]([r for r in results if kind(r) == name]).strip() for name in kinds) + "\n"


def options(parser):
    parser.add_argument("results", nargs="*", type=Path, help="files of results, JSON lines")
    parser.add_argument("--md", type=Path, help="file for the tables, which are printed otherwise")
    parser.add_argument("--png", type=Path, help="file for a figure of the times of ICA fits; needs matplotlib")


def run(args):
    results = read(*(args.results or sorted((Path(__file__).parent / "results").glob("*.jsonl"))))
    text = markdown(results)
    if args.md:
        args.md.write_text(text)
    else:
        print(text)
    if args.png:
        tables.figure([r for r in results if kind(r) == "run"], args.png)


BENCHMARKS = (
    Benchmark(
        "report",
        "prints the tables of stored results of run, layers, coding, minibatch and gpu; measures nothing",
        details="Without files: all those in benchmarks/results.",
        takes="seconds",
        needs="nothing; matplotlib for a figure",
        options=options,
        run=run,
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:], default="report"))
