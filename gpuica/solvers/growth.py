"""A solver on growing samples, finished on all rows.

The error of ICA from n rows is about 1/sqrt(n), so early iterations on all rows are waste: start on a small random
sample, stop each stage when the gradient is below its own sampling error, enlarge the sample, start again where the
last stage stopped.  Hyvärinen, IEEE Trans. Neural Networks 10(3), 1999, recommends samples while the estimate is poor.
"""

from dataclasses import replace

FACTOR = 3.0
STAGE = 40  # iterations of a stage: a sample too small for its k would never settle


def first_sample(k):
    """Rows of the first sample for k components: enough for the gradient's sign to mean something."""
    return max(10_000, 30 * k)


def worth_growing(n_rows, k):
    """Whether "auto" grows: when the first sample is a small part of the rows."""
    return n_rows >= 4 * first_sample(k)


def run(solver, oracle, W, *, growth, rng, **options):
    """solver(oracle, W, **options) on all rows, or on growing samples.

    growth: None, a factor > 1, or "auto", by 3 where that is worth it.
    """
    if growth == "auto":
        growth = FACTOR if worth_growing(oracle.n_rows, len(W)) else None
    if growth is None:
        return solver(oracle, W, **options)
    return grow(solver, oracle, W, factor=growth, rng=rng, **options)


def grow(solver, oracle, W, *, factor, rng, max_iter, tol, report=None, **options):
    """Run solver(oracle, W, ...) on samples first_sample(k), times factor, ... and then on all rows.

    factor: > 1.  rng: draws the samples.  max_iter, tol: of the last stage, on all rows; other stages stop when the
    gradient is below its standard error.  n_iter of the solution counts the iterations of all stages.
    """
    n, sampled, n_iter = first_sample(len(W)), 0.0, 0
    while n * factor <= oracle.n_rows:
        sample = oracle.sample(int(n), rng)
        stage = solver(sample, W, max_iter=min(STAGE, max_iter), tol="auto", report=report, **options)
        W, n_iter = stage.W, n_iter + stage.n_iter
        sampled += sample.n_passes * sample.n_rows / oracle.n_rows
        n *= factor
    final = solver(oracle, W, max_iter=max_iter, tol=tol, report=report, **options)
    return replace(final, n_iter=n_iter + final.n_iter, sampled=sampled)
