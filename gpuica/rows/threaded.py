"""Chunks of host rows shared out to threads, and what they give added up in order, whichever thread was ready first."""

import itertools
import threading

import numpy as np

from ..device.threads import host_threads, one_blas_thread
from ..interrupts import interrupt_flag, raise_if_interrupted


def run_in_threads(n, work, wait_for_slot=None):
    """Call work(i) for i in range(n) from several threads, each with a one-thread BLAS.

    The first error, or an interrupt, stops all threads and is raised; Ctrl-C does once each has done its chunk.
    wait_for_room: called with (i, failures) before
    work(i), to hold a thread back; returns False when the work has failed meanwhile.
    """
    turns = itertools.count()
    failures: list[BaseException] = []
    interrupted = interrupt_flag()

    def take_turns():
        try:
            while not failures and not interrupted() and (i := next(turns)) < n:
                if wait_for_slot is None or wait_for_slot(i, failures):
                    work(i)
        except BaseException as error:  # an interrupt too: the other threads must stop
            failures.append(error)

    def help_out():
        with one_blas_thread():
            take_turns()

    others = [threading.Thread(target=help_out, daemon=True) for _ in range(min(host_threads(), n) - 1)]
    try:
        with one_blas_thread():
            for thread in others:
                thread.start()
            take_turns()
            for thread in others:
                thread.join()
    except BaseException as error:  # a second Ctrl-C, which does not wait for the others
        failures.append(error)
        raise
    if failures:
        raise failures[0]
    raise_if_interrupted()


class InOrderConsumer:
    """Hands parts on in the order of their numbers, one at a time, whoever is ready first."""

    AHEAD = 32  # parts that may wait for an earlier one: bounds the memory

    def __init__(self, consume):
        self.consume, self.waiting, self.next, self.turn = consume, {}, 0, threading.Condition()

    def wait_for_slot(self, i, failures):
        """Wait until part i is not too far ahead.  False when the work has failed meanwhile."""
        with self.turn:
            while i - self.next >= self.AHEAD and not failures:
                self.turn.wait(0.1)
        return not failures

    def add(self, i, part):
        with self.turn:
            self.waiting[i] = part
            while self.next in self.waiting:
                self.consume(self.waiting.pop(self.next))
                self.next += 1
            self.turn.notify_all()


class RunningTotals:
    """Adds parts, tuples of arrays, in float64."""

    sums = None

    def add(self, parts):
        if self.sums is None:
            self.sums = tuple(part.astype(np.float64) for part in parts)  # a copy: parts may be somebody's
        else:
            for total, part in zip(self.sums, parts, strict=True):
                total += part
