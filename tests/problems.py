"""Mixtures whose sources are known, and the tolerances with which solvers recover them."""

import numpy as np


def mixture(n, k, *, d=None, dtype=np.float64, seed=0, mean=3.0):
    """X = S Aᵀ + mean, with alternating Laplace and uniform sources.  Returns X (n, d) and A (d, k)."""
    rng = np.random.default_rng(seed)
    S = np.where(np.arange(k) % 2, rng.laplace(size=(n, k)) / 2**0.5, rng.uniform(-(3**0.5), 3**0.5, size=(n, k)))
    A = rng.normal(size=(d or k, k))
    return (S @ A.T + mean).astype(dtype), A


def white(n, k, *, dtype=np.float64, seed=0):
    """Rows (n, k) of mean 0 and identity covariance, mixed from independent sources."""
    X, _ = mixture(n, k, seed=seed)
    X = X - X.mean(0)
    eigenvalues, vectors = np.linalg.eigh(X.T @ X / n)
    return (X @ vectors / np.sqrt(eigenvalues)).astype(dtype)


def amari(P):
    """Amari distance of P = components @ A from a scaled permutation: 0 for perfect separation, at most 1."""
    P = np.abs(np.asarray(P, dtype=float))
    k = len(P)
    return ((P / P.max(1, keepdims=True)).sum() + (P / P.max(0)).sum() - 2 * k) / (2 * k * (k - 1))


# every ICA solver, and a tol at which it converges to a fixed point up to rounding
SOLVERS = {"parallel": 1e-13, "deflation": 1e-13, "picard": 1e-9}
