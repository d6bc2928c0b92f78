"""Sparse codes of gpuica, scikit-learn, SPAMS and dictlearn; codes against large dictionaries.

Commands: python -m benchmarks.coding; python -m benchmarks coding_memory.
"""

import importlib.util
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import gpuica

from .common.command import Benchmark, append, main, print_machine, results_path
from .common.environment import environment
from .common.tables import Table
from .common.timing import MB, repeat
from .ica.problems import no_activations, no_photographs, patches, stored_activations

ALPHA, NONZERO = 0.15, 8  # the lasso's penalty; atoms per row of pursuits
SECONDS, REPEATS = 0.5, 20  # calls are repeated until the first of these limits
SLOW = {  # rows that suffice to time a slow contestant
    "dictlearn": 2_000,
    "sklearn-lasso_lars": 300,
    "sklearn-lasso_cd": 2_000,
    "sklearn-omp": 2_000,
}


# ---- problems -------------------------------------------------------------------------------------------------------
def unit_patches(n, side, seed=0):
    """n grey patches of side x side pixels, each of mean 0 and norm 1, (n, side²)."""
    X = patches(seed, n, side)[0]
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-6)


def unit_activations(n, seed=0):
    """n centered rows of activations, each of norm 1, (n, 384)."""
    X = stored_activations(seed, n)[0].astype(np.float64)
    X -= X.mean(axis=0)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def compositions(n, k=10_000, d=139, n_nonzero=20, seed=0):
    """n rows (n, d) of norm 1, each a sum of n_nonzero of k random unit atoms with positive weights, and the atoms."""
    rng = np.random.default_rng(seed)
    D = rng.normal(size=(k, d))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    X = 0.01 * rng.normal(size=(n, d))
    for _ in range(n_nonzero):
        X += rng.exponential(size=(n, 1)) * D[rng.integers(k, size=n)]
    return X / np.linalg.norm(X, axis=1, keepdims=True), D


def split(X, k, seed=1):
    """(X without k random rows, those rows brought to unit norm as the atoms)."""
    order = np.random.RandomState(seed).permutation(len(X))
    D = X[order[:k]]
    return X[order[k:]], D / np.maximum(np.linalg.norm(D, axis=1, keepdims=True), 1e-6)


# name: (function of n that makes n rows, or rows and atoms, number of atoms, coder, default number of rows)
CODES = {
    "lasso-256": (partial(unit_patches, side=8), 256, "lasso", 50_000),
    "lasso-1024": (partial(unit_patches, side=8), 1_024, "lasso", 20_000),
    "lasso-4096": (partial(unit_patches, side=8), 4_096, "lasso", 10_000),
    "lasso-12x12-1024": (partial(unit_patches, side=12), 1_024, "lasso", 20_000),
    "lasso-minilm-1536": (unit_activations, 1_536, "lasso", 10_000),
    "lasso-minilm-6144": (unit_activations, 6_144, "lasso", 4_000),
    "lasso-compositions-10000": (compositions, 10_000, "lasso", 4_000),
    "omp-256": (partial(unit_patches, side=8), 256, "omp", 50_000),
    "omp-1024": (partial(unit_patches, side=8), 1_024, "omp", 20_000),
}


# ---- contestants: functions (X, D, coder, threads) that return a call that returns the codes -------------------------
def ours(X, D, coder, threads):
    settings = {"n_nonzero_coefs": NONZERO} if coder == "omp" else {"alpha": ALPHA}
    name = "omp" if coder == "omp" else "lasso_cd"
    return partial(gpuica.sparse_encode, X, D, algorithm=name, device="cpu", **settings)


def ours_csr(X, D, coder, threads):
    return partial(ours(X, D, coder, threads), sparse_output=True)


def ours_ormp(X, D, coder, threads):
    return partial(gpuica.sparse_encode, X, D, algorithm="ormp", n_nonzero_coefs=NONZERO, device="cpu")


def ours_ormp_csr(X, D, coder, threads):
    return partial(ours_ormp(X, D, coder, threads), sparse_output=True)


def dictlearn(X, D, coder, threads):
    from dictlearn import sparse_encode

    if coder == "omp":
        return partial(sparse_encode, X, D, algorithm="batch_omp", n_nonzero_coefs=NONZERO)
    return partial(sparse_encode, X, D, algorithm="fista", alpha=ALPHA)


def sklearn(X, D, coder, threads, algorithm):
    from sklearn.decomposition import sparse_encode

    settings = {"n_nonzero_coefs": NONZERO} if algorithm == "omp" else {"alpha": ALPHA}
    return partial(sparse_encode, X, D, algorithm=algorithm, **settings)


