"""Warp primitives for Numba's CUDA simulator, which runs one Python thread per CUDA thread and lacks them.

`install()` adds shuffles, votes and `syncwarp` to the module that simulated kernels use.  All lanes of a warp must
participate (full masks only): if a lane is missing, the others fail after TIMEOUT seconds, where a GPU would deadlock
or return a wrong result.
"""

import threading
from contextlib import contextmanager

from numba import cuda
from numba.cuda.simulator import kernel
from numba.cuda.simulator.kernelapi import FakeCUDAModule

LANES = 32
TIMEOUT = 30.0
_lock = threading.Lock()


class _Warp:
    """A barrier for the lanes of a warp, at which each receives the values of all."""

    def __init__(self, lanes):
        self.values, self.meeting = [None] * lanes, threading.Barrier(lanes)

    def exchange(self, lane, value):
        self.values[lane] = value
        self.meeting.wait(TIMEOUT)
        seen = list(self.values)
        self.meeting.wait(TIMEOUT)  # values may be overwritten only after all lanes have read them
        return seen


def _exchange(value):
    """Lane of the calling thread, and values of all lanes of its warp."""
    thread = threading.current_thread()
    block = thread._manager  # the simulator creates one manager per block
    number, lane = divmod(thread.thread_id, LANES)
    with _lock:
        warps = block.__dict__.setdefault("warps", {})
        if number not in warps:
            x, y, z = (*block._block_dim, 1, 1)[:3]
            warps[number] = _Warp(min(LANES, x * y * z - LANES * number))
    return lane, warps[number].exchange(lane, value)


def shfl_sync(self, mask, value, source):
    _, values = _exchange(value)
    return values[source % len(values)]


def shfl_up_sync(self, mask, value, delta):
    lane, values = _exchange(value)
    return values[lane - delta] if lane >= delta else value


def shfl_down_sync(self, mask, value, delta):
    lane, values = _exchange(value)
    return values[lane + delta] if lane + delta < len(values) else value


def shfl_xor_sync(self, mask, value, bits):
    lane, values = _exchange(value)
    return values[lane ^ bits] if lane ^ bits < len(values) else value


def ballot_sync(self, mask, predicate):
    return sum(1 << lane for lane, vote in enumerate(_exchange(bool(predicate))[1]) if vote)


def all_sync(self, mask, predicate):
    return all(_exchange(bool(predicate))[1])


def any_sync(self, mask, predicate):
    return any(_exchange(bool(predicate))[1])


def syncwarp(self, mask=0xFFFFFFFF):
    _exchange(None)


_inside: dict[int, tuple[int, dict]] = {}  # id of module globals -> (number of active threads, original `cuda` names)


@contextmanager
def _swapped(function, fake):
    """Thread-safe version of Numba's `swapped_cuda_module`, which replaces `cuda` in the globals of a function.

    Numba's restores the globals when the first thread exits, although others are still active; this one when the last
    thread exits.
    """
    names = function.__globals__
    with _lock:
        count, before = _inside.get(id(names), (0, {}))
        if not count:
            before = {name: value for name, value in names.items() if value is cuda}
            names.update(dict.fromkeys(before, fake))
        _inside[id(names)] = count + 1, before
    try:
        yield
    finally:
        with _lock:
            count, before = _inside.pop(id(names))
            if count > 1:
                _inside[id(names)] = count - 1, before
            else:
                names.update(before)


def install():
    """Make the primitives available to simulated kernels."""
    kernel.swapped_cuda_module = _swapped
    for primitive in (
        shfl_sync,
        shfl_up_sync,
        shfl_down_sync,
        shfl_xor_sync,
        ballot_sync,
        all_sync,
        any_sync,
        syncwarp,
    ):
        setattr(FakeCUDAModule, primitive.__name__, primitive)
