"""Sparse codes and dictionaries: gpuica against scikit-learn and SPAMS, on image patches and activations.

    python -m benchmarks.coding                           every problem that can run here
    python -m benchmarks.coding --problems lasso-256 omp-256 --rows 50000
    python -m benchmarks.coding --fit                     mini-batch dictionary learning

Codes: rows a second, with the objective recomputed in float64 from the codes: Σ ½‖x - c D‖² + alpha ‖c‖₁ (lasso) or
‖x - c D‖² (pursuits), a row; the largest excess of a row over gpuica's float64 solution; non-zeros; memory beyond the
input.  Contestants work on the same rows, scikit-learn on fewer where it is slow.  All threads, as --threads says.

Fits: all start from the same atoms; after each pass the cost of all rows with exact codes is recomputed in float64.
"""

import argparse
import importlib.util
import json
import warnings
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import gpuica

from .environment import environment
from .measure import timed
from .problems import ACTIVATIONS, patches

LOCAL = Path(__file__).parent / "results" / "local"
ALPHA, ATOMS_A_ROW = 0.15, 8
SECONDS = 0.5  # of repeats, at least
SLOW = {
    "dictlearn": 2_000,
    "sklearn-lasso_lars": 300,
    "sklearn-lasso_cd": 2_000,
    "sklearn-omp": 2_000,
}  # rows that are enough


# ---- problems -------------------------------------------------------------------------------------------------------
def unit_patches(n, side, seed=0):
    """n grey patches of side x side, each of mean 0 and norm 1, (n, side²)."""
    X = patches(seed, n, side)[0]
    return X / np.maximum(np.linalg.norm(X, axis=1, keepdims=True), 1e-6)


def unit_activations(n, seed=0):
    """n rows of activations about their mean, each of norm 1."""
    X = np.load(ACTIVATIONS, mmap_mode="r")
    rows = np.sort(np.random.RandomState(seed).choice(len(X), n, replace=False))
    X = X[rows].astype(np.float64)
    X -= X.mean(axis=0)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def split(X, k, seed=1):
    """(rows, k atoms): other rows than those, as the atoms; unit norm."""
    order = np.random.RandomState(seed).permutation(len(X))
    D = X[order[:k]]
    return X[order[k:]], D / np.maximum(np.linalg.norm(D, axis=1, keepdims=True), 1e-6)


# name -> (what makes n rows, atoms, coder, rows by default)
CODES = {
    "lasso-256": (partial(unit_patches, side=8), 256, "lasso", 50_000),
    "lasso-1024": (partial(unit_patches, side=8), 1_024, "lasso", 20_000),
    "lasso-4096": (partial(unit_patches, side=8), 4_096, "lasso", 10_000),
    "lasso-12x12-1024": (partial(unit_patches, side=12), 1_024, "lasso", 20_000),
    "lasso-minilm-1536": (unit_activations, 1_536, "lasso", 10_000),
    "lasso-minilm-6144": (unit_activations, 6_144, "lasso", 4_000),
    "omp-256": (partial(unit_patches, side=8), 256, "omp", 50_000),
    "omp-1024": (partial(unit_patches, side=8), 1_024, "omp", 20_000),
}


# ---- contestants: (X, D, coder, threads) -> a call that gives codes -------------------------------------------------
def ours(X, D, coder, threads):
    settings = {"n_nonzero_coefs": ATOMS_A_ROW} if coder == "omp" else {"alpha": ALPHA}
    name = "omp" if coder == "omp" else "lasso_cd"
    return partial(gpuica.sparse_encode, X, D, algorithm=name, device="cpu", **settings)


def ours_csr(X, D, coder, threads):
    return partial(ours(X, D, coder, threads), sparse_output=True)


def ours_ormp(X, D, coder, threads):
    return partial(gpuica.sparse_encode, X, D, algorithm="ormp", n_nonzero_coefs=ATOMS_A_ROW, device="cpu")


def ours_ormp_csr(X, D, coder, threads):
    return partial(ours_ormp(X, D, coder, threads), sparse_output=True)


