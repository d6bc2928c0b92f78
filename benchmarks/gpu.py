"""What a GPU does with gpuica: its two ceilings, then kernels, passes and fits as shares of them, then rivals.

    python -m benchmarks.gpu [--seconds 420] [--scale 1] [--only word ...] [--out FOLDER]
    python -m benchmarks.gpu --tests [--seconds 420] [--out FOLDER]

Each figure has a process of its own, which is killed with all it started when its time is over.  A result is appended
to FOLDER/gpu-NAME-DATE.jsonl (benchmarks/results by default) as soon as it is known, after a first line with device,
driver, versions, commit and date.  A table comes last.

--tests: the tests that need a GPU, and no figures; the report goes to FOLDER/gpu-tests-DATE.txt line by line, each
failure at once to FOLDER/gpu-tests-DATE-failures.txt.  --scale: all numbers of rows times this, to try the script out.
--fake: on the stand-in for CuPy of the tests, on a machine without a GPU; the numbers mean nothing.
"""

import argparse
import contextlib
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
from datetime import UTC, datetime
from pathlib import Path

from gpuica.device import why_no_gpu

from .environment import environment

ROOT = Path(__file__).parents[1]
RESULT = "RESULT "  # begins a line of a child's output that holds a result
LONGEST_TEST = 120  # seconds
STARTING = 25  # seconds that a figure's process may take to load its libraries and compile its kernels


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
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-v", "-rf", "-p", "no:cacheprovider"]
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


def measure(results, lines, args, deadline):
    """Measure every line for which there is time, each in a process of its own."""
    for name, needed, _ in lines:
        left = deadline - time.monotonic()
        if needed + STARTING > left:
            results.add({"figure": name, "note": f"left out: needs {needed + STARTING} s, {left:.0f} s are left"})
            continue
        limit = min(left, STARTING + 3 * needed)
        command = [sys.executable, "-m", "benchmarks.gpu", "--line", name, "--seconds", str(left - STARTING)]
        command += ["--scale", str(args.scale), "--ceilings", json.dumps(results.ceilings())]
        status: int | str = 1
        for status in lines_of_output(command + ["--fake"] * args.fake, limit):
            if isinstance(status, str) and status.startswith(RESULT):
                results.add(json.loads(status[len(RESULT) :]))
            elif isinstance(status, str):
                print(status, end="", flush=True)
        if status == -signal.SIGKILL:
            results.add({"figure": name, "note": f"stopped after {limit:.0f} s"})
        elif status:
            results.add({"figure": name, "note": f"failed: its process ended with status {status}"})


def run_line(name, lines, bench, left):
    """One line, in its own process: its results to standard output."""
    line = next(line for found, _, line in lines if found == name)
    try:
        for result in line(bench, left):
            print(RESULT + json.dumps(result), flush=True)
    except Exception as error:
        traceback.print_exc()
        print(RESULT + json.dumps({"figure": name, "note": f"failed: {type(error).__name__}: {str(error)[:200]}"}))


def as_text(result):
    value = result.get("value")
    shown = "" if value is None else f"{value:.4g} {result.get('unit', '')}"
    share = f"{100 * result['share']:.0f} % of {result['of']}" if "share" in result else ""
    ratio = f"{result['ratio']:.1f}x {result['against']}" if "ratio" in result else ""
    return f"{result['figure'][:62]:62} {shown:>18}  {'; '.join(filter(None, [share, ratio, result.get('note', '')]))}"


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
    parser.add_argument("--line", help=argparse.SUPPRESS)  # measure one figure in this process
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
        from . import gpu_lines, gpu_rivals
        from .gpu_bench import Bench

        bench, lines = Bench(args.scale, args.ceilings), (*gpu_lines.LINES, *gpu_rivals.LINES)
        if args.line:
            run_line(args.line, lines, bench, args.seconds)
            return 0
        if args.only:
            lines = [line for line in lines if any(word in line[0] for word in args.only)]
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
