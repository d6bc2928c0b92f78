"""Naive reference implementations in float64, independent of gpuica."""

import math

import numpy as np
import scipy.optimize

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


def weiszfeld_terms(x, c):
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
    return np.maximum(D, 0) if positive else D


def approximate_ksvd(D, C, X):
    """Set each atom to (X - C D without the atom)ᵀ c_j, normalized, with the old D; unused atoms are unchanged."""
    new = np.array(D, dtype=float)
    for j in range(len(D)):
        others = np.delete(np.arange(len(D)), j)
        direction = (X - C[:, others] @ D[others]).T @ C[:, j]
        if np.any(C[:, j]):
            new[j] = direction / np.linalg.norm(direction)
    return new


def dictionary_objective(D, A, B):
    """½ tr(Dᵀ A D) - tr(Dᵀ B): ½ Σ ‖x - c D‖² up to a constant."""
    D, A, B = (np.asarray(part, dtype=float) for part in (D, A, B))
    return np.trace(D.T @ A @ D) / 2 - np.trace(D.T @ B)


# ---- codes c of a row x against a dictionary D, one row at a time ----------------------------------------------------
def lasso(x, D, alpha, positive=False, sweeps=10_000):
    """argmin ½‖x - c D‖² + alpha ‖c‖₁ by cyclic coordinate descent."""
    c, r, squares = np.zeros(len(D)), x.astype(float), (D.astype(float) ** 2).sum(1)
    for _ in range(sweeps):
        before = c.copy()
        for j in np.flatnonzero(squares):
            b = D[j] @ r + squares[j] * c[j]
            new = (max(b - alpha, 0) if positive else np.sign(b) * max(abs(b) - alpha, 0)) / squares[j]
            r += (c[j] - new) * D[j]
            c[j] = new
        if np.abs(c - before).max() <= 1e-14 * np.abs(c).max():
            break
    return c


def omp(x, D, n_nonzero, target=0.0, positive=False):
    """Orthogonal matching pursuit; least squares by LAPACK, or by Lawson and Hanson if positive."""
    c, least = np.zeros(len(D)), 1e-13 * np.abs(D @ x).max()
    while np.count_nonzero(c) < min(n_nonzero, *D.shape):
        r = x - c @ D
        h = D @ r if positive else np.abs(D @ r)
        if r @ r <= target or h.max() <= least:
            break
        support = sorted({*np.flatnonzero(c), int(h.argmax())})
        solve = scipy.optimize.nnls if positive else np.linalg.lstsq
        c = np.zeros(len(D))
        c[support] = solve(D[support].T, x)[0]
    return c


def ormp(x, D, n_nonzero, target=0.0):
    """Order-recursive matching pursuit: select the atom that minimizes the residual."""
    support, c = [], np.zeros(len(D))
    while len(support) < min(n_nonzero, *D.shape):
        r = x - c @ D
        tries = {}
        for j in set(range(len(D))) - set(support):
            values = np.linalg.lstsq(D[[*support, j]].T, x)[0]
            tries[j] = ((x - values @ D[[*support, j]]) ** 2).sum()
        best = min(tries, key=tries.get)
        if r @ r <= target or tries[best] >= (1 - 1e-13) * (r @ r):
            break
        support.append(best)
        c = np.zeros(len(D))
        c[support] = np.linalg.lstsq(D[support].T, x)[0]
    return c


def matching_pursuit(x, D, n_steps, gradient=False):
    """Matching pursuit, or gradient pursuit: the codes after each step, (n_steps, K)."""
    c, chosen, codes = np.zeros(len(D)), set(), []
    for _ in range(n_steps):
        h = D @ (x - c @ D)
        j = int(np.abs(h).argmax())
        chosen.add(j)
        direction = np.zeros(len(D))
        moving = sorted(chosen) if gradient else [j]
        direction[moving] = h[moving]
        image = direction @ D
        c = c + direction * (direction @ h) / (image @ image)
        codes.append(c)
    return np.array(codes)


def lars(x, D, n_nonzero):
    """Least angle regression: the code when n_nonzero atoms are active and the next is about to enter."""
    c, active = np.zeros(len(D)), [int(np.abs(D @ x).argmax())]
    while True:
        h = D @ (x - c @ D)
        top, signs = np.abs(h[active]).max(), np.sign(h[active])
        direction = np.linalg.solve(D[active] @ D[active].T, signs)
        falls = D @ (direction @ D[active])
        step, enters = top, None  # the full step to the least-squares solution
        for j in set(range(len(D))) - set(active):
            for sign in (1, -1):  # top - step = sign (h_j - step falls_j)
                if 1 - sign * falls[j] > 0 and (top - sign * h[j]) / (1 - sign * falls[j]) < step:
                    step, enters = (top - sign * h[j]) / (1 - sign * falls[j]), j
        c[active] += step * direction
        if enters is None or len(active) == n_nonzero:
            return c
        active.append(enters)


# ---- standard errors of a relative gradient, one row at a time ------------------------------------------------------
def gradient_and_variance(Y, fun, sign, *, ortho=True, extended=True, weights=None):
    """Mean and variance (k, k) over the sources y of each row's relative gradient.

    With ortho it is (s_i g(y_i) y_j - s_j g(y_j) y_i) / 2, otherwise ψ(y_i) y_j - 1[i = j] with ψ = s g, plus y if
    extended.
    """
    w = np.ones(len(Y)) if weights is None else np.asarray(weights, dtype=float)
    k = Y.shape[1]
    first, second, score = np.zeros((k, k)), np.zeros((k, k)), np.vectorize(g[fun])
    for y, weight in zip(np.asarray(Y, dtype=float), w):
        psi = sign * score(y)
        x = np.outer(psi + y if extended and not ortho else psi, y)
        x = (x - x.T) / 2 if ortho else x - np.eye(k)
        first += weight * x
        second += weight * x * x
    mean = first / w.sum()
    return mean, second / w.sum() - mean**2
