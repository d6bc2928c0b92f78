"""Figures of sparse coding and dictionary learning, compared with SPAMS on all cores if it is installed: functions of
(bench, seconds left), see `Line`.

Rows are simulated from a dictionary with some atoms per row and noise, so that codes have a realistic number of atoms.
Codes are judged in float64, on the first rows: by their objective, and for the lasso by the duality gap.
"""

import importlib.util
import tempfile
import warnings
from pathlib import Path

import numpy as np

from gpuica import MiniBatchDictionaryLearning, shards, sparse_encode
from gpuica.io.safetensors import write_tensors
from gpuica.solvers.atoms import block_descent

from .rival_figures import rival

ALPHA = 0.2  # with noise of 0.05, codes have about as many atoms per row as were simulated
JUDGED = 2000  # rows whose codes are judged


def objective(X, D, C, alpha=0.0):
    """½‖x - c D‖² + alpha ‖c‖₁ of every row, in float64, (n,)."""
    X, D, C = (np.asarray(part, dtype=np.float64) for part in (X, D, C))
    return ((X - C @ D) ** 2).sum(axis=1) / 2 + alpha * abs(C).sum(axis=1)


def duality_gap(X, D, C, alpha):
    """The duality gap of every row's lasso over ½‖x‖², in float64, (n,)."""
    X, D, C = (np.asarray(part, dtype=np.float64) for part in (X, D, C))
    R = X - C @ D
    R_feasible = R * np.minimum(1, alpha / np.maximum(abs(R @ D.T).max(axis=1, keepdims=True), 1e-300))
    dual = (X * R_feasible).sum(axis=1) - (R_feasible**2).sum(axis=1) / 2
    return (objective(X, D, C, alpha) - dual) / ((X**2).sum(axis=1) / 2)


def lasso(bench, left):
    """The lasso with 4,096 atoms of 512 features."""
    k, d = (4096, 512) if bench.scale == 1 else (64, 16)
    D = bench.dictionary(k, d)
    X = bench.coded(bench.n(400_000), D, 20 if bench.scale == 1 else 4)
    yield from _compared_with_spams(bench, X, D, "lasso", {"lasso_cd": {"alpha": ALPHA}}, ALPHA)


def omp(bench, left):
    """OMP and ORMP: 32 atoms per row of 1,024 of 256 features.  SPAMS's OMP is the order-recursive one, ORMP."""
    k, d, s = (1024, 256, 32) if bench.scale == 1 else (64, 16, 4)
    D = bench.dictionary(k, d)
    X = bench.coded(bench.n(400_000), D, s)
    settings = {"n_nonzero_coefs": s}
    yield from _compared_with_spams(bench, X, D, "omp", {"omp": settings, "ormp": settings}, s)


def _compared_with_spams(bench, X, D, kind, ours, setting):
    """Rows per second of gpuica's coders {algorithm: settings} and of SPAMS.  setting: alpha, or atoms per row."""
    alpha = setting if kind == "lasso" else 0.0
    rows, atoms = X[:JUDGED].get(), D.get()
    results = []
    for name, settings in ours.items():
        rate, n, codes = _rate(bench, X, atoms, {"algorithm": name, **settings})
        C = codes[: len(rows)].get()
        del codes
        used, cost = (C != 0).sum(axis=1).mean(), objective(rows, atoms, C, alpha)
        note = f"{used:.1f} atoms a row"
        if kind == "lasso":
            note += f", largest relative duality gap {duality_gap(rows, atoms, C, alpha).max():.0e}"
        figure = {"figure": f"{name}, {len(D):,} atoms of {D.shape[1]}, {n:,} rows", "value": rate, "unit": "rows/s"}
        results.append(({**figure, "note": note}, cost))
        yield results[-1][0]  # now, because the rival may be killed
    if importlib.util.find_spec("spams") is None:
        yield {"figure": f"SPAMS, {kind}", "note": "not installed"}
        return
    theirs = rival("spams", {"X": X[: 50 * JUDGED].get(), "D": atoms}, {"kind": kind, "setting": setting}, seconds=4)
    if theirs is None:
        yield {"figure": f"SPAMS, {kind}", "note": "failed, or took too long"}
        return
    for figure, cost in results:
        m = min(len(cost), len(theirs["cost"]))
        excess = cost[:m].mean() / theirs["cost"][:m].mean() - 1
        note = f"{figure['note']}; mean objective {excess:+.1e} of SPAMS's, which has {theirs['used']:.1f} atoms a row"
        against = f"SPAMS, {theirs['threads']} cores ({theirs['rate']:,.0f} rows/s of {theirs['n']:,})"
        ratio = {"ratio": figure["value"] / theirs["rate"], "against": against}
        yield {**figure, "figure": f"{figure['figure']}, beside SPAMS", **ratio, "note": note}


