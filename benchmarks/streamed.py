"""Fits on files larger than memory: time and peak memory.  Command: python -m benchmarks.streamed."""

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np

import gpuica
from gpuica.device import CPU
from gpuica.io.npy import open_npy
from gpuica.io.safetensors import write_tensors
from gpuica.io.writers import NpyWriter
from gpuica.metrics import amari_distance
from gpuica.rows import open_rows

from .common.command import DATA, Benchmark, main, print_machine
from .common.process import in_new_process
from .common.tables import Table
from .common.timing import MB, repeat, resident

FEATURES, STEP, SHARDS = 384, 1 << 16, 16
ALPHA = 150.0  # of dictionary learning: about twenty non-zeros per row
ESTIMATORS = {"FastICA": gpuica.FastICA, "Picard": gpuica.Picard}


def mixing():
    """The mixing matrix (384, 384), of condition about 100."""
    rng = np.random.default_rng(0)
    U, _ = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))
    V, _ = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))
    return (U * np.geomspace(1, 100, FEATURES)) @ V


def rows(n, seed=1):
    """Chunks (STEP, 384) float32 of n rows, of Laplace sources, uniform ones and signed powers of exponential ones."""
    rng, A = np.random.default_rng(seed), mixing().astype(np.float32)
    kind = np.arange(FEATURES) % 3
    for start in range(0, n, STEP):
        m = min(STEP, n - start)
        S = rng.standard_exponential((m, FEATURES), dtype=np.float32)
        S[:, kind == 1] = (1 - np.exp(-S[:, kind == 1])) * 2 - 1
        S[:, kind == 2] **= 1.5
        sign = rng.integers(0, 2, (m, FEATURES), dtype=np.int8) * 2 - 1
        sign[:, kind == 1] = 1
        yield (S * sign) @ A.T + 3


