"""The figures of `benchmarks.gpu` that need gpuica alone: (name, seconds that it may need, function of the bench).

A function gives results, dicts, in a list or one by one.
"""

import warnings

import numpy as np

from gpuica import FastICA, MiniBatchDictionaryLearning, Picard, kernels, sparse_encode
from gpuica.contrasts import LogCosh
from gpuica.device import array_device, why_no_kernels
from gpuica.oracle import ContrastOracle
from gpuica.products import product, products
from gpuica.rows import open_rows
from gpuica.solvers.atoms import block_descent
from gpuica.solvers.polar import orthonormal, polar

from .gpu_bench import gradient


def compiled(bench, left):
    """Whether the kernels compile here."""
    return [{"figure": "CUDA kernels", "note": why_no_kernels() or "compiled"}]


def ceilings(bench, left):
    """Bandwidth of a copy on the device; rates of products of 8192 x 8192 matrices."""
    xp, rate = bench.xp, _copy_rate(bench)
    yield {"figure": "copy", "value": rate / 1e9, "unit": "GB/s", "ceiling": "copy", "rate": rate}
    size = 8192 if bench.scale == 1 else 256
    A, B = (xp.asarray(bench.rng.standard_normal((size, size), dtype=np.float32)) for _ in range(2))
    exact = A[:64].astype(np.float64) @ B.astype(np.float64)
    kinds = {"float32": ("float32", "f4"), "tf32": ("tf32", "f4"), "bf16": ("bf16", "f4"), "float64": ("float32", "f8")}
    for name, (precision, dtype) in kinds.items():
        left_factor, right_factor = A.astype(dtype), B.astype(dtype)
        try:
            with products(xp, precision):
                seconds = bench.seconds(lambda: product(left_factor, right_factor))  # noqa: B023
                error = float(xp.abs(product(left_factor[:64], right_factor) - exact).max()) / size**0.5
        except Exception as problem:
            yield {"figure": f"product, {name}", "note": f"failed: {problem}"}
            continue
        rate = 2 * size**3 / seconds
        yield {
            "figure": f"product, {name}",
            "value": rate / 1e12,
            "unit": "TFLOP/s",
            "note": f"largest error {error:.0e} of a standard deviation",
            "ceiling": name,
            "rate": rate,
        }
    yield from _bfloat16(bench, size)


def _copy_rate(bench):
    """Bytes read and written in a second."""
    source = bench.xp.ones(bench.n(1 << 29), dtype=np.float32)
    target = bench.xp.zeros(len(source), dtype=np.float32)
    return 2 * source.nbytes / bench.seconds(lambda: target.__setitem__(..., source))


def _bfloat16(bench, size):
    """By torch, of factors that are stored in bfloat16, for comparison."""
    try:
        import torch

        A, B = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
        times = []
        for _ in range(12):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            A @ B
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end) / 1e3)
        rate = 2 * size**3 / sorted(times)[5]
        del A, B
        torch.cuda.empty_cache()
        return [{"figure": "product, bfloat16, by torch", "value": rate / 1e12, "unit": "TFLOP/s"}]
    except Exception as error:
        return [{"figure": "product, bfloat16, by torch", "note": f"not measured: {str(error)[:80]}"}]


