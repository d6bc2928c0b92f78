"""Mini-batch dictionary learning of gpuica, scikit-learn and SPAMS.

Commands: python -m benchmarks minibatch | known_dictionary | denoising.
"""

import importlib.util
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import sklearn.decomposition
from sklearn.datasets import load_sample_image
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.image import extract_patches_2d, reconstruct_from_patches_2d
from threadpoolctl import threadpool_limits

import gpuica

from .coding import ALPHA, costs, split, unit_patches
from .common.command import Benchmark, append, main, print_machine, results_path
from .common.environment import environment
from .common.tables import Table
from .common.timing import MB, repeat
from .ica.problems import no_photographs

FIXED = {"tol": 0, "max_no_improvement": None, "random_state": 0}  # no early stopping


def cores():
    return environment()["machine"]["cores"]


def has_spams():
    return importlib.util.find_spec("spams") is not None


def train_spams(X, D, alpha, *, iterations, batch=512, threads):
    """Atoms (k, d) of SPAMS after so many batches, or, if `iterations` is negative, seconds of its own clock."""
    import spams

    atoms = spams.trainDL(
        np.asfortranarray(X.T),
        D=np.asfortranarray(D.T),
        K=len(D),
        lambda1=alpha,
        mode=2,
        iter=iterations,
        batchsize=batch,
        numThreads=threads,
        verbose=False,
    )
    return np.ascontiguousarray(atoms.T)


# ---- minibatch: cost after each pass --------------------------------------------------------------------------------
def learn_ours(X, D, passes, threads, **settings):
    settings = {"alpha": ALPHA, "max_iter": passes, "fit_algorithm": "cd", "dict_init": D, **FIXED, **settings}
    return gpuica.MiniBatchDictionaryLearning(len(D), device="cpu", **settings).fit(X).components_


def learn_sklearn(X, D, passes, threads):
    settings = {"alpha": ALPHA, "max_iter": passes, "fit_algorithm": "cd", "dict_init": D, **FIXED}
    return sklearn.decomposition.MiniBatchDictionaryLearning(len(D), **settings).fit(X).components_


def learn_spams(X, D, passes, threads, batch=512):
    return train_spams(X, D, ALPHA, iterations=passes * -(-len(X) // batch), batch=batch, threads=threads)


LEARNERS = {
    "spams": learn_spams,
    "gpuica": learn_ours,
    "gpuica-512": partial(learn_ours, batch_size=512),
    "gpuica-512-20": partial(learn_ours, batch_size=512, memory=20 * 256),  # 20 rows per atom
    "sklearn-cd": learn_sklearn,
}
TABLE = Table("problem", "contestant", "dtype", "passes", "s:.3f", "cost:.6f", "peak MB:.0f")


def cells(r):
    """The cells of a result's line."""
    return [r["problem"], r["contestant"], r["dtype"], r["passes"], r["seconds"], r["cost"], r["peak_mb"]]


def markdown(results):
    """A table of the last result of each (problem, contestant, dtype, passes)."""
    latest = {tuple(r[key] for key in ("problem", "contestant", "dtype", "passes")): r for r in results}
    return TABLE.text(map(cells, latest.values()))


def minibatch(args, k=256, repeats=3):
    print_machine()
    path = results_path(args, "coding-")
    threads = args.threads or cores()
    X, D = split(unit_patches(args.rows + k, 8), k)
    TABLE.start()
    with threadpool_limits(threads):
        for name in args.contestants:
            if name == "spams" and not has_spams():
                print("skipped spams: it is not installed")
                continue
            for dtype in args.dtypes:
                if name.startswith("sklearn") and dtype == "float32":
                    continue
                Xd, Dd = X.astype(dtype), D.astype(dtype)
                LEARNERS[name](Xd[:1000], Dd, 1, threads)
                passes = 1
                while passes <= (1 if name.startswith("sklearn") else args.passes):
                    fit = partial(LEARNERS[name], Xd, Dd, passes, threads)
                    timing = repeat(fit, repeats=repeats, warm_up=False, memory=True)
                    atoms = timing.result.astype(np.float64)
                    C = gpuica.sparse_encode(X, atoms, algorithm="lasso_cd", alpha=ALPHA, device="cpu")
                    result = {
                        "problem": f"fit-{k}",
                        "contestant": name,
                        "dtype": dtype,
                        "rows": len(X),
                        "atoms": k,
                        "threads": threads,
                        "passes": passes,
                        "seconds": timing.least,
                        "cost": float(costs(X, atoms, C, "lasso").mean()),
                        "peak_mb": timing.peak and timing.peak / MB,
                    }
                    append(path, result | environment())
                    TABLE.add(*cells(result))
                    passes *= 2
    if path:
        print(f"\nResults: {path}")


def minibatch_options(parser):
    parser.add_argument("--contestants", nargs="+", choices=LEARNERS, default=list(LEARNERS), metavar="NAME")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "float64"), default=["float32", "float64"])
    parser.add_argument("--rows", type=int, default=20_480)
    parser.add_argument("--passes", type=int, default=8, help="the largest number of passes; scikit-learn does one")
    parser.add_argument("--threads", type=int, help="all cores by default")
    parser.add_argument("--out", type=Path, help="file to append results to; .../results/local/coding-<date>.jsonl")


