"""Figures of a GPU, and the tests that need one.  Command: python -m benchmarks.gpu.

A figure is measured by a `Line`, a function of (bench, seconds left) that yields results, dicts.  The process that was
started, the runner, measures nothing itself: a child process measures the lines and prints each result, so that a line
that fails or hangs ends only the child, and the runner starts another for the lines after it.
"""

import argparse
import contextlib
import faulthandler
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from gpuica.device import why_no_gpu

from ..common.command import RESULTS, ROOT, Benchmark, append
from ..common.environment import environment
from ..common.tables import Table

RESULT, BEGUN = "RESULT ", "BEGUN "  # prefixes in a child's output: of a result, of the name of a line that starts
LONGEST_TEST = 120  # seconds
STARTING = 12  # seconds that a process may take to import its libraries


def lines_of_output(command, seconds):
    """Yield the lines of a command's standard output and error as they are printed, finally its exit status.

    The command and all processes that it started are killed after this many seconds; the status is then -9.
    """
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    timer = threading.Timer(max(seconds, 1.0), _kill, [process])
    timer.start()
    try:
        yield from process.stdout
        yield process.wait()
    finally:
        timer.cancel()
        _kill(process)
        process.stdout.close()
        process.wait()


def _kill(process):
    """Kill a process and its group, unless it has ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run_tests(out, seconds):
    """Run the tests that need a GPU; the exit status of pytest, negative if a signal ended it."""
    report = out / f"gpu-tests-{_now()}.txt"
    failures = report.with_name(f"{report.stem}-failures.txt")
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-rf", "--durations=25", "-p", "no:cacheprovider"]
    command += ["-p", "no:benchmark"]  # pytest-benchmark warns of xdist, and warnings are errors
    command += ["-p", "tests.failures_plugin", "--failures-to", str(failures)]
    if importlib.util.find_spec("pytest_timeout"):
        command += ["--timeout", str(LONGEST_TEST), "--timeout-method", "thread"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(min(12, os.cpu_count() or 4))]
    status: int | str = 1
    with report.open("w", buffering=1) as file:
        for status in lines_of_output(command, seconds):
            if isinstance(status, str):
                file.write(status)
                print(status, end="", flush=True)
    if status == -signal.SIGKILL:
        print(f"stopped after {seconds:.0f} s")
    print(f"report: {report}")
    return status


class Results:
    """Results, each printed and appended to a file at once."""

    def __init__(self, path, first):
        self.path, self.all = path, []
        append(path, first)

    def add(self, result):
        self.all.append(result)
        print(as_text(result), flush=True)
        append(self.path, result)

    def ceilings(self):
        """{name: rate} of the results that are ceilings."""
        return {result["ceiling"]: result["rate"] for result in self.all if "ceiling" in result}


class Line(NamedTuple):
    """A figure, or a few that belong together.

    measure: a function of (bench, seconds left) that returns or yields results, dicts.
    """

    name: str
    seconds: float  # that it needs at most
    measure: Callable


def figures():
    """All lines, the most important first."""
    from . import coding_figures, ica_figures, rival_figures

    return [
        Line("compiled", 2, ica_figures.compiled),
        Line("ceilings", 4, ica_figures.ceilings),
        Line("passes", 8, ica_figures.passes),
        Line("eeg", 4, ica_figures.eeg),
        Line("whitening", 6, ica_figures.whitening),
        Line("sweeps", 3, ica_figures.sweeps),
        Line("decorrelation", 2, ica_figures.decorrelation),
        Line("whole fit", 18, rival_figures.transactional_fit),
        Line("omp", 18, coding_figures.omp),
        Line("lasso", 22, coding_figures.lasso),
        Line("picard", 28, rival_figures.picard_fit),
        Line("streamed", 10, ica_figures.streamed),
        Line("same card", 15, rival_figures.same_card),  # imports torch, after which CuPy keeps no memory
        Line("mini-batches", 15, coding_figures.mini_batches),
        Line("atoms", 4, coding_figures.atoms),
        Line("resident fits", 6, ica_figures.resident_fits),
    ]


def measure(results, lines, args, deadline):
    """Measure every line for which there is time.

    A line that fails or is stopped ends its process, because CUDA errors persist; those after it get another one.
    """
    waiting = list(lines)
    while waiting:
        left = deadline - time.monotonic() - STARTING
        if waiting[0].seconds > left:
            results.add(_left_out(waiting.pop(0), left))
        else:
            waiting = _measured(results, waiting, args, left)


def _measured(results, lines, args, left):
    """Measure lines in a child process; returns those that it did not reach."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--line", *(line.name for line in lines), "--seconds", str(left)]
    command += ["--scale", str(args.scale), "--ceilings", json.dumps(results.ceilings())]
    begun: list[str] = []
    status: int | str = 1
    for status in lines_of_output(command + ["--fake"] * args.fake, STARTING + left):
        if not isinstance(status, str):
            break
        if status.startswith(RESULT):
            results.add(json.loads(status[len(RESULT) :]))
        elif status.startswith(BEGUN):
            begun.append(status[len(BEGUN) :].strip())
        else:
            print(status, end="", flush=True)
    if status:
        names = begun[-1:] or [line.name for line in lines]
        results.add({"figure": ", ".join(names), "note": f"failed: its process was stopped or ended ({status})"})
    return [line for line in lines if begun and line.name not in begun]


def _left_out(line, left):
    return {"figure": line.name, "note": f"skipped: needs {line.seconds} s, {max(left, 0):.0f} s are left"}


