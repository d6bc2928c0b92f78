"""A solver on growing samples, finished on all rows.

The error of ICA from n rows is about 1/sqrt(n), so early iterations on all rows are waste: start on a small random
sample, stop each stage when the gradient is below its own standard error, enlarge the sample, and start the next stage
where the last one stopped.  Hyvärinen, IEEE Trans. Neural Networks 10(3), 1999, recommends samples while the estimate
is poor.

Where a solver does not converge on a sample within a stage, sources depend on each other, and it would not on larger
samples either: `stochastic_picard` on batches of all rows then replaces the remaining samples.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..device import to_host
from .fastica import parallel
from .multistart import Solver, solve_all
from .protocol import SampledOracle
from .stochastic import MAX_EPOCHS, NEARLY_GAUSSIAN, StochasticResult

FACTOR = 2.0  # of growth="auto"
COMPETITORS = 4  # of so many starts one continues on the next sample
SIGNIFICANT = 5.0  # standard errors of Σ E G(y), by which the distance from Gaussian must increase
ROWS_TO_LEAVE = 20  # first samples, in the one on which FastICA leaves such components: with 10 it often does not
MAX_ITER_TO_LEAVE = 30  # of FastICA there: 118 mixtures of uniform sources took 21
MAX_ITER_STAGE = 20  # iterations of a stage: a sample too small for its k would never converge
MAX_ITER_COMPETITION = 10  # of a stage that starts compete in: enough to rank them
MAX_ITER_WARM = 5  # of a stage that starts from the last one's solution: few independent sources take two or three


def first_sample(k):
    """The number of rows of the first sample for k components: enough for the gradient's sign to be significant."""
    return max(10_000, 30 * k)


def worth_growing(n_rows, k):
    """Whether growth="auto" grows: when the first sample is a small part of the rows."""
    return n_rows >= 4 * first_sample(k)


def run(solver: Solver, oracle: SampledOracle, starts, **options):
    """The best Solution of `run_all`, whose starts compete on samples."""
    solutions = run_all(solver, oracle, starts, compete=True, **options)
    return solutions[fittest(oracle, solutions)[0]]