def dictlearn(X, D, coder, threads):
    from dictlearn import sparse_encode

    if coder == "omp":
        return partial(sparse_encode, X, D, algorithm="batch_omp", n_nonzero_coefs=ATOMS_A_ROW)
    return partial(sparse_encode, X, D, algorithm="fista", alpha=ALPHA)


def sklearn(X, D, coder, threads, algorithm):
    from sklearn.decomposition import sparse_encode

    settings = {"n_nonzero_coefs": ATOMS_A_ROW} if algorithm == "omp" else {"alpha": ALPHA}
    return partial(sparse_encode, X, D, algorithm=algorithm, **settings)


def spams(X, D, coder, threads):
    """In the layout that it asks for, which is made before the clock runs.  Its OMP is what is called ORMP here."""
    import spams

    X, D = np.asfortranarray(X.T), np.asfortranarray(D.T)
    if coder == "omp":
        return lambda: spams.omp(X, D, L=ATOMS_A_ROW, eps=1e-12, numThreads=threads).T
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
    """The objective of every row in float64, (n,)."""
    C = C.astype(np.float64)
    R = np.asarray(X - C @ D)
    squares = (R * R).sum(axis=1)
    return squares if coder == "omp" else squares / 2 + ALPHA * np.asarray(abs(C).sum(axis=1)).ravel()


def code(problem, names, dtypes, n_rows, threads):
    """Results of a coding problem, one dict a contestant and dtype; the first is gpuica in float64."""
    make, k, coder, usual = CODES[problem]
    n_rows = n_rows or usual
    X, D = split(make(n_rows + k), k)
    best, results = None, []
    for dtype in sorted(dtypes, reverse=True):
        Xd, Dd = X.astype(dtype), D.astype(dtype)
        for name in names:
            if not can_run(name, coder) or (name.startswith("sklearn") and dtype == "float32"):
                continue
            rows = min(len(X), SLOW.get(name, len(X)))
            call = CONTESTANTS[name](Xd[:rows], Dd, coder, threads)
            CONTESTANTS[name](Xd[:300], Dd, coder, threads)()  # compiled, loaded
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                C, runs = None, []
                while not runs or (sum(seconds for seconds, _ in runs) < SECONDS and len(runs) < 20):
                    C = None  # so that its memory serves again: a virtual machine's first touch of more takes long
                    C, *run = timed(call)
                    runs.append(run)
            seconds = float(np.median([seconds for seconds, _ in runs]))
            cost = costs(X[:rows], D, C, coder)
            best = cost if best is None else best
            peaks = [peak for _, peak in runs if peak is not None]
            results.append(
                {
                    "problem": problem,
                    "contestant": name,
                    "dtype": dtype,
                    "rows": rows,
                    "features": X.shape[1],
                    "atoms": k,
                    "threads": threads,
                    "microseconds": 1e6 * seconds / rows,
                    "cost": float(np.nanmean(cost)),
                    "excess": float(np.nanmax(cost - best[:rows])),
                    "wrong_rows": int((~(cost - best[:rows] < 1e-4)).sum()),
                    "nonzero": float((C != 0).sum() / rows),
                    "peak_mb": max(peaks) / 1e6 if peaks else None,
                }
                | environment()
            )
            say_code(results[-1], results)
    return results


def say_code(result, results):
    same = [r for r in results if r["problem"] == result["problem"] and r["contestant"] == "gpuica"]
    beside = " ".join(f"{result['microseconds'] / r['microseconds']:7.1f}x {r['dtype']}" for r in same)
    peak = "-" if result["peak_mb"] is None else f"{result['peak_mb']:.0f}"
    print(
        f"{result['problem']:18} {result['contestant']:18} {result['dtype']:8} {result['microseconds']:9.2f} us a row  "
        f"cost {result['cost']:.8f}  excess {result['excess']:8.1e}  wrong rows {result['wrong_rows']:5}  "
        f"non-zeros {result['nonzero']:5.1f}  peak {peak} MB  time against gpuica: {beside}",
        flush=True,
    )


