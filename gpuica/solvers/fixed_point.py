"""FastICA's fixed-point iteration, all components at once or one by one.

Hyvärinen, "Fast and robust fixed-point algorithms for independent component analysis", IEEE Trans. Neural Networks
10(3), 1999; Hyvärinen and Oja, Neural Networks 13, 2000.  The starting point, the order of operations and the stop rule
are scikit-learn's, so that the same start follows the same path.
"""

import numpy as np

from . import Solution

TINY = float(np.finfo(np.float64).tiny)


def orthonormal(W, xp=np):
    """(W Wᵀ)^-1/2 W: the orthonormal rows nearest to those of W (k, d)."""
    eigenvalues, vectors = xp.linalg.eigh(W @ W.T)
    eigenvalues = xp.maximum(eigenvalues, TINY)  # a singular W must not divide by 0
    return (vectors / xp.sqrt(eigenvalues)) @ (vectors.T @ W)


def parallel(oracle, W, *, max_iter, tol, report=None):
    """Symmetric FastICA: W ← orthonormal(E g(Wz) zᵀ - diag(E g'(Wz)) W).  One pass per iteration.

    oracle: answers `fixed_point`.  W: (k, k) start.  report: called with (n_iter, movement) after each iteration.
    """
    xp = oracle.xp
    W = orthonormal(W, xp)
    for n_iter in range(1, max_iter + 1):
        cross, slope = oracle.fixed_point(W)
        new = orthonormal(cross - slope[:, None] * W, xp)  # Hyvärinen 1999, equation (20), then (45)
        movement = xp.abs(xp.abs((new * W).sum(axis=1)) - 1)
        W = new
        if report:
            report(n_iter, movement)
        if movement.max() < tol:
            return Solution(W, n_iter, movement, True)
    return Solution(W, max_iter, movement, False)


def deflation(oracle, W, *, max_iter, tol, report=None):
    """One component after the other, each kept orthogonal to those before (Gram-Schmidt).  One pass per iteration.

    Arguments as for `parallel`; n_iter is the largest over the components.
    """
    xp = oracle.xp
    found, movement, most = xp.zeros(W.shape), xp.zeros(len(W)), 0
    for j, w in enumerate(W):
        w = w / xp.sqrt((w * w).sum())
        for n_iter in range(1, max_iter + 1):
            cross, slope = oracle.fixed_point(w[None])
            new = cross[0] - slope[0] * w
            new = new - (new @ found[:j].T) @ found[:j]
            new = new / xp.sqrt((new * new).sum())
            movement[j] = xp.abs(xp.abs((new * w).sum()) - 1)
            w = new
            if report:
                report(n_iter, movement[: j + 1])
            if movement[j] < tol:
                break
        found[j], most = w, max(most, n_iter)
    return Solution(found, most, movement, bool((movement < tol).all()))


SOLVERS = {"parallel": parallel, "deflation": deflation}
