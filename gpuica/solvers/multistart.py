"""Several starting points at once: R solvers in step, their questions answered by one pass over the rows.

R matrices W (k, k) stacked to (R k, k) make one product instead of R small ones.  Each solver runs in a thread of its
own, as it would alone, on the device and stream of the calling thread; a question waits until every solver that still
runs has asked one.
"""

import threading
from contextvars import ContextVar

# The number of the start that this thread solves, for reports; None where there is one start
START: ContextVar[int | None] = ContextVar("START", default=None)
QUESTIONS = ("fixed_point", "likelihood")


def solve_all(solve, oracle, starts, numbers=None):
    """[solve(oracle, W) for W in starts], with one pass for all the questions of a step.

    solve: (oracle, W) -> anything.  oracle: answers QUESTIONS of stacked W, and has a `capture_context`.  The first
    error stops all and is raised.  numbers: START of each, by default from 0 where there are several.
    """
    if numbers is None:
        numbers = range(len(starts)) if len(starts) > 1 else [None]
    if len(starts) == 1:
        before = START.set(numbers[0])
        try:
            return [solve(oracle, starts[0])]
        finally:
            START.reset(before)
    meeting = _Meeting(oracle, len(starts))
    results: list = [None] * len(starts)
    place = oracle.capture_context()

    def run(i):
        START.set(numbers[i])
        try:
            with place():
                results[i] = solve(_Seat(meeting, i), starts[i])
        except BaseException as error:  # an interrupt too
            meeting.failures.append(error)
        finally:
            meeting.leave()

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(len(starts))]
    for thread in threads:
        thread.start()
    meeting.chair()
    for thread in threads:
        thread.join()
    if meeting.failures:
        raise meeting.failures[0]
    return results


class _StoppedError(Exception):
    """Another solver failed."""


class _Meeting:
    """Collects a question from every solver still running; the calling thread answers them all and lets them go on.

    All passes run in the calling thread, so device and BLAS settings are its own, and an interrupt reaches it.
    """

    def __init__(self, oracle, n):
        self.oracle, self.present = oracle, n
        self.asked: dict = {}
        self.answers: dict = {}
        self.failures: list[BaseException] = []
        self.turn = threading.Condition()

    def ask(self, seat, question, W, squares):
        with self.turn:
            self.asked[seat] = (question, W, squares)
            self.turn.notify_all()
            while seat not in self.answers and not self.failures:
                self.turn.wait()
            if self.failures:
                raise _StoppedError
            return self.answers.pop(seat)

    def leave(self):
        with self.turn:
            self.present -= 1
            self.turn.notify_all()

    def chair(self):
        """Answer until everybody has left."""
        try:
            while True:
                with self.turn:
                    while len(self.asked) < self.present and not self.failures:
                        self.turn.wait(0.1)
                    if not self.present or self.failures:
                        return
                    asked, self.asked = dict(sorted(self.asked.items())), {}
                answers = self._answers(asked)
                with self.turn:
                    self.answers.update(answers)
                    self.turn.notify_all()
        except BaseException as error:
            self.failures.append(error)
        finally:
            with self.turn:
                self.turn.notify_all()

    def _answers(self, asked):
        """{seat: answer}, by one pass for each kind of question that was asked."""
        answers: dict = {}
        for question in QUESTIONS:
            seats = [seat for seat, (kind, *_) in asked.items() if kind == question]
            if seats:
                stack, kinds = ([asked[seat][part] for seat in seats] for part in (1, 2))
                options = {"squares": kinds} if any(kinds) else {}
                answers.update(zip(seats, getattr(self.oracle, f"{question}_batch")(stack, **options), strict=True))
        return answers


class _Seat:
    """What one solver sees: the oracle, but its questions go through the meeting."""

    def __init__(self, meeting, seat):
        self._meeting, self._seat = meeting, seat

    def __getattr__(self, name):
        return getattr(self._meeting.oracle, name)

    def accept(self, W):
        """Of several starts the first one's iterates are kept."""
        if self._seat == 0:
            self._meeting.oracle.accept(W)

    def fixed_point(self, W, squares=None):
        return self._meeting.ask(self._seat, "fixed_point", W, squares)

    def likelihood(self, W, squares=None):
        return self._meeting.ask(self._seat, "likelihood", W, squares)
