"""Functions that the fits of DictionaryLearning and MiniBatchDictionaryLearning share."""

from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from os import PathLike
from typing import Any, NamedTuple

import numpy as np
from sklearn.utils._param_validation import HasMethods, StrOptions

from ..code_oracle import CodeOracle
from ..coders import CODERS
from ..device import CPU, to_host
from ..input import InputData, check_input, is_dask, report_nonfinite
from ..input.shared import common_random_state
from ..rows.shared import Shared
from ..solvers.atoms import UPDATES
from ..solvers.dictionary import DEAD_ATOMS
from ..solvers.recent_codes import ROWS_PER_ATOM
from ._checkpoint import Snapshots
from ._code_warnings import warn_of_unfinished
from ._codes import coder_for_fit, device_for_coding, open_for_coding
from ._dictionary import CODING_CONSTRAINTS
from ._interrupted import warn_of_interrupt
from ._parameters import check_overflow, checks_parameters, real_matrix

MAX_ATOMS_PER_FEATURE = 8  # more atoms than that: K² numbers cost more than the codes of some rows of each atom
MAX_SVD_SIZE = 1 << 24  # elements of X up to which initial atoms are computed from X itself, as in scikit-learn

ARRAY_OR_NONE = [HasMethods(["__dlpack__", "__len__"]), None]  # arrays of NumPy, CuPy and torch
LEARNING_CONSTRAINTS = {
    **CODING_CONSTRAINTS,
    "fit_algorithm": [StrOptions({"lars", "cd", *CODERS})],
    "checkpoint": [str, PathLike, None],
    "init": [StrOptions({"svd", "data"}), HasMethods("__array__"), list, tuple],  # "array-like" would accept any string
    "dict_init": ARRAY_OR_NONE,
    "dead_atoms": [StrOptions(set(DEAD_ATOMS))],
    "update": [StrOptions(set(UPDATES))],
}


class Problem(NamedTuple):
    """The validated input of a fit: X, the shape (K, d) of the dictionary, the coder and the device."""

    data: InputData
    shape: tuple[int, int]
    coder: Any
    device: Any


def check_problem(estimator, X, reset=True):
    """Validate X and the parameters that depend on it; return them as a `Problem`.

    ValueError if the dictionary and its sufficient statistics exceed the memory of the device.
    """
    data = check_input(estimator, X, reset=reset)
    n_atoms, n_features = shape = int(estimator.n_components or data.shape[1]), data.shape[1]
    coder = coder_for_fit(estimator, shape)
    device = device_for_coding(estimator, data, shape)
    n_columns = ROWS_PER_ATOM * n_features if keeps_codes(estimator, shape, device) else n_atoms
    size = 8 * n_atoms * (n_columns + n_features)
    if size > 2 * replace(device, limit=None).budget():
        raise ValueError(
            f"n_components={n_atoms} atoms and their sufficient statistics take {1e-9 * size:.3g} GB, more than the "
            f"memory of {device}: reduce n_components."
        )
    return Problem(data, shape, coder, device)


def keeps_codes(estimator, shape, device):
    """Whether mini-batches keep the codes of the last rows instead of Σ c cᵀ (K, K), for a (K, d) dictionary."""
    is_large = shape[0] > MAX_ATOMS_PER_FEATURE * shape[1]
    return is_large and hasattr(estimator, "memory") and estimator.update == "block_descent" and device == CPU


@contextmanager
def open_fit(estimator, problem):
    """In the `with` block: the `CodeOracle` of the rows, and the `Snapshots` whose `rng` the fit draws from."""
    data, shape, coder, device = problem
    oracle = CodeOracle(open_for_coding(data, shape[0], device).upload(), coder)
    with report_nonfinite(estimator, data):
        snapshots = Snapshots(estimator, oracle.rows, common_random_state(estimator.random_state, data), device)
    with closing(snapshots):
        yield oracle, snapshots


def atom_options(estimator, rng, xp):
    """The options of a solver that say how atoms are updated, and how unused atoms are replaced."""
    update = partial(UPDATES[estimator.update], positive=estimator.positive_dict, xp=xp)
    return {"update": update, "dead_atoms": DEAD_ATOMS[estimator.dead_atoms](rng, estimator.positive_dict)}


