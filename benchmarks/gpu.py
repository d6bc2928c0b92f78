"""What a GPU does with gpuica: its two ceilings, then kernels, passes and fits as shares of them, then rivals.

    python -m benchmarks.gpu [--seconds 420] [--tests] [--scale 1] [--only word ...] [--out FOLDER]

Every line is measured within the seconds that are left, or left out with a word that says so.  Full numbers go to one
JSON file, benchmarks/results/gpu-NAME-DATE.json, with device, driver, versions, commit and date; a table comes last.

--tests: first the tests that need a GPU.  --scale: all numbers of rows times this, to try the script out.  --fake: on
the stand-in for CuPy of the tests, on a machine without a GPU; the numbers then mean nothing, and none is kept.
"""

import argparse
import contextlib
import importlib.util
import json
import re
import signal
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

from .environment import environment
from .gpu_bench import Bench

ROOT = Path(__file__).parents[1]
TESTS = 200  # seconds that the tests may take


def run_tests(limit):
    """The tests that need a GPU, in a process of their own; (the last line of pytest's report, seconds)."""
    workers = ["-n", "4"] if importlib.util.find_spec("xdist") else []
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rf", "-p", "no:cacheprovider", *workers]
    began = time.perf_counter()
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=limit, check=False)
        report = ran.stdout
    except subprocess.TimeoutExpired as stopped:
        report = (stopped.stdout or b"").decode() + f"\nstopped after {limit:.0f} s"
    print(report[-8000:], flush=True)
    last = [line for line in report.splitlines() if line.strip()][-1:] or ["no report"]
    return last[0].strip("= "), time.perf_counter() - began


def measure(bench, lines, deadline):
    """All lines that there is time for: dicts, each printed when it is known."""
    found = []
    for name, needed, line in lines:
        left = deadline - time.monotonic()
        if needed > left:
            results = [{"figure": name, "note": f"left out: needs {needed} s, {left:.0f} s are left"}]
        else:
            try:
                with at_most(min(left, 3 * needed)):
                    results = line(bench, left)
            except Exception as error:  # a line that fails must not take the others with it
                traceback.print_exc()
                results = [{"figure": name, "note": f"failed: {type(error).__name__}: {str(error)[:200]}"}]
        bench.tidy()
        for result in results:
            print(as_text(result), flush=True)
        found += results
    return found


@contextlib.contextmanager
def at_most(seconds):
    """TimeoutError in the `with` block after so many seconds, between two calls of Python."""

    def stop(*_):
        raise TimeoutError(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def as_text(result):
    value = result.get("value")
    shown = "" if value is None else f"{value:.4g} {result.get('unit', '')}"
    share = f"{100 * result['share']:.0f} % of {result['of']}" if "share" in result else ""
    ratio = f"{result['ratio']:.1f}x {result['against']}" if "ratio" in result else ""
    return f"{result['figure'][:62]:62} {shown:>18}  {'; '.join(filter(None, [share, ratio, result.get('note', '')]))}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=420)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--tests", action="store_true")
    parser.add_argument("--fake", action="store_true")
    args = parser.parse_args()
    deadline = time.monotonic() + args.seconds
    tests = run_tests(min(TESTS, args.seconds / 2)) if args.tests and not args.fake else None

    with contextlib.ExitStack() as stack:
        if args.fake:
            from tests import fake_cupy

            stack.enter_context(fake_cupy.installed())
        from . import gpu_lines, gpu_rivals

        bench = Bench(args.scale)
        lines = [
            line
            for line in (*gpu_lines.LINES, *gpu_rivals.LINES)
            if not args.only or any(word in line[0] for word in args.only)
        ]
        where = {**environment(), "device": bench.device(), "scale": args.scale, "tests": tests}
        print(f"{where['device']['name']}; commit {where['commit']}, {where['date']}", flush=True)
        results = measure(bench, lines, deadline)
    if not args.fake:
        args.out.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"\W+", "-", where["device"]["name"]).strip("-").lower()
        path = args.out / f"gpu-{name}-{datetime.now(UTC):%Y-%m-%d-%H%M}.json"
        path.write_text(json.dumps({**where, "results": results}, indent=1) + "\n")
        print(f"\nwritten to {path}")
    print(f"\n{where['device']['name']}, driver {where['device'].get('driver')}")
    if tests:
        print(f"tests: {tests[0]}")
    for result in results:
        print(as_text(result))


if __name__ == "__main__":
    main()
