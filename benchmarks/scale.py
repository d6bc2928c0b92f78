"""Throughput of this machine, and predicted times of fits to 10 billion rows.  Command: python -m benchmarks.scale."""

import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path

import numpy as np

import gpuica
from gpuica.io.writers import NpyWriter

from .common.command import Benchmark, main, print_machine
from .common.process import in_new_process
from .common.tables import Table
from .common.timing import repeat
from .streamed import seconds_of_products, seconds_to_read

PASSES = 12  # of a fit on growing samples, in passes over all rows
ITERATIONS = 5  # of the measured fits, which need not converge
DEVICES = (1, 2, 8, 64)
ROWS = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000)


def rates(folder, k, n):
    """Bytes read, bytes copied, operations of products and numbers added, per second; measured on n rows."""
    path = folder / "rates.npy"
    write(path, n, k)
    size = n * k * 4
    a, b = np.ones(size // 8), np.empty(size // 8)
    copying = repeat(partial(np.copyto, b, a), repeats=1)
    adding = repeat(partial(np.add, a, b, out=a), repeats=1, warm_up=False)
    return {
        "read": size / seconds_to_read(path),
        "copy": size / copying.median,
        "product": 4 * n * k * k / seconds_of_products(n, k),
        "add": len(a) / adding.median,
    }


def write(path, n, k):
    """Write a file of n rows of k mixed Laplace sources."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(k, k)).astype(np.float32)
    file = NpyWriter(path, k, np.float32, n)
    for start in range(0, n, 1 << 15):
        m = min(1 << 15, n - start)
        signs = rng.integers(0, 2, (m, k), dtype=np.int8) * 2 - 1
        file.write((rng.standard_exponential((m, k), dtype=np.float32) * signs) @ A)
    file.close()


def seconds(n, k, rate, *, devices=1, passes=PASSES, itemsize=4, stored=False):
    """Predicted seconds of a fit.  rate: as of `rates`.  stored: whether whitened rows fit into memory."""
    read = n * k * itemsize / rate["read"] / devices
    product = (4 if stored else 6) * n * k * k / rate["product"] / devices
    totals = (devices - 1) * k * k / rate["add"]
    return passes * (max(read, product) + totals)


def fit(path):
    """(seconds, passes) of a fit on a file."""
    warnings.simplefilter("ignore")
    settings = {"tol": 0.0, "max_iter": ITERATIONS, "whiten_solver": "eigh", "random_state": 0, "memory_limit": "500MB"}
    began = time.perf_counter()
    model = gpuica.FastICA(**settings).fit(path)
    return time.perf_counter() - began, model.n_passes_


def options(parser):
    parser.add_argument("--data", type=Path, help="folder for temporary files; that of the system")
    parser.add_argument("--measure", default="250000,500000,1000000", help="numbers of rows of the measured fits")
    parser.add_argument("--features", type=int, default=512, help="of the measured fits")
    parser.add_argument("--rows", type=int, default=1 << 18, help="on which rates are measured")
    parser.add_argument(
        "--rates", default="", help="read=BYTES,product=OPERATIONS,add=NUMBERS per second, in place of own"
    )


def run(args):
    print_machine()
    k = args.features
    with tempfile.TemporaryDirectory(dir=args.data) as folder:
        rate = rates(Path(folder), k, args.rows)
        print("per second: " + ", ".join(f"{name} {value:.2e}" for name, value in rate.items()) + "\n")
        table = Table("measured rows:,", "features", "passes:.0f", "s:.1f", "predicted s:.1f").start()
        for n in map(int, filter(None, args.measure.split(","))):
            path = Path(folder) / f"{n}.npy"
            write(path, n, k)
            took, passes = in_new_process(fit, str(path))
            path.unlink()
            table.add(n, k, passes, took, seconds(n, k, rate, passes=passes))
    rate |= {name: float(value) for name, _, value in (part.partition("=") for part in args.rates.split(",") if part)}
    print(
        f"\nPredicted seconds of a fit ({PASSES} passes), rows in files, by the number of devices with these rates:\n"
    )
    table = Table("features", "rows", *(f"{m}:.3g" for m in DEVICES), "GB in float32:,.0f").start()
    for k in (512, 4096):
        for n in ROWS:
            times = [seconds(n, k, rate, devices=m) for m in DEVICES]
            table.add(k, f"{n / 1e6:,.0f}M", *times, 4 * n * k / 1e9)


BENCHMARKS = (
    Benchmark(
        "scale",
        "throughput of this machine in reading, copying, multiplying and adding, and predicted times of fits",
        details="""\
A pass over n rows of d features on m devices takes the longer of reading (n d itemsize / m at the reading rate) and of
its products (4 n d² / m operations; 6 n d² if whitened rows are recomputed in each pass), plus the addition of d²
totals of m devices.  A fit on growing samples takes about 12 passes (docs/benchmarks.md).  The predictions are for 1M
to 10B rows; measured fits of FastICA on files of this machine are compared with theirs.  `--rates` replaces measured
rates by those of other machines.

    python -m benchmarks.scale [--data DIRECTORY] [--measure 250000,500000,1000000] [--rates read=2e9,product=5e13]""",
        takes="three minutes on two cores",
        needs="3 GB of disk",
        options=options,
        run=run,
        smoke={"measure": "2000", "features": 8, "rows": 4_096},
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:], default="scale"))
