"""How much of a known dictionary is found, and how soon: gpuica beside SPAMS.

    python -m benchmarks.known_dictionary [--rows 200000] [--spams-seconds 60]

Rows are 6 Gaussian coefficients on 256 unit atoms of 64 features, with noise at 20 dB.  An atom counts as found where
the |cosine| with some learned atom is above 0.99.  All start from the same rows of the data as atoms.
"""

import argparse
import importlib.util
import time
import warnings

import numpy as np

import gpuica

from .environment import environment

ATOMS, FEATURES, NONZERO, ALPHA = 256, 64, 6, 0.3


def known(n_rows, seed=0):
    """(rows (n, d) float32, atoms (k, d)): signal and noise as above."""
    rng = np.random.default_rng(seed)
    D = rng.normal(size=(ATOMS, FEATURES))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    C = np.zeros((n_rows, ATOMS), np.float32)
    chosen = rng.random((n_rows, ATOMS)).argpartition(NONZERO, axis=1)[:, :NONZERO]
    np.put_along_axis(C, chosen, rng.normal(size=chosen.shape).astype(np.float32), axis=1)
    X = C @ D.astype(np.float32)
    X += np.float32(0.1 * X.std()) * rng.normal(size=X.shape).astype(np.float32)
    return X, D


def found(D, truth):
    """Share of the true atoms that are among the atoms D, by |cosine| > 0.99."""
    D = D / np.maximum(np.linalg.norm(D, axis=1, keepdims=True), 1e-12)
    return (abs(truth @ D.T).max(axis=1) > 0.99).mean()


def start(X, seed=1):
    rows = X[np.random.RandomState(seed).choice(len(X), ATOMS, replace=False)]
    return np.ascontiguousarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def ours(X, D, passes, **settings):
    model = gpuica.MiniBatchDictionaryLearning(
        ATOMS,
        alpha=ALPHA,
        max_iter=passes,
        fit_algorithm="cd",
        dict_init=D,
        batch_size=512,
        tol=0,
        max_no_improvement=None,
        random_state=0,
        device="cpu",
        **settings,
    )
    return model.fit(X).components_


def spams(X, D, seconds, threads):
    import spams

    atoms = spams.trainDL(
        np.asfortranarray(X.T),
        D=np.asfortranarray(D.T),
        K=ATOMS,
        lambda1=ALPHA,
        mode=2,
        iter=-seconds,  # of its own clock
        batchsize=512,
        numThreads=threads,
        verbose=False,
    )
    return np.ascontiguousarray(atoms.T)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--passes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--spams-seconds", type=int, nargs="*", default=[5, 20, 60])
    args = parser.parse_args()
    where = environment()
    print(f"{where['machine']['cpu']}, {where['machine']['cores']} cores; commit {where['commit']}, {where['date']}")
    warnings.simplefilter("ignore")
    X, truth = known(args.rows)
    D = start(X)
    ours(X[:2000], D, 1)
    runs = [(f"gpuica, {passes} passes", lambda passes=passes: ours(X, D, passes)) for passes in args.passes]
    if importlib.util.find_spec("spams"):
        threads = where["machine"]["cores"]
        runs += [(f"SPAMS, {s} s asked", lambda s=s: spams(X, D, s, threads)) for s in args.spams_seconds]
    for name, call in runs:
        began = time.perf_counter()
        atoms = call()
        print(f"{name:20} {time.perf_counter() - began:7.1f} s  {found(atoms, truth):6.1%} of the atoms", flush=True)


if __name__ == "__main__":
    main()
