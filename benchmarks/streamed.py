"""Fits on files that are larger than memory: time against its floor, peak memory, float32 against bfloat16.

    python -m benchmarks.streamed [--rows 15700000] [--data DIRECTORY] [--parts float32,bfloat16,slope,dictionary]

Rows (n, 384) float32, mixed from 384 independent sources: 24 GB in one .npy file, and 12 GB of bfloat16 in 16
safetensors files, which are written once (five minutes of two cores) and kept.  Every fit runs in a process of its own,
whose peak resident memory is what the system says.  The floor of a fit is its passes times the time to read the file
once, plus the time of its matrix products in the largest chunk that the cache holds.  Answers are judged against the
mixing matrix by the Amari distance of all components, in float64.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import gpuica
from gpuica.device import CPU
from gpuica.io.npy import open_npy
from gpuica.io.safetensors import write_tensors
from gpuica.io.writers import NpyWriter
from gpuica.metrics import amari_distance
from gpuica.rows import open_rows

from .environment import environment

FEATURES, STEP, SHARDS = 384, 1 << 16, 16
ALPHA = 150.0  # of the dictionary's codes: some twenty non-zeros a row
ESTIMATORS = {"FastICA": gpuica.FastICA, "Picard": gpuica.Picard}


def mixing():
    """The mixing matrix (384, 384), of condition about 100."""
    rng = np.random.default_rng(0)
    U, _ = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))
    V, _ = np.linalg.qr(rng.normal(size=(FEATURES, FEATURES)))
    return (U * np.geomspace(1, 100, FEATURES)) @ V


def rows(n, seed=1):
    """Chunks (STEP, 384) float32 of n rows: a third of the sources Laplace, uniform, exponential to the 1.5th."""
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
    """The two forms of the rows, if they are not there."""
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
    """The bits of the nearest bfloat16 numbers, ties to even."""
    bits = part.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def fit(name, X, n_rows, settings):
    """Fit in this process and print what it took as JSON."""
    source = gpuica.shards(X)
    if n_rows < source.shape[0]:
        source = np.load(X, mmap_mode="r")[:n_rows]
    model = ESTIMATORS[name](random_state=0, **settings)
    began = time.perf_counter()
    model.fit(source)
    seconds = time.perf_counter() - began
    print(
        json.dumps(
            {
                "seconds": seconds,
                "passes": float(model.n_passes_),
                "converged": bool(model.converged_),
                "gradient": model.gradient_norm_,
                "amari": float(amari_distance(model.components_, mixing())),
                "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
            }
        )
    )
    return model


def in_a_process(*arguments):
    """What `fit` printed in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.streamed", "--one", json.dumps(arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def seconds_to_read(X):
    """Of one pass that does nothing with the rows, as stored and on their way: the plain read."""
    rows = open_rows(gpuica.shards(X), dtype=np.float32, device=CPU)
    began = time.perf_counter()
    rows.sum(_nothing)
    return time.perf_counter() - began


def _nothing(chunk):
    return (chunk[0],)


def seconds_of_products(n_rows, k=FEATURES):
    """Of the two products Z Wᵀ and Yᵀ Z of n_rows rows, shared out to threads as a pass shares them."""
    few = 1 << 17
    Z = np.random.default_rng(0).normal(size=(few, k)).astype(np.float32)
    W = np.eye(k, dtype=np.float32)
    memory = open_rows(Z, dtype=np.float32, device=CPU)
    memory.sum(_products, W)
    began = time.perf_counter()
    for _ in range(3):
        memory.sum(_products, W)
    return (time.perf_counter() - began) / 3 * n_rows / few


