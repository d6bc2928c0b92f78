"""Dictionaries of nearly dependent atoms, and assertions that hold for all codes on them."""

import numpy as np

from gpuica.coders import OMP, ORMP, Lars, MatchingPursuit

EPS = {np.dtype(np.float32): 2.0**-23, np.dtype(np.float64): 2.0**-52}
EXCESS = {np.dtype(np.float32): 2e-5, np.dtype(np.float64): 2e-11}  # over least squares, relative to ‖x‖²


def bumps(rng, d=40, K=100):
    """Gaussian bumps of various widths."""
    centres, widths = rng.uniform(0, d, (K, 1)), rng.uniform(1, 6, (K, 1))
    return np.exp(-(((np.arange(d) - centres) / widths) ** 2) / 2)


def pairs(rng, d=20, K=40, apart=1e-2):
    """Pairs of atoms at a relative distance of `apart`."""
    D = rng.normal(size=(K // 2, d))
    return np.concatenate([D, D + apart * np.linalg.norm(D, axis=1, keepdims=True) * rng.normal(size=D.shape) / d**0.5])


def gaussian(rng, d=12, K=40):
    """More atoms than features."""
    return rng.normal(size=(K, d))


def few(rng, d=30, K=9):
    """Fewer atoms than features."""
    return rng.normal(size=(K, d))


def low_rank(rng, d=15, K=30, rank=6):
    """Atoms in a subspace."""
    return rng.normal(size=(K, rank)) @ rng.normal(size=(rank, d))


def monomials(rng, d=25, K=12):
    """Monomials on a grid: each is close to the span of those of lower degree."""
    return np.linspace(0, 1, d) ** np.arange(K)[:, None]


DICTIONARIES = {f.__name__: f for f in (bumps, pairs, gaussian, few, low_rank, monomials)}


def problem(make, n, dtype, rng):
    """Rows X (n, d), sparse in D with strong (even rows) or weak (odd rows) noise, and unit-norm atoms D (K, d)."""
    D = make(rng)
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    X = (rng.uniform(size=(n, len(D))) * (rng.uniform(size=(n, len(D))) < 3 / len(D))) @ D
    X += np.where(np.arange(n) % 2, 0.01, 1)[:, None] * rng.normal(size=X.shape) / D.shape[1] ** 0.5
    return X.astype(dtype), D.astype(dtype)


def pursuits(n_nonzero):
    """All pursuits, stopped at a number of atoms."""
    return [
        OMP(n_nonzero),
        ORMP(n_nonzero),
        OMP(n_nonzero, positive=True),
        Lars(n_nonzero),
        MatchingPursuit(n_nonzero),
        MatchingPursuit(n_nonzero, gradient=True),
    ]


def to_target(target, n_atoms):
    """All pursuits, stopped at a squared residual."""
    return [
        OMP(n_atoms, target),
        ORMP(n_atoms, target),
        OMP(n_atoms, target, positive=True),
        MatchingPursuit(n_atoms, target),
        MatchingPursuit(n_atoms, target, gradient=True),
    ]


def check(X, D, C, coder, unfinished):
    """Check the codes C of a pursuit.

    No residual is larger than its row, orthogonal pursuits are least squares on their supports, rows have at most
    n_nonzero atoms, and all rows that miss the target are counted.
    """
    eps, excess = EPS[X.dtype], EXCESS[X.dtype]
    X, D, C = (A.astype(np.float64) for A in (X, D, C))
    assert np.isfinite(C).all()
    size, square = (X * X).sum(axis=1), ((X - C @ D) ** 2).sum(axis=1)
    summing = 1e-14 * np.abs(C) @ np.linalg.norm(D, axis=1)  # rounding error of this sum
    assert (square**0.5 <= size**0.5 * (1 + 1e-13) + summing).all(), (square / size).max()
    number = np.count_nonzero(C, axis=1)
    assert (number <= coder.n_nonzero).all()
    if not isinstance(coder, MatchingPursuit):
        assert (number <= D.shape[1]).all()
    if isinstance(coder, OMP | ORMP):
        for x, c, left, error in zip(X, C, square, summing, strict=True):
            best = x - np.linalg.lstsq(D[c != 0].T, x, rcond=1e-15)[0] @ D[c != 0]
            assert left**0.5 <= (best @ best + excess * (x @ x)) ** 0.5 + error
        if getattr(coder, "positive", False):
            assert (C >= 0).all()
    target = getattr(coder, "target", 0)
    assert 0 <= unfinished <= len(X)
    if target:
        missed = square**0.5 > target**0.5 * (1 + 1e-6) + 10 * eps * size**0.5 + summing
        assert missed.sum() <= unfinished
