"""The fit of DictionaryLearning: codes of all rows and all atoms, alternately."""

import time
from functools import partial

from scipy.linalg import svd
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.extmath import svd_flip

from ..input import report_nonfinite
from ..interrupts import interruptible
from ..messages import warn
from ..solvers.dictionary import FitState, alternate
from ._checkpoint import for_callback
from ._code_warnings import warn_of_unfinished
from ._learning import atom_options, check_atoms, check_problem, initial_atoms, open_fit, solve_and_store, store_atoms
from ._parameters import real_matrix
from ._progress import print_line, print_resumed

CALLBACK_EVERY = 5  # iterations, as in scikit-learn


def fit_alternating(estimator, X):
    """Fit the estimator to X; return the `InputData`, the coder and the `FitState`."""
    problem = check_problem(estimator, X)
    data, _, coder, device = problem
    estimator.device_ = str(device)
    with device.active(), open_fit(estimator, problem) as (oracle, snapshots):
        state = FitState(device.put(_first_atoms(estimator, problem, oracle, snapshots.rng)))
        snapshots.restore(state, device.put, estimator.max_iter)
        print_resumed(estimator, state)
        solve = partial(
            alternate,
            *(oracle, state),
            max_iter=estimator.max_iter,
            tol=estimator.tol,
            report=_reporter(estimator, snapshots),
            **atom_options(estimator, snapshots.rng, oracle.xp),
        )
        solve_and_store(estimator, data, state, solve, partial(_store, estimator))
        snapshots.save(state, now=True)
    device.release_for_torch()
    warn_of_unfinished(state.n_unfinished, data.shape[0], coder)
    if estimator.max_iter and not state.converged:
        warn(_not_converged(estimator), ConvergenceWarning)
    return data, coder, state


def _first_atoms(estimator, problem, oracle, rng):
    """The initial atoms (K, d) on the host: `dict_init` where `code_init` is given too, else by `init`."""
    data = problem.data
    if estimator.code_init is not None and estimator.dict_init is not None:
        _check_code_init(estimator.code_init, data.shape[0])
        return check_atoms(estimator.dict_init, "dict_init", problem.shape, data.dtype)
    with report_nonfinite(estimator, data):
        return initial_atoms(estimator, problem, oracle, rng, _singular_vectors)


def _check_code_init(codes, n_rows):
    """ValueError unless these are codes of n_rows rows.  Their values are not used: the first step codes all rows."""
    C = real_matrix(codes, "code_init")
    if C.ndim != 2 or len(C) != n_rows:
        raise ValueError(f"code_init has shape {C.shape}, but X requires {n_rows} rows, one for each row of X.")


def _singular_vectors(X):
    """S Vᵀ of X = U S Vᵀ, with the signs that scikit-learn's `svd_flip` determines from U."""
    U, S, V = svd(X, full_matrices=False)
    return S[:, None] * svd_flip(U, V)[1]


def _reporter(estimator, snapshots):
    """The function that `alternate` calls after each iteration: snapshot, progress line, callback."""
    began = time.perf_counter()

    def report(state):
        snapshots.save(state)
        if estimator.verbose:
            seconds = time.perf_counter() - began
            print_line(estimator, f"iteration {state.n_iter}, {seconds:.1f} s, current cost {state.costs[-1]:.4g}")
        if estimator.callback is not None and state.n_iter % CALLBACK_EVERY == 1:
            costs = state.costs
            variables = {"dictionary": state.D, "errors": costs, "current_cost": costs[-1]}
            variables = for_callback(estimator, ii=state.n_iter - 1, **variables)
            with interruptible():
                estimator.callback(variables)

    return report


def _store(estimator, state):
    """Set the fitted attributes."""
    store_atoms(estimator, state)
    estimator.error_ = state.costs
    estimator.n_iter_ = state.n_iter


def _not_converged(estimator):
    """The message of a ConvergenceWarning."""
    costs, remedy = estimator.error_, "Increase max_iter or tol."
    if len(costs) == 1:
        return (
            f"{type(estimator).__name__} did not converge: one iteration has no decrease of the cost to test. {remedy}"
        )
    decrease = (costs[-2] - costs[-1]) / costs[-1]
    return (
        f"{type(estimator).__name__} did not converge: in the last of {len(costs)} iterations the relative decrease of "
        f"the cost was {decrease:.1e}, more than tol={estimator.tol}. {remedy}"
    )
