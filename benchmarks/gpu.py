"""What a GPU does with gpuica: its two ceilings, then kernels, passes and fits as shares of them, then rivals.

    python -m benchmarks.gpu [--seconds 420] [--scale 1] [--only word ...] [--out FOLDER]
    python -m benchmarks.gpu --tests [--seconds 420] [--out FOLDER]

The most important figures come first; those for which there is no time are left out, with a line that says so.  A
figure that fails or takes too long ends its process, and the others go on in a new one.  A result is appended to
FOLDER/gpu-NAME-DATE.jsonl (benchmarks/results by default) as soon as it is known, after a first line with device,
driver, versions, commit and date.  A table comes last.

--tests: the tests that need a GPU, and no figures; the report goes to FOLDER/gpu-tests-DATE.txt line by line, each
failure at once to FOLDER/gpu-tests-DATE-failures.txt.  --scale: all numbers of rows times this, to try the script out.
--fake: on the stand-in for CuPy of the tests, on a machine without a GPU; the numbers mean nothing.
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

from .environment import environment

ROOT = Path(__file__).parents[1]
RESULT, BEGUN = "RESULT ", "BEGUN "  # begin lines of a child's output: a result, the name of a line
LONGEST_TEST = 120  # seconds
STARTING = 12  # seconds that a process may take to load its libraries


def lines_of_output(command, seconds):
    """The lines of a command's output as they come, its errors among them; at last its exit status.

    The command and all that it started are killed after so many seconds, a status of -9.
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
    """Kill a process and its group, if it has not ended."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def run_tests(out, seconds):
    """Run the tests that need a GPU; pytest's exit status, or that of the signal that ended it."""
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
    """Result lines, written to a file and printed as they come."""

    def __init__(self, path, first):
        self.path, self.all = path, []
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write(first)

    def add(self, result):
        self.all.append(result)
        print(as_text(result), flush=True)
        if self.path:
            self._write(result)

    def _write(self, value):
        with self.path.open("a") as file:
            file.write(json.dumps(value) + "\n")

    def ceilings(self):
        """name -> rate, of the results that are ceilings."""
        return {result["ceiling"]: result["rate"] for result in self.all if "ceiling" in result}


class Line(NamedTuple):
    """A figure, or a few that belong together.

    measure: a function of (bench, seconds left) that gives results, dicts, in a list or one by one.
    """

    name: str
    seconds: float  # that it may need
    measure: Callable


def figures():
    """All lines, the most important first."""
    from . import gpu_coding, gpu_lines, gpu_rivals

    return [
        Line("compiled", 2, gpu_lines.compiled),
        Line("ceilings", 4, gpu_lines.ceilings),
        Line("passes", 8, gpu_lines.passes),
        Line("eeg", 4, gpu_lines.eeg),
        Line("whitening", 6, gpu_lines.whitening),
        Line("sweeps", 3, gpu_lines.sweeps),
        Line("decorrelation", 2, gpu_lines.decorrelation),
        Line("whole fit", 18, gpu_rivals.transactional_fit),
        Line("omp", 18, gpu_coding.omp),
        Line("lasso", 22, gpu_coding.lasso),
        Line("picard", 28, gpu_rivals.picard_fit),
        Line("streamed", 10, gpu_lines.streamed),
        Line("same card", 15, gpu_rivals.same_card),  # from here on torch is loaded, and CuPy keeps no memory
        Line("mini-batches", 15, gpu_coding.mini_batches),
        Line("atoms", 4, gpu_coding.atoms),
        Line("resident fits", 6, gpu_lines.resident_fits),
    ]


def measure(results, lines, args, deadline):
    """Measure every line for which there is time.

    A line that fails or is stopped ends its process, because an error of CUDA's stays; those after it get another.
    """
    waiting = list(lines)
    while waiting:
        left = deadline - time.monotonic() - STARTING
        if waiting[0].seconds > left:
            results.add(_left_out(waiting.pop(0), left))
        else:
            waiting = _measured(results, waiting, args, left)


def _measured(results, lines, args, left):
    """Measure lines in a process of their own; those that it did not come to."""
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
    return {"figure": line.name, "note": f"left out: needs {line.seconds} s, {max(left, 0):.0f} s are left"}


def run_lines(lines, bench, seconds):
    """Lines, in this process: their results to standard output, up to the first that fails."""
    deadline = time.monotonic() + seconds
    for line in lines:
        print(BEGUN + line.name, flush=True)
        left = deadline - time.monotonic()
        if line.seconds > left:
            print(RESULT + json.dumps(_left_out(line, left)), flush=True)
            continue
        # ends the process wherever it hangs, and says where
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
    value = result.get("value")
    shown = "" if value is None else f"{value:.4g} {result.get('unit', '')}"
    share = f"{100 * result['share']:.0f} % of {result['of']}" if "share" in result else ""
    ratio = f"{result['ratio']:.1f}x {result['against']}" if "ratio" in result else ""
    return f"{result['figure'][:76]:76} {shown:>18}  {'; '.join(filter(None, [share, ratio, result.get('note', '')]))}"


def _now():
    return f"{datetime.now(UTC):%Y-%m-%d-%H%M%S}"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", default=[], help="figures whose names hold one of these words")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--tests", action="store_true")
    parser.add_argument("--fake", action="store_true")
    parser.add_argument("--line", nargs="*", help=argparse.SUPPRESS)  # measure these in this process
    parser.add_argument("--ceilings", type=json.loads, default={}, help=argparse.SUPPRESS)
    return parser.parse_args()


def main():
    args = arguments()
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
        from .gpu_bench import Bench

        bench, lines = Bench(args.scale, args.ceilings), figures()
        if args.line:
            run_lines([line for line in lines if line.name in args.line], bench, args.seconds)
            return 0
        if args.subset:
            lines = [line for line in lines if any(word in line.name for word in args.subset)]
        where = {**environment(), "device": bench.device(), "scale": args.scale}
        name = re.sub(r"\W+", "-", where["device"]["name"]).strip("-").lower()
        print(f"{where['device']['name']}; commit {where['commit']}, {where['date']}", flush=True)
        results = Results(None if args.fake else args.out / f"gpu-{name}-{_now()}.jsonl", where)
        measure(results, lines, args, deadline)
    print(f"\n{where['device']['name']}, driver {where['device'].get('driver')}; written to {results.path}")
    for result in results.all:
        print(as_text(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