def spams(X, D, coder, threads):
    """SPAMS, with arrays converted to its layout before the timing.  Its OMP is the order-recursive one, ORMP."""
    import spams

    X, D = np.asfortranarray(X.T), np.asfortranarray(D.T)
    if coder == "omp":
        return lambda: spams.omp(X, D, L=NONZERO, eps=1e-12, numThreads=threads).T
    return lambda: spams.lasso(X, D, lambda1=ALPHA, mode=2, numThreads=threads).T


CONTESTANTS = {
    "gpuica": ours,
    "gpuica-csr": ours_csr,
    "gpuica-ormp": ours_ormp,
    "gpuica-ormp-csr": ours_ormp_csr,
    "spams": spams,
    "dictlearn": dictlearn,
    "sklearn-lasso_cd": partial(sklearn, algorithm="lasso_cd"),
    "sklearn-lasso_lars": partial(sklearn, algorithm="lasso_lars"),
    "sklearn-omp": partial(sklearn, algorithm="omp"),
}


def can_run(name, coder):
    if name in ("spams", "dictlearn") and importlib.util.find_spec(name) is None:
        return False
    if name.startswith("gpuica-ormp"):
        return coder == "omp"
    return not name.startswith("sklearn") or (name == "sklearn-omp") == (coder == "omp")


# ---- the referee ----------------------------------------------------------------------------------------------------
def costs(X, D, C, coder):
    """The objective of every row in float64, (n,): ½‖x - c D‖² + alpha ‖c‖₁ of the lasso, ‖x - c D‖² of pursuits."""
    C = C.astype(np.float64)
    R = np.asarray(X - C @ D)
    squares = (R * R).sum(axis=1)
    return squares if coder == "omp" else squares / 2 + ALPHA * np.asarray(abs(C).sum(axis=1)).ravel()


def measure(problem, names, dtypes, n_rows, threads):
    """Results of a coding problem, one dict for each contestant and dtype; the first is gpuica in float64."""
    make, k, coder, default = CODES[problem]
    n_rows = n_rows or default
    made = make(n_rows + k)
    X, D = (made[0][:n_rows], made[1]) if isinstance(made, tuple) else split(made, k)
    best, results = None, []
    for dtype in sorted(dtypes, reverse=True):
        Xd, Dd = X.astype(dtype), D.astype(dtype)
        for name in names:
            if not can_run(name, coder) or (name.startswith("sklearn") and dtype == "float32"):
                continue
            rows = min(len(X), SLOW.get(name, len(X)))
            call = CONTESTANTS[name](Xd[:rows], Dd, coder, threads)
            CONTESTANTS[name](Xd[:300], Dd, coder, threads)()  # imports and compilation
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                timing = repeat(call, repeats=1, warm_up=False, total=SECONDS, most=REPEATS, memory=True)
            C = timing.result
            cost = costs(X[:rows], D, C, coder)
            best = cost if best is None else best
            results.append(
                {
                    "problem": problem,
                    "contestant": name,
                    "dtype": dtype,
                    "rows": rows,
                    "features": X.shape[1],
                    "atoms": k,
                    "threads": threads,
                    "microseconds": 1e6 * timing.median / rows,
                    "cost": float(np.nanmean(cost)),
                    "excess": float(np.nanmax(cost - best[:rows])),
                    "wrong_rows": int((~(cost - best[:rows] < 1e-4)).sum()),
                    "nonzero": float((C != 0).sum() / rows),
                    "peak_mb": timing.peak and timing.peak / MB,
                }
                | environment()
            )
            del C, timing  # so that the next contestant can reuse the memory
            TABLE.add(*cells(results[-1], results))
    return results


TABLE = Table(
    *("problem", "contestant", "dtype", "us a row:.2f", "over gpuica's:.1f", "cost:.6f", "excess:.1e", "wrong rows"),
    *("non-zeros:.1f", "peak MB:.0f"),
)


def cells(r, results):
    """The cells of a result's line; its time is divided by that of gpuica in the same dtype, if among `results`."""
    same = [o for o in results if [o[key] for key in ("problem", "dtype")] == [r["problem"], r["dtype"]]]
    ours = next((o["microseconds"] for o in same if o["contestant"] == "gpuica"), None)
    wrong = (
        "-" if r["problem"].startswith("omp") else f"{r['wrong_rows']:,}"
    )  # pursuits have no optimum to compare with
    wrong = f"{wrong} of {r['rows']:,}"
    quality = [r["cost"], r["excess"], wrong, r["nonzero"], r["peak_mb"]]
    return [r["problem"], r["contestant"], r["dtype"], r["microseconds"], ours and r["microseconds"] / ours, *quality]


def markdown(results):
    """A table of the last result of each (problem, contestant, dtype)."""
    latest = {(r["problem"], r["contestant"], r["dtype"]): r for r in results}.values()
    return TABLE.text(cells(r, latest) for r in latest)


