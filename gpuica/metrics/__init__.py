"""How good a separation or a dictionary is: against the truth where it is known, else by the data alone.

Data-sized arguments are read by chunks: they may be memory-mapped, paths of files or what `gpuica.shards` returns, or
Dask arrays, and may live on a GPU.  sample_weight: (n,), as how many rows each row counts; every mean and variance is
then the weighted one.
"""

import os

import numpy as np
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from ..contrasts import LogCosh, as_contrast
from ..device import CPU, array_device, to_host
from ..device.arrays import host, known
from ..io.files import shards
from ..oracle import ContrastOracle, MomentOracle
from ..rows import open_rows
from ..rows.base import check_weights, of_norm_one
from ..solvers.manifolds import rotation_gradient

GAUSSIAN_LOGCOSH = 0.37456720749145711  # E log cosh of a standard normal variable
CHUNK = 1 << 22  # numbers of a chunk of codes or cosines


def amari_distance(components, A):
    """Amari distance of components (k, d) from a mixing matrix A (d, k): 0 for perfect separation, at most 1.

    With P = components @ A, (Σ_i (Σ_j |P_ij| / max_j |P_ij| - 1) + Σ_j (Σ_i |P_ij| / max_i |P_ij| - 1)) / (2 k (k-1)):
    blind to order, sign and scale.  Amari, Cichocki, Yang, NIPS 1996.  0 for k = 1.
    """
    P = np.abs(_matrix(components) @ _matrix(A))
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
    similarity = np.abs(host(similarity))
    rows, columns = linear_sum_assignment(-similarity)
    return similarity[rows, columns], columns


def relative_gradient(S, fun="logcosh", sample_weight=None):
    """Largest entry of the relative gradient of FastICA's and Picard-O's loss at sources S (n, k): 0 at a solution.

    S is scaled to variance 1, and should be uncorrelated.  max |skew part of s E g(y) yᵀ|, s_i = ±1 by the sign of
    E g'(y_i) - E g(y_i) y_i.  Compare with the sampling error, about 0.5 / sqrt(n).
    """
    rows, scale = _standard(S, sample_weight)
    xp = rows.xp
    _, cross, slope, *_ = ContrastOracle(rows, as_contrast(fun)).likelihood(xp.diag(scale))
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
    components = _matrix(components)
    if components.ndim != 2 or components.shape[0] != components.shape[1]:
        raise ValueError(f"a likelihood needs as many components as features, got components {components.shape}.")
    X = _columns(X)
    rows = _rows(X, array_device(X), sample_weight)
    mean = np.broadcast_to(_matrix(mean), (X.shape[1],))
    projected = rows.projected(rows.xp.asarray(mean), rows.xp.asarray(components))
    loss = ContrastOracle(projected, as_contrast(fun)).likelihood(rows.xp.eye(len(components)))[0]
    return float(np.linalg.slogdet(components)[1] - float(loss.sum()))


def mutual_information_reduction(X, components, bins=None):
    """MIR: by how much sources y = components x share less information than the columns of X, in nats per row.

    Σ_i H(x_i) - Σ_i H(y_i) + log |det components|, entropies by histograms.  X: (n, k), components: (k, k).  bins:
    default n^(1/3).  Delorme et al., PLoS ONE 7(2), 2012.
    """
    components = _matrix(components)
    X = _columns(X)
    k = X.shape[1]
    if components.shape != (k, k):
        raise ValueError(f"components must be ({k}, {k}), got {components.shape}.")
    rows = _rows(X, array_device(X), None)
    bins = bins or max(2, round(rows.n_rows ** (1 / 3)))
    extremes: list = []
    rows.for_each(extremes.append, _extremes, components)
    low, high = (np.array(side) for side in zip(*extremes, strict=True))
    low, high = low.min(axis=0), high.max(axis=0)
    counts = np.zeros((2 * k, bins), dtype=np.int64)
    rows.for_each(lambda part: np.add(counts, part, out=counts), _histograms, components, low, high, bins)
    entropies = [_entropy(*column) for column in zip(counts, low, high, strict=True)]
    return float(sum(entropies[:k]) - sum(entropies[k:]) + np.linalg.slogdet(components)[1])


# ---- codes C (n, k), dense or scipy's sparse, of a dictionary D (k, d): rows x ~ c D ---------------------------------
def l0(C):
    """Mean number of non-zero codes of a row."""
    return float(firing_frequencies(C).sum())


def l1(C):
    """Mean Σ_j |c_j| of a row."""
    C = _codes(C)
    return sum(float(abs(part).sum(dtype=np.float64)) for part in _parts(C)) / C.shape[0]


def firing_frequencies(C):
    """(k,) the share of rows in which each atom's code is not 0."""
    C = _codes(C)
    return to_host(sum(_uses(part) for part in _parts(C))) / C.shape[0]


def dead_atoms(C, threshold=0.0):
    """Indices of atoms used in at most this share of the rows: by default in none."""
    return np.flatnonzero(firing_frequencies(C) <= threshold)


def dense_atoms(C, threshold=0.1):
    """Indices of atoms used in more than this share of the rows: not sparse, often a mean or a bias."""
    return np.flatnonzero(firing_frequencies(C) > threshold)


def explained_variance(X, C, D):
    """1 - `fvu`."""
    return 1 - fvu(X, C, D)


