"""Measures one contestant on one problem: time, memory, quality.

Each measurement has a process of its own, so that its peak memory is its own and a crash is only a result.  The fit on
data in memory is timed; imports, compilation and the generation of the data are not.
"""

import gc
import os
import signal
import statistics
import time
from contextlib import suppress
from functools import partial

import numpy as np

from ..common.environment import environment
from ..common.process import ProcessFailed, in_new_process
from ..common.timing import MB, timed
from .contestants import CONTESTANTS
from .problems import PROBLEMS
from .referee import judge

WARM_UP = 20.0  # seconds: a first fit that takes less is the warm-up, one that takes more is counted
LEAST = 0.5  # seconds: short fits are repeated for at least this long
QUIET = 0.1  # fraction of the machine's processor time used by other programs above which reports warn

# The entries of every result; None if unknown.
KEYS = (
    *("problem", "contestant", "dtype", "n_samples", "n_features", "n_components", "tol", "max_iter", "seed"),
    *("seconds", "seconds_min", "repeats", "others", "n_iter", "n_passes", "converged"),
    *("amari", "gradient", "unrest", "farthest", "whiteness", "loss", "peak_mb", "device_peak_mb", "input_mb", "error"),
)


def measure(problem, contestant, dtype, *, repeats=3, limit=300.0, seed=0, rows=None, save=None):
    """Measure in a new process; a result, the dict that `measured` returns.

    problem, contestant, dtype: names.  limit: seconds that one fit may take.  rows: their number, or None for the
    problem's.  save: file for the components and the mean (.npz), or None.
    """
    known = {"problem": problem, "contestant": contestant, "dtype": dtype, "seed": seed}
    names, options = (problem, contestant, dtype), {"repeats": repeats, "seed": seed, "save": save}
    return measure_in_process(_measured_by_name, *names, rows, known=known, limit=limit, **options)


def measure_in_process(function, *args, known, limit, **options):
    """`function(*args, limit=limit, **options)`, a result, in a new process; what ends the process is a result too.

    known: entries of a result that are known if it fails.
    """
    try:
        return in_new_process(function, *args, limit=limit, **options)
    except ProcessFailed as failure:
        timed_out = failure.signal == signal.SIGALRM
        error = f"over {limit:g} s" if timed_out else f"failed: {failure}"
    return dict.fromkeys(KEYS) | known | {"error": error} | environment()


def _measured_by_name(problem, contestant, dtype, rows, **options):
    problem, contestant = PROBLEMS[problem], CONTESTANTS[contestant]
    return measured(problem.with_rows(rows) if rows else problem, contestant, dtype, **options)


def measured(problem, contestant, dtype, *, repeats, limit, seed, save=None):
    """Measure in this process.  problem: a `Problem`.  contestant: a `Contestant`.  SIGALRM ends it at the limit."""
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
    """The last fit, the seconds and the peak bytes of the timed fits, after imports and compilation; and the fraction
    of the machine that other programs used meanwhile, None if the fits were too short to tell.
    """
    with suppress(Exception):  # a failure recurs in the timed fit below, where it is reported
        fit(X[: max(4096, 4 * problem.n_components)], max_iter=2)
    full = partial(fit, X, max_iter=problem.max_iter)
    signal.setitimer(signal.ITIMER_REAL, limit)  # the signal has no handler, so that it also ends a call of LAPACK
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


def _busy_elsewhere():
    """Seconds of processor time that all other processes have used so far; 0 if the system does not count them."""
    try:
        with open("/proc/stat") as lines:
            user, nice, system, _, _, *interrupts = map(int, next(lines).split()[1:9])
    except OSError:
        return 0.0
    return sum((user, nice, system, *interrupts)) / os.sysconf("SC_CLK_TCK") - time.process_time()
