"""Cost of one FastICA pass compared with its two matrix products.  Command: python -m benchmarks.pass_cost."""

import sys

import numpy as np

from gpuica.contrasts import LogCosh
from gpuica.oracle import ContrastOracle
from gpuica.rows.host import HostRows, default_chunk_rows

from .common.command import Benchmark, main, print_machine
from .common.tables import Table
from .common.timing import repeat


def products(Z, W):
    """The two products of a pass on one chunk, without the nonlinearity.  Z: (n, k), W: (k, k)."""
    return ((Z @ W.T).T @ Z,)


def by_blas_threads(Z, W, chunk_rows):
    """Both products over all of Z, chunk by chunk, by BLAS with all its threads."""
    total = np.zeros(W.shape)
    for start in range(0, len(Z), chunk_rows):
        total += products(Z[start : start + chunk_rows], W)[0]


def cost(k, dtype, megabytes, repeats):
    """Number of rows; median seconds of a pass, of the products (a) and of the products (b), for k components."""

    def seconds(function, *args):
        return repeat(lambda: function(*args), repeats=repeats).median

    rng = np.random.default_rng(0)
    n = max(int(megabytes * 1e6) // (k * np.dtype(dtype).itemsize), 1024)
    Z = rng.standard_normal((n, k), dtype=dtype)
    W = np.linalg.qr(rng.standard_normal((k, k)))[0].astype(dtype)
    chunkings = sorted({default_chunk_rows(k), 1024, 4096, 16384, n})
    whole = seconds(ContrastOracle(HostRows(Z), LogCosh()).fixed_point, W)
    a = min(seconds(by_blas_threads, Z, W, rows) for rows in chunkings)
    b = min(seconds(HostRows(Z, chunk_rows=rows).sum, products, W) for rows in chunkings)
    return n, whole, a, b


def options(parser):
    parser.add_argument("--widths", type=int, nargs="+", default=(32, 64, 128, 256, 512), help="numbers of components")
    parser.add_argument("--megabytes", type=float, default=64, help="size of the whitened rows")
    parser.add_argument("--repeats", type=int, default=7)


def run(args):
    print_machine()
    times = ("pass, ms:.2f", "products (a), ms:.2f", "ratio:.2f", "products (b), ms:.2f", "ratio:.2f")
    table = Table("dtype", "rows:,", "k", *times).start()
    for dtype in ("float32", "float64"):
        for k in args.widths:
            n, whole, a, b = cost(k, dtype, args.megabytes, args.repeats)
            table.add(dtype, n, k, 1e3 * whole, 1e3 * a, whole / a, 1e3 * b, whole / b)


BENCHMARKS = (
    Benchmark(
        "pass_cost",
        "cost of one FastICA pass compared with its two matrix products, which every implementation needs",
        details="""\
A pass is Y = Z Wᵀ, g(Y) and g(Y)ᵀ Z.  The products alone are timed with the same BLAS in the fastest of several
chunkings: (a) by NumPy with all the threads of BLAS; (b) chunks shared out to threads that each use a single-threaded
BLAS, as gpuica does.  A ratio near 1 to (b) means that the nonlinearity is nearly free; below 1 to (a), that sharing
out chunks is faster than a multi-threaded BLAS.""",
        takes="a minute on two cores",
        options=options,
        run=run,
        smoke={"widths": (8,), "megabytes": 0.1, "repeats": 1},
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:], default="pass_cost"))
