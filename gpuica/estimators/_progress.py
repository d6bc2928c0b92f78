"""Progress lines of verbose fits."""

import time
from copy import copy

from ..solvers.multistart import START


class Progress:
    """Callback of the ICA solvers: prints every tenth iteration and the last, with verbose=2 every iteration.

    Each line states the starting point, if there are several, and the rows that the iteration used.
    """

    def __init__(self, estimator, n_rows, n_components):
        self.estimator, self.n_rows, self.n_components = estimator, n_rows, n_components
        self.monitored, self.prefix = estimator._monitored, ""
        self.began = time.perf_counter()

    def __call__(self, n_iter, sizes, converged_components, n_rows):
        """A solver's `report`: sizes of the monitored quantity and converged_components, (k,); (j,) in deflation."""
        rows = f"all {n_rows} rows" if n_rows == self.n_rows else f"sample of {n_rows} rows"
        if getattr(self.estimator, "algorithm", None) == "deflation":  # one component at a time
            stage = f"{rows}, component {len(sizes)} of {self.n_components}, iteration {n_iter}"
            ended = bool(converged_components[-1])
        else:
            stage, ended = f"{rows}, iteration {n_iter}", bool(converged_components.all())
        if self.estimator.verbose > 1 or n_iter % 10 == 0 or ended or n_iter == self.estimator.max_iter:
            self._print(stage, sizes, converged_components)

    def batches(self, step, sizes, converged_components, n_rows):
        """The callback for stochastic steps on batches of n_rows rows."""
        self._print(f"batches of {n_rows} rows, step {step}", sizes, converged_components)

    def of_fastica(self):
        """The callback for preceding iterations of FastICA."""
        first = copy(self)
        first.monitored, first.prefix = "delta", "FastICA first, "
        return first

    def _print(self, stage, sizes, converged_components):
        """Print the stage, the number of converged components and the largest of `sizes`."""
        start, estimator = START.get(), self.estimator
        print_line(
            estimator,
            ("" if start is None else f"start {start + 1} of {estimator.n_init}, ")
            + f"{self.prefix}{stage}: {int(converged_components.sum())} of {self.n_components} components converged, "
            f"largest {self.monitored} {float(sizes.max()):.4g} (tol {estimator.tol}), "
            f"{time.perf_counter() - self.began:.1f} s",
        )


def by_batches(stochastic):
    """A function like `solvers.stochastic.stochastic_picard` that reports by `Progress.batches`."""

    def reporting(oracle, starts, *, report=None, **options):
        return stochastic(oracle, starts, report=report and report.batches, **options)

    return reporting


def print_line(estimator, text):
    """Print a line with the estimator's name as prefix."""
    print(f"[{type(estimator).__name__}] {text}", flush=True)


def print_resumed(estimator, learned):
    """Print that a fit resumes from a checkpoint, if it does; learned: a `FitState`."""
    if estimator.verbose and learned.n_iter:
        print_line(estimator, f"resumed from {estimator.checkpoint} after {learned.n_iter} iterations or batches")