def fvu(X, C, D):
    """Fraction of variance unexplained, Σ ‖x - c D‖² / Σ ‖x - mean‖²: 0 for perfect codes, 1 for a code that is always
    the mean of X (n, d); larger where codes are worse than that.
    """
    X, C, device = _columns(X), _codes(C), array_device(X)
    D = device.put(_columns(D)[:]).astype(np.float64)
    if C.shape != (X.shape[0], D.shape[0]) or X.shape[1] != D.shape[1]:
        raise ValueError(f"X (n, d), C (n, k) and D (k, d) do not fit together: {X.shape}, {C.shape}, {D.shape}.")
    residual = square = 0.0
    shift = device.put(X[:1024]).astype(np.float64).mean(axis=0)  # squares about 0 lose the digits that a mean takes
    total = device.xp.zeros(X.shape[1])
    for rows in _blocks(X) or _slices(len(X), sum(D.shape)):
        x, c = device.put(X[rows]).astype(np.float64), C[rows]
        if not (sparse.issparse(c) and device == CPU):
            c = device.put(c.toarray() if sparse.issparse(c) else c)
        residual += ((x - c @ D) ** 2).sum()
        x -= shift
        total += x.sum(axis=0)
        square += (x * x).sum()
    variance = float(square - (total * total).sum() / len(X))
    if not variance > 0:
        raise ValueError("X has no variance to explain: all its rows are the same.")
    return float(residual) / variance


def coherence(D):
    """The largest |cosine| of two different atoms of D (k, d); atoms of zeros have cosine 0.  0 for k = 1."""
    D = _directions(D)
    largest = 0.0
    for rows in _slices(len(D), len(D)):
        cosines = abs(D[rows] @ D[rows.start :].T)  # each pair once
        itself = array_device(D).xp.arange(len(cosines))
        cosines[itself, itself] = 0
        largest = max(largest, float(cosines.max()))
    return largest


def mmcs(D, E):
    """Mean over the atoms of D (k, d) of the largest |cosine| with an atom of E (l, d): 1 if E has them all.

    Not symmetric: atoms of E that D has not do not count.
    """
    D, E = _directions(D), _directions(E)
    E = array_device(D).put(E)
    return sum(float(abs(D[rows] @ E.T).max(axis=1).sum()) for rows in _slices(len(D), len(E))) / len(D)


def mcc(D, E):
    """Mean |cosine| of atoms of D (k, d) and E (l, d) matched one to one for the largest sum; k x l numbers in memory.

    Song et al., "Mechanistic interpretability should prioritize feature consistency in SAEs", arXiv 2505.20254, 2025.
    """
    D, E = to_host(_directions(D)), to_host(_directions(E))
    return float(match(D @ E.T)[0].mean())


def _codes(C):
    """C as a matrix whose rows can be sliced."""
    return C.tocsr() if sparse.issparse(C) else _columns(C)


def _parts(C):
    """Chunks of rows; sparse codes are one, since what is made of them is no larger than they are."""
    if sparse.issparse(C):
        return [C]
    return (C[rows] if array_device(C) != CPU else to_host(C[rows]) for rows in _blocks(C) or _slices(*C.shape))


def _uses(C):
    """How many rows of a chunk use each atom, (k,)."""
    if sparse.issparse(C):
        return np.bincount(C.indices[C.data != 0], minlength=C.shape[1])
    return (C != 0).sum(axis=0)


def _directions(D):
    """The atoms (k, d) with norm 1, in float64; zeros stay."""
    return of_norm_one(_columns(D)[:].astype(np.float64))


def _blocks(X):
    """Slices of the rows of a Dask array, a block each, so that each is computed once; None for other arrays."""
    if type(X).__module__.partition(".")[0] != "dask":
        return None
    ends = np.cumsum(X.chunks[0]).tolist()
    return [slice(start, stop) for start, stop in zip([0, *ends], ends)]


def _slices(n, width):
    """Slices of n rows that hold about CHUNK numbers each."""
    size = max(1, CHUNK // max(1, width))
    return [slice(start, start + size) for start in range(0, n, size)]


def _both(chunk, components):
    """The columns of a chunk and its sources, (n, 2 k), on the host."""
    chunk = to_host(chunk)
    return np.concatenate([chunk, chunk @ components.T], axis=1)


def _extremes(chunk, components):
    """The smallest and the largest number of each column of `_both`, (2 k,) each."""
    both = _both(chunk, components)
    return both.min(axis=0), both.max(axis=0)


def _histograms(chunk, components, low, high, bins):
    """(2 k, bins) how many numbers of each column of `_both` are in each bin."""
    both = _both(chunk, components)
    columns = zip(both.T, low, high, strict=True)
    return np.array([np.histogram(x, bins, range=(least, most))[0] for x, least, most in columns])


def _entropy(counts, low, high):
    """Entropy in nats of a density given by its histogram, with the Miller-Madow correction."""
    n, edges = counts.sum(), np.histogram_bin_edges([], len(counts), range=(low, high))
    share = counts[counts > 0] / n
    return -(share * np.log(share)).sum() + np.log(edges[1] - edges[0]) + (len(share) - 1) / (2 * n)


def _matrix(value):
    """A small array-like of any library, on any device, as a NumPy array of float64."""
    return np.asarray(host(value), dtype=np.float64)


def _columns(S):
    """S as a 2-D array of NumPy, CuPy or bfloat16 with real columns, or as rows of files."""
    if isinstance(S, str | os.PathLike):
        return shards(S)
    if type(S).__module__.partition(".")[0] == "dask":
        from ..rows.dask import with_known_chunks

        S = with_known_chunks(S)
    S = known(S)[0] if hasattr(S, "ndim") else np.asarray(S)
    if S.ndim != 2:
        raise ValueError(f"Expected a 2D array (n_samples, n_components), got {S.ndim}D.")
    return S


def _rows(X, device, sample_weight):
    """X as rows worked on in float64, with its weights, where it is."""
    weights = None if sample_weight is None else check_weights(host(sample_weight), X.shape[0])
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
        device = array_device(S)
        return device.xp.concatenate([S, device.put(T)], axis=1)
