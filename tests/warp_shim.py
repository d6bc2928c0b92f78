"""Warp primitives for Numba's CUDA simulator, which runs one Python thread per CUDA thread and lacks them.

`install()` adds shuffles, votes and `syncwarp` to the module that simulated kernels see.  All lanes of a warp must
take part (full masks only): a lane that stays away makes the others fail after TIMEOUT seconds, where a GPU would hang
or give a wrong answer.
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
    """Lanes that meet: each leaves a value, and all see the values of all."""

    def __init__(self, lanes):
        self.values, self.meeting = [None] * lanes, threading.Barrier(lanes)

    def exchange(self, lane, value):
        self.values[lane] = value
        self.meeting.wait(TIMEOUT)
        seen = list(self.values)
        self.meeting.wait(TIMEOUT)  # nobody leaves the next value before everybody has read these
        return seen


def _exchange(value):
    """(the lane of the calling thread, the values of all lanes of its warp)."""
    thread = threading.current_thread()
    block = thread._manager  # of one block: the simulator makes a new one for each
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


_inside: dict[int, tuple[int, dict]] = {}  # id of a module's names -> (threads inside, what is `cuda` outside)


@contextmanager
def _swapped(function, fake):
    """Numba's `swapped_cuda_module`, which puts its own module in place of `cuda` for a function.

    Numba's gives the name back when the thread that came first leaves, though others are inside; this when the last
    does.
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
    """Make the primitives known to simulated kernels."""
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