# ---- known_dictionary: recovery of true atoms -----------------------------------------------------------------------
ATOMS, FEATURES, NONZERO, TRUE_ALPHA = 256, 64, 6, 0.3


def simulated_rows(n_rows, seed=0):
    """(rows (n, d) float32, true atoms (k, d)): NONZERO Gaussian coefficients per row, noise at 20 dB."""
    rng = np.random.default_rng(seed)
    D = rng.normal(size=(ATOMS, FEATURES))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    C = np.zeros((n_rows, ATOMS), np.float32)
    chosen = rng.random((n_rows, ATOMS)).argpartition(NONZERO, axis=1)[:, :NONZERO]
    np.put_along_axis(C, chosen, rng.normal(size=chosen.shape).astype(np.float32), axis=1)
    X = C @ D.astype(np.float32)
    X += np.float32(0.1 * X.std()) * rng.normal(size=X.shape).astype(np.float32)
    return X, D


def recovered(D, truth):
    """The fraction of the true atoms whose |cosine| with some atom of D is above 0.99."""
    D = D / np.maximum(np.linalg.norm(D, axis=1, keepdims=True), 1e-12)
    return (abs(truth @ D.T).max(axis=1) > 0.99).mean()


def known_dictionary(args):
    print_machine()
    warnings.simplefilter("ignore")
    X, truth = simulated_rows(args.rows)
    start = X[np.random.RandomState(1).choice(len(X), ATOMS, replace=False)]
    start = np.ascontiguousarray(start / np.linalg.norm(start, axis=1, keepdims=True))
    ours = partial(learn_ours, threads=None, alpha=TRUE_ALPHA, batch_size=512)
    ours(X[:2000], start, 1)
    runs = {f"gpuica, {passes} passes": partial(ours, X, start, passes) for passes in args.passes}
    if has_spams():
        spams = partial(train_spams, X, start, TRUE_ALPHA, threads=cores())
        runs |= {f"SPAMS, iter=-{s}": partial(spams, iterations=-s) for s in args.spams_seconds}
    table = Table("", "s:.1f", "atoms recovered:.1%").start()
    for name, call in runs.items():
        timing = repeat(call, repeats=1, warm_up=False)
        table.add(name, timing.median, recovered(timing.result, truth))


def known_dictionary_options(parser):
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--passes", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--spams-seconds", type=int, nargs="*", default=[5, 20, 60], help="time limits of SPAMS")


# ---- denoising: atoms and codes of image patches --------------------------------------------------------------------
SIDE, NOISE = 8, 0.1
CODERS = {
    "OMP, 1 atom": {"transform_algorithm": "omp", "transform_n_nonzero_coefs": 1},
    "OMP, 4 atoms": {"transform_algorithm": "omp", "transform_n_nonzero_coefs": 4},
    "lasso": {"transform_algorithm": "lasso_cd", "transform_alpha": 0.15},
}
# until the residual is that of the noise; scikit-learn's OMP ignores transform_alpha
TO_THE_NOISE = {"transform_algorithm": "omp", "transform_alpha": 1.1 * SIDE**2 * NOISE**2}


