"""How good a separation is: against the truth where it is known, and by the data alone where it is not.

Data-sized arguments are read by chunks, so they may be memory-mapped, and may live on a GPU.  sample_weight: (n,), as
how many rows each row counts; every mean and variance is then the weighted one.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from .contrasts import LogCosh, as_contrast
from .device import array_device, to_host
from .oracle import ContrastOracle, MomentOracle
from .rows import check_weights, open_rows
from .solvers.fixed_point import rotation_gradient

GAUSSIAN_LOGCOSH = 0.37456720749145711  # E log cosh of a standard normal variable


def amari_distance(components, A):
    """Amari distance of components (k, d) from a mixing matrix A (d, k): 0 for perfect separation, at most 1.

    With P = components @ A, (Σ_i (Σ_j |P_ij| / max_j |P_ij| - 1) + Σ_j (Σ_i |P_ij| / max_i |P_ij| - 1)) / (2 k (k-1)):
    blind to order, sign and scale.  Amari, Cichocki, Yang, NIPS 1996.  0 for k = 1.
    """
    P = np.abs(np.asarray(components, dtype=np.float64) @ np.asarray(A, dtype=np.float64))
    if P.ndim != 2 or P.shape[0] != P.shape[1]:
        raise ValueError(f"components @ A must be square, got shape {P.shape}: as many components as sources.")
    if not (P.max(axis=0).all() and P.max(axis=1).all()):
        raise ValueError("components @ A has a row or a column of zeros: a component or a source without the other.")
    k = len(P)
    excess = (P / P.max(axis=1, keepdims=True)).sum() + (P / P.max(axis=0)).sum() - 2 * k
    return float(excess / max(2 * k * (k - 1), 1))


def matched_correlation(S, T, sample_weight=None):
    """|correlation| of the columns of S (n, k) with those of T (n, l), matched one to one for the largest sum.

    Returns correlations (min(k, l),), in the order of S's columns, and the matched column of T for each.  Hungarian
    method; one pass.  (matched_correlation(S, T)[0] > 0.9).mean() is the share of sources found again.
    """
    S, T = _columns(S), _columns(T)
    if len(S) != len(T):
        raise ValueError(f"both must have the same rows, got {len(S)} and {len(T)}.")
    both = _rows(_SideBySide(S, T), array_device(S), sample_weight)
    _, covariance = MomentOracle(both).moments()
    return match(to_host(_correlation(covariance))[: S.shape[1], S.shape[1] :])


def match(similarity):
    """One-to-one matching of rows (k) to columns (l) of |similarity| with the largest sum: values, columns."""
    similarity = np.abs(np.asarray(similarity))
    rows, columns = linear_sum_assignment(-similarity)
    return similarity[rows, columns], columns


def relative_gradient(S, fun="logcosh", sample_weight=None):
    """Largest entry of the relative gradient of FastICA's and Picard-O's loss at sources S (n, k): 0 at a solution.

    S is scaled to variance 1, and should be uncorrelated.  max |skew part of s E g(y) yᵀ|, s_i = ±1 by the sign of
    E g'(y_i) - E g(y_i) y_i.  Compare with the sampling error, about 0.5 / sqrt(n).
    """
    rows, scale = _standard(S, sample_weight)
    xp = rows.xp
    _, cross, slope, _ = ContrastOracle(rows, as_contrast(fun)).likelihood(xp.diag(scale))
    return float(xp.abs(rotation_gradient(cross, slope, xp=xp)).max())


def negentropy(S, sample_weight=None):
    """(k,) Hyvärinen's approximation of each column's negentropy, (E log cosh y - that of a Gaussian)², y scaled to
    variance 1: 0 for a Gaussian, larger the farther from one.  Neural Networks 13, 2000, equation (25).
    """
    rows, scale = _standard(S, sample_weight)
    loss = ContrastOracle(rows, LogCosh()).likelihood(rows.xp.diag(scale))[0]
    return to_host((loss - GAUSSIAN_LOGCOSH) ** 2)


def excess_kurtosis(S, sample_weight=None):
    """(k,) E y⁴ / (E y²)² - 3 of each column of S (n, k), centered: 0 for a Gaussian, 3 for Laplace, -1.2 uniform."""
    rows, scale = _standard(S, sample_weight)
    loss = ContrastOracle(rows, as_contrast("cube")).likelihood(rows.xp.diag(scale))[0]  # G = u⁴ / 4
    return to_host(4 * loss - 3)


def log_likelihood(X, components, mean=0.0, fun="logcosh", sample_weight=None):
    """Mean log-likelihood of one row of X (n, d = k) under independent sources y = components (x - mean), in nats.

    log |det components| - Σ_i E G(y_i) up to the constant of the density exp(-G).  components: (k, k), as of an ICA
    with as many components as features.
    """
    components = np.asarray(components, dtype=np.float64)
    if components.ndim != 2 or components.shape[0] != components.shape[1]:
        raise ValueError(f"a likelihood needs as many components as features, got components {components.shape}.")
    X = _columns(X)
    rows = _rows(X, array_device(X), sample_weight)
    mean = np.broadcast_to(np.asarray(mean, dtype=np.float64), (X.shape[1],))
    projected = rows.projected(rows.xp.asarray(mean), rows.xp.asarray(components))
    loss = ContrastOracle(projected, as_contrast(fun)).likelihood(rows.xp.eye(len(components)))[0]
    return float(np.linalg.slogdet(components)[1] - float(loss.sum()))


def mutual_information_reduction(X, components, bins=None):
    """MIR: by how much sources y = components x share less information than the columns of X, in nats per row.

    Σ_i H(x_i) - Σ_i H(y_i) + log |det components|, entropies by histograms.  X: (n, k), components: (k, k).  bins:
    default n^(1/3).  Delorme et al., PLoS ONE 7(2), 2012.
    """
    components = np.asarray(components, dtype=np.float64)
    X = to_host(_columns(X))
    if components.shape != (X.shape[1], X.shape[1]):
        raise ValueError(f"components must be ({X.shape[1]}, {X.shape[1]}), got {components.shape}.")
    bins = bins or max(2, round(len(X) ** (1 / 3)))
    before = sum(_entropy(X[:, j].astype(np.float64), bins) for j in range(X.shape[1]))
    after = sum(_entropy(X @ row, bins) for row in components)
    return float(before - after + np.linalg.slogdet(components)[1])


def _entropy(x, bins):
    """Entropy in nats of a density given by samples x (n,), by a histogram with the Miller-Madow correction."""
    counts, edges = np.histogram(x, bins)
    share = counts[counts > 0] / len(x)
    return -(share * np.log(share)).sum() + np.log(edges[1] - edges[0]) + (len(share) - 1) / (2 * len(x))


def _columns(S):
    """S as a 2-D array with real columns."""
    S = S if hasattr(S, "ndim") else np.asarray(S)
    if S.ndim != 2:
        raise ValueError(f"Expected a 2D array (n_samples, n_components), got {S.ndim}D.")
    return S


def _rows(X, device, sample_weight):
    """X as rows worked on in float64, with its weights, where it is."""
    weights = None if sample_weight is None else check_weights(sample_weight, X.shape[0])
    return open_rows(X, dtype=np.dtype(np.float64), device=device, weights=weights)


def _standard(S, sample_weight):
    """Rows of S centered, and the factors (k,) that bring each column to variance 1."""
    S = _columns(S)
    rows = _rows(S, array_device(S), sample_weight)
    mean, covariance = MomentOracle(rows).moments()
    variance, xp = covariance.diagonal(), rows.xp
    centered = rows.projected(mean, xp.eye(S.shape[1]))
    return centered, 1 / xp.sqrt(xp.where(variance > 0, variance, 1))


def _correlation(covariance):
    scale = covariance.diagonal() ** 0.5
    scale = scale + (scale == 0)
    return covariance / scale[:, None] / scale


class _SideBySide:
    """Two matrices of the same rows as one, put together chunk by chunk."""

    def __init__(self, S, T):
        self.parts, self.dtype = (S, T), np.dtype(np.float64)
        self.shape = (len(S), S.shape[1] + T.shape[1])

    def __getitem__(self, rows):
        S, T = (part[rows] for part in self.parts)
        return array_device(S).xp.concatenate([S, T], axis=1)