def _rate(bench, X, D, settings, longest=1.0):
    """(rows per second, rows, codes) of as many rows of X as take about `longest` seconds, after a warm-up."""

    def encode(rows):
        return bench.wall(lambda: sparse_encode(X[:rows], D, **settings))

    trial = max(64, len(X) // 20)
    encode(trial)
    seconds, _ = encode(trial)
    rows = int(max(trial, min(len(X), trial * longest / max(seconds, 1e-9))))
    seconds, codes = encode(rows)
    return rows / seconds, rows, codes


def atoms(bench, left):
    """Block coordinate descent of 16,384 atoms of 2,304 features, given A and B."""
    k, d = (16_384, 2_304) if bench.scale == 1 else (64, 16)
    D = bench.dictionary(k, d)
    A = D @ D.T
    B = A @ D + 0.1 * bench.normal((k, d))
    seconds = bench.seconds(lambda: block_descent(D, A, B, xp=bench.xp), 3, 2.0)
    rate = 2 * k * k * d / seconds
    return [
        {"figure": f"atom update, {k:,} x {d:,}", "value": 1e3 * seconds, "unit": "ms", **bench.share(rate, "float32")}
    ]


def mini_batches(bench, left):
    """An epoch of MiniBatchDictionaryLearning on bfloat16 rows in host memory, extrapolated from part of one."""
    k, d, batch = (16_384, 768, 4096) if bench.scale == 1 else (64, 16, 64)
    few, many, epoch = 4, 20, 1_000_000
    D = bench.dictionary(k, d)
    bits = bench.bfloat16(bench.coded(many * batch, D, 20 if bench.scale == 1 else 4))
    start = D + 0.2 * bench.dictionary(k, d)
    start = (start / bench.xp.sqrt((start * start).sum(axis=1, keepdims=True))).get()
    options = {"batch_size": batch, "alpha": ALPHA, "dict_init": start, "random_state": 0, "fit_algorithm": "cd"}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        X = _bfloat16_rows(bits, folder, batch)

        def fit(n_batches):
            rows = X[: n_batches * batch] if hasattr(X, "dim") else shards(sorted(Path(folder).iterdir())[:n_batches])
            return MiniBatchDictionaryLearning(k, max_iter=1, tol=0.0, device="cuda", **options).fit(rows)

        fit(1)
        seconds = [bench.wall(lambda: fit(m))[0] for m in (few, many)]  # noqa: B023
        rows = bench.xp.asarray((bits[:JUDGED].astype(np.uint32) << 16).view(np.float32))
        codes = sparse_encode(rows, start, algorithm="lasso_cd", alpha=ALPHA, max_iter=100)
    used = float((codes != 0).sum(axis=1).mean())
    slope = (seconds[1] - seconds[0]) / (many - few)
    whole = seconds[0] + slope * (epoch / batch - few)
    storage = "in memory" if hasattr(X, "dim") else "in files"
    yield {
        "figure": f"mini-batch epoch, {epoch:,} x {d}, {k:,} atoms, bfloat16 from the host",
        "value": whole,
        "unit": "s",
        "note": f"from {few} and {many} batches of {batch:,} rows {storage}, {1e3 * slope:.0f} ms each; "
        f"{used:.1f} atoms a row at first",
    }


def _bfloat16_rows(bits, folder, rows_a_file):
    """The rows with bfloat16 bits (n, d) as a torch tensor; without torch, writes them to files and returns None."""
    if importlib.util.find_spec("torch"):
        import torch

        return torch.from_numpy(bits.view(np.int16)).view(torch.bfloat16)
    for i in range(0, len(bits), rows_a_file):
        path = Path(folder) / f"{i:08}.safetensors"
        write_tensors(path, {"rows": bits[i : i + rows_a_file]}, {}, is_bfloat16=True)
    return None
