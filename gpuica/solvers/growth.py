"""A solver on growing samples, finished on all rows.

The error of ICA from n rows is about 1/sqrt(n), so early iterations on all rows are waste: start on a small random
sample, stop each stage when the gradient is below its own sampling error, enlarge the sample, start again where the
last stage stopped.  Hyvärinen, IEEE Trans. Neural Networks 10(3), 1999, recommends samples while the estimate is poor.

Where a sample does not come to rest soon, sources depend on each other, and larger samples would not either: what
`annealing` makes of batches of all rows takes the place of the samples that are left.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from .multistart import solve_all
from .stochastic import ROUNDS

FACTOR = 2.0
KEPT = 4  # of so many starts one goes on to the next sample, after STAGE / 2 iterations: enough to tell them apart
STAGE = 20  # iterations of a stage: a sample too small for its k would never settle
WARM = 5  # iterations of a stage that begins where another ended: few independent sources take two or three


def first_sample(k):
    """Rows of the first sample for k components: enough for the gradient's sign to mean something."""
    return max(10_000, 30 * k)


def worth_growing(n_rows, k):
    """Whether "auto" grows: when the first sample is a small part of the rows."""
    return n_rows >= 4 * first_sample(k)


def run(solver, oracle, starts, **options):
    """The best Solution of `run_all`, whose starts compete on samples."""
    solutions = run_all(solver, oracle, starts, survivors=1, **options)
    return solutions[fittest(oracle, solutions)[0]]


def run_all(
    solver,
    oracle,
    starts,
    *,
    growth,
    rng,
    max_iter,
    tol,
    stage_tol="auto",
    anneal=None,
    survivors=None,
    report=None,
    **options,
):
    """The Solutions of solver(oracle, W, ...) for the starts, on all rows or on growing samples.

    starts: list of W (k, k).  growth: None, a factor > 1, or "auto", FACTOR where that is worth it.  rng: draws the
    samples, whose sizes count effective rows, so that none is made of rows of no weight.  max_iter, tol: of the last
    stage, on all rows; earlier stages have stage_tol, "auto": stop when the gradient is below its standard error.
    survivors: 1, one start in KEPT goes from each sample to the next and the best to all rows, or None, all do; several
    starts compete on one sample without growth too.  anneal: what to do, as `annealed`, when a sample does not come to
    rest, or None.  n_iter of a solution counts the iterations of all its stages and the rounds of annealing, `sampled`
    the passes over samples and batches.
    """
    worth_it = worth_growing(oracle.n_kish, len(starts[0]))
    if growth == "auto":
        growth = FACTOR if worth_it else None
    n, sampled, n_iter = first_sample(len(starts[0])), 0.0, [0] * len(starts)
    numbers = list(range(len(starts))) if len(starts) > 1 else [None]
    if growth is None:
        anneal = None
        if survivors and len(starts) > 1 and worth_it:
            growth = oracle.n_kish / n
    while growth and n * growth <= oracle.n_kish:
        sample = oracle.sample(int(n * (oracle.n_rows / oracle.n_kish)), rng)
        alone, warm = not survivors or len(starts) == 1, n > first_sample(len(starts[0]))
        most = (WARM if anneal and warm else STAGE) if alone else STAGE // 2
        stage = partial(solver, max_iter=min(most, max_iter), tol=stage_tol, final=False, report=report, **options)
        found = solve_all(stage, sample, starts, numbers)
        n *= growth
        if survivors and len(found) > 1:
            kept = 1 if n * growth > oracle.n_kish else -(-len(found) // KEPT)
            best = fittest(sample, found)[:kept]
            found, n_iter, numbers = ([part[i] for i in best] for part in (found, n_iter, numbers))
        starts = [solution.W for solution in found]
        n_iter = [before + solution.n_iter for before, solution in zip(n_iter, found, strict=True)]
        sampled += sample.n_passes * sample.n_rows / oracle.n_rows
        if anneal and alone and not all(solution.converged for solution in found):
            rounds = min(ROUNDS, max_iter)
            starts, passes, rounds = _remembered(anneal, oracle, starts, rng, rounds, report)
            sampled, n_iter = sampled + passes, [before + rounds for before in n_iter]
            break
    final = solve_all(partial(solver, max_iter=max_iter, tol=tol, report=report, **options), oracle, starts, numbers)
    return [
        replace(solution, n_iter=before + solution.n_iter, sampled=sampled)
        for before, solution in zip(n_iter, final, strict=True)
    ]


def _remembered(anneal, oracle, starts, rng, rounds, report):
    """anneal(oracle, starts, ...), or what it was before the fit was interrupted."""

    def make():
        Ws, *counts = anneal(oracle, starts, rng=rng, rounds=rounds, report=report)
        return [*Ws, np.array(counts, dtype=np.float64)]

    *Ws, (passes, rounds) = oracle.cached_result("annealed", make, starts, rng, rounds)
    return Ws, float(passes), int(rounds)


def fittest(oracle, solutions):
    """The indices of the solutions, those first whose sources are farthest from Gaussian.

    By Σ |E G(y_i) - E G(Gaussian)|.
    """
    if len(solutions) == 1:
        return [0]
    gaussian = oracle.gaussian_loss()
    answers = oracle.likelihood_batch([solution.W for solution in solutions])
    return np.argsort([-float(abs(answer.loss - gaussian).sum()) for answer in answers], kind="stable").tolist()
