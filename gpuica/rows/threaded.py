"""Results of chunks that threads process, consumed in order, whichever thread finishes first."""

import threading

import numpy as np


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
