"""What the two dictionary estimators share: coder, update and policy from parameters, the first atoms, results."""

from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from numbers import Integral
from os import PathLike

import numpy as np
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from ..code_oracle import CodeOracle
from ..coders import CODERS, as_coder
from ..device import to_host
from ..rows.shared import Shared
from ..solvers.atoms import UPDATES
from ..solvers.dictionary import DEAD_ATOMS
from ._encode import device_for_coding, open_for_coding
from ._parameters import checks_parameters, real_matrix, refuse_overflow
from ._resume import Snapshots
from ._shell import check_input, is_dask, locate_nonfinite
from ._spread import random_state_for
from ._unfinished import warn_of_unfinished
from ._whole import warn_of_interrupt
from .coding import FOLLOWS_ALPHA, MOST_ROUNDS, SparseCoding

SMALL = 1 << 24  # numbers of X up to which initial atoms come from scikit-learn's own decomposition of X

INITIAL = [HasMethods(["__dlpack__", "__len__"]), None]  # arrays of NumPy, CuPy and torch
ADDED = {
    "fit_algorithm": [StrOptions({"lars", "cd", *CODERS})],
    "transform_algorithm": [StrOptions(set(CODERS))],
    "device": [str],
    "sparse_output": ["boolean"],
    "memory_limit": [Interval(Integral, 1, None, closed="left"), str, None],
    "checkpoint": [str, PathLike, None],
    "init": [StrOptions({"svd", "data"}), HasMethods("__array__"), list, tuple],  # a text is "array-like" too
    "dict_init": INITIAL,
    "dead_atoms": [StrOptions(set(DEAD_ATOMS))],
    "update": [StrOptions(set(UPDATES))],
}


class Learner(SparseCoding):
    """The part of an estimator that learns atoms; a subclass has scikit-learn's parameters and those of ADDED."""

    def _fit_coder(self, shape):
        """The coder of the fit for a dictionary of this shape."""
        if self.positive_code and self.fit_algorithm == "lars":
            raise ValueError("Positive constraint not supported for 'lars' coding method.")
        name = {"lars": "lasso_lars", "cd": "lasso_cd"}.get(self.fit_algorithm, self.fit_algorithm)
        return as_coder(
            name,
            shape,
            alpha=self.alpha if name in FOLLOWS_ALPHA else None,
            n_nonzero=self.transform_n_nonzero_coefs,
            positive=self.positive_code,
            max_iter=min(self.transform_max_iter, MOST_ROUNDS),
        )

    def _taken(self, X, reset=True):
        """X as `InputData`, checked; the shape of the dictionary; the coder; the device."""
        given = check_input(self, X, reset=reset)
        shape = int(self.n_components or given.shape[1]), given.shape[1]
        coder = self._fit_coder(shape)
        device = device_for_coding(self, given, shape)
        if 8 * shape[0] * (shape[0] + shape[1]) > 2 * replace(device, limit=None).budget():
            raise ValueError(
                f"n_components={shape[0]} atoms and the sums of their codes take "
                f"{8e-9 * shape[0] * sum(shape):.3g} GB, more than the memory of {device}: use fewer."
            )
        return given, shape, coder, device

    @contextmanager
    def _snapshots(self, given, shape, coder, device):
        """The oracle of the rows and the `Snapshots` of the fit, whose `rng` is to be drawn from."""
        oracle = CodeOracle(open_for_coding(given, shape[0], device).upload(), coder)
        with locate_nonfinite(self, given):
            snapshots = Snapshots(self, oracle.rows, random_state_for(self.random_state, given), device)
        with closing(snapshots):
            yield oracle, snapshots

    def _policies(self, rng, xp):
        """The update and what becomes of unused atoms, for a solver."""
        update = partial(UPDATES[self.update], positive=self.positive_dict, xp=xp)
        return {"update": update, "dead_atoms": DEAD_ATOMS[self.dead_atoms](rng, self.positive_dict)}

    def _initial(self, given, oracle, shape, rng, decompose):
        """The first atoms (K, d), in the dtype of the rows, on the host.  decompose: X -> S Vᵀ, for small X."""
        if not isinstance(self.init, str):
            return self._checked(self.init, "init", shape, given.dtype)
        if self.init == "data":
            chosen = np.sort(rng.choice(given.shape[0], size=shape[0], replace=shape[0] > given.shape[0]))
            D = to_host(oracle.rows.take(chosen)).astype(np.float64)
            return (D / np.maximum(np.linalg.norm(D, axis=1, keepdims=True), 1e-12)).astype(given.dtype)
        if isinstance(given.array, np.ndarray) and given.array.size <= SMALL:
            D = decompose(given.array.astype(given.dtype, copy=False))
        elif (is_dask(given.array) or isinstance(given.array, Shared)) and shape[1] * given.shape[0] <= SMALL:
            D = decompose(to_host(oracle.rows.take(np.arange(given.shape[0]))))
        else:  # S Vᵀ from Σ x xᵀ = V S² Vᵀ
            squares, V = np.linalg.eigh(to_host(oracle.square()))
            D = (np.sqrt(np.maximum(squares, 0)) * V).T[::-1]
        full = np.zeros(shape, given.dtype)
        full[: len(D)] = D[: shape[0]]
        return full

    def _checked(self, D, name, shape, dtype):
        """An array parameter as atoms (K, d) in the dtype of the rows; atoms of `dict_init` beyond K are left out."""
        D = real_matrix(D, name)
        D = D[: shape[0]] if name == "dict_init" and D.ndim else D
        if D.shape != shape:
            raise ValueError(f"{name} has shape {D.shape}, but n_components and X ask for {shape}.")
        with np.errstate(over="ignore"):
            D = D.astype(dtype)
        if not np.isfinite(D).all():
            raise ValueError(f"{name} holds numbers too large for {np.dtype(dtype)}: rescale it.")
        return D

    def _learn(self, given, learned, solve):
        """solve(), and the learned atoms stored; those of the last whole iteration, if any, when it is interrupted."""
        try:
            with locate_nonfinite(self, given):
                solve()
        except KeyboardInterrupt:
            if learned.n_iter:
                self._store(learned)
                warn_of_interrupt("The fit was interrupted: atoms are unfinished.")
            raise
        self._store(learned)

    def _store(self, learned):
        D = to_host(learned.D)
        refuse_overflow(D.dtype, D)
        self.components_ = D
        self.converged_ = learned.converged
        self.n_replaced_ = learned.n_replaced

    def __sklearn_is_fitted__(self):
        return hasattr(self, "components_")  # a fit that failed may have left other attributes

    @checks_parameters
    def score(self, X, y=None):
        """Minus the mean cost of a row, ½‖x - c D‖² + alpha ‖c‖₁ (the last term not for pursuits), coded as in the fit.

        X : array of shape (n_samples, n_features).  Larger is better.
        """
        given, D = check_input(self, X, reset=False), self.components_
        coder = self._fit_coder(D.shape)
        device = device_for_coding(self, given, D.shape)
        with device.active(), locate_nonfinite(self, given):
            oracle = CodeOracle(open_for_coding(given, len(D), device), coder)
            found = oracle.moments(device.put(D.astype(given.dtype, order="C")))
        warn_of_unfinished(found.n_unfinished, given.shape[0], coder)
        return -found.cost / given.shape[0]