def options(parser):
    for option, names in (("--problems", CODES), ("--contestants", CONTESTANTS)):
        parser.add_argument(
            option, nargs="+", choices=names, default=list(names), metavar="NAME", help=", ".join(names)
        )
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    parser.add_argument("--rows", type=int, help="number of rows in place of each problem's own")
    parser.add_argument("--threads", type=int, help="all cores by default")
    parser.add_argument("--out", type=Path, help="file to append results to; .../results/local/coding-<date>.jsonl")


def run(args):
    print_machine()
    path, results = results_path(args, "coding-"), []
    threads = args.threads or environment()["machine"]["cores"]
    TABLE.start()
    with threadpool_limits(threads):
        for problem in args.problems:
            if reason := no_activations() if "minilm" in problem else no_photographs():
                print(f"skipped {problem}: {reason}")
                continue
            results += measure(problem, args.contestants, args.dtypes, args.rows, threads)
    append(path, *results)
    if path:
        print(f"\nResults: {path}")


# ---- codes against a large dictionary -------------------------------------------------------------------------------
FEATURES, STEP = 384, 20_000


def simulated_rows(n, D, nonzero, seed=0):
    """Rows (n, d) float32 of `nonzero` Laplace coefficients each, and noise."""
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
    """The alpha at which codes of X have about `nonzero` non-zeros per row, by bisection."""
    low, high = 0.0, float(abs(X @ D.T).max())
    for _ in range(12):
        alpha = (low + high) / 2
        codes = gpuica.sparse_encode(X, D, algorithm="lasso_cd", alpha=alpha, device="cpu", sparse_output=True)
        low, high = (alpha, high) if codes.nnz > nonzero * len(X) else (low, alpha)
    return high


def memory_options(parser):
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--atoms", type=int, default=6_144)
    parser.add_argument("--nonzero", type=int, default=32, help="non-zero coefficients per row")


def memory(args):
    print_machine()
    D = np.random.default_rng(1).normal(size=(args.atoms, FEATURES)).astype(np.float32)
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    X = simulated_rows(args.rows, D, args.nonzero)
    alpha = penalty(X[:500], D, args.nonzero)
    settings = {"transform_algorithm": "lasso_cd", "transform_alpha": alpha, "sparse_output": True, "device": "cpu"}
    coder = gpuica.SparseCoder(D, **settings)
    timing = repeat(lambda: coder.transform(X), repeats=1, warm_up=False, memory=True)
    codes = timing.result
    size = codes.data.nbytes + codes.indices.nbytes + codes.indptr.nbytes
    counts = ("rows:,", "features", "atoms:,", "alpha:.3f", "non-zeros a row:.1f")
    table = Table(*counts, "s:.0f", "us a row:.0f", "peak MB beyond input:,.0f", "MB of codes:,.0f").start()
    table.add(
        *(args.rows, FEATURES, args.atoms, alpha, codes.nnz / args.rows),
        *(timing.median, 1e6 * timing.median / args.rows, timing.peak and timing.peak / MB, size / MB),
    )


BENCHMARKS = (
    Benchmark(
        "coding",
        "sparse codes, lasso and OMP, of image patches and activations: gpuica, scikit-learn, SPAMS, dictlearn",
        details="""\
Microseconds per row, the median of repeated calls; the objective, recomputed in float64 from the codes: ½‖x - c D‖² +
alpha ‖c‖₁ (lasso) or ‖x - c D‖² (pursuits), mean over rows; the largest excess of a row over gpuica's float64 solution,
and the number of rows with an excess of 1e-4 or more; non-zeros per row; peak memory beyond the input.  Contestants
code the same rows; slow ones code fewer of them.

    python -m benchmarks.coding --problems lasso-256 omp-256 --rows 50000""",
        takes="twenty minutes on two cores",
        needs="pillow; SPAMS, dictlearn and stored activations, or else skips them",
        options=options,
        run=run,
        smoke={
            "problems": ["lasso-256", "omp-256"],
            "contestants": ["gpuica", "gpuica-csr", "gpuica-ormp", "sklearn-lasso_cd", "sklearn-omp"],
            "rows": 400,
        },
        why_not=no_photographs,
    ),
    Benchmark(
        "coding_memory",
        "memory and time of sparse codes of a million rows against a large dictionary, as csr_array",
        details="""\
Rows (n, 384) float32 of Laplace coefficients on unit atoms, with noise.  alpha of the lasso is chosen on 500 rows such
that codes have about as many non-zeros.  Dense codes of 1,000,000 x 6,144 would take 24.6 GB.""",
        takes="five minutes on two cores",
        needs="6 GB of memory",
        options=memory_options,
        run=memory,
        smoke={"rows": 1_000, "atoms": 64, "nonzero": 4},
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:], default="coding"))
