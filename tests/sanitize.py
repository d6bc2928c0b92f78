"""Small launches of every CUDA kernel under compute-sanitizer: memcheck, and racecheck for shared memory.

    python -m tests.sanitize [--seconds 60] [--tools memcheck racecheck] [--only FAMILY ...] [--report FOLDER]

Needs a GPU and compute-sanitizer, which is part of the CUDA toolkit.  Each family of kernels and each tool runs in a
separate process, all in parallel because compilation takes longest; processes that exceed the time limit are killed.
The output of the tools is written to FOLDER/sanitize-TOOL-FAMILY.txt.

With --launch the families are launched in this process without a tool.
"""

import argparse
import glob
import shutil
import sys
import threading
from pathlib import Path

import numpy as np

from benchmarks.gpu.runner import lines_of_output
from gpuica import kernels
from gpuica.coders import OMP, ORMP, Lasso, MatchingPursuit
from gpuica.contrasts import CONTRASTS, as_contrast
from gpuica.device import why_no_gpu, why_no_kernels
from gpuica.solvers.atoms import block_descent

TOOLS = ("memcheck", "racecheck")
PLACES = ("/usr/local/cuda*/bin/compute-sanitizer", "/usr/local/cuda*/compute-sanitizer/compute-sanitizer")
FAILED = 77  # exit status if a tool finds errors


def tool():
    """The path of compute-sanitizer, or None."""
    found = [path for place in PLACES for path in sorted(glob.glob(place), reverse=True)]
    return shutil.which("compute-sanitizer") or next(iter(found), None)


# ---- launches: functions of (array library, rng) ---------------------------------------------------------------------
def sweeps(xp, rng):
    for fun in CONTRASTS:
        for shape in ((67, 5), (33, 300)):
            for sweep in (kernels.score, kernels.score_and_loss):
                Y = xp.asarray(rng.normal(size=shape).astype(np.float32))
                sweep(Y, as_contrast(fun), xp.asarray(np.ones(len(Y), dtype=np.float32)))
                sweep(Y, as_contrast(fun))


def _encode(xp, rng, coders, gram=True, d=24, K=60, dtype=np.float32):
    D = rng.normal(size=(K, d))
    D = np.concatenate([D, D[:3], D[3:6] * (1 + 1e-6)]).astype(dtype)  # dependent and nearly dependent atoms
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    X = rng.normal(size=(20, d)).astype(dtype)
    X[3], X[7, 2] = 0, np.nan
    X, D = xp.asarray(X), xp.asarray(D)
    for coder in coders:
        kernels.encode(X, D, D @ D.T if gram else None, coder)


def lasso(xp, rng):
    for gram in (True, False):
        _encode(xp, rng, [Lasso(0.3), Lasso(0.3, positive=True), Lasso(0.0)], gram)


def lasso_in_memory(xp, rng):
    _encode(xp, rng, [Lasso(0.01)], d=60, K=100)


def orthogonal(xp, rng):
    _encode(xp, rng, [OMP(6), ORMP(6), OMP(24, 2.0)])
    _encode(xp, rng, [OMP(70)], d=80, K=100)


def nonnegative(xp, rng):
    _encode(xp, rng, [OMP(6, positive=True), OMP(24, 2.0, positive=True)])


def matching(xp, rng):
    _encode(xp, rng, [MatchingPursuit(6), MatchingPursuit(6, gradient=True)])


def codes_and_atoms(xp, rng):
    n, d, K = 40, 9, 300
    C = rng.normal(size=(n, K)) * (rng.uniform(size=(n, K)) < 0.05)
    C[:, 7] = 1
    X, D = rng.normal(size=(n, d)), rng.normal(size=(K, d))
    X, D, C = (xp.asarray(part.astype(np.float32)) for part in (X, D, C))
    A, B = xp.zeros((K, K)), xp.zeros((K, d))
    kernels.add_code_moments(X, D, *kernels.compress(C), A, B)
    for positive, norm in ((False, "ball"), (True, "ball"), (False, "unit")):
        block_descent(D, A, B, positive=positive, norm=norm, xp=xp)


FAMILIES = {f.__name__: f for f in (sweeps, lasso, lasso_in_memory, orthogonal, nonnegative, matching, codes_and_atoms)}


def launch(names):
    """Launch families in this process without a memory pool, which would hide out-of-bounds writes."""
    import cupy

    cupy.cuda.set_allocator(None)
    assert kernels.on_cuda(cupy.zeros(1)), why_no_kernels()
    for name in names:
        FAMILIES[name](cupy, np.random.default_rng(0))
        cupy.cuda.Device().synchronize()
        print(f"{name}: launched", flush=True)


def sanitized(path, tool, family, seconds, folder, results):
    """Run a tool on a family, write its output to a file, and set results[tool, family] to a short summary."""
    command = [path, "--tool", tool, "--error-exitcode", str(FAILED), "--launch-timeout", "0"]
    command += [sys.executable, "-m", "tests.sanitize", "--launch", "--only", family]
    status: int | str = 1
    lines = []
    for status in lines_of_output(command, seconds):
        if isinstance(status, str):
            lines.append(status)
    (folder / f"sanitize-{tool}-{family}.txt").write_text("".join(lines))
    endings = {0: "clean", FAILED: "ERRORS", -9: "stopped"}
    results[tool, family] = endings.get(status, f"failed with status {status}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--tools", nargs="*", default=TOOLS, choices=TOOLS)
    parser.add_argument("--only", nargs="*", default=[], choices=FAMILIES, help="some families of kernels")
    parser.add_argument("--report", type=Path, default=Path())
    parser.add_argument("--launch", action="store_true")
    args = parser.parse_args()
    families = [name for name in FAMILIES if not args.only or name in args.only]
    if reason := why_no_gpu():
        print(f"tests.sanitize needs a GPU: {reason}")
        return 1
    if args.launch:
        launch(families)
        return 0
    if (path := tool()) is None:
        print("tests.sanitize needs compute-sanitizer, of the CUDA toolkit, on the PATH.")
        return 1
    args.report.mkdir(parents=True, exist_ok=True)
    results: dict[tuple, str] = {}
    threads = [
        threading.Thread(target=sanitized, args=[path, tool, family, args.seconds, args.report, results])
        for tool in args.tools
        for family in families
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for (tool_name, family), ending in sorted(results.items()):
        print(f"{tool_name:10} {family:20} {ending}")
    return int(len(results) < len(threads) or set(results.values()) != {"clean"})


if __name__ == "__main__":
    sys.exit(main())
