"""The fits of MiniBatchDictionaryLearning: batches in random order, and one batch that the caller passes."""

import time
from functools import partial

import numpy as np
from sklearn.utils.extmath import randomized_svd

from ..code_oracle import CodeOracle, finite_cost
from ..device import to_host
from ..device.transfers import download
from ..input import report_nonfinite
from ..input.shared import common_random_state
from ..interrupts import interruptible
from ..solvers.dictionary import EarlyStopping, FitState, SufficientStatistics, one_batch, online
from ..solvers.recent_codes import RecentCodes
from ._checkpoint import for_callback
from ._code_warnings import warn_of_unfinished
from ._codes import open_for_coding
from ._learning import (
    atom_options,
    check_atoms,
    check_problem,
    initial_atoms,
    keeps_codes,
    open_fit,
    solve_and_store,
    store_atoms,
)
from ._parameters import check_overflow
from ._progress import print_line, print_resumed

PRINT_INTERVAL = 2.0  # seconds between two progress lines


def fit_minibatches(estimator, X):
    """Fit the estimator to X, in up to max_iter passes over shuffled batches."""
    problem = check_problem(estimator, X)
    data, shape, coder, device = problem
    batch_size = min(_batch_size(estimator, shape[0]), data.shape[0])
    steps_per_epoch = -(-data.shape[0] // batch_size)
    n_steps = estimator.max_iter * steps_per_epoch
    estimator.device_ = str(device)
    with device.active(), open_fit(estimator, problem) as (oracle, snapshots):
        rng = estimator._random_state = snapshots.rng
        statistics = estimator._statistics = _no_statistics(estimator, problem, oracle.xp)
        with report_nonfinite(estimator, data):
            state = FitState(device.put(_first_atoms(estimator, problem, oracle, rng)))
        stopping = EarlyStopping(data.shape[0], shape[0], estimator.tol, estimator.max_no_improvement)
        first_draws = rng.get_state()
        snapshots.restore(state, device.put, n_steps, statistics, stopping)
        print_resumed(estimator, state)
        solve = partial(
            online,
            *(state, statistics, _batches(estimator, oracle, batch_size, rng, first_draws, skip=state.n_iter)),
            max_steps=n_steps,
            stop=partial(_stop, stopping),
            report=_reporter(estimator, snapshots, stopping, n_steps, steps_per_epoch),
            **atom_options(estimator, rng, oracle.xp),
        )
        try:
            solve_and_store(estimator, data, state, solve, partial(_store, estimator, steps_per_epoch))
            snapshots.save(state, statistics, stopping, now=True)
        finally:
            statistics.to(download)  # so that a pickle can be loaded without a GPU
    device.release_for_torch()
    warn_of_unfinished(state.n_unfinished, batch_size, coder)


def fit_one_batch(estimator, X):
    """Update the estimator with the rows of X as one batch; the first call initialises it."""
    first = not hasattr(estimator, "components_")
    problem = check_problem(estimator, X, reset=first)
    data, shape, coder, device = problem
    with device.active():
        oracle = CodeOracle(open_for_coding(data, shape[0], device).upload(), coder)
        if first:
            estimator._random_state = common_random_state(estimator.random_state, data)
            estimator._statistics = _no_statistics(estimator, problem, oracle.xp)
            D = device.put(_first_atoms(estimator, problem, oracle, estimator._random_state))
            estimator.n_steps_, estimator.n_replaced_ = 0, 0
        else:
            D = device.put(estimator.components_.astype(data.dtype, copy=False))
            estimator._statistics.to(device.put)
        options = atom_options(estimator, estimator._random_state, oracle.xp)
        try:
            D, cost, n_replaced, n_unfinished = one_batch(
                oracle, D, estimator._statistics, estimator.n_steps_, **options
            )
        finally:
            estimator._statistics.to(download)  # so that a pickle can be loaded without a GPU
        finite_cost(cost)
    D = to_host(D)
    check_overflow(D.dtype, D)
    estimator.components_ = D
    estimator.n_steps_ += 1
    estimator.n_replaced_ += n_replaced
    estimator.device_ = str(device)
    warn_of_unfinished(n_unfinished, data.shape[0], coder)


def _batch_size(estimator, n_atoms):
    """Rows of a batch; for "auto" as many as atoms, between 256 and 4096."""
    return min(max(256, n_atoms), 4096) if estimator.batch_size == "auto" else int(estimator.batch_size)


def _no_statistics(estimator, problem, xp):
    """The sufficient statistics before the first batch."""
    if keeps_codes(estimator, problem.shape, problem.device):
        return RecentCodes(problem.shape, problem.data.dtype, estimator.memory, estimator.positive_dict)
    return SufficientStatistics(problem.shape, problem.data.dtype, xp, estimator.memory)


def _first_atoms(estimator, problem, oracle, rng):
    """The initial atoms (K, d) on the host: `dict_init` if it is given, else by `init`."""
    if estimator.dict_init is not None:
        return check_atoms(estimator.dict_init, "dict_init", problem.shape, problem.data.dtype)
    return initial_atoms(estimator, problem, oracle, rng, partial(_singular_vectors, k=problem.shape[0], rng=rng))


def _singular_vectors(X, k, rng):
    """S Vᵀ of the first k singular vectors of X, by the randomised algorithm that scikit-learn uses."""
    _, S, V = randomized_svd(X, k, random_state=rng)
    return S[:, None] * V


def _batches(estimator, oracle, size, rng, first_draws, skip):
    """The oracles of the batches after the first `skip`, of a resumed fit in the order of the interrupted one.

    first_draws: the state of the fit's RandomState before the first batch, from which the order is drawn again.
    """
    if not estimator.shuffle:
        return oracle.batches(size, None, skip)
    if not skip:
        return oracle.batches(size, rng)
    replayed = np.random.RandomState()
    replayed.set_state(first_draws)
    return oracle.batches(size, replayed, skip)


def _stop(stopping, step, D, old, cost, n_rows):
    """Whether to stop after a batch.  NotFiniteError if its mean cost is not finite, before the state is updated."""
    return stopping(step, D, old, finite_cost(cost), n_rows)


def _reporter(estimator, snapshots, stopping, n_steps, steps_per_epoch):
    """The function that `online` calls after each batch: progress line, snapshot, callback."""
    progress = BatchProgress(estimator, n_steps, steps_per_epoch)

    def report(state):
        if estimator.verbose:
            progress.print_step(state, stopping)
        snapshots.save(state, estimator._statistics, stopping)
        if estimator.callback is not None and not state.converged:
            variables = {"i": state.n_iter - 1, "dictionary": state.D, "batch_cost": state.costs[-1]}
            variables = for_callback(estimator, **variables) | {"self": estimator}
            with interruptible():
                estimator.callback(variables)

    return report


class BatchProgress:
    """Prints a line for the first batch, then one every two seconds, and one for the last; with verbose=2 for all."""

    def __init__(self, estimator, n_steps, steps_per_epoch):
        self.estimator, self.n_steps, self.steps_per_epoch = estimator, n_steps, steps_per_epoch
        self.next_time = 0.0  # of time.monotonic

    def print_step(self, state, stopping):
        """Print the line of the batch that `state` was just updated with, if it is due."""
        step, now = state.n_iter, time.monotonic()
        due = now >= self.next_time
        if due:
            self.next_time = now + PRINT_INTERVAL
        if due or self.estimator.verbose > 1 or state.converged or step == self.n_steps:
            epoch, cost = (step - 1) // self.steps_per_epoch + 1, state.costs[-1]
            average = "" if stopping.average is None else f", ewa cost: {stopping.average:.4g}"
            line = f"Minibatch step {step}/{self.n_steps}, epoch {epoch}: mean batch cost: {cost:.4g}{average}"
            print_line(self.estimator, line)
        if state.converged:
            print_line(self.estimator, f"Converged ({stopping.why}) at step {step}")


def _store(estimator, steps_per_epoch, state):
    """Set the fitted attributes."""
    store_atoms(estimator, state)
    estimator.costs_ = np.array(state.costs)
    estimator.n_steps_ = state.n_iter
    estimator.n_iter_ = np.ceil(state.n_iter / steps_per_epoch)
