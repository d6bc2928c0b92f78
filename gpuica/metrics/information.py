"""The mutual information between columns, estimated by histograms."""

from typing import Any

import numpy as np

from ..device import array_device, to_host
from ._data import open_matrix, open_rows_of, small_matrix


def mutual_information_reduction(X: Any, components: Any, bins: int | None = None) -> float:
    """Mutual information reduction (MIR) by an unmixing matrix, in nats per row.

    Σ_i H(x_i) - Σ_i H(y_i) + log |det components|: how much less information the sources y = components x share than
    the features do.  Entropies H are estimated by histograms with the Miller-Madow correction.  Two passes.

    Parameters
    ----------
    X : array, path or Dask array of shape (n_samples, n_features)
        Rows, of any kind that `gpuica.FastICA` takes; read by chunks.
    components : array-like of shape (n_features, n_features)
        Unmixing matrix.
    bins : int, default=None
        Bins of each histogram; None for n_samples^(1/3).

    Returns
    -------
    reduction : float
        Larger is better.

    Raises
    ------
    ValueError
        If components does not have the shape (n_features, n_features).

    See Also
    --------
    log_likelihood : The same comparison under an assumed density.

    References
    ----------
    A. Delorme, J. Palmer, J. Onton, R. Oostenveld, S. Makeig, "Independent EEG sources are dipolar", PLoS ONE 7(2),
    2012.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica.metrics import mutual_information_reduction
    >>> X = np.random.default_rng(0).laplace(size=(10_000, 2))
    >>> round(mutual_information_reduction(X, np.diag([3.0, 0.2])), 9) == 0  # scaling changes nothing
    True
    """
    components = small_matrix(components)
    X = open_matrix(X)
    k = X.shape[1]
    if components.shape != (k, k):
        raise ValueError(f"components must be ({k}, {k}), got {components.shape}.")
    rows = open_rows_of(X, array_device(X), None)
    bins = bins or max(2, round(rows.n_rows ** (1 / 3)))
    extremes: list = []
    rows.for_each(extremes.append, _extremes, components)
    low, high = (np.array(side) for side in zip(*extremes, strict=True))
    low, high = low.min(axis=0), high.max(axis=0)
    counts = np.zeros((2 * k, bins), dtype=np.int64)
    rows.for_each(lambda part: np.add(counts, part, out=counts), _histograms, components, low, high, bins)
    entropies = [_entropy(*column) for column in zip(counts, low, high, strict=True)]
    return float(sum(entropies[:k]) - sum(entropies[k:]) + np.linalg.slogdet(components)[1])


def _both(chunk: Any, components: Any) -> Any:
    """The columns of a chunk and its sources, (n, 2 k), on the host."""
    chunk = to_host(chunk)
    return np.concatenate([chunk, chunk @ components.T], axis=1)


def _extremes(chunk: Any, components: Any) -> Any:
    """The smallest and the largest number of each column of `_both`, (2 k,) each."""
    both = _both(chunk, components)
    return both.min(axis=0), both.max(axis=0)


def _histograms(chunk: Any, components: Any, low: Any, high: Any, bins: int) -> Any:
    """The histogram of each column of `_both`, (2 k, bins)."""
    both = _both(chunk, components)
    columns = zip(both.T, low, high, strict=True)
    return np.array([np.histogram(x, bins, range=(least, most))[0] for x, least, most in columns])


def _entropy(counts: Any, low: Any, high: Any) -> Any:
    """Entropy in nats of a density given by its histogram, with the Miller-Madow correction."""
    n, edges = counts.sum(), np.histogram_bin_edges([], len(counts), range=(low, high))
    p = counts[counts > 0] / n
    return -(p * np.log(p)).sum() + np.log(edges[1] - edges[0]) + (len(p) - 1) / (2 * n)
