"""One dictionary update from A = CᵀC and B = CᵀX: blocked against one product per atom.

    python -m benchmarks.atoms [--sizes 1024x64 4096x384 ...] [--threads 1] [--repeats 3]

The rivals are scikit-learn's `_update_dict`, given A and B, and the same loop without its book-keeping.  All give the
same dictionary.  The floor is 2 k² d operations at the rate of a large product.  "array code" is the blocked update
without the compiled loop over the atoms of a block.  Seconds are the least of the repeats, which take turns.
"""

import argparse
import time
from contextlib import nullcontext

import numpy as np
from scipy import sparse
from sklearn.decomposition._dict_learning import _update_dict
from threadpoolctl import threadpool_limits

from gpuica import kernels
from gpuica.solvers.atoms import block_descent

from .environment import environment

SIZES = ("128x64", "1024x64", "1024x384", "4096x64", "4096x384")


def statistics(k, d, used=16, seed=0):
    """Unit atoms D (k, d), and A (k, k), B (k, d) of 4 k rows with `used` codes each."""
    rng = np.random.default_rng(seed)
    n = 4 * k
    atoms = rng.integers(0, k, size=n * used)
    C = sparse.csr_matrix((rng.laplace(size=n * used), (np.repeat(np.arange(n), used), atoms)), shape=(n, k))
    D, truth = rng.normal(size=(2, k, d))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    return D, (C.T @ C).toarray(), C.T @ (C @ truth) / d**0.5


def blocked(D, A, B):
    return block_descent(D, A, B)[0]


def array_code(D, A, B):
    worth, kernels.ATOMS_WORTH_COMPILING = kernels.ATOMS_WORTH_COMPILING, 1 << 60
    try:
        return blocked(D, A, B)
    finally:
        kernels.ATOMS_WORTH_COMPILING = worth


def loop(D, A, B):
    D = D.copy()
    for j in range(len(D)):
        D[j] += (B[j] - A[j] @ D) / A[j, j]
        D[j] /= max(np.linalg.norm(D[j]), 1)
    return D


def sklearn(D, A, B):
    D = D.copy()
    _update_dict(D, np.zeros((1, D.shape[1])), np.zeros((1, len(D))), A, B.T)
    return D


def least_seconds(repeats, calls):
    """{name: (least seconds, result)} of calls that take turns, after one of each that is not counted."""
    results = {name: call() for name, call in calls.items()}
    seconds = dict.fromkeys(calls, np.inf)
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name] = min(seconds[name], time.perf_counter() - began)
    return seconds, results


def product_rate(dtype, repeats, size=2048):
    """Operations per second of a product of two matrices (size, size)."""
    M = np.random.default_rng(0).normal(size=(size, size)).astype(dtype)
    return 2 * size**3 / least_seconds(max(repeats, 3), {"product": lambda: M @ M})[0]["product"]


def row(k, d, dtype, repeats, rate):
    """One line of the table: seconds of every way to the same dictionary."""
    D, A, B = (part.astype(dtype) for part in statistics(k, d))
    rivals = (array_code, loop, sklearn)
    ways = {way.__name__: (lambda way=way: way(D, A, B)) for way in (blocked, *rivals)}
    seconds, found = least_seconds(repeats, ways)
    ours, floor = seconds["blocked"], 2 * k * k * d / rate
    cells = [np.dtype(dtype).name, f"{k:,}", d, f"{1e3 * floor:.2f}", f"{1e3 * ours:.2f}", f"{ours / floor:.1f}"]
    for rival in rivals:
        cells += [f"{1e3 * seconds[rival.__name__]:.2f}", f"{seconds[rival.__name__] / ours:.1f}"]
    cells.append(f"{max(abs(found['blocked'] - found[rival.__name__]).max() for rival in rivals):.0e}")
    return f"| {' | '.join(map(str, cells))} |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="atoms x features; 16384x384 needs 8 GB")
    parser.add_argument("--threads", type=int, help="of BLAS; by default as it likes")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with threadpool_limits(args.threads) if args.threads else nullcontext():
        where = environment()
        print(f"{where['machine']['cpu']}, {where['machine']['cores']} cores; {where['versions']['blas']}")
        print(f"commit {where['commit']}, {where['date']}; times in ms, ratios to blocked\n")
        names = "floor | blocked | to floor | array code | ratio | loop | ratio | scikit-learn | ratio"
        print(f"| dtype | atoms | features | {names} | largest difference |")
        print("| --- " * 13 + "|")
        for dtype in (np.float64, np.float32):
            rate = product_rate(dtype, args.repeats)
            for size in args.sizes:
                print(row(*map(int, size.split("x")), dtype, args.repeats, rate), flush=True)


if __name__ == "__main__":
    main()
