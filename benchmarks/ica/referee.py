"""The quality of a fit, recomputed in float64 from components, mean and X alone.

It shares no code with the contestants and ignores the quality that they report, so that early stopping and loss of
precision become visible.  All functions are pure.
"""

import numpy as np

GAUSSIAN = 0.374567207491457  # E log cosh(u) of a standard normal u
DEPENDENT = 1e-12  # sources are linearly dependent if their correlation matrix has a smaller eigenvalue
CHUNK = 1 << 22  # numbers in a chunk


def judge(X, components, mean, A=None):
    """Every quality measure of one fit, a dict of floats: amari, gradient, unrest, farthest, whiteness, loss.

    X: (n, d).  components: (k, d).  mean: (d,).  A: (d, k), the mixing matrix, or None; amari is then None.
    gradient, unrest, farthest and loss are None if the sources are linearly dependent, that is, if the fit failed.
    """
    components, mean = np.asarray(components, np.float64), np.asarray(mean, np.float64)
    scale, offset, whiteness = white(X, components, mean)
    gradient, unrest, farthest, loss = None, None, None, None
    if scale is not None:
        offset = scale @ components @ mean + offset
        gradient, unrest, farthest, loss = gradient_and_loss(X, scale @ components, offset)
    known = A is not None and len(components) == A.shape[1]
    return {
        "amari": amari(components, A) if known else None,
        "gradient": gradient,
        "unrest": unrest,
        "farthest": farthest,
        "whiteness": whiteness,
        "loss": loss,
    }


def amari(components, A):
    """Amari distance of components (k, d) from the mixing matrix A (d, k), from 0 (perfect) to 1.

    P = components A:  (Σ_i (Σ_j |P_ij| / max_j |P_ij| - 1) + Σ_j (Σ_i |P_ij| / max_i |P_ij| - 1)) / (2k(k - 1)).
    Invariant to order, sign and scale.  Amari, Cichocki and Yang, NIPS 1996.
    """
    P = np.abs(np.asarray(components, np.float64) @ A)
    k = len(P)
    excess = (P / P.max(axis=1, keepdims=True)).sum() + (P / P.max(axis=0)).sum() - 2 * k
    return float(excess / (2 * k * (k - 1)))


def white(X, components, mean):
    """The symmetric whitening of y = components (x - mean), and how correlated y was.

    Returns scale (k, k) and offset (k,), such that u = scale y - offset has mean 0 and covariance I; and whiteness, the
    largest |correlation| of two entries of y.  scale is None if the entries of y are linearly dependent.
    """
    n, k = len(X), len(components)
    total, scatter = np.zeros(k), np.zeros((k, k))
    for Y in _sources(X, components, components @ mean):
        total += Y.sum(axis=0)
        scatter += Y.T @ Y
    mean_y = total / n
    covariance = scatter / n - np.outer(mean_y, mean_y)
    std = np.sqrt(np.diag(covariance))
    correlation = covariance / np.outer(std, std)
    whiteness = float(np.abs(correlation - np.eye(k)).max())
    eigenvalues, vectors = np.linalg.eigh(correlation)
    if eigenvalues[0] < DEPENDENT:
        return None, None, whiteness
    scale = (vectors / np.sqrt(eigenvalues)) @ vectors.T / std
    return scale, scale @ mean_y, whiteness


def gradient_and_loss(X, W, offset):
    """Relative gradient, unrest, farthest and loss at white sources u = W x - offset.

    X: (n, d), W: (k, d), offset: (k,).  With g = tanh, s_i = sign(E g'(u_i) - E g(u_i) u_i) and
    M_ij = s_i E g(u_i) u_j, the gradient is max |M - Mᵀ| / 2, which is 0 at every fixed point of FastICA and Picard-O.
    unrest: the entries in units of their standard error sqrt(Var / n), root mean square over each component's entries,
    the largest of all components; Var is the variance of one row's (s_i g(u_i) u_j - s_j g(u_j) u_i) / 2.  farthest:
    the largest entry in standard errors.  tol="auto" requires them below 0.5 and sqrt(2 log k²).
    loss = -Σ_i |E log cosh(u_i) - that of a Gaussian|, lower is better.
    """
    k, n = len(W), len(X)
    cross, square, logcosh = np.zeros((k, k)), np.zeros(k), np.zeros(k)
    products, middles = np.zeros((k, k)), np.zeros((k, k))
    for U in _sources(X, W, offset):
        size = np.abs(U)
        logcosh += (size + np.log1p(np.exp(-2 * size)) - np.log(2)).sum(axis=0)
        g = np.tanh(U)
        middle = g * U
        square += (g * g).sum(axis=0)
        cross += g.T @ U
        products += (g * g).T @ (U * U)
        middles += middle.T @ middle
    cross, square, logcosh, products, middles = (part / n for part in (cross, square, logcosh, products, middles))
    sign = np.sign(1 - square - np.diag(cross))
    M = sign[:, None] * cross
    gradient = (M - M.T) / 2
    variance = (products + products.T) / 4 - np.outer(sign, sign) * middles / 2 - gradient**2
    errors = np.abs(gradient) / np.sqrt(np.maximum(variance / n, np.finfo(float).tiny))
    unrest, farthest = np.sqrt((errors**2).mean(axis=1)).max(), errors.max()
    return float(np.abs(gradient).max()), float(unrest), float(farthest), float(-np.abs(logcosh - GAUSSIAN).sum())


def _sources(X, W, offset):
    """W x - offset in chunks, (n_chunk, k) float64."""
    rows = max(CHUNK // X.shape[1], 1)
    for start in range(0, len(X), rows):
        yield X[start : start + rows].astype(np.float64) @ W.T - offset