def _products(Z, W):
    return ((Z @ W.T).T @ Z,)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=15_700_000)
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data" / "streamed")
    parser.add_argument("--memory", default="1GB", help="memory_limit of the fits")
    parser.add_argument("--parts", default="float32,bfloat16,slope,dictionary")
    parser.add_argument("--write", action="store_true", help="write the files and end")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        name, *arguments = json.loads(args.one)
        learn(*arguments) if name == "learn" else fit(name, *arguments)
        return
    path, shards = write(args.data, args.rows)
    if args.write:
        return
    where = environment()
    print(f"{where['machine']['cpu']}, {where['machine']['cores']} cores; commit {where['commit']}, {where['date']}")
    settings = {"memory_limit": args.memory, "growth": "auto", "tol": "auto"}
    forms = {"float32": (path, "float32, one .npy"), "bfloat16": (shards, f"bfloat16, {SHARDS} safetensors")}
    forms = [form for name, form in forms.items() if name in args.parts]
    if forms:
        products = seconds_of_products(args.rows)
        for X, form in forms:
            reading = seconds_to_read(X)
            print(f"{form}: a plain read {reading:.1f} s; the two products of a pass {products:.1f} s", flush=True)
            for name in ESTIMATORS:
                found = in_a_process(name, str(X), args.rows, settings)
                floor = found["passes"] * (reading + products)
                print(
                    f"  {name}: {_told(found)}; floor {floor:.0f} s, {found['seconds'] / floor:.2f} of it", flush=True
                )
    if "dictionary" in args.parts:
        for n, in_memory in ((1_000_000, True), (8_000_000, False)):
            n = min(n, args.rows)
            found = in_a_process("learn", str(path), n, in_memory)
            print(
                f"mini-batches, 1,024 atoms, {n} rows {'in memory' if in_memory else 'streamed'}: "
                f"{n / found['seconds']:.0f} rows a second, {found['nonzero']:.1f} non-zeros a row, "
                f"score {found['score']:.1f}, peak {found['peak_MB']:.0f} MB",
                flush=True,
            )
    if "slope" in args.parts:
        sizes = [n for n in (1_000_000, 2_000_000, 4_000_000, 8_000_000, args.rows) if n <= args.rows]
        fixed = {"memory_limit": args.memory, "tol": 0.0, "max_iter": 3, "whiten_solver": "eigh"}
        times = []
        for n in sizes:
            found = in_a_process("FastICA", str(path), n, fixed)
            times.append(found["seconds"])
            print(f"  3 iterations, {n} rows: {_told(found)}", flush=True)
        slope = np.polyfit(np.log(sizes), np.log(times), 1)[0]
        print(f"log-log slope of seconds against rows: {slope:.3f}")


def learn(X, n_rows, in_memory):
    """Mini-batch dictionary learning, one round of n_rows rows, in this process; prints what it took as JSON."""
    rows = np.load(X, mmap_mode="r")[:n_rows]
    rows = np.array(rows) if in_memory else rows
    settings = {"alpha": ALPHA, "batch_size": 1024, "max_iter": 1, "fit_algorithm": "cd", "init": "data", "tol": 0.0}
    settings |= {"max_no_improvement": None, "random_state": 0, "memory_limit": "1GB"}
    model = gpuica.MiniBatchDictionaryLearning(1024, **settings)
    model.fit(rows[:20_480])  # kernels are compiled
    began = time.perf_counter()
    model.fit(rows)
    seconds = time.perf_counter() - began
    codes = model.set_params(transform_algorithm="lasso_cd", transform_alpha=ALPHA).transform(rows[:2000])
    found = {
        "seconds": seconds,
        "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "nonzero": np.count_nonzero(codes) / 2000,
        "score": model.score(rows[:20_480]),
    }
    print(json.dumps(found))


def _told(found):
    return (
        f"{found['seconds']:.0f} s, {found['passes']:.1f} passes, {'' if found['converged'] else 'NOT '}converged, "
        f"Amari {found['amari']:.5f}, gradient {found['gradient']:.1e}, peak {found['peak_MB']:.0f} MB"
    )


if __name__ == "__main__":
    main()
