"""Icasso: the stability of independent components over runs from different starts or on resampled rows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.cluster.hierarchy import average, fcluster
from scipy.spatial.distance import squareform
from sklearn.base import clone
from sklearn.utils import check_random_state

from .device import array_device
from .device.arrays import as_numpy, unwrap

__all__ = ["Stability", "stability"]


def __dir__() -> list[str]:
    return __all__


@dataclass(frozen=True)
class Stability:
    """Clusters of the components of several runs, the most stable first.

    Parameters
    ----------
    index : ndarray of shape (n_components,)
        Icasso's stability index of each cluster, the mean absolute correlation within it minus that with all other
        components: 1 for a component that every run finds, near 0 for one that no other run finds.
    components : ndarray of shape (n_components, n_features)
        The centrotype of each cluster, the member with the largest sum of absolute correlations with the others;
        filters, as `components_`.
    sizes : ndarray of shape (n_components,)
        Number of members of each cluster; n_runs where every run found it once.
    labels : ndarray of shape (n_runs, n_components)
        The cluster of each component of each run.
    similarity : ndarray of shape (n_runs * n_components, n_runs * n_components)
        Absolute correlations of all components of all runs.

    Attributes
    ----------
    n_runs : int
        Number of runs.

    See Also
    --------
    stability : Runs an estimator and returns this.

    References
    ----------
    J. Himberg, A. Hyvärinen, F. Esposito, "Validating the independent components of neuroimaging time series via
    clustering and visualization", NeuroImage 22, 2004.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica import Picard
    >>> from gpuica.stability import stability
    >>> X = np.random.default_rng(0).laplace(size=(2000, 3))
    >>> found = stability(Picard(), X, n_runs=4, random_state=0)
    >>> found.sizes, found.n_runs
    (array([4, 4, 4]), 4)
    """

    index: np.ndarray
    components: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    similarity: np.ndarray

    @property
    def n_runs(self) -> int:
        """Number of runs."""
        return len(self.labels)

    def plot(self, path: Any = None) -> Any:
        """Plot the index of every cluster, and the absolute correlations sorted by cluster.

        Needs matplotlib: pip install 'gpuica[bench]'.

        Parameters
        ----------
        path : str or path-like, default=None
            The file to save the figure to; None to return it only.

        Returns
        -------
        figure : matplotlib.figure.Figure
            The figure, with two axes.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4.2), layout="constrained")
        left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
        left.bar(np.arange(len(self.index)), self.index, color="#4a6fa5", width=0.9)
        left.axhline(0.8, color="#999999", lw=0.8, ls=":")
        left.set(xlabel="cluster, the most stable first", ylabel="stability index", ylim=(min(0, *self.index), 1.02))
        left.set_title(f"{(self.index > 0.8).sum()} of {len(self.index)} components above 0.8 in {self.n_runs} runs")
        order = np.argsort(self.labels.ravel(), kind="stable")
        image = right.imshow(self.similarity[np.ix_(order, order)], vmin=0, vmax=1, cmap="magma", rasterized=True)
        right.set(xticks=[], yticks=[], title="|correlation|, sorted by cluster")
        figure.colorbar(image, ax=right, shrink=0.8)
        if path is not None:
            figure.savefig(path, dpi=120)
        return figure


def stability(
    estimator: Any,
    X: Any,
    *,
    n_runs: int = 20,
    bootstrap: bool = False,
    random_state: int | np.random.RandomState | None = None,
    sample_weight: Any = None,
) -> Stability:
    """Fit an ICA several times and cluster the components of all runs.

    Components that depend on the start or on the sample of rows form clusters of low stability.

    Parameters
    ----------
    estimator : FastICA or Picard
        An unfitted estimator, which is cloned; its random_state is ignored.
    X : array, path, iterable or Dask array of shape (n_samples, n_features)
        The data, of any kind that the estimator takes.  With bootstrap an array of NumPy, CuPy or torch.
    n_runs : int, default=20
        Number of runs, at least 2.
    bootstrap : bool, default=False
        Whether each run is also fitted to rows drawn with replacement.  Otherwise runs differ in their starts only,
        and share every pass over X.
    random_state : int, RandomState or None, default=None
        Draws the starts and the rows.
    sample_weight : array-like of shape (n_samples,), default=None
        The number of rows that each row counts as, as for the estimator's `fit`.

    Returns
    -------
    stability : Stability
        The clusters, the most stable first.

    Raises
    ------
    ValueError
        If n_runs is less than 2, or runs differ in their number of components.

    See Also
    --------
    gpuica.metrics.matched_correlation : Compare the sources of two runs.

    References
    ----------
    J. Himberg, A. Hyvärinen, F. Esposito, "Validating the independent components of neuroimaging time series via
    clustering and visualization", NeuroImage 22, 2004.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica import FastICA
    >>> from gpuica.stability import stability
    >>> X = np.random.default_rng(0).laplace(size=(2000, 3))
    >>> found = stability(FastICA(), X, n_runs=5, random_state=0)
    >>> bool((found.index > 0.9).all())
    True
    """
    if n_runs < 2:
        raise ValueError(f"n_runs must be at least 2 to compare runs, got {n_runs}.")
    rng = check_random_state(random_state)
    if bootstrap:
        X, runs = unwrap(X)[0], []
        w = None if sample_weight is None else as_numpy(sample_weight)
        for _ in range(n_runs):
            resampled = clone(estimator).set_params(random_state=rng.randint(2**31 - 1))
            drawn = rng.randint(len(X), size=len(X))
            rows, weights = X[array_device(X).put(drawn)], None if w is None else w[drawn]
            runs.append(resampled.fit(rows, sample_weight=weights).components_)
        covariance = np.cov(as_numpy(X).astype(np.float64), rowvar=False, aweights=w)
        covariance = covariance.reshape(X.shape[1], X.shape[1])
    else:
        together = clone(estimator).set_params(random_state=rng)
        runs, covariance = together.fit_runs(X, n_runs, sample_weight)
    k = min(map(len, runs))
    if k != max(map(len, runs)):
        raise ValueError("runs differ in their number of components: pass n_components of at most the rank of X.")
    return cluster(np.stack(runs).astype(np.float64), covariance)


def cluster(runs: Any, covariance: Any) -> Stability:
    """The `Stability` of components (n_runs, k, d) of data with this covariance (d, d).

    Average linkage on 1 - |correlation|, cut into k clusters.
    """
    n_runs, k, d = runs.shape
    flat = runs.reshape(n_runs * k, d)
    products = flat @ covariance @ flat.T
    scale = np.sqrt(np.diag(products))
    similarity = np.clip(np.abs(products / scale[:, None] / scale), 0, 1)
    np.fill_diagonal(similarity, 1)
    distance = 1 - similarity
    found = fcluster(average(squareform(distance, checks=False)), k, criterion="maxclust") - 1
    members = [np.flatnonzero(found == c) for c in range(found.max() + 1)]
    index, centers = [], []
    for inside in members:
        outside = np.setdiff1d(np.arange(len(flat)), inside, assume_unique=True)
        within = similarity[np.ix_(inside, inside)]
        between = similarity[np.ix_(inside, outside)].mean() if len(outside) else 0.0
        index.append(within.mean() - between)
        centers.append(inside[within.sum(axis=1).argmax()])
    order = np.argsort(index, kind="stable")[::-1]
    rank = np.argsort(order)
    return Stability(
        np.array(index)[order],
        flat[np.array(centers)[order]],
        np.array([len(inside) for inside in members])[order],
        rank[found].reshape(n_runs, k),
        similarity,
    )
