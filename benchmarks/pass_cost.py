"""What one FastICA pass costs beside its two matrix products, which no implementation can do without.

    python -m benchmarks.pass_cost [--widths 32 64 ...] [--megabytes 64]

A pass is Y = Z Wᵀ, g(Y) and g(Y)ᵀ Z.  The products alone are timed with the same BLAS in the best of several chunkings:
(a) by NumPy with all the threads of BLAS; (b) chunks shared out to threads that each use a one-thread BLAS, as the
package does.  A ratio near 1 against (b) says that the nonlinearity is nearly free; below 1 against (a), that sharing
out chunks beats a BLAS of many threads.
"""

import argparse
import statistics
import time

import numpy as np

from gpuica.contrasts import LogCosh
from gpuica.oracle import ContrastOracle
from gpuica.rows.host import HostRows, default_chunk_rows

from .environment import environment


def products(Z, W):
    """The two products of a pass on one chunk, without what lies between.  Z: (n, k), W: (k, k)."""
    return ((Z @ W.T).T @ Z,)


def seconds(repeats, call, *args):
    """The median of the times of repeated calls, after one that is not counted."""
    call(*args)
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call(*args)
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def by_blas_threads(Z, W, chunk_rows):
    """Both products over all of Z, chunk by chunk, by a BLAS that uses all its threads."""
    total = np.zeros(W.shape)
    for start in range(0, len(Z), chunk_rows):
        total += products(Z[start : start + chunk_rows], W)[0]


def cost(k, dtype, megabytes, repeats):
    """Seconds of a pass, of the products (a) and of the products (b), for k components."""
    rng = np.random.default_rng(0)
    n = max(int(megabytes * 1e6) // (k * np.dtype(dtype).itemsize), 1024)
    Z = rng.standard_normal((n, k), dtype=dtype)
    W = np.linalg.qr(rng.standard_normal((k, k)))[0].astype(dtype)
    chunkings = sorted({default_chunk_rows(k), 1024, 4096, 16384, n})
    whole = seconds(repeats, ContrastOracle(HostRows(Z), LogCosh()).fixed_point, W)
    a = min(seconds(repeats, by_blas_threads, Z, W, rows) for rows in chunkings)
    b = min(seconds(repeats, HostRows(Z, chunk_rows=rows).sum, products, W) for rows in chunkings)
    return n, whole, a, b


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--widths", type=int, nargs="+", default=(32, 64, 128, 256, 512))
    parser.add_argument("--megabytes", type=float, default=64, help="size of the whitened rows")
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    where = environment()
    print(f"{where['machine']['cpu']}, {where['machine']['cores']} cores; {where['versions']['blas']}\n")
    print("| dtype | rows | k | pass, ms | products (a), ms | ratio | products (b), ms | ratio |")
    print("| --- " * 8 + "|")
    for dtype in ("float32", "float64"):
        for k in args.widths:
            n, whole, a, b = cost(k, dtype, args.megabytes, args.repeats)
            times = f"{1e3 * whole:.2f} | {1e3 * a:.2f} | {whole / a:.2f} | {1e3 * b:.2f} | {whole / b:.2f}"
            print(f"| {dtype} | {n:,} | {k} | {times} |", flush=True)


if __name__ == "__main__":
    main()
