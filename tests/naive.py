"""Textbook loops in float64, to check everything else against.  They import nothing of gpuica."""

import math

import numpy as np

G = {
    "logcosh": lambda u, a=1.0: math.log(math.cosh(a * u)) / a,
    "exp": lambda u: -math.exp(-u * u / 2),
    "cube": lambda u: u**4 / 4,
}
g = {
    "logcosh": lambda u, a=1.0: math.tanh(a * u),
    "exp": lambda u: u * math.exp(-u * u / 2),
    "cube": lambda u: u**3,
}
slope = {
    "logcosh": lambda u, a=1.0: a / math.cosh(a * u) ** 2,
    "exp": lambda u: (1 - u * u) * math.exp(-u * u / 2),
    "cube": lambda u: 3 * u * u,
}


def fixed_point(Z, W, fun):
    """Σ g(y) zᵀ, Σ g'(y) and Σ g(y)², one row and one component at a time."""
    cross, total, square = np.zeros(W.shape), np.zeros(len(W)), np.zeros(len(W))
    for z in np.asarray(Z, dtype=float):
        for i, w in enumerate(np.asarray(W, dtype=float)):
            y = float(w @ z)
            cross[i] += g[fun](y) * z
            total[i] += slope[fun](y)
            square[i] += g[fun](y) ** 2
    return cross, total, square


def likelihood(Z, W, fun):
    """Σ G(y), Σ g(y) zᵀ, Σ g'(y) and Σ g(y)², one row at a time."""
    k = len(W)
    loss, cross, total, square = np.zeros(k), np.zeros(W.shape), np.zeros(k), np.zeros(k)
    for z in np.asarray(Z, dtype=float):
        y = np.asarray(W, dtype=float) @ z
        loss += [G[fun](u) for u in y]
        cross += np.outer([g[fun](u) for u in y], z)
        total += [slope[fun](u) for u in y]
        square += [g[fun](u) ** 2 for u in y]
    return loss, cross, total, square


def moments(X, shift):
    """Σ (x - shift) and Σ (x - shift)(x - shift)ᵀ."""
    D = np.asarray(X, dtype=float) - shift
    return sum(D), sum(np.outer(d, d) for d in D)


def symmetric_decorrelation(W):
    """(W Wᵀ)^-1/2 W by the singular value decomposition: U Vᵀ."""
    U, _, Vt = np.linalg.svd(W, full_matrices=False)
    return U @ Vt


def fastica(Z, W, n_iter):
    """n_iter steps of symmetric FastICA with logcosh on white rows Z (n, k), from W (k, k)."""
    W = symmetric_decorrelation(W)
    for _ in range(n_iter):
        T = np.tanh(Z @ W.T)
        W = symmetric_decorrelation(T.T @ Z / len(Z) - np.diag((1 - T**2).mean(0)) @ W)
    return W


def pull(x, c):
    """(x - c) / |x - c|, 1 / |x - c| and 0 of one row x; 0, 0 and 1 where it is c."""
    r = math.dist(x, c)
    return ((x - c) / r, np.array([1 / r]), np.zeros(1)) if r else (np.zeros(len(c)), np.zeros(1), np.ones(1))


def block_descent(D, A, B, *, positive=False, norm="ball", least_use=1e-6, sweeps=1):
    """Mairal et al. 2009, algorithm 2, one atom at a time: D from A = Σ c cᵀ and B = Σ c xᵀ."""
    D = np.array(D, dtype=float)
    for _ in range(sweeps):
        for j in range(len(D)):
            if A[j, j] <= least_use:
                continue
            u = (B[j] - A[j] @ D) / A[j, j] + D[j]
            if positive:
                u = np.maximum(u, 0)
            length = math.sqrt(u @ u)
            if norm == "ball":
                D[j] = u / max(length, 1)
            elif length > 0:
                D[j] = u / length
    return D


def approximate_ksvd(D, C, X):
    """Each atom along (X - C D without the atom)ᵀ c_j, the residuals all of the old D; atoms without codes stay."""
    new = np.array(D, dtype=float)
    for j in range(len(D)):
        others = np.delete(np.arange(len(D)), j)
        direction = (X - C[:, others] @ D[others]).T @ C[:, j]
        if np.any(C[:, j]):
            new[j] = direction / np.linalg.norm(direction)
    return new


def dictionary_objective(D, A, B):
    """½ tr(Dᵀ A D) - tr(Dᵀ B): ½ Σ ‖x - c D‖² but for a constant."""
    D, A, B = (np.asarray(part, dtype=float) for part in (D, A, B))
    return np.trace(D.T @ A @ D) / 2 - np.trace(D.T @ B)
