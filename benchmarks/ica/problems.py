"""The data that contestants fit: simulated mixtures, patches of photographs, activations of a language model.

Mixtures have a known mixing matrix, against which a fit can be judged; patches and activations are typical
applications.  All data are simulated or come with installed packages; nothing is downloaded.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from ..common.command import DATA

ACTIVATIONS = DATA / "minilm-l3.npy"


@dataclass(frozen=True)
class Problem:
    """A data set and the accuracy to which it is fitted.

    make: seed -> X (n_samples, n_features) and the mixing matrix A (n_features, n_components), X = S Aᵀ + mean, or None
    if it is unknown.  gradient: the relative gradient below which fits count as equally good, and the tolerance of
    solvers that stop by the gradient: at most a tenth of the sampling error 1/√n_samples, or what FastICA reaches at
    its tol.  tol, max_iter: FastICA's.  why_not: a sentence if the data are not available on this machine, or "".
    """

    name: str
    n_components: int
    make: Callable
    gradient: float
    tol: float = 1e-4
    max_iter: int = 200
    why_not: Callable = lambda: ""

    def data(self, seed, dtype):
        """X (n_samples, n_features) in the dtype, C order; A (n_features, n_components) or None."""
        X, A = self.make(seed)
        return np.ascontiguousarray(X, dtype=dtype), A

    def with_rows(self, n_samples):
        """The same problem with another number of rows."""
        return replace(self, make=partial(self.make, n_samples=n_samples))


def mixture(seed, n_samples, k):
    """Alternately Laplace and uniform sources of variance 1, mixed by a normal matrix: X (n_samples, k), A (k, k)."""
    rng = np.random.RandomState(seed)
    A, mean = rng.normal(size=(k, k)), rng.normal(size=k)
    S = np.empty((n_samples, k))
    S[:, 0::2] = rng.laplace(scale=0.5**0.5, size=S[:, 0::2].shape)
    S[:, 1::2] = rng.uniform(-(3**0.5), 3**0.5, size=S[:, 1::2].shape)
    X = S @ A.T
    X += mean
    return X, A


def patches(seed, n_samples, side=12):
    """Grey patches of scikit-learn's two sample photographs, half from each, with the mean of each patch removed.

    X (n_samples, side²) has rank side² - 1: the brightness has no variance.
    """
    from sklearn.datasets import load_sample_images

    rng, parts = np.random.RandomState(seed), []
    for photograph in load_sample_images().images:
        grey = photograph.mean(axis=2) / 255
        views = np.lib.stride_tricks.sliding_window_view(grey, (side, side))
        row, column = np.unravel_index(
            rng.choice(views[..., 0, 0].size, n_samples // 2, replace=False), views.shape[:2]
        )
        parts.append(views[row, column].reshape(-1, side * side))
    X = np.concatenate(parts)
    return X - X.mean(axis=1, keepdims=True), None


def stored_activations(seed, n_samples):
    """Rows of the stored activations, (n_samples, 384), drawn without replacement."""
    X = np.load(ACTIVATIONS, mmap_mode="r")
    rows = np.sort(np.random.RandomState(seed).choice(len(X), min(n_samples, len(X)), replace=False))
    return X[rows], None


def no_photographs():
    """Why photographs cannot be read, or ""."""
    return "" if importlib.util.find_spec("PIL") else "Photographs need pillow: pip install 'gpuica[bench]'."


def no_activations(path=ACTIVATIONS):
    """Why activations cannot be loaded, or ""."""
    return "" if path.exists() else f"{path} does not exist; `python -m benchmarks activations` computes it."


def load_activations(path, smoke=False):
    """The rows in a file of activations, memory-mapped; with `smoke`, simulated rows (2000, 8) if it does not exist."""
    if smoke and not path.exists():
        return mixture(0, 2_000, 8)[0].astype(np.float32)
    if reason := no_activations(path):
        raise SystemExit(reason)
    return np.load(path, mmap_mode="r")


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("small-1k-4", 4, partial(mixture, n_samples=1_000, k=4), 5e-4),
        Problem("mixture-20k-32", 32, partial(mixture, n_samples=20_000, k=32), 7e-4),
        Problem("mixture-100k-64", 64, partial(mixture, n_samples=100_000, k=64), 3e-4),
        Problem("mixture-100k-128", 128, partial(mixture, n_samples=100_000, k=128), 3e-4),
        Problem("mixture-200k-256", 256, partial(mixture, n_samples=200_000, k=256), 2e-4),
        Problem("patches", 100, partial(patches, n_samples=100_000), 5e-3, why_not=no_photographs),
        Problem("activations", 128, partial(stored_activations, n_samples=50_000), 2e-3, why_not=no_activations),
    )
}