def write(folder, n):
    """Write the rows as float32 and as bfloat16, unless the files exist; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"rows-{n}.npy"
    if not path.exists():
        file = NpyWriter(path, FEATURES, np.float32, n)
        for part in rows(n):
            file.write(part)
        file.close()
    shards = folder / f"bfloat16-{n}"
    if not shards.exists():
        shards.mkdir()
        source, size = open_npy(path), -(-n // SHARDS)
        for i in range(SHARDS):
            end = min((i + 1) * size, n)
            parts = [_as_bfloat16(source[a : min(a + STEP, end)]) for a in range(i * size, end, STEP)]
            write_tensors(shards / f"acts-{i:02d}.safetensors", {"acts": np.concatenate(parts)}, {}, is_bfloat16=True)
    return path, shards


def _as_bfloat16(part):
    """The bits of float32 numbers rounded to bfloat16, ties to even."""
    bits = part.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


# ---- measurements in a process of their own --------------------------------------------------------------------------
def fit(name, X, n_rows, settings):
    """Fit an estimator to the first rows in a file or folder; a dict of time, quality and peak memory."""
    source = gpuica.shards(X)
    if n_rows < source.shape[0]:
        source = np.load(X, mmap_mode="r")[:n_rows]
    model = ESTIMATORS[name](random_state=0, **settings)
    began = time.perf_counter()
    model.fit(source)
    return {
        "seconds": time.perf_counter() - began,
        "passes": float(model.n_passes_),
        "converged": bool(model.converged_),
        "gradient": model.gradient_norm_,
        "amari": float(amari_distance(model.components_, mixing())),
        "peak": resident("VmHWM"),
    }


def learn(X, n_rows, in_memory, n_atoms):
    """Mini-batch dictionary learning, one pass over the first rows of a file; a dict as of `fit`."""
    rows = np.load(X, mmap_mode="r")[:n_rows]
    rows = np.array(rows) if in_memory else rows
    settings = {"alpha": ALPHA, "batch_size": 1024, "max_iter": 1, "fit_algorithm": "cd", "init": "data", "tol": 0.0}
    settings |= {"max_no_improvement": None, "random_state": 0, "memory_limit": "1GB"}
    model = gpuica.MiniBatchDictionaryLearning(n_atoms, **settings)
    model.fit(rows[:20_480])  # compiles the kernels
    began = time.perf_counter()
    model.fit(rows)
    seconds = time.perf_counter() - began
    codes = model.set_params(transform_algorithm="lasso_cd", transform_alpha=ALPHA).transform(rows[:2000])
    return {
        "seconds": seconds,
        "peak": resident("VmHWM"),
        "nonzero": np.count_nonzero(codes) / len(codes),
        "score": model.score(rows[:20_480]),
    }


# ---- floors ---------------------------------------------------------------------------------------------------------
def seconds_to_read(X):
    """Seconds of one pass that reads the rows and computes nothing."""
    rows = open_rows(gpuica.shards(X), dtype=np.float32, device=CPU)
    return repeat(lambda: rows.sum(_nothing), repeats=1, warm_up=False).median


def _nothing(chunk):
    return (chunk[0],)


def seconds_of_products(n_rows, k=FEATURES):
    """Seconds of the two products Z Wᵀ and Yᵀ Z of n_rows rows, shared out to threads as in a pass."""
    n_timed = 1 << 17
    Z = np.random.default_rng(0).normal(size=(n_timed, k)).astype(np.float32)
    W = np.eye(k, dtype=np.float32)
    memory = open_rows(Z, dtype=np.float32, device=CPU)
    return repeat(lambda: memory.sum(_products, W), repeats=3).median * n_rows / n_timed


def _products(Z, W):
    return ((Z @ W.T).T @ Z,)


# ---- parts ----------------------------------------------------------------------------------------------------------
def fits(args, path, shards):
    """Whole fits of float32 and bfloat16 rows, relative to the floor of reading and multiplying."""
    settings = {"memory_limit": args.memory, "growth": "auto", "tol": "auto"}
    settings |= {"max_iter": args.max_iter} if args.max_iter else {}
    forms = {"float32": (path, "float32, one .npy"), "bfloat16": (shards, f"bfloat16, {SHARDS} safetensors")}
    products = seconds_of_products(args.rows)
    quality = ("passes:.1f", "converged", "Amari:.5f", "gradient:.1e", "peak MB:,.0f")
    table = Table(
        "rows", "estimator", "s:.0f", *quality, "plain read, s:.1f", "products, s:.1f", "s / floor:.2f"
    ).start()
    for form in (form for form in forms if form in args.parts):
        X, description = forms[form]
        reading = seconds_to_read(X)
        for name in ESTIMATORS:
            found = in_new_process(fit, name, str(X), args.rows, settings)
            over_floor = found["seconds"] / (found["passes"] * (reading + products))
            table.add(description, name, *_quality(found), reading, products, over_floor)
    print()


def dictionary(args, path):
    """Mini-batch dictionary learning on rows in memory and streamed."""
    counts = ("s:.0f", "rows a second:,.0f", "non-zeros a row:.1f", "score:.1f", "peak MB:,.0f")
    table = Table(f"mini-batches, {args.atoms:,} atoms", "rows:,", *counts).start()
    for n, in_memory in ((1_000_000, True), (8_000_000, False)):
        n = min(n, args.rows)
        found = in_new_process(learn, str(path), n, in_memory, args.atoms)
        seconds = found["seconds"]
        values = (seconds, n / seconds, found["nonzero"], found["score"], found["peak"] / MB)
        table.add("in memory" if in_memory else "streamed", n, *values)
    print()


def slope(args, path):
    """Time of three iterations of FastICA for several numbers of rows."""
    sizes = [n for n in (1_000_000, 2_000_000, 4_000_000, 8_000_000, args.rows) if n <= args.rows]
    fixed = {"memory_limit": args.memory, "tol": 0.0, "max_iter": 3, "whiten_solver": "eigh"}
    quality = ("passes:.1f", "converged", "Amari:.5f", "gradient:.1e", "peak MB:,.0f")
    table, times = Table("FastICA, 3 iterations, rows:,", "s:.0f", *quality).start(), []
    for n in sizes:
        found = in_new_process(fit, "FastICA", str(path), n, fixed)
        times.append(found["seconds"])
        table.add(n, *_quality(found))
    if len(sizes) > 1:
        print(f"\nlog-log slope of seconds against rows: {np.polyfit(np.log(sizes), np.log(times), 1)[0]:.3f}")


def _quality(found):
    converged = "yes" if found["converged"] else "no"
    return [found["seconds"], found["passes"], converged, found["amari"], found["gradient"], found["peak"] / MB]


PARTS = ("float32", "bfloat16", "slope", "dictionary")


def options(parser):
    parser.add_argument("--rows", type=int, default=15_700_000)
    parser.add_argument("--data", type=Path, help="folder for the files, which are kept; benchmarks/data/streamed")
    parser.add_argument("--memory", default="1GB", help="memory_limit of the fits")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of " + ",".join(PARTS))
    parser.add_argument("--max-iter", type=int, help="of the fits in place of their default")
    parser.add_argument("--atoms", type=int, default=1024, help="of dictionary learning")
    parser.add_argument("--write", action="store_true", help="only write the files")


def run(args):
    with ExitStack() as stack:
        temporary = args.smoke and not args.data
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) if temporary else args.data
        path, shards = write(folder or DATA / "streamed", args.rows)
        if args.write:
            return
        print_machine()
        if {"float32", "bfloat16"} & set(args.parts.split(",")):
            fits(args, path, shards)
        if "dictionary" in args.parts:
            dictionary(args, path)
        if "slope" in args.parts:
            slope(args, path)


BENCHMARKS = (
    Benchmark(
        "streamed",
        "ICA and dictionary learning on 24 GB of rows in files: time relative to its floor, peak memory",
        details="""\
Rows (n, 384) float32, mixed from 384 independent sources: 24 GB in one .npy file, and 12 GB of bfloat16 in 16
safetensors files, which are written once and kept.  Every fit runs in a process of its own, whose peak resident memory
is reported.  The floor of a fit is its passes times the time to read the file once plus that of the matrix products of
a pass.  Amari distances of all components to the mixing matrix are computed in float64.

    python -m benchmarks.streamed [--rows 15700000] [--data DIRECTORY] [--parts float32,bfloat16,slope,dictionary]""",
        takes="an hour on two cores, and five minutes to write the files",
        needs="36 GB of disk; 4 GB of memory",
        options=options,
        run=run,
        smoke={"rows": 4_000, "atoms": 64, "max_iter": 2},
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:], default="streamed"))
