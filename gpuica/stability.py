"""Icasso: which components come back when ICA is run again, from other starts or on other rows.

Himberg, Hyvärinen, Esposito, "Validating the independent components of neuroimaging time series via clustering and
visualization", NeuroImage 22, 2004.
"""

from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import average, fcluster
from scipy.spatial.distance import squareform
from sklearn.base import clone
from sklearn.utils import check_random_state

from .device import array_device
from .device.arrays import as_numpy, unwrap

__all__ = ["Stability", "stability"]


@dataclass(frozen=True)
class Stability:
    """Clusters of the components of all runs, the most stable first.

    index: (k,) Icasso's stability index of each cluster, mean |correlation| within minus mean |correlation| to the
    rest: 1 for a component that every run finds, near 0 for one that no run finds again.
    components: (k, d) centrotypes, the member of each cluster that is most like the others; filters, as `components_`.
    sizes: (k,) members of each cluster; n_runs where every run found it once.
    labels: (n_runs, k) the cluster of each run's components.
    similarity: (n_runs k, n_runs k) |correlation| of all components of all runs.
    """

    index: np.ndarray
    components: np.ndarray
    sizes: np.ndarray
    labels: np.ndarray
    similarity: np.ndarray

    @property
    def n_runs(self):
        return len(self.labels)

    def plot(self, path=None):
        """The index of every cluster, and the |correlations| sorted by cluster; a matplotlib figure.

        path: file to write it to.  Needs matplotlib: pip install 'gpuica[bench]'.
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


def stability(estimator, X, *, n_runs=20, bootstrap=False, random_state=None, sample_weight=None):
    """Run an ICA n_runs times and cluster the components of all runs.

    estimator: `FastICA` or `Picard`, unfitted; its random_state is not used.  X: (n, d) array of any kind it takes.
    n_runs: at least 2.  bootstrap: whether every run also draws its rows anew, with replacement (then X must be an
    array of NumPy, CuPy or torch, and runs cannot share their passes); else all runs start elsewhere on the same rows,
    and share every pass.  random_state: int, RandomState or None.  sample_weight: (n,) as for the estimator's `fit`;
    rows drawn anew bring theirs along.  Returns a `Stability`.
    """
    if n_runs < 2:
        raise ValueError(f"n_runs must be at least 2 to compare runs, got {n_runs}.")
    rng = check_random_state(random_state)
    if bootstrap:
        X, runs = unwrap(X)[0], []
        w = None if sample_weight is None else as_numpy(sample_weight)
        for _ in range(n_runs):
            again = clone(estimator).set_params(random_state=rng.randint(2**31 - 1))
            drawn = rng.randint(len(X), size=len(X))
            rows, weights = X[array_device(X).put(drawn)], None if w is None else w[drawn]
            runs.append(again.fit(rows, sample_weight=weights).components_)
        spread = np.cov(as_numpy(X).astype(np.float64), rowvar=False, aweights=w)
        spread = spread.reshape(X.shape[1], X.shape[1])
    else:
        together = clone(estimator).set_params(random_state=rng)
        runs, spread = together.fit_runs(X, n_runs, sample_weight)
    k = min(map(len, runs))
    if k != max(map(len, runs)):
        raise ValueError("runs differ in their number of components: set n_components to at most the rank of X.")
    return cluster(np.stack(runs).astype(np.float64), spread)


def cluster(runs, covariance):
    """Cluster components runs (n_runs, k, d) of data of this covariance (d, d); a `Stability`.

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