def sweeps(bench, left):
    """The fused sweep against the bandwidth, its error against the plain code's, both against float64."""
    for k in (4, 64, 512, 2048) if bench.scale == 1 else (4, 64):
        Y = bench.rows(bench.n(1 << 28) // k, k)
        there = kernels.on_cuda(Y)
        for name, sweep in (("score", kernels.score), ("score and loss", kernels.score_and_loss)):
            rate = 2 * Y.nbytes / bench.seconds(lambda: sweep(Y, LogCosh()), repeats=10)  # noqa: B023
            yield {
                "figure": f"{name}, {len(Y):,} x {k}" + ("" if there else ", by arrays"),
                "value": rate / 1e9,
                "unit": "GB/s",
                **bench.share(rate, "copy"),
            }
    Y = bench.rows(4096, 64)
    u = Y.astype(np.float64).get()
    exact = (1 - np.tanh(u) ** 2).sum(0)
    plain = np.abs(LogCosh().at(Y, bench.xp)[1].sum(axis=0).get() - exact).max()
    error = np.abs(kernels.score(Y, LogCosh())[0].get() - exact).max()
    far = np.abs(Y.get() - np.tanh(u)).max()
    yield {"figure": "error of Σ g' over plain float32's", "value": error / plain, "unit": ""}
    yield {"figure": "largest error of g", "value": far, "unit": ""}


def decorrelation(bench, left):
    """(M Mᵀ)^-1/2 M by products and by a decomposition."""
    for k in (64, 512, 2048) if bench.scale == 1 else (16,):
        W = orthonormal(bench.xp.asarray(bench.rng.normal(size=(k, k))), bench.xp)
        M = bench.xp.asarray(np.geomspace(0.01, 1, k))[:, None] * W
        fast = bench.seconds(lambda: polar(M, bench.xp))  # noqa: B023
        slow = bench.seconds(lambda: orthonormal(M, bench.xp), repeats=5)  # noqa: B023
        yield {
            "figure": f"decorrelation, k = {k}",
            "value": 1e3 * fast,
            "unit": "ms",
            "ratio": slow / fast,
            "against": "an eigendecomposition",
            "note": f"defect {float(polar(M, bench.xp)[1]):.0e}",
        }


def passes(bench, left):
    """A FastICA pass over resident float32 rows, at several chunk sizes and precisions, beside the product rate."""
    for n, k in ((4_000_000, 512), (1_000_000, 768), (10_000_000, 64)):
        n, k = bench.n(n), bench.k(k)
        Z = bench.rows(n, k)
        device = array_device(Z)
        W = orthonormal(bench.xp.asarray(bench.rng.normal(size=(k, k))), bench.xp)
        chosen = open_rows(Z, dtype=Z.dtype, device=device).chunk_rows
        for precision in ("float32", "tf32", "bf16"):
            for chunk_rows in dict.fromkeys((chosen, chosen // 4, 4 * chosen)) if k == 512 else (chosen,):
                rows = open_rows(Z, dtype=Z.dtype, device=device, chunk_rows=max(64, chunk_rows))
                oracle = ContrastOracle(rows, LogCosh(), precision=precision)
                seconds = bench.seconds(lambda: oracle.fixed_point(W), repeats=5)  # noqa: B023
                rate = 4 * n * k * k / seconds
                yield {
                    "figure": f"FastICA pass, {n:,} x {k}, {precision}, chunks of {rows.chunk_rows:,}",
                    "value": 1e3 * seconds,
                    "unit": "ms",
                    **bench.share(rate, precision),
                    "note": "the package's choice" if chunk_rows == chosen else "",
                }
        del Z
        bench.tidy()


def _per_iteration(bench, fit, few, many):
    """Seconds of an iteration: the difference of two fits that do not stop by themselves."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(2)
        return (bench.wall(lambda: fit(many))[0] - bench.wall(lambda: fit(few))[0]) / (many - few)


def eeg(bench, left):
    """One iteration at the size of an EEG, all of it, on the host's clock."""
    X = bench.rows(bench.n(200_000), bench.k(64))
    for name, learner in (("FastICA", FastICA), ("Picard", Picard)):
        options = {"growth": None} if learner is Picard else {}
        seconds = _per_iteration(
            bench,
            lambda m: learner(max_iter=m, tol=0, random_state=0, **options).fit(X),  # noqa: B023
            10,
            60,
        )
        yield {"figure": f"{name} iteration, {len(X):,} x {X.shape[1]}", "value": 1e3 * seconds, "unit": "ms"}


def iterations(bench, left):
    """50 iterations over rows as wide as a small language model's."""
    X = bench.rows(bench.n(1_000_000), bench.k(768))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FastICA(max_iter=2, tol=0, random_state=0).fit(X)
        seconds, _ = bench.wall(lambda: FastICA(max_iter=50, tol=0, random_state=0).fit(X))
    return [
        {"figure": f"FastICA, {len(X):,} x {X.shape[1]}, 50 iterations, whitening too", "value": seconds, "unit": "s"}
    ]


def resident_fits(bench, left):
    """Whole fits of rows on the device, and the gradient they end with."""
    X = bench.rows(bench.n(500_000), bench.k(512))
    for name, fit in (
        ("FastICA", lambda: FastICA(random_state=0, max_iter=100).fit(X)),
        ("FastICA, growth", lambda: FastICA(random_state=0, max_iter=100, growth="auto").fit(X)),
        ("Picard", lambda: Picard(random_state=0, max_iter=100).fit(X)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit()
            seconds, found = bench.wall(fit)
        note = f"gradient {gradient(bench.xp, X, found.components_, found.mean_):.1e}, {found.n_iter_} iterations"
        yield {"figure": f"{name}, {len(X):,} x {X.shape[1]}, resident", "value": seconds, "unit": "s", "note": note}


def atoms(bench, left):
    """Blocked descent of 16,384 atoms of 2,304 features from their sums."""
    k, d = (16_384, 2_304) if bench.scale == 1 else (64, 16)
    D = bench.xp.asarray(bench.rng.standard_normal((k, d), dtype=np.float32))
    D /= bench.xp.sqrt((D * D).sum(axis=1, keepdims=True))
    A = D @ D.T
    B = A @ D + bench.xp.asarray(0.1 * bench.rng.standard_normal((k, d), dtype=np.float32))
    seconds = bench.seconds(lambda: block_descent(D, A, B, xp=bench.xp), repeats=5, longest=10)
    rate = 2 * k * k * d / seconds
    return [
        {"figure": f"atom update, {k:,} x {d:,}", "value": 1e3 * seconds, "unit": "ms", **bench.share(rate, "float32")}
    ]


def coders(bench, left):
    """Rows a second by the public functions, and how near the codes are to those of the CPU in float64."""
    lasso = {"algorithm": "lasso_cd", "alpha": 0.2}
    omp = {"algorithm": "omp", "n_nonzero_coefs": 32 if bench.scale == 1 else 4}
    return [
        _coder(bench, "lasso", 512, 4096, 1_000_000, lasso, left / 8),
        _coder(bench, "OMP, 32 atoms", 256, 1024, 500_000, omp, left / 8),
    ]


def _coder(bench, name, d, k, n, settings, longest):
    """n rows of d features by k atoms, or as many of the rows as take `longest` seconds."""
    d, k = (d, k) if bench.scale == 1 else (8, 16)
    D = bench.rng.standard_normal((k, d), dtype=np.float32)
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    X, there = bench.rows(bench.n(n), d) / d**0.5, bench.xp.asarray(D)

    def encode(rows):
        return bench.wall(lambda: sparse_encode(X[:rows], there, **settings))

    trial = max(64, len(X) // 100)
    encode(trial)
    seconds, _ = encode(trial)
    rows = int(max(trial, min(len(X), (1 << 34) // k, trial * min(20.0, longest) / max(seconds, 1e-9))))
    seconds, codes = encode(rows)
    cpu = sparse_encode(X[:64].get().astype(np.float64), D.astype(np.float64), device="cpu", **settings)
    error = np.linalg.norm(codes[:64].get() - cpu) / max(np.linalg.norm(cpu), 1e-300)
    return {
        "figure": f"{name}, {k:,} atoms of {d}, {rows:,} rows",
        "value": rows / seconds,
        "unit": "rows/s",
        "note": f"relative error of 64 codes {error:.0e}",
    }


def mini_batches(bench, left):
    """Rows a second of an epoch of MiniBatchDictionaryLearning."""
    n, k = bench.n(200_000), 4096 if bench.scale == 1 else 16
    X = bench.rows(n, bench.k(512))
    options = {"batch_size": 4096, "alpha": 1.0, "init": "data", "random_state": 0, "fit_algorithm": "cd"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        MiniBatchDictionaryLearning(k, max_iter=1, **options).fit(X[: min(n, 8192)])
        seconds, _ = bench.wall(lambda: MiniBatchDictionaryLearning(k, max_iter=1, **options).fit(X))
    return [
        {
            "figure": f"MiniBatchDictionaryLearning, an epoch of {n:,} x {X.shape[1]}, {k:,} atoms",
            "value": seconds,
            "unit": "s",
            "note": f"4,000,000 rows at this rate: {4e6 / n * seconds:.0f} s",
        }
    ]


LINES = [
    ("compiled", 2, compiled),
    ("ceilings", 10, ceilings),
    ("sweeps", 10, sweeps),
    ("decorrelation", 8, decorrelation),
    ("passes", 30, passes),
    ("eeg", 8, eeg),
    ("iterations", 15, iterations),
    ("resident fits", 25, resident_fits),
    ("atoms", 20, atoms),
    ("coders", 60, coders),
    ("mini-batches", 60, mini_batches),
]
