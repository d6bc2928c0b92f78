"""Figures of gpuica's ICA, relative to the ceilings of the GPU: functions of (bench, seconds left), see `Line`."""

import tempfile
import warnings
from pathlib import Path

import numpy as np

from gpuica import FastICA, Picard, kernels, shards
from gpuica.contrasts import LogCosh
from gpuica.device import array_device, why_no_kernels
from gpuica.device.products import matmul_precision, product
from gpuica.io.safetensors import write_tensors
from gpuica.oracle import ContrastOracle, MomentOracle
from gpuica.rows import open_rows
from gpuica.solvers.orthonormal import orthonormal, polar
from gpuica.solvers.whitening import WHITENERS

from .bench import gradient

EPS = float(np.finfo(np.float32).eps)


def compiled(bench, left):
    """Whether the CUDA kernels compile on this machine."""
    return [{"figure": "CUDA kernels", "note": why_no_kernels() or "compiled"}]


def ceilings(bench, left):
    """Bandwidth of a copy on the device and from the host; rates of products of 8192 x 8192 matrices."""
    xp, rate = bench.xp, _copy_rate(bench)
    yield {"figure": "copy", "value": rate / 1e9, "unit": "GB/s", "ceiling": "copy", "rate": rate}
    rate = bench.link()
    yield {
        "figure": "from page-locked host memory",
        "value": rate / 1e9,
        "unit": "GB/s",
        "ceiling": "link",
        "rate": rate,
    }
    size = 8192 if bench.scale == 1 else 256
    A, B = bench.normal((size, size)), bench.normal((size, size))
    exact = A[:64].astype(np.float64) @ B.astype(np.float64)
    kinds = {"float32": ("float32", "f4"), "tf32": ("tf32", "f4"), "bf16": ("bf16", "f4"), "float64": ("float32", "f8")}
    for name, (precision, dtype) in kinds.items():
        left_factor, right_factor = A.astype(dtype), B.astype(dtype)
        try:
            with matmul_precision(xp, precision):
                seconds = bench.seconds(lambda: product(left_factor, right_factor), 10, 0.5)  # noqa: B023
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


def _copy_rate(bench):
    """Bytes read and written per second."""
    source = bench.xp.ones(bench.n(1 << 29), dtype=np.float32)
    target = bench.xp.zeros(len(source), dtype=np.float32)
    return 2 * source.nbytes / bench.seconds(lambda: target.__setitem__(..., source))