# ---- dictionary learning --------------------------------------------------------------------------------------------
def learn_ours(X, D, passes, threads, **settings):
    model = gpuica.MiniBatchDictionaryLearning(
        len(D),
        alpha=ALPHA,
        max_iter=passes,
        fit_algorithm="cd",
        dict_init=D,
        tol=0,
        max_no_improvement=None,
        random_state=0,
        device="cpu",
        **settings,
    )
    return model.fit(X).components_


def learn_sklearn(X, D, passes, threads, method="cd"):
    from sklearn.decomposition import MiniBatchDictionaryLearning

    model = MiniBatchDictionaryLearning(
        len(D),
        alpha=ALPHA,
        max_iter=passes,
        fit_algorithm=method,
        dict_init=D,
        tol=0,
        max_no_improvement=None,
        random_state=0,
    )
    return model.fit(X).components_


def learn_spams(X, D, passes, threads, batch=512):
    import spams

    X, D = np.asfortranarray(X.T), np.asfortranarray(D.T)
    found = spams.trainDL(
        X,
        D=D,
        K=D.shape[1],
        lambda1=ALPHA,
        mode=2,
        iter=passes * -(-X.shape[1] // batch),
        batchsize=batch,
        numThreads=threads,
        verbose=False,
    )
    return np.ascontiguousarray(found.T)


LEARNERS = {
    "spams": learn_spams,
    "gpuica": learn_ours,
    "gpuica-512": partial(learn_ours, batch_size=512),
    "gpuica-512-20": partial(learn_ours, batch_size=512, memory=20 * 256),  # 20 rows an atom
    "sklearn-cd": learn_sklearn,
}


def fit(names, dtypes, n_rows, threads, k=256, most=8):
    """Cost after 1, 2, 4, ... passes, each from a fit of its own."""
    X, D = split(unit_patches((n_rows or 20_480) + k, 8), k)
    results = []
    for name in names:
        if name == "spams" and importlib.util.find_spec("spams") is None:
            continue
        for dtype in dtypes:
            if name.startswith("sklearn") and dtype == "float32":
                continue
            Xd, Dd = X.astype(dtype), D.astype(dtype)
            LEARNERS[name](Xd[:1000], Dd, 1, threads)
            passes = 1
            while passes <= (1 if name.startswith("sklearn") else most):
                found, seconds, peak = min(
                    (timed(partial(LEARNERS[name], Xd, Dd, passes, threads)) for _ in range(3)),
                    key=lambda result: result[1],
                )
                atoms = found.astype(np.float64)
                C = gpuica.sparse_encode(X, atoms, algorithm="lasso_cd", alpha=ALPHA, device="cpu")
                cost = float(costs(X, atoms, C, "lasso").mean())
                results.append(
                    {
                        "problem": f"fit-{k}",
                        "contestant": name,
                        "dtype": dtype,
                        "rows": len(X),
                        "atoms": k,
                        "threads": threads,
                        "passes": passes,
                        "seconds": seconds,
                        "cost": cost,
                        "peak_mb": peak and peak / 1e6,
                    }
                    | environment()
                )
                print(f"fit-{k} {name:12} {dtype:8} {passes} passes {seconds:7.3f} s  cost {cost:.6f}", flush=True)
                passes *= 2
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--problems", nargs="+", choices=CODES, default=list(CODES), metavar="NAME")
    parser.add_argument("--contestants", nargs="+", metavar="NAME")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--threads", type=int, default=environment()["machine"]["cores"])
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or LOCAL / f"coding-{datetime.now(UTC):%Y-%m-%d}.jsonl"
    out.parent.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(args.threads):
        if args.fit:
            results = fit(args.contestants or list(LEARNERS), args.dtypes, args.rows, args.threads)
        else:
            results = []
            for problem in args.problems:
                if "minilm" in problem and not ACTIVATIONS.exists():
                    print(f"skipped {problem}: make the activations first: python -m benchmarks.activations")
                    continue
                results += code(problem, args.contestants or list(CONTESTANTS), args.dtypes, args.rows, args.threads)
    with out.open("a") as file:
        file.writelines(json.dumps(result) + "\n" for result in results)
    print(f"\nResults: {out}")


if __name__ == "__main__":
    main()
