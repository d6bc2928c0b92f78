"""From a solver's solution to fitted attributes."""

from typing import Any

import numpy as np

from ..device import to_host
from ..solvers import Solution
from ._interrupted import warn_of_interrupt
from ._parameters import check_overflow


def check_solution(estimator, solution, dtype):
    """ValueError unless the unmixing matrix (k, k) is finite, and orthonormal where the solver constrains it to be."""
    W = to_host(solution.W)
    check_overflow(dtype, W, to_host(solution.gradient))
    if estimator.ortho and np.abs(W @ W.T - np.eye(len(W))).max() > 0.1:
        remedy = "use another start (random_state, w_init)" if estimator.whiten else "X must be white for whiten=False"
        raise ValueError(f"The iterations ended at a singular unmixing matrix: {remedy}.")


def sort_components(solution, oracle, spectrum, order):
    """The solution with its components sorted: order is None, "objective" or "variance"."""
    if order is None:
        return solution
    if order == "objective":
        size = abs(oracle.likelihood(solution.W).loss - oracle.gaussian_loss())
    else:  # a source of variance 1 contributes the squared norm of its column of the mixing matrix
        mixing = oracle.xp.linalg.inv(solution.W)
        if spectrum:
            mixing = spectrum.deviations[: spectrum.kept, None] * mixing
        size = (mixing**2).sum(axis=0)
    return solution.reordered(oracle.xp.argsort(-size))


def interrupted_solution(oracle):
    """The `Solution` of the last accepted iterate, with a ConvergenceWarning, or None if there is none."""
    W, n_iter = oracle.accepted.iterate
    if W is None:
        return None
    remaining = "the components have not converged."
    if len(W) < oracle.n_features:
        remaining = f"only the first {len(W)} of {oracle.n_features} components are kept."
    warn_of_interrupt(f"The fit was interrupted: {remaining}")
    unknown = np.full(len(W), np.nan)
    return Solution(W, n_iter, unknown, False, np.zeros(len(W), bool), unknown)


def fitted_attributes(solution, spectrum, rows, n_samples, whiten):
    """The fitted attributes, a dict, and the matrix (k, k) that maps whitened rows to sources.

    n_samples: number of rows, or the sum of their weights.  whiten: the parameter.
    """
    dtype, W = rows.dtype, solution.W
    fitted: dict[str, Any] = {}
    if spectrum is None:
        components, to_sources = W, W
        mixing = inverse(to_host(W))
    else:
        shrink = n_samples**-0.5  # scikit-learn's whitened rows have variance 1 / n_samples
        K = spectrum.whitening * shrink
        components = W @ K
        if whiten == "unit-variance":
            rounded = components.astype(dtype).astype(np.float64)
            W = W / rows.xp.sqrt(spectrum.variances(rounded))[:, None]
            components = W @ K
        to_sources = W * shrink
        fitted["mean_"] = (mean := to_host(spectrum.mean)).astype(dtype)
        fitted["_mean_rounding"] = mean - fitted["mean_"]
        fitted["whitening_"] = to_host(K).astype(dtype)
        mixing = to_host(spectrum.unwhitening) @ inverse(to_host(to_sources))
    fitted |= {
        "components_": to_host(components).astype(dtype),
        "mixing_": mixing.astype(dtype),
        "_unmixing": to_host(W).astype(dtype),
        "n_iter_": max(solution.n_iter, 1),
        "delta_": to_host(solution.delta),
        "converged_components_": to_host(solution.converged_components),
        "gradient_norm_": float(solution.gradient.max()),
        "gradient_z_": np.full(len(W), np.nan) if solution.z is None else to_host(solution.z),
        "losses_": np.array(solution.losses),
        "rank_": rows.n_features if spectrum is None else spectrum.rank,
        "converged_": solution.converged,
    }
    return fitted, to_sources


def rotate(Z, W):
    """Z @ Wᵀ: the sources of whitened rows."""
    return Z @ W.T


def inverse(W):
    """W^-1 of a square matrix, its pseudo-inverse (k, m) where it is singular or has the shape (m, k)."""
    if len(W) < W.shape[1]:
        return np.linalg.pinv(W)
    try:
        return np.linalg.inv(W)
    except np.linalg.LinAlgError:
        return np.linalg.pinv(W)
