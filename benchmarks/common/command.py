"""The command line of every benchmark: `--help` describes it, `--smoke` runs it on the smallest problem."""

import argparse
import json
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .environment import environment

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parents[1] / "results"
LOCAL = RESULTS / "local"
DATA = Path(__file__).parents[1] / "data"


@dataclass(frozen=True)
class Benchmark:
    """A benchmark that can be run by its name.

    summary: one line.  details: what it measures and how.  takes, needs: how long it takes, and what it needs beyond
    gpuica and its dependencies.  run: (options) -> exit status or None.  options: adds arguments to a parser.  smoke:
    values that `--smoke` puts in place of the defaults.  why_not: a sentence if it cannot run on this machine, or "".
    """

    name: str
    summary: str
    takes: str
    run: Callable[[argparse.Namespace], int | None]
    needs: str = "nothing"
    details: str = ""
    options: Callable[[argparse.ArgumentParser], Any] = lambda parser: None
    smoke: Mapping[str, Any] = field(default_factory=dict)
    why_not: Callable[[], str] = lambda: ""

    def parser(self):
        """The parser of its options."""
        about = [self.summary[0].upper() + self.summary[1:] + ".", self.details.strip()]
        about.append(f"Takes: {self.takes}.\nNeeds: {self.needs}.")
        parser = argparse.ArgumentParser(
            prog=f"python -m benchmarks {self.name}",
            description="\n\n".join(filter(None, about)),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--smoke", action="store_true", help="the smallest problem, seconds: does it run at all?")
        self.options(parser)
        return parser

    def main(self, argv):
        """Parse the options and run; an exit status."""
        parser = self.parser()
        if "--smoke" in argv:
            parser.set_defaults(**self.smoke)
        return self.run(parser.parse_args(argv)) or 0


def main(benchmarks, argv, default=None):
    """Run the benchmarks that the first words of argv name; without a name the default, or else list all.

    With one name the other words are its options; with several they are options of each.  "all" names every benchmark
    that can run on this machine.  Returns the largest exit status.
    """
    registry = {benchmark.name: benchmark for benchmark in benchmarks}
    names = []
    for word in argv:
        if word not in registry and word != "all":
            break
        names.append(word)
    options = argv[len(names) :]
    if "all" in names:
        names = list(registry)
    elif not names and default:
        names = [default]
    if not names:
        if unknown := next((word for word in options if not word.startswith("-")), None):
            print(f"No benchmark has the name {unknown!r}. Benchmarks:\n\n{listing(benchmarks)}")
            return 2
        print(f"{USAGE}\n\n{listing(benchmarks)}")
        return 0
    if len(names) == 1:
        return registry[names[0]].main(options)
    statuses = []
    for name in names:
        print(f"\n==== {name}: {registry[name].summary}", flush=True)
        if reason := registry[name].why_not():
            print(f"skipped: {reason}")
            continue
        try:
            statuses.append(registry[name].main(options))
        except SystemExit as stopped:  # with a sentence if something is missing, with a number if options are wrong
            if not isinstance(stopped.code, str):
                raise
            print(f"skipped: {stopped.code}")
    return max(statuses, default=0)


USAGE = """\
usage: python -m benchmarks                      list the benchmarks
       python -m benchmarks NAME [options]       run one; NAME --help describes it
       python -m benchmarks NAME NAME [--smoke]  run several; --smoke: on the smallest problems
       python -m benchmarks all [--smoke]        run all that can run on this machine"""


def listing(benchmarks):
    """One line for each benchmark: its name and what it measures."""
    width = max(len(benchmark.name) for benchmark in benchmarks)
    indent = " " * (width + 4)
    return "\n".join(
        textwrap.fill(f"  {b.name:{width}}  {b.summary}", 120, subsequent_indent=indent) for b in benchmarks
    )


def print_machine():
    """Print where and when: processor, cores, BLAS, commit and date."""
    where = environment()
    print(f"{where['machine']['cpu']}, {where['machine']['cores']} cores; {where['versions']['blas']}")
    print(f"commit {where['commit']}, {where['date']}\n", flush=True)


# ---- files of results, one JSON object a line -----------------------------------------------------------------------
def results_path(args, prefix=""):
    """--out, or a file of today in benchmarks/results/local; None with --smoke, which keeps nothing."""
    if args.smoke and not args.out:
        return None
    return args.out or LOCAL / f"{prefix}{datetime.now(UTC):%Y-%m-%d}.jsonl"


def append(path, *results):
    """Append results to a file; do nothing if path is None."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(result) + "\n" for result in results)


def read(*paths):
    """All results in these files, in order."""
    return [json.loads(line) for path in paths for line in Path(path).read_text().splitlines() if line.strip()]
