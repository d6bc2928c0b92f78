"""A solver on growing samples, finished on all rows.

The error of ICA from n rows is about 1/sqrt(n), so early iterations on all rows are waste: start on a small random
sample, stop each stage when the gradient is below its own sampling error, enlarge the sample, start again where the
last stage stopped.  Hyvärinen, IEEE Trans. Neural Networks 10(3), 1999, recommends samples while the estimate is poor.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from .restarts import solve_all

FACTOR = 2.0
KEPT = 4  # of so many starts one goes on to the next sample, after STAGE / 2 iterations: enough to tell them apart
ENOUGH = 4  # first samples' worth of rows that make a small part of them worth a look
PROBE = 2  # the same, of rows that tell the curvature
STAGE = 20  # iterations of a stage: a sample too small for its k would never settle


def first_sample(k):
    """Rows of the first sample for k components: enough for the gradient's sign to mean something."""
    return max(10_000, 30 * k)


def worth_growing(n_rows, k):
    """Whether "auto" grows: when the first sample is a small part of the rows."""
    return n_rows >= ENOUGH * first_sample(k)


def run(solver, oracle, starts, **options):
    """The best Solution of `run_all`, whose starts compete on samples."""
    solutions = run_all(solver, oracle, starts, survivors=1, **options)
    return solutions[fittest(oracle, solutions)[0]]


def run_all(solver, oracle, starts, *, growth, rng, max_iter, tol, survivors=None, report=None, **options):
    """The Solutions of solver(oracle, W, ...) for the starts, on all rows or on growing samples.

    starts: list of W (k, k).  growth: None, a factor > 1, or "auto", FACTOR where that is worth it.  rng: draws the
    samples, whose sizes count effective rows, so that none is made of rows of no weight.  max_iter, tol: of the last
    stage, on all rows; earlier stages stop when the gradient is below its standard error.  survivors: 1, one start in
    KEPT goes from each sample to the next and the best to all rows, or None, all do; several starts compete on one
    sample without growth too.  n_iter of a solution counts the iterations of all its stages, `sampled` the passes over
    samples.

    The last two stages may look at the curvature, in samples of their rows: those before would arrive sooner, but at
    minima of their own small samples (MiniLM, layer 0: a loss of 84.4 instead of 81.4).
    """
    worth_it = worth_growing(oracle.n_effective, len(starts[0]))
    if growth == "auto":
        growth = FACTOR if worth_it else None
    first = n = first_sample(len(starts[0]))
    sampled, n_iter, rows_a_row = 0.0, [0] * len(starts), oracle.n_rows / oracle.n_effective
    probe = (int(PROBE * first * rows_a_row), rng) if growth else None
    if growth is None and survivors and len(starts) > 1 and worth_it:
        growth = oracle.n_effective / n
    while growth and n * growth <= oracle.n_effective:
        sample = oracle.sample(int(n * rows_a_row), rng)
        most = STAGE // 2 if survivors and len(starts) > 1 else STAGE
        if n * growth * growth > oracle.n_effective and n >= ENOUGH * first:
            sample.probe = probe
        stage = partial(solver, max_iter=min(most, max_iter), tol="auto", report=report, **options)
        found = solve_all(stage, sample, starts)
        n *= growth
        if survivors and len(found) > 1:
            kept = 1 if n * growth > oracle.n_effective else -(-len(found) // KEPT)
            best = fittest(sample, found)[:kept]
            found, n_iter = [found[i] for i in best], [n_iter[i] for i in best]
        starts = [solution.W for solution in found]
        n_iter = [before + solution.n_iter for before, solution in zip(n_iter, found, strict=True)]
        sampled += (sample.n_passes + sample.probed) * sample.n_rows / oracle.n_rows
    oracle.probe = probe if worth_it else None
    final = solve_all(partial(solver, max_iter=max_iter, tol=tol, report=report, **options), oracle, starts)
    return [
        replace(solution, n_iter=before + solution.n_iter, sampled=sampled + oracle.probed)
        for before, solution in zip(n_iter, final, strict=True)
    ]


def fittest(oracle, solutions):
    """The indices of the solutions, those first whose sources are farthest from Gaussian.

    By Σ |E G(y_i) - E G(Gaussian)|.
    """
    if len(solutions) == 1:
        return [0]
    gaussian = oracle.gaussian_loss()
    answers = oracle.likelihood_of_all([solution.W for solution in solutions])
    return np.argsort([-float(abs(answer.loss - gaussian).sum()) for answer in answers], kind="stable").tolist()
