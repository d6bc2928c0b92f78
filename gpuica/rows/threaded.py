"""Chunks distributed over host threads, and their results consumed in order, whichever thread finishes first."""

import itertools
import threading

import numpy as np

from ..device.threads import host_threads, one_blas_thread
from ..interrupts import interrupt_flag, raise_if_interrupted


def run_in_threads(n, work, wait_for_slot=None):
    """Call work(i) for i in range(n) from several threads, each with one BLAS thread.

    The first error, or Ctrl-C once each thread has finished its chunk, stops all threads and is raised.
    wait_for_slot: called as wait_for_slot(i, failures) before work(i), to block the thread; returns False if the work
    has failed in the meantime.
    """
    numbers = itertools.count()
    failures: list[BaseException] = []
    interrupted = interrupt_flag()

    def process():
        try:
            while not failures and not interrupted() and (i := next(numbers)) < n:
                if wait_for_slot is None or wait_for_slot(i, failures):
                    work(i)
        except BaseException as error:  # an interrupt too must stop the other threads
            failures.append(error)

    def process_in_thread():
        with one_blas_thread():
            process()

    others = [threading.Thread(target=process_in_thread, daemon=True) for _ in range(min(host_threads(), n) - 1)]
    try:
        with one_blas_thread():
            for thread in others:
                thread.start()
            process()
            for thread in others:
                thread.join()
    except BaseException as error:  # a second Ctrl-C, raised without waiting for the other threads
        failures.append(error)
        raise
    if failures:
        raise failures[0]
    raise_if_interrupted()


class InOrderConsumer:
    """Calls consume(part) for parts in the order of their numbers, one at a time, from any thread."""

    MAX_WAITING = 32  # parts that may wait for an earlier one: bounds the memory

    def __init__(self, consume):
        self.consume, self.waiting, self.next, self.changed = consume, {}, 0, threading.Condition()

    def wait_for_slot(self, i, failures):
        """Block until fewer than MAX_WAITING parts precede part i.  False if the work has failed in the meantime."""
        with self.changed:
            while i - self.next >= self.MAX_WAITING and not failures:
                self.changed.wait(0.1)
        return not failures

    def add(self, i, part):
        """Consume part i, or store it until all earlier parts have been consumed."""
        with self.changed:
            self.waiting[i] = part
            while self.next in self.waiting:
                self.consume(self.waiting.pop(self.next))
                self.next += 1
            self.changed.notify_all()


class RunningTotals:
    """Sums of parts, tuples of arrays, in float64.  sums: the tuple of totals, None before the first part."""

    sums = None

    def add(self, parts):
        """Add a tuple of arrays to the totals."""
        if self.sums is None:
            self.sums = tuple(part.astype(np.float64) for part in parts)  # a copy: the caller owns the part
        else:
            for total, part in zip(self.sums, parts, strict=True):
                total += part