def centered_patches(image):
    """All patches (n, SIDE²) of an image, each minus its mean; and the means (n, 1)."""
    flat = extract_patches_2d(image, (SIDE, SIDE)).reshape(-1, SIDE * SIDE)
    means = flat.mean(axis=1, keepdims=True)
    return flat - means, means


def psnr(image, truth):
    """Peak signal-to-noise ratio in dB of images with values in [0, 1]."""
    return -10 * np.log10(((image - truth) ** 2).mean())


def denoising(args):
    print_machine()
    warnings.simplefilter("ignore", ConvergenceWarning)
    image, rng = load_sample_image("china.jpg").mean(axis=2) / 255, np.random.default_rng(0)
    image = image[: args.height]
    half = image.shape[1] // 2
    truth = image[:, half:]
    noisy = truth + NOISE * rng.normal(size=truth.shape)
    X = centered_patches(image[:, :half])[0]
    X = X[np.sort(rng.choice(len(X), args.rows, replace=False))]
    X /= SIDE * X.std()
    for coder in CODERS.values():  # compile
        gpuica.MiniBatchDictionaryLearning(4, max_iter=1, fit_algorithm="cd", **coder).fit_transform(X[:300])
    noisy_patches, means = centered_patches(noisy)
    noise = f"{len(noisy_patches):,} noisy patches, {psnr(noisy, truth):.2f} dB"
    print(f"{len(X):,} patches, {args.atoms} atoms; {noise}\n")
    table = Table("", "step", "s:.2f", "dB:.2f").start()
    for library in (gpuica, sklearn.decomposition):
        name = library.__name__.partition(".")[0]
        model = library.MiniBatchDictionaryLearning(args.atoms, alpha=0.15, max_iter=4, fit_algorithm="cd", **FIXED)
        table.add(name, "learning", repeat(partial(model.fit, X), repeats=1, warm_up=False).median, None)
        for coder, settings in ({**CODERS, "OMP to the noise": TO_THE_NOISE} if library is gpuica else CODERS).items():
            model.set_params(**settings)
            timing = repeat(partial(model.transform, noisy_patches), repeats=1, warm_up=False)
            rows = (timing.result @ model.components_ + means).reshape(-1, SIDE, SIDE)
            table.add(name, coder, timing.median, psnr(reconstruct_from_patches_2d(rows, noisy.shape), truth))


def denoising_options(parser):
    parser.add_argument("--rows", type=int, default=20_000, help="patches to learn from")
    parser.add_argument("--atoms", type=int, default=256)
    parser.add_argument("--height", type=int, default=427, help="pixel rows of the photograph")


BENCHMARKS = (
    Benchmark(
        "minibatch",
        "mini-batch dictionary learning on image patches: cost and time after 1 to 8 passes; scikit-learn, SPAMS",
        details="""\
All start from the same atoms.  After each number of passes the mean cost of all rows with exact codes is recomputed in
float64.  Seconds: the least of three fits.""",
        takes="three minutes on two cores",
        needs="pillow; SPAMS or else skips it",
        options=minibatch_options,
        run=minibatch,
        smoke={"rows": 1_024, "passes": 1},
        why_not=no_photographs,
    ),
    Benchmark(
        "known_dictionary",
        "fraction of a known dictionary that is recovered, and how soon: gpuica and SPAMS",
        details="""\
Rows are 6 Gaussian coefficients on 256 unit atoms of 64 features, with noise at 20 dB.  An atom counts as recovered if
its |cosine| with some learned atom is above 0.99.  All start from the same rows as atoms.""",
        takes="two minutes on two cores",
        needs="nothing; SPAMS or else skips it",
        options=known_dictionary_options,
        run=known_dictionary,
        smoke={"rows": 2_000, "passes": [1], "spams_seconds": [1]},
    ),
    Benchmark(
        "denoising",
        "a dictionary of one half of a photograph, the other half denoised with it: gpuica and scikit-learn",
        details="""\
Four passes over patches of the clean half; codes of all patches of the noisy half by OMP and the lasso; peak
signal-to-noise ratios.  `examples/plot_image_atoms.py` is a small version with figures.""",
        takes="a minute on two cores",
        needs="pillow",
        options=denoising_options,
        run=denoising,
        smoke={"rows": 1_000, "atoms": 32, "height": 40},
        why_not=no_photographs,
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:]))
