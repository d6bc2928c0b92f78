"""The data that contestants fit: mixtures with a known answer, photographs, a language model's activations.

Mixtures have a known mixing matrix, so that an answer can be right or wrong; patches and activations have not, but are
what ICA is used for.  All data are made, or ship with packages: nothing is downloaded.
"""

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

ACTIVATIONS = Path(__file__).parent / "data" / "minilm-l3.npy"


@dataclass(frozen=True)
class Problem:
    """What to fit, and how far.

    make: seed -> X (n_samples, n_features) and the mixing matrix A (n_features, n_components), X = S Aᵀ + mean, or None
    where nobody knows it.  gradient: the relative gradient below which answers count as equally good, and where solvers
    that stop by it may stop: a tenth of the sampling error 1/√n_samples or less, or what FastICA ends with at tol.
    tol, max_iter: FastICA's.  why_not: a sentence when the data cannot be made here, or "".
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


def mixture(seed, n_samples, k):
    """Sources of variance 1, Laplace and uniform in turn, mixed by a normal matrix.  X (n_samples, k), A (k, k)."""
    rng = np.random.RandomState(seed)
    A, mean = rng.normal(size=(k, k)), rng.normal(size=k)
    S = np.empty((n_samples, k))
    S[:, 0::2] = rng.laplace(scale=0.5**0.5, size=S[:, 0::2].shape)
    S[:, 1::2] = rng.uniform(-(3**0.5), 3**0.5, size=S[:, 1::2].shape)
    X = S @ A.T
    X += mean
    return X, A


def patches(seed, n_samples, side=12):
    """Grey patches of the two photographs that scikit-learn ships, as many of each, their own mean removed.

    X (n_samples, side²) of rank side² - 1: one direction, the brightness, has no variance.
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


def activations(seed, n_samples):
    """Rows of the cached activations, (n_samples, 384), drawn without replacement."""
    X = np.load(ACTIVATIONS, mmap_mode="r")
    rows = np.sort(np.random.RandomState(seed).choice(len(X), min(n_samples, len(X)), replace=False))
    return X[rows], None


def _no_pictures():
    return "" if importlib.util.find_spec("PIL") else "reading photographs needs pillow: pip install 'gpuica[bench]'"


def _no_activations():
    return "" if ACTIVATIONS.exists() else "make them first: python -m benchmarks.activations"


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("small-1k-4", 4, partial(mixture, n_samples=1_000, k=4), 5e-4),
        Problem("mixture-20k-32", 32, partial(mixture, n_samples=20_000, k=32), 7e-4),
        Problem("mixture-100k-64", 64, partial(mixture, n_samples=100_000, k=64), 3e-4),
        Problem("mixture-100k-128", 128, partial(mixture, n_samples=100_000, k=128), 3e-4),
        Problem("mixture-200k-256", 256, partial(mixture, n_samples=200_000, k=256), 2e-4),
        Problem("patches", 100, partial(patches, n_samples=100_000), 5e-3, why_not=_no_pictures),
        Problem("activations", 128, partial(activations, n_samples=50_000), 2e-3, why_not=_no_activations),
    )
}
