"""Wall-clock time and peak memory of calls on the host."""

import ctypes
import gc
import resource
import statistics
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MB = 1e6


@dataclass(frozen=True)
class Timing:
    """Repeated calls of one function: the wall-clock seconds of each, the peak memory in bytes, the last result.

    peak is the largest resident memory of any call beyond what was resident before it, or None where it was not
    measured or the system does not report it.
    """

    seconds: tuple[float, ...]
    peak: int | None
    result: Any

    @property
    def median(self):
        return statistics.median(self.seconds)

    @property
    def least(self):
        return min(self.seconds)


def repeat(call, *, repeats=3, warm_up=True, total=0.0, most=None, memory=False):
    """Time `call()`, at least `repeats` times and for at least `total` seconds together, but no more than `most` times.

    warm_up: call once before, untimed, for compilation and caches.  memory: also measure the peak resident memory,
    which collects garbage and returns freed memory to the system before each call.  The result of a call is dropped
    before the next one, so that its memory can be reused.
    """
    if warm_up:
        call()
    seconds: list[float] = []
    peaks: list[int | None] = []
    result = None
    while len(seconds) < repeats or (sum(seconds) < total and len(seconds) < (most or len(seconds) + 1)):
        result = None
        result, *measured = timed(call) if memory else _clocked(call)
        seconds.append(measured[0])
        peaks.append(measured[1])
    known = [peak for peak in peaks if peak is not None]
    return Timing(tuple(seconds), max(known) if known else None, result)


def interleave(calls, repeats):
    """{name: Timing} of calls {name: call} that alternate, so that slow changes of the machine affect all alike.

    Each is called once before, untimed; its `Timing.result` is the result of that call.
    """
    results = {name: call() for name, call in calls.items()}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            seconds[name].append(_clocked(call)[1])
    return {name: Timing(tuple(seconds[name]), None, results[name]) for name in calls}


def timed(call):
    """(result, seconds, peak) of `call()`; peak: bytes of resident memory at its peak beyond those before it, or None.

    Freed memory is returned to the system first, so that the memory that the call takes shows in the measurement.
    """
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    before, can_reset = resident("VmRSS"), True
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
    except OSError:
        can_reset = False
    result, seconds, _ = _clocked(call)
    return result, seconds, max(resident("VmHWM") - before, 0) if can_reset else None


def resident(field):
    """Resident memory of this process in bytes: now (VmRSS) or at its peak (VmHWM); off Linux, always the peak."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _clocked(call):
    began = time.perf_counter()
    result = call()
    return result, time.perf_counter() - began, None