def run_all(
    solver: Solver,
    oracle: SampledOracle,
    starts,
    *,
    growth,
    rng,
    max_iter,
    tol,
    stage_tol="auto",
    stochastic=None,
    compete=False,
    report=None,
    **options,
):
    """The Solutions of solver(oracle, W, ...) for the starts, on all rows or on growing samples.

    solver: a `multistart.Solver`.  oracle: a `protocol.SampledOracle`.  starts: list of W (k, k).  growth: None, a
    factor > 1, or "auto", FACTOR where that is worth it.  rng: draws the samples, whose sizes count effective rows, so
    that no sample consists of rows of weight 0.  max_iter, tol: of the last stage, on all rows; earlier stages have
    stage_tol, "auto": stop when the gradient is below its standard error.  stochastic: `stochastic_picard` or a
    function like it, called when a sample does not converge, or None.  compete: whether only one start in COMPETITORS
    continues from each sample to the next, and the best on all rows; several starts then compete on one sample without
    growth too.  options: further arguments of the solver.

    The n_iter of a solution counts the iterations of all its stages and the epochs of `stochastic`, its `sampled` the
    passes over samples and batches.
    """
    k = len(starts[0])
    growth, stochastic = _resolve(growth, stochastic, oracle, k, compete and len(starts) > 1)
    leaves = bool(growth and options.get("ortho") and options.get("extended"))
    runs = _Runs(starts, list(range(len(starts))) if len(starts) > 1 else [None], [0] * len(starts))
    size = first_sample(k)
    while growth and size * growth <= oracle.n_kish:
        sample = oracle.sample(int(size * (oracle.n_rows / oracle.n_kish)), rng)
        alone = not compete or len(runs.starts) == 1
        limit = min(_stage_iterations(alone, stochastic and size > first_sample(k)), max_iter)
        stage = {"max_iter": limit, "tol": stage_tol, "final": False, "report": report, **options}
        solutions = solve_all(solver, sample, runs.starts, runs.numbers, **stage)
        size *= growth
        if not alone:
            last = size * growth > oracle.n_kish
            best = fittest(sample, solutions)[: 1 if last else -(-len(solutions) // COMPETITORS)]
            solutions, runs = [solutions[i] for i in best], runs.subset(best)
        runs.advance([s.W for s in solutions], [s.n_iter for s in solutions])
        runs.sampled += sample.n_passes * sample.n_rows / oracle.n_rows
        if stochastic and alone and not all(solution.converged for solution in solutions):
            # a fit that resumes does not draw the batches again, and must draw the same numbers afterwards
            rng, of_batches = np.random.RandomState(rng.randint(2**31 - 1)), rng
            found = _cached(stochastic, oracle, runs.starts, of_batches, min(MAX_EPOCHS, max_iter), report)
            runs.advance(found.Ws, [found.epochs] * len(found.Ws))
            runs.sampled += found.passes
            if leaves:
                ends = zip(found.Ws, found.excesses, strict=True)
                runs.advance(*zip(*(_leave_mixtures(oracle, *end, rng, runs) for end in ends), strict=True))
            break
    final = {"max_iter": max_iter, "tol": tol, "report": report, **options}
    solutions = solve_all(solver, oracle, runs.starts, runs.numbers, **final)
    for i, solution in enumerate(solutions if leaves else ()):
        W, n_iter = _leave_mixtures(oracle, solution.W, solution.excess, rng, runs)
        if n_iter:
            (better,) = solve_all(solver, oracle, [W], [runs.numbers[i]], **final)
            solutions[i] = replace(better, n_iter=solution.n_iter + n_iter + better.n_iter)
    return runs.finish(solutions)


def _leave_mixtures(oracle, W, excess, rng, runs):
    """W (k, k), or a better one, where nearly Gaussian components can be mixtures of sources with the other sign.

    A mixture of many sub-Gaussian sources is so nearly Gaussian that its sign can be the wrong one, by which equal
    mixtures are a minimum of the loss.  FastICA's fixed point has no sign: on a sample, in the subspace of these
    components, it leaves such mixtures, and stays where components are Gaussian.

    excess: the distance of each component from Gaussian, (k,).  Returns also the iterations, 0 where W is returned.
    """
    (chosen,) = oracle.xp.nonzero(excess < NEARLY_GAUSSIAN)
    if len(chosen) < 2:
        return W, 0
    before = W[chosen]
    size = ROWS_TO_LEAVE * first_sample(len(W))
    sample = (oracle.sample(size, rng) if size < oracle.n_rows else oracle).subspace(before)
    limits = {"max_iter": MAX_ITER_TO_LEAVE, "tol": 1e-3, "final": False}
    (other,) = solve_all(parallel, sample, [oracle.xp.eye(len(chosen))], **limits)
    runs.sampled += sample.n_passes * sample.n_rows / oracle.n_rows * len(chosen) / len(W)
    after = other.W @ before
    old, new = oracle.likelihood_batch([before, after])
    gain = to_host(abs(new.loss - oracle.gaussian_loss()).sum() - abs(old.loss - oracle.gaussian_loss()).sum())
    noise = to_host(((old.square + new.square) / oracle.n_effective).sum() ** 0.5)  # Var G(y) < E g(y)²
    if not gain > SIGNIFICANT * noise:
        return W, 0
    W = W.copy()
    W[chosen] = after
    return W, other.n_iter


@dataclass
class _Runs:
    """The starts that still compete.

    starts: W (k, k) of each, at present.  numbers: START of each.  n_iter: iterations of each.  sampled: passes over
    samples, as a number of passes over all rows.
    """

    starts: list[Any]
    numbers: list[int | None]
    n_iter: list[int]
    sampled: float = 0.0

    def subset(self, indices):
        """Only these starts."""
        return _Runs(
            [self.starts[i] for i in indices],
            [self.numbers[i] for i in indices],
            [self.n_iter[i] for i in indices],
            self.sampled,
        )

    def advance(self, Ws, n_iter):
        """Continue from Ws, after so many iterations of each."""
        self.starts = Ws
        self.n_iter = [before + more for before, more in zip(self.n_iter, n_iter, strict=True)]

    def finish(self, solutions):
        """The solutions on all rows, with the iterations and passes of all stages."""
        return [
            replace(solution, n_iter=before + solution.n_iter, sampled=self.sampled)
            for before, solution in zip(self.n_iter, solutions, strict=True)
        ]


def _resolve(growth, stochastic, oracle, k, competition):
    """The factor by which samples grow, or None, and `stochastic`, or None without growth.

    A competition of several starts without growth takes place on one sample: the factor from it to all rows.
    """
    worth_it = worth_growing(oracle.n_kish, k)
    if growth == "auto":
        growth = FACTOR if worth_it else None
    if growth is not None:
        return growth, stochastic
    return oracle.n_kish / first_sample(k) if competition and worth_it else None, None


def _stage_iterations(alone, warm):
    """The largest number of iterations of a stage.  alone: whether no starts compete.  warm: whether it continues from
    an earlier stage, and `stochastic` follows where it does not converge."""
    if not alone:
        return MAX_ITER_COMPETITION
    return MAX_ITER_WARM if warm else MAX_ITER_STAGE


def _cached(stochastic, oracle, starts, rng, max_epochs, report):
    """stochastic(oracle, starts, ...), or its result from before the fit was interrupted."""

    def compute():
        found = stochastic(oracle, starts, rng=rng, max_epochs=max_epochs, report=report)
        return [*found.Ws, *found.excesses, np.array([found.passes, found.epochs], dtype=np.float64)]

    # "annealed" is the name of the result in checkpoints
    *arrays, (passes, epochs) = oracle.cached_result("annealed", compute, starts, rng, max_epochs)
    return StochasticResult(arrays[: len(starts)], arrays[len(starts) :], float(passes), int(epochs))


def fittest(oracle: SampledOracle, solutions):
    """The indices of the solutions, those whose sources are farthest from Gaussian first.

    By Σ |E G(y_i) - E G(u)| of a standard normal u.  One pass where there are several.
    """
    if len(solutions) == 1:
        return [0]
    gaussian = oracle.gaussian_loss()
    likelihoods = oracle.likelihood_batch([solution.W for solution in solutions])
    return np.argsort([-float(abs(at.loss - gaussian).sum()) for at in likelihoods], kind="stable").tolist()
