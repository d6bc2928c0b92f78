"""Several starting points at once: R solvers in lockstep, whose sums over the rows share one pass.

R matrices W (k, k) stacked to (R k, k) make one product instead of R small ones.  So that R of them can be interleaved,
a solver is written as a generator that yields a request for each pass, `FixedPoint` or `Likelihood`, and is sent the
sums.  `solver` makes an ordinary function of it, which evaluates every request at once; `solve_all` collects the
requests of all solvers that still run and evaluates each kind in one pass.  Everything runs in the calling thread.
"""

from contextvars import ContextVar, copy_context
from functools import update_wrapper
from typing import Any, NamedTuple

# The number of the start that is being solved, for reports; None where there is one start
START: ContextVar[int | None] = ContextVar("START", default=None)


class FixedPoint(NamedTuple):
    """A solver's request for `oracle.fixed_point(W, squares)`."""

    W: Any
    squares: str | None = None

    def evaluate(self, oracle):
        """The sums, by a pass."""
        return oracle.fixed_point(self.W, self.squares)

    @staticmethod
    def evaluate_batch(oracle, Ws, squares):
        """The sums of several requests, by one pass."""
        return oracle.fixed_point_batch(Ws, squares)


class Likelihood(NamedTuple):
    """A solver's request for `oracle.likelihood(W, squares)`."""

    W: Any
    squares: str | None = None

    def evaluate(self, oracle):
        """The sums, by a pass."""
        return oracle.likelihood(self.W, self.squares)

    @staticmethod
    def evaluate_batch(oracle, Ws, squares):
        """The sums of several requests, by one pass."""
        return oracle.likelihood_batch(Ws, squares)


class Solver:
    """A function (oracle, W, **options) -> Solution, made of a generator function with the same arguments.

    requests: the generator function.  A generator yields `FixedPoint` or `Likelihood`, is sent the sums, and returns
    the solution.
    """

    def __init__(self, requests):
        self.requests = requests
        update_wrapper(self, requests)

    def __call__(self, oracle, W, **options):
        return evaluate_all(oracle, self.requests(oracle, W, **options))


def evaluate_all(oracle, requests):
    """Run a generator of requests to its end, a pass for each request; return what it returns."""
    sums = None
    try:
        while True:
            sums = requests.send(sums).evaluate(oracle)
    except StopIteration as end:
        return end.value


def solve_all(solver: Solver, oracle, starts, numbers=None, **options):
    """[solver(oracle, W, **options) for W in starts], with one pass for all requests of the same kind.

    solver: a `Solver`.  oracle: that of the solver, and a `protocol.BatchOracle` if there are several starts.
    numbers: START of each, by default from 0 where there are several.  Only the first start's iterates are accepted.
    """
    if numbers is None:
        numbers = range(len(starts)) if len(starts) > 1 else [None]
    contexts = [copy_context() for _ in starts]
    for context, number in zip(contexts, numbers, strict=True):
        context.run(START.set, number)
    if len(starts) == 1:
        return [contexts[0].run(evaluate_all, oracle, solver.requests(oracle, starts[0], **options))]
    oracles = [oracle, *(_WithoutAccept(oracle) for _ in starts[1:])]
    running = {i: solver.requests(oracles[i], W, **options) for i, W in enumerate(starts)}
    solutions: list = [None] * len(starts)
    sums: dict[int, Any] = dict.fromkeys(running)
    while running:
        requests = {}
        for i, generator in list(running.items()):
            try:
                requests[i] = contexts[i].run(generator.send, sums[i])
            except StopIteration as end:
                solutions[i] = end.value
                del running[i]
        sums = _evaluate(oracle, requests)
    return solutions


def _evaluate(oracle, requests):
    """The sums of {start: request}, by one pass for each kind of request."""
    sums: dict[int, Any] = {}
    for kind in (FixedPoint, Likelihood):
        same = {i: request for i, request in requests.items() if isinstance(request, kind)}
        if same:
            Ws, squares = zip(*same.values(), strict=True)
            sums.update(zip(same, kind.evaluate_batch(oracle, Ws, squares if any(squares) else None), strict=True))
    return sums


class _WithoutAccept:
    """The oracle of all starts but the first, whose iterates are the ones to keep."""

    def __init__(self, oracle):
        self._oracle = oracle

    def __getattr__(self, name):
        return getattr(self._oracle, name)

    def accept(self, W):
        """Do nothing."""