def initial_atoms(estimator, problem, oracle, rng, decompose):
    """The initial atoms (K, d) that the parameter `init` defines, in the dtype of the rows, on the host.

    decompose: the function X -> S Vᵀ that scikit-learn's estimator applies, used where X is small.
    """
    data, shape = problem.data, problem.shape
    if not isinstance(estimator.init, str):
        return check_atoms(estimator.init, "init", shape, data.dtype)
    if estimator.init == "data":
        return _random_rows(oracle.rows, data.shape[0], shape[0], rng).astype(data.dtype)
    D = _scaled_singular_vectors(data, oracle, decompose)
    padded = np.zeros(shape, data.dtype)
    padded[: len(D)] = D[: shape[0]]
    return padded


def _random_rows(rows, n_rows, n_atoms, rng):
    """Random rows, (n_atoms, d) of float64, scaled to norm 1; with replacement if there are fewer rows than atoms."""
    indices = np.sort(rng.choice(n_rows, size=n_atoms, replace=n_atoms > n_rows))
    D = to_host(rows.take(indices)).astype(np.float64)
    return D / np.maximum(np.linalg.norm(D, axis=1, keepdims=True), 1e-12)


def _scaled_singular_vectors(data, oracle, decompose):
    """S Vᵀ of X = U S Vᵀ, singular values in descending order: by `decompose`, or for large X from the moments."""
    n_rows, n_features = data.shape
    if isinstance(data.array, np.ndarray) and data.array.size <= MAX_SVD_SIZE:
        return decompose(data.array.astype(data.dtype, copy=False))
    if (is_dask(data.array) or isinstance(data.array, Shared)) and n_features * n_rows <= MAX_SVD_SIZE:
        return decompose(to_host(oracle.rows.take(np.arange(n_rows))))
    squares, V = np.linalg.eigh(to_host(oracle.square()))  # Σ x xᵀ = V S² Vᵀ
    return (np.sqrt(np.maximum(squares, 0)) * V).T[::-1]


def check_atoms(D, name, shape, dtype):
    """The array parameter `name` as atoms of this shape (K, d) and dtype on the host, or a ValueError.

    As in scikit-learn, `dict_init` may have more than K atoms, of which the first K are used.
    """
    D = real_matrix(D, name)
    D = D[: shape[0]] if name == "dict_init" and D.ndim else D
    if D.shape != shape:
        raise ValueError(f"{name} has shape {D.shape}, but n_components and X require {shape}.")
    with np.errstate(over="ignore"):
        D = D.astype(dtype)
    if not np.isfinite(D).all():
        raise ValueError(f"{name} contains values too large for {np.dtype(dtype)}: rescale it.")
    return D


def solve_and_store(estimator, data, state, solve, store):
    """Call solve(), which updates the `FitState`, then store(state).

    If it is interrupted, the atoms of the last complete iteration, if any, are stored with a warning.
    """
    try:
        with report_nonfinite(estimator, data):
            solve()
    except KeyboardInterrupt:
        if state.n_iter:
            store(state)
            warn_of_interrupt("The fit was interrupted: components_ has the atoms of the last complete iteration.")
        raise
    store(state)


def store_atoms(estimator, state):
    """Set the fitted attributes that both estimators share; ValueError if atoms are not finite."""
    D = to_host(state.D)
    check_overflow(D.dtype, D)
    estimator.components_ = D
    estimator.converged_ = state.converged
    estimator.n_replaced_ = state.n_replaced


@checks_parameters
def score(self: Any, X: Any, y: Any = None) -> float:
    """Return minus the mean cost of a row, with the coder and the atoms of the fit.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows, of any kind that `fit` accepts.
    y : None
        Ignored.

    Returns
    -------
    score : float
        -mean(½‖x - c D‖² + alpha ‖c‖₁); the last term is 0 for pursuits and "topk".  Larger is better.
    """
    data, D = check_input(self, X, reset=False), self.components_
    coder = coder_for_fit(self, D.shape)
    device = device_for_coding(self, data, D.shape)
    with device.active(), report_nonfinite(self, data):
        oracle = CodeOracle(open_for_coding(data, len(D), device), coder)
        moments = oracle.moments(device.put(D.astype(data.dtype, order="C")))
    warn_of_unfinished(moments.n_unfinished, data.shape[0], coder)
    return -moments.cost / data.shape[0]
