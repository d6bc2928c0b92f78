"""Measures one contestant on one problem: time, memory, quality.

Each measurement has a process of its own, so that its peak memory is its own and a crash is only a result.  What is
timed is the fit on data in memory; imports, compilation and the making of data are not.

    python -m benchmarks.measure mixture-20k-32 gpuica float32
"""

import argparse
import ctypes
import gc
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from .contestants import CONTESTANTS
from .environment import environment
from .problems import PROBLEMS
from .referee import judge

WARM_UP = 20.0  # seconds: a first fit that takes less is the warm-up, one that takes more is counted
LEAST = 0.5  # seconds: short fits are repeated for at least so long
MB = 1e6

# What every result has; None where it is not known.
KEYS = (
    *("problem", "contestant", "dtype", "n_samples", "n_features", "n_components", "tol", "max_iter", "seed"),
    *("seconds", "seconds_min", "repeats", "others", "n_iter", "n_passes", "converged"),
    *("amari", "gradient", "unrest", "farthest", "whiteness", "loss", "peak_mb", "device_peak_mb", "input_mb", "error"),
)


def measure(problem, contestant, dtype, *, repeats=3, limit=300.0, seed=0, tol=None, max_iter=None, save=None):
    """Measure in a fresh process; a result, the dict that `main` prints.

    problem, contestant, dtype: names.  limit: seconds that one fit may take.  tol, max_iter: None for the problem's.
    save: where to put the components and the mean (.npz), or None.
    """
    options = {"repeats": repeats, "limit": limit, "seed": seed, "tol": tol, "max-iter": max_iter, "save": save}
    given = [f"--{name}={value}" for name, value in options.items() if value is not None]
    command = [sys.executable, "-m", "benchmarks.measure", problem, contestant, dtype, *given]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=False)
    if ran.returncode == 0:
        return json.loads(ran.stdout.splitlines()[-1])
    if ran.returncode == -signal.SIGALRM:
        error = f"over {limit:g} s"
    elif ran.returncode < 0:
        error = f"failed: killed by {signal.Signals(-ran.returncode).name}"
    else:
        error = f"failed: {(ran.stderr.strip().splitlines() or ['no message'])[-1]}"
    known = {"problem": problem, "contestant": contestant, "dtype": dtype, "seed": seed, "error": error}
    return dict.fromkeys(KEYS) | known | environment()


def measured(problem, contestant, dtype, *, repeats, limit, seed, save=None):
    """Measure in this process.  problem, contestant: a Problem and a Contestant.  SIGALRM ends it at the limit."""
    X, A = problem.data(seed, dtype)
    gc.collect()
    result = dict.fromkeys(KEYS) | {
        "problem": problem.name,
        "contestant": contestant.name,
        "dtype": dtype,
        "n_samples": X.shape[0],
        "n_features": X.shape[1],
        "n_components": problem.n_components,
        "tol": problem.tol,
        "max_iter": problem.max_iter,
        "seed": seed,
        "input_mb": X.nbytes / MB,
    }
    fit = partial(contestant.fit, problem=problem, seed=seed, tol=problem.tol)
    try:
        answer, seconds, peaks, others = _timed_fits(fit, X, problem, repeats, limit)
        if not np.isfinite(answer.components).all():
            raise ValueError("components_ are not finite")
    except Exception as error:  # a contestant's failure is a result
        what = str(error).strip().partition("\n")[0]
        return result | {"error": f"failed: {type(error).__name__}: {what}"} | environment()
    if save:
        np.savez(save, components=answer.components, mean=answer.mean)
    on_device = contestant.device_peak()
    return (
        result
        | {
            "seconds": statistics.median(seconds),
            "seconds_min": min(seconds),
            "repeats": len(seconds),
            "others": others,
            "n_iter": answer.n_iter,
            "n_passes": answer.n_passes,
            "converged": answer.converged,
            "peak_mb": None if None in peaks else max(peaks) / MB,
            "device_peak_mb": on_device and on_device / MB,
        }
        | judge(X, answer.components, answer.mean, A)
        | environment()
    )


def _timed_fits(fit, X, problem, repeats, limit):
    """The answer, the seconds and the peak bytes of the timed fits, once all is imported and compiled; and the share of
    the machine that other programs had meanwhile, None where the fits were too short to tell.
    """
    with suppress(Exception):  # whatever fails here fails below, and is told there
        fit(X[: max(4096, 4 * problem.n_components)], max_iter=2)
    full = partial(fit, X, max_iter=problem.max_iter)
    signal.setitimer(signal.ITIMER_REAL, limit)  # nobody handles the signal, so it ends even a call of LAPACK
    began, busy = time.perf_counter(), _busy_elsewhere()
    fits = [timed(full)]
    signal.setitimer(signal.ITIMER_REAL, 0)
    spent = fits[0][1]
    if spent < WARM_UP:
        fits, spent, began, busy = [], 0.0, time.perf_counter(), _busy_elsewhere()
    while not fits or (spent < limit and (len(fits) < repeats or spent < LEAST)):
        fits.append(timed(full))
        spent = time.perf_counter() - began
    answers, seconds, peaks = zip(*fits, strict=True)
    others = (_busy_elsewhere() - busy) / (time.perf_counter() - began) / os.cpu_count() if spent > LEAST else None
    return answers[-1], seconds, peaks, others


def timed(call):
    """call()'s result, its seconds, and the bytes of memory it took at its peak beyond what was there before."""
    gc.collect()
    with suppress(OSError, AttributeError):  # freed memory goes back to the system, so that taking it again is seen
        ctypes.CDLL(None).malloc_trim(0)
    before, can_forget = _memory("VmRSS"), True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    except OSError:
        can_forget = False
    began = time.perf_counter()
    result = call()
    seconds = time.perf_counter() - began
    return result, seconds, max(_memory("VmHWM") - before, 0) if can_forget else None


def _busy_elsewhere():
    """Seconds that the machine's cores have worked so far, this process's own taken off; 0 where nobody counts them."""
    try:
        with open("/proc/stat") as lines:
            user, nice, system, _, _, *interrupts = map(int, next(lines).split()[1:9])
    except OSError:
        return 0.0
    return sum((user, nice, system, *interrupts)) / os.sysconf("SC_CLK_TCK") - time.process_time()


def _memory(field):
    """A line of this process's status, in bytes; where there is none, the largest size that it ever had."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("problem", choices=PROBLEMS)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("dtype", choices=("float32", "float64"))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=300.0, help="seconds that one fit may take")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tol", type=float)
    parser.add_argument("--max-iter", type=int)
    parser.add_argument("--save", type=Path, help="where to put components and mean (.npz)")
    args = parser.parse_args()
    problem, contestant = PROBLEMS[args.problem], CONTESTANTS[args.contestant]
    if reason := problem.why_not() or contestant.why_not():
        parser.error(reason)
    own = {"tol": args.tol, "max_iter": args.max_iter}
    problem = replace(problem, **{name: value for name, value in own.items() if value is not None})
    options = {"repeats": args.repeats, "limit": args.limit, "seed": args.seed, "save": args.save}
    print(json.dumps(measured(problem, contestant, args.dtype, **options)))


if __name__ == "__main__":
    main()