def run_lines(lines, bench, seconds):
    """Measure lines in this process and print their results, up to the first line that fails."""
    deadline = time.monotonic() + seconds
    for line in lines:
        print(BEGUN + line.name, flush=True)
        left = deadline - time.monotonic()
        if line.seconds > left:
            print(RESULT + json.dumps(_left_out(line, left)), flush=True)
            continue
        # ends the process wherever it hangs, with a traceback
        faulthandler.dump_traceback_later(min(left, 2 * line.seconds + STARTING), exit=True)
        began = time.monotonic()
        try:
            for result in line.measure(bench, left):
                bench.learn(result)
                print(RESULT + json.dumps(result), flush=True)
        except Exception as error:
            traceback.print_exc()
            note = f"failed: {type(error).__name__}: {str(error)[:200]}"
            print(RESULT + json.dumps({"figure": line.name, "note": note}), flush=True)
            return
        finally:
            faulthandler.cancel_dump_traceback_later()
            bench.tidy()
        print(f"{line.name}: {time.monotonic() - began:.1f} s", flush=True)


def as_text(result):
    """One line of text for one result."""
    figure, value, remarks = cells(result)
    return f"{figure[:76]:76} {value:>18}  {remarks}"


def cells(result):
    """The figure, its value with unit, and what it compares with, three str."""
    value = result.get("value")
    shown = "" if value is None else f"{value:.4g} {result.get('unit', '')}"
    share = f"{100 * result['share']:.0f} % of {result['of']}" if "share" in result else ""
    ratio = f"{result['ratio']:.1f}x {result['against']}" if "ratio" in result else ""
    return result["figure"], shown, "; ".join(filter(None, [share, ratio, result.get("note", "")]))


TABLE = Table("figure", "value", "compared with")


def _now():
    return f"{datetime.now(UTC):%Y-%m-%d-%H%M%S}"


def options(parser):
    parser.add_argument("--seconds", type=float, default=420, help="that all of it may take; 420")
    parser.add_argument("--scale", type=float, default=1.0, help="factor of all numbers of rows, to test the script")
    parser.add_argument("--only", nargs="*", default=[], help="figures whose names contain one of these words")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for results; benchmarks/results")
    parser.add_argument("--tests", action="store_true", help="run the tests that need a GPU instead")
    parser.add_argument("--fake", action="store_true", help="on the fake CuPy of the tests; the numbers mean nothing")
    parser.add_argument("--line", nargs="*", help=argparse.SUPPRESS)  # measure these in this process
    parser.add_argument("--ceilings", type=json.loads, default={}, help=argparse.SUPPRESS)


def run(args):
    if not args.fake and (reason := why_no_gpu()):
        print(f"benchmarks.gpu needs a GPU: {reason}")
        return 1
    if args.tests:
        args.out.mkdir(parents=True, exist_ok=True)
        return run_tests(args.out, args.seconds)
    deadline = time.monotonic() + args.seconds
    with contextlib.ExitStack() as stack:
        if args.fake:
            from tests import fake_cupy

            stack.enter_context(fake_cupy.installed())
        from .bench import Bench

        bench, lines = Bench(args.scale, args.ceilings), figures()
        if args.line:
            run_lines([line for line in lines if line.name in args.line], bench, args.seconds)
            return 0
        if args.only:
            lines = [line for line in lines if any(word in line.name for word in args.only)]
        where = {**environment(), "device": bench.device(), "scale": args.scale}
        name = re.sub(r"\W+", "-", where["device"]["name"]).strip("-").lower()
        print(f"{where['device']['name']}; commit {where['commit']}, {where['date']}", flush=True)
        results = Results(None if args.fake else args.out / f"gpu-{name}-{_now()}.jsonl", where)
        measure(results, lines, args, deadline)
    print(f"\n{where['device']['name']}, driver {where['device'].get('driver')}; written to {results.path}")
    for result in results.all:
        print(as_text(result))
    return 0


def as_table(results):
    """A Markdown table of the results in one or more files; the first line of a file describes device and versions."""
    parts = []
    for result in results:
        if "figure" not in result:
            device = f"{result['device']['name']}, driver {result['device'].get('driver')}"
            parts.append((f"{device}; commit {result['commit']}, {result['date']}", []))
        else:
            parts[-1][1].append(cells(result))
    return "\n\n".join(f"{where}\n\n{TABLE.text(rows)}" for where, rows in parts)


BENCHMARKS = (
    Benchmark(
        "gpu",
        "a GPU's ceilings; kernels, passes and fits as fractions of them; rivals on the host and on the GPU",
        details="""\
The most important figures come first; those for which there is no time left are skipped, and a line says so.  A figure
that fails or takes too long ends its process, and the others continue in a new one.  Results are appended to
FOLDER/gpu-NAME-DATE.jsonl (benchmarks/results by default) at once, after a first line with device, driver, versions,
commit and date.

--tests runs the tests that need a GPU, and no figures; their report goes to FOLDER/gpu-tests-DATE.txt line by line,
each failure at once to FOLDER/gpu-tests-DATE-failures.txt.  --smoke runs the figures on the fake CuPy of the tests,
which needs no GPU.

    python -m benchmarks.gpu [--seconds 420] [--scale 1] [--only WORD ...] [--out FOLDER]
    python -m benchmarks.gpu --tests [--seconds 420] [--out FOLDER]""",
        takes="seven minutes, or --seconds",
        needs="an NVIDIA GPU, CuPy and numba-cuda; python-picard, SPAMS, fastica-torch and icalens as rivals",
        options=options,
        run=run,
        smoke={"fake": True, "scale": 1e-4, "seconds": 120.0},
        why_not=why_no_gpu,
    ),
)
