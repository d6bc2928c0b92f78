"""Attacks on sparse coders: no code is worse than zeros, and rows that miss the target are counted."""

import numpy as np

from gpuica import kernels
from gpuica.coders import Fista, Lasso, Threshold, TopK

from ..coherent import DICTIONARIES, check, problem, pursuits, to_target

SETTINGS = {  # name of a dictionary -> random parameters
    "bumps": lambda rng: {"d": int(rng.integers(2, 60)), "K": int(rng.integers(1, 150))},
    "pairs": lambda rng: {
        "d": int(rng.integers(2, 40)),
        "K": 2 * int(rng.integers(1, 40)),
        "apart": 10.0 ** -rng.integers(0, 9),
    },
    "gaussian": lambda rng: {"d": int(rng.integers(1, 40)), "K": int(rng.integers(1, 80))},
    "few": lambda rng: {"d": int(rng.integers(20, 60)), "K": int(rng.integers(1, 20))},
    "low_rank": lambda rng: {
        "d": int(rng.integers(2, 40)),
        "K": int(rng.integers(1, 60)),
        "rank": int(rng.integers(1, 9)),
    },
    "monomials": lambda rng: {"d": int(rng.integers(2, 40)), "K": int(rng.integers(1, 20))},
}


def _problem(rng, n):
    name = str(rng.choice(list(DICTIONARIES)))
    dtype = rng.choice([np.float32, np.float64])
    X, D = problem(lambda r: DICTIONARIES[name](r, **SETTINGS[name](r)), n, dtype, rng)
    if rng.random() < 0.3:  # atoms of other norms and zero atoms
        D = D * (10.0 ** rng.integers(-3, 4, (len(D), 1))).astype(dtype)
        D[rng.random(len(D)) < 0.1] = 0
    if rng.random() < 0.3:  # duplicates
        D = np.concatenate([D, D[rng.integers(len(D), size=3)] * rng.choice([-1, 1, 2], (3, 1))]).astype(dtype)
    X[rng.random(len(X)) < 0.05] = 0
    return X * dtype(10.0 ** int(rng.integers(-3, 4))), D


def _encode(X, D, coder, rng):
    return kernels.encode(X, D, D @ D.T if rng.random() < 0.8 else None, coder)


def attack_pursuits(rng):
    X, D = _problem(rng, 300)
    for coder in pursuits(int(rng.integers(1, len(D) + 1))):
        _checked(X, D, coder, rng)


def attack_pursuits_to_a_target(rng):
    X, D = _problem(rng, 300)
    target = float((X.astype(float) ** 2).sum(axis=1).mean() * 10.0 ** -rng.uniform(0, 12))
    for coder in to_target(target, len(D)):
        _checked(X, D, coder, rng)


def _checked(X, D, coder, rng):
    C, unfinished = _encode(X, D, coder, rng)
    check(X, D, C, coder, unfinished)


def attack_penalised(rng):
    X, D = _problem(rng, 100)
    top = float(np.abs(X @ D.T).max()) or 1.0
    alpha, positive = top * 10.0 ** -rng.uniform(0, 4), bool(rng.random() < 0.5)
    for coder in (Lasso(alpha, positive, int(rng.choice([1, 5, 1000]))), Fista(alpha, positive, 60)):
        C, _ = _encode(X, D, coder, rng)
        x, d, c = (A.astype(np.float64) for A in (X, D, C))
        cost, size = ((x - c @ d) ** 2).sum(axis=1) / 2 + alpha * np.abs(c).sum(axis=1), (x * x).sum(axis=1) / 2
        rounding = 1e-5 if X.dtype == np.float32 else 1e-12
        assert (cost <= size * (1 + rounding)).all(), (coder, (cost / np.maximum(size, 1e-300)).max())


def attack_thresholds(rng):
    X, D = _problem(rng, 100)
    Q, alpha, positive, k = (
        X @ D.T,
        float(rng.exponential()),
        bool(rng.random() < 0.5),
        int(rng.integers(1, len(D) + 1)),
    )
    size = np.maximum(Q, 0) if positive else np.abs(Q)
    np.testing.assert_allclose(
        kernels.encode(X, D, None, Threshold(alpha, positive))[0],
        np.sign(Q) * np.maximum(size - X.dtype.type(alpha), 0),
    )
    C, _ = kernels.encode(X, D, None, TopK(k, positive))
    assert ((C == 0) | (C == Q)).all()
    assert (np.count_nonzero(C, axis=1) == np.minimum(k, np.count_nonzero(size, axis=1))).all()
    left = np.where(C == 0, size, 0).max(axis=1)
    assert (np.where(C != 0, size, np.inf).min(axis=1) >= left).all()