def sweeps(bench, left):
    """The bandwidth of the fused sweep, and its error and that of the array code with respect to float64."""
    for k in (4, 64, 512) if bench.scale == 1 else (4, 64):
        Y = bench.rows(bench.n(1 << 28) // k, k)
        compiled = kernels.on_cuda(Y)
        for name, sweep in (("score", kernels.score), ("score and loss", kernels.score_and_loss)):
            rate = 2 * Y.nbytes / bench.seconds(lambda: sweep(Y, LogCosh()), 10, 0.5)  # noqa: B023
            yield {
                "figure": f"{name}, {len(Y):,} x {k}" + ("" if compiled else ", by arrays"),
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
    """(M Mᵀ)^-1/2 M by products and by an eigendecomposition."""
    for k in (64, 512, 2048) if bench.scale == 1 else (16,):
        W = orthonormal(bench.xp.asarray(bench.rng.normal(size=(k, k))), bench.xp)
        M = bench.xp.asarray(np.geomspace(0.01, 1, k))[:, None] * W
        fast = bench.seconds(lambda: polar(M, bench.xp), 10, 0.5)  # noqa: B023
        slow = bench.seconds(lambda: orthonormal(M, bench.xp), 3, 0.5)  # noqa: B023
        yield {
            "figure": f"decorrelation, k = {k}",
            "value": 1e3 * fast,
            "unit": "ms",
            "ratio": slow / fast,
            "against": "an eigendecomposition",
            "note": f"defect {float(polar(M, bench.xp)[1]):.0e}",
        }


def passes(bench, left):
    """A FastICA pass over rows on the device, relative to the product rate, with several precisions and chunk sizes."""
    for n, k in ((4_000_000, 512), (1_000_000, 768), (10_000_000, 64)):
        n, k = bench.n(n), bench.k(k)
        Z = rows = oracle = None  # frees the previous ones before the next are allocated
        bench.tidy()
        Z = bench.rows(n, k)
        W = orthonormal(bench.xp.asarray(bench.rng.normal(size=(k, k))), bench.xp)
        chunk_rows = open_rows(Z, dtype=Z.dtype, device=array_device(Z)).chunk_rows
        forms = [("float32", 1), ("float32", 1 / 4), ("float32", 4), ("tf32", 1), ("bf16", 1)] if k == 512 else []
        for precision, factor in forms or [("float32", 1)]:
            rows = open_rows(Z, dtype=Z.dtype, device=array_device(Z), chunk_rows=max(64, int(factor * chunk_rows)))
            oracle = ContrastOracle(rows, LogCosh(), precision=precision)
            seconds = bench.seconds(lambda: oracle.fixed_point(W), 5, 0.3)  # noqa: B023
            yield {
                "figure": f"FastICA pass, {n:,} x {k}, {precision}, chunks of {rows.chunk_rows:,} rows",
                "value": 1e3 * seconds,
                "unit": "ms",
                **bench.share(4 * n * k * k / seconds, precision),
            }


def per_iteration(bench, fit, few, many, repeats=1):
    """Seconds of an iteration, from the difference of two fits that do not stop early."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(2)
        seconds = [bench.wall(lambda: fit(m), repeats)[0] for m in (few, many)]  # noqa: B023
    return (seconds[1] - seconds[0]) / (many - few)


def eeg(bench, left):
    """One iteration at the size of an EEG recording, by the wall clock of the host."""
    X = bench.rows(bench.n(200_000), bench.k(64))
    for name, learner in (("FastICA", FastICA), ("Picard", Picard)):

        def fit(m, learner=learner):
            learner(max_iter=m, tol=0, random_state=0, growth=None).fit(X)

        seconds = per_iteration(bench, fit, 10, 60, repeats=3)
        yield {"figure": f"{name} iteration, {len(X):,} x {X.shape[1]}", "value": 1e3 * seconds, "unit": "ms"}


def whitening(bench, left):
    """Whitening of wide rows on the device: the pass over the rows, and the decompositions after it."""
    n, d = bench.n(100_000), 4096 if bench.scale == 1 else 16
    X = bench.rows(n, d) @ bench.normal((d, d))
    for name, whitener in WHITENERS.items():
        oracle, small = (
            MomentOracle(open_rows(rows, dtype=X.dtype, device=array_device(X))) for rows in (X, X[:2000, :256])
        )
        whitener(small, eps=EPS)  # creates the handles of the libraries
        oracle.moments()
        pass_seconds, moments = bench.wall(oracle.moments, repeats=2)
        oracle.moments = lambda: moments  # noqa: B023
        seconds, spectrum = bench.wall(lambda: whitener(oracle, eps=EPS))  # noqa: B023
        yield {
            "figure": f"whitening by {name!r}, {n:,} x {d:,}",
            "value": pass_seconds + seconds,
            "unit": "s",
            "note": f"moments {pass_seconds:.3f} s, decompositions {seconds:.3f} s, rank {spectrum.rank:,}",
        }


def streamed(bench, left):
    """Passes of a fit over bfloat16 rows in files in the page cache, relative to the bandwidth from the host.

    The same files are read repeatedly, in place of larger ones.  A quarter of the fit's memory limit holds rows on the
    device, which are not counted.
    """
    n, k, n_files, times = bench.n(1_000_000), bench.k(512), 4, 8
    X = bench.rows(n, k) @ bench.normal((k, k))
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.safetensors" for i in range(n_files)]
        for i, path in enumerate(paths):
            part = bench.bfloat16(X[i * n // n_files : (i + 1) * n // n_files])
            write_tensors(path, {"rows": part}, {}, is_bfloat16=True)
        del X
        bench.tidy()

        def fit(m):
            FastICA(max_iter=m, tol=0, random_state=0, device="cuda", memory_limit="2GB").fit(shards(paths * times))

        seconds = per_iteration(bench, fit, 2, 8)
    size, kept, rows = 2 * n * k * times, 500_000_000 if bench.scale == 1 else 0, 200_000_000
    rate = (size - kept) / seconds
    yield {
        "figure": f"streamed bfloat16 rows, a pass over {n * times:,} x {k}",
        "value": rate / 1e9,
        "unit": "GB/s",
        **bench.share(rate, "link"),
        "note": f"files of {2 * n * k / 1e9:.2f} GB in the page cache, {times} times a pass; "
        f"a pass over {rows:,} rows at this rate: {2 * rows * k / rate:.1f} s",
    }


def resident_fits(bench, left):
    """Whole fits of rows on the device, and the gradients that they reach."""
    X = bench.rows(bench.n(500_000), bench.k(512)) @ bench.normal((bench.k(512),) * 2)
    for name, learner in (
        ("FastICA", FastICA(random_state=0)),
        ("FastICA, growth", FastICA(random_state=0, growth="auto")),
        ("Picard", Picard(random_state=0)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            learner.fit(X[:20_000])
            seconds, found = bench.wall(lambda: learner.fit(X))  # noqa: B023
        note = f"gradient {gradient(bench.xp, X, found.components_, found.mean_):.1e}, {found.n_iter_} iterations"
        yield {"figure": f"{name}, {len(X):,} x {X.shape[1]}, resident", "value": seconds, "unit": "s", "note": note}
