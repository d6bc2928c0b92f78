"""Speed of one dictionary update from A = CᵀC and B = CᵀX.  Command: python -m benchmarks.atoms."""

import sys
from contextlib import nullcontext

import numpy as np
from scipy import sparse
from sklearn.decomposition._dict_learning import _update_dict
from threadpoolctl import threadpool_limits

from gpuica import kernels
from gpuica.solvers.atoms import block_descent

from .common.command import Benchmark, main, print_machine
from .common.tables import Table
from .common.timing import interleave

SIZES = ("128x64", "1024x64", "1024x384", "4096x64", "4096x384")


def statistics(k, d, used=16, seed=0):
    """Unit atoms D (k, d), and A (k, k), B (k, d) of 4 k rows with `used` non-zero codes each."""
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


def product_rate(dtype, repeats, size=2048):
    """Operations per second of a product of two matrices (size, size)."""
    M = np.random.default_rng(0).normal(size=(size, size)).astype(dtype)
    return 2 * size**3 / interleave({"product": lambda: M @ M}, max(repeats, 3))["product"].least


def cells(k, d, dtype, repeats, rate):
    """One line of the table: least seconds of every implementation, and the largest difference of their results."""
    D, A, B = (part.astype(dtype) for part in statistics(k, d))
    rivals = (array_code, loop, sklearn)
    timings = interleave({way.__name__: (lambda way=way: way(D, A, B)) for way in (blocked, *rivals)}, repeats)
    ours, floor = timings["blocked"].least, 2 * k * k * d / rate
    yield from (np.dtype(dtype).name, k, d, 1e3 * floor, 1e3 * ours, ours / floor)
    for rival in rivals:
        yield 1e3 * timings[rival.__name__].least
        yield timings[rival.__name__].least / ours
    yield max(abs(timings["blocked"].result - timings[rival.__name__].result).max() for rival in rivals)


def options(parser):
    parser.add_argument("--sizes", nargs="+", default=SIZES, help="atoms x features; 16384x384 needs 8 GB")
    parser.add_argument("--threads", type=int, help="of BLAS; by default all that it uses")
    parser.add_argument("--repeats", type=int, default=3)


def run(args):
    with threadpool_limits(args.threads) if args.threads else nullcontext():
        print_machine()
        print("Times in ms, ratios to blocked.\n")
        ours = ("floor:.2f", "blocked:.2f", "to floor:.1f")
        rivals = ("array code:.2f", "ratio:.1f", "loop:.2f", "ratio:.1f", "scikit-learn:.2f", "ratio:.1f")
        table = Table("dtype", "atoms:,", "features", *ours, *rivals, "largest difference:.0e").start()
        for dtype in (np.float64, np.float32):
            rate = product_rate(dtype, args.repeats)
            for size in args.sizes:
                table.add(*cells(*map(int, size.split("x")), dtype, args.repeats, rate))


BENCHMARKS = (
    Benchmark(
        "atoms",
        "one dictionary update in blocks compared with one atom at a time and with scikit-learn's",
        details="""\
The update starts from A = CᵀC and B = CᵀX.  The rivals are scikit-learn's `_update_dict`, given A and B, and the same
loop without its bookkeeping; all compute the same dictionary.  The floor is 2 k² d operations at the rate of a large
product.  "array code" is the blocked update without the compiled loop over the atoms of a block.  Times are the least
of the repeats, in which the implementations alternate.""",
        takes="three minutes on two cores",
        options=options,
        run=run,
        smoke={"sizes": ("32x8",), "repeats": 1},
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:], default="atoms"))
