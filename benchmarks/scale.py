"""How large can it go: what this machine reads, copies, multiplies and adds up a second, and what follows for fits.

    python -m benchmarks.scale [--data DIRECTORY] [--measure 250000,500000,1000000] [--rates read=2e9,product=5e13]

A pass over n rows of d features on m devices takes the longer of reading (n d itemsize / m at the reading rate) and of
its products (4 n d² / m operations; 6 n d² where whitened rows are computed on the way), and then adds up d² totals of
m devices.  A fit that grows its samples takes about PASSES passes (docs/benchmarks.md).  The table predicts fits of 1M
to 10B rows; the measured points beside it are fits of FastICA on files of this machine, in a process of their own.
`--rates` puts other machines' rates in place of the measured ones.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import gpuica
from gpuica.io.writers import NpyWriter

from .environment import environment
from .streamed import seconds_of_products, seconds_to_read

PASSES = 12  # full-pass equivalents of a fit on growing samples
ITERATIONS = 5  # of the measured fits, which are to count passes and not to converge
DEVICES = (1, 2, 8, 64)
ROWS = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000)


def rates(folder, k):
    """This machine's rates: bytes read and copied, operations, totals added up, a second."""
    n = 1 << 18
    path = folder / "rates.npy"
    write(path, n, k)
    size = n * k * 4
    a, b = np.ones(size // 8), np.empty(size // 8)
    np.copyto(b, a)
    began = time.perf_counter()
    np.copyto(b, a)
    copy = size / (time.perf_counter() - began)
    began = time.perf_counter()
    a += b
    add = len(a) / (time.perf_counter() - began)
    return {
        "read": size / seconds_to_read(path),
        "copy": copy,
        "product": 4 * n * k * k / seconds_of_products(n, k),
        "add": add,
    }


def write(path, n, k):
    """A file of n rows of k independent Laplace numbers, mixed."""
    rng = np.random.default_rng(0)
    A = rng.normal(size=(k, k)).astype(np.float32)
    file = NpyWriter(path, k, np.float32, n)
    for start in range(0, n, 1 << 15):
        m = min(1 << 15, n - start)
        signs = rng.integers(0, 2, (m, k), dtype=np.int8) * 2 - 1
        file.write((rng.standard_exponential((m, k), dtype=np.float32) * signs) @ A)
    file.close()


def seconds(n, k, rate, *, devices=1, passes=PASSES, itemsize=4, stored=False):
    """Predicted seconds of a fit.  stored: whether whitened rows fit the memory."""
    read = n * k * itemsize / rate["read"] / devices
    product = (4 if stored else 6) * n * k * k / rate["product"] / devices
    totals = (devices - 1) * k * k / rate["add"]
    return passes * (max(read, product) + totals)


def fit(path):
    """A fit in this process; prints seconds and passes as JSON."""
    import warnings

    warnings.simplefilter("ignore")
    settings = {"tol": 0.0, "max_iter": ITERATIONS, "whiten_solver": "eigh", "random_state": 0, "memory_limit": "500MB"}
    began = time.perf_counter()
    model = gpuica.FastICA(**settings).fit(path)
    print(json.dumps([time.perf_counter() - began, model.n_passes_]))


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="where files are written and removed again; a temporary directory")
    parser.add_argument("--measure", default="250000,500000,1000000", help="rows of the measured points, 512 features")
    parser.add_argument("--rates", default="", help="read=BYTES,product=OPERATIONS,add=NUMBERS a second")
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.fit:
        fit(args.fit)
        return
    where = environment()
    print(f"{where['machine']['cpu']}, {where['machine']['cores']} cores; commit {where['commit']}, {where['date']}")
    with tempfile.TemporaryDirectory(dir=args.data) as folder:
        rate = rates(Path(folder), 512)
        print("a second: " + ", ".join(f"{name} {value:.2e}" for name, value in rate.items()))
        for n in map(int, filter(None, args.measure.split(","))):
            path = Path(folder) / f"{n}.npy"
            write(path, n, 512)
            command = [sys.executable, "-m", "benchmarks.scale", "--fit", str(path)]
            took, passes = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            path.unlink()
            predicted = seconds(n, 512, rate, passes=passes)
            print(f"measured: {n} x 512, {passes} passes: {took:.1f} s; predicted {predicted:.1f} s", flush=True)
    rate |= {name: float(value) for name, _, value in (part.partition("=") for part in args.rates.split(",") if part)}
    print(f"\npredicted seconds of a fit ({PASSES} passes), rows in files, on this many devices of these rates:")
    for k in (512, 4096):
        print(f"{k} features".ljust(16) + "".join(f"{m:>12}" for m in DEVICES))
        for n in ROWS:
            times = "".join(f"{seconds(n, k, rate, devices=m):12.3g}" for m in DEVICES)
            print(f"{n / 1e6:,.0f}M rows".ljust(16) + times + f"   {4 * n * k / 1e9:,.0f} GB in float32")


if __name__ == "__main__":
    main()
