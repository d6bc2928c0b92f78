"""Memory and time of sparse codes of many rows against a large dictionary, as csr_array.

    python -m benchmarks.coding_memory [--rows 1000000] [--atoms 6144] [--nonzero 32]

Rows (n, 384) float32: `nonzero` Laplace coefficients on unit atoms, and noise.  The lasso's alpha is found on 500 rows
so that codes have about as many non-zeros.  Dense codes of 1,000,000 x 6,144 would take 24.6 GB.
"""

import argparse

import numpy as np

import gpuica

from .environment import environment
from .measure import timed

FEATURES, STEP = 384, 20_000


def rows(n, D, nonzero, seed=0):
    """(n, d) float32."""
    rng, X = np.random.default_rng(seed), np.empty((n, D.shape[1]), np.float32)
    for begin in range(0, n, STEP):
        part = X[begin : begin + STEP]
        part[:] = rng.normal(scale=0.02, size=part.shape)
        for _ in range(nonzero):
            chosen = D[rng.integers(len(D), size=len(part))]
            chosen *= rng.laplace(size=(len(part), 1)).astype(np.float32)
            part += chosen
    return X


def penalty(X, D, nonzero):
    """alpha that gives the rows about so many non-zeros, by bisection."""
    low, high = 0.0, float(abs(X @ D.T).max())
    for _ in range(12):
        alpha = (low + high) / 2
        codes = gpuica.sparse_encode(X, D, algorithm="lasso_cd", alpha=alpha, device="cpu", sparse_output=True)
        low, high = (alpha, high) if codes.nnz > nonzero * len(X) else (low, alpha)
    return high


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--atoms", type=int, default=6_144)
    parser.add_argument("--nonzero", type=int, default=32)
    args = parser.parse_args()
    where = environment()
    print(f"{where['machine']['cpu']}, {where['machine']['cores']} cores; commit {where['commit']}, {where['date']}")
    D = np.random.default_rng(1).normal(size=(args.atoms, FEATURES)).astype(np.float32)
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    X = rows(args.rows, D, args.nonzero)
    alpha = penalty(X[:500], D, args.nonzero)
    settings = {"transform_algorithm": "lasso_cd", "transform_alpha": alpha, "sparse_output": True, "device": "cpu"}
    codes, seconds, peak = timed(lambda: gpuica.SparseCoder(D, **settings).transform(X))
    print(
        f"{args.rows:,} x {FEATURES}, {args.atoms:,} atoms, alpha {alpha:.3f}: "
        f"{codes.nnz / args.rows:.1f} non-zeros a row, "
        f"{seconds:.0f} s, {1e6 * seconds / args.rows:.0f} us a row, "
        f"peak beyond the input {'unknown' if peak is None else f'{peak / 1e6:,.0f} MB'}, "
        f"codes {(codes.data.nbytes + codes.indices.nbytes + codes.indptr.nbytes) / 1e6:,.0f} MB"
    )


if __name__ == "__main__":
    main()
