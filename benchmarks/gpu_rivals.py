"""The figures of `benchmarks.gpu` beside rivals: scikit-learn and python-picard on all cores, fastica-torch and icalens
on the same card, where they can be imported.

As a script it is one rival's fit, in a process of its own, which may be stopped:

    python -m benchmarks.gpu_rivals scikit-learn X.npy answer.npz MAX_ITER
"""

import importlib.util
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from gpuica import FastICA, Picard

from . import contestants
from .gpu_bench import gradient

ROOT = Path(__file__).parents[1]
GRADIENT = 3e-4  # Picard's and python-picard's tol: a fifth of the sampling error of 500,000 rows


def fit_scikit_learn(X, max_iter):
    from sklearn.decomposition import FastICA as Rival

    found = Rival(random_state=0, whiten_solver="eigh", max_iter=max_iter).fit(X)
    return found.components_, found.mean_, found.n_iter_


def fit_python_picard(X, max_iter):
    from picard import picard

    options = {"return_X_mean": True, "return_n_iter": True, "random_state": 0}
    K, W, _, mean, n_iter = picard(X.T, ortho=True, extended=True, tol=GRADIENT, max_iter=max_iter, **options)
    return W @ K, mean, n_iter


RIVALS = {"scikit-learn": fit_scikit_learn, "python-picard": fit_python_picard}


def whole_fits(bench, left):
    """Fits of 500,000 x 512 rows in host memory, transfers included, against all cores of this machine."""
    n, k = bench.n(500_000), bench.k(512)
    there = bench.rows(n, k) @ bench.xp.asarray(bench.rng.standard_normal((k, k), dtype=np.float32))
    X = there.get()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "X.npy"
        np.save(path, X)
        for ours, rival, learner in (
            ("FastICA", "scikit-learn", partial(FastICA, random_state=0, max_iter=200)),
            ("Picard", "python-picard", partial(Picard, random_state=0, tol=GRADIENT, max_iter=200)),
        ):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                learner(device="cuda").fit(X[: n // 10])
                seconds, found = bench.wall(lambda: learner(device="cuda").fit(X), repeats=2)  # noqa: B023
            reached = gradient(bench.xp, there, found.components_, found.mean_)
            note = f"gradient {reached:.1e}, {found.n_iter_} iterations"
            result = {"figure": f"{ours}, {n:,} x {k}, from the host", "value": seconds, "unit": "s", "note": note}
            yield dict(result)  # the rival may be stopped
            result.update(_beside(bench, there, rival, path, found.n_iter_, seconds, note, limit=(left - 20) / 2.2))
            yield {**result, "figure": f"{result['figure']}, beside {rival}"}


def _beside(bench, there, rival, path, n_iter, seconds, note, limit):
    """The entries that compare with a rival: its whole fit, or, where there is no time for it, its iterations times our
    number of them, which the note then says."""
    few, many = (2, 5) if limit < 400 else (2, 8)
    short = [_rival(rival, path, m, limit / 4) for m in (few, many)]
    if not all(short):
        return {"note": f"{note}; {rival}: not even {many} iterations in the time, or not installed"}
    step = max(short[1]["seconds"] - short[0]["seconds"], 0.0) / (many - few)
    expected = short[0]["seconds"] + step * (n_iter - few)
    whole = _rival(rival, path, 200, limit / 2) if 1.3 * expected < limit / 2 else None
    if whole is None:
        return {
            "ratio": expected / seconds,
            "against": f"{rival}, whose {n_iter} iterations would take {expected:.0f} s (from {many} of them)",
        }
    theirs = gradient(bench.xp, there, whole["components"], whole["mean"])
    return {
        "ratio": float(whole["seconds"]) / seconds,
        "against": f"{rival} ({float(whole['seconds']):.1f} s, {int(whole['n_iter'])} its, gradient {theirs:.1e})",
    }


def _rival(name, path, max_iter, limit):
    """What a rival's process saved, or None where it failed or took longer than the limit in seconds."""
    answer = path.with_name("answer.npz")
    answer.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.gpu_rivals", name, str(path), str(answer), str(max_iter)]
    try:
        subprocess.run(command, cwd=ROOT, timeout=max(limit, 1), capture_output=True, check=True)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None
    with np.load(answer) as saved:
        return dict(saved)


def same_card(bench, left):
    """50 iterations over 1,000,000 x 768 rows by fastica-torch and icalens."""
    X = bench.rows(bench.n(1_000_000), bench.k(768)).get()
    problem = SimpleNamespace(n_components=X.shape[1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FastICA(max_iter=50, tol=0, random_state=0, device="cuda").fit(X[:10_000])
        ours, _ = bench.wall(lambda: FastICA(max_iter=50, tol=0, random_state=0, device="cuda").fit(X))
    for name, module, fit in (
        ("fastica-torch", "fastica_torch", contestants.fastica_torch),
        ("icalens", "icalens", contestants.icalens),
    ):
        if importlib.util.find_spec(module) is None:
            yield {"figure": f"{name}, {len(X):,} x 768", "note": "not installed"}
            continue
        call = partial(fit, problem=problem, seed=0, tol=0, max_iter=50, device="cuda")
        call(X[:10_000])
        theirs, _ = bench.wall(lambda: call(X))  # noqa: B023
        yield {
            "figure": f"FastICA, {len(X):,} x {X.shape[1]}, 50 iterations, from the host",
            "value": ours,
            "unit": "s",
            "ratio": theirs / ours,
            "against": f"{name} ({theirs:.1f} s)",
        }


LINES = [("same card", 60, same_card), ("whole fits", 80, whole_fits)]


def main():
    name, path, answer, max_iter = sys.argv[1:]
    X = np.load(path)
    warnings.simplefilter("ignore")
    RIVALS[name](X[:2000], 2)
    began = time.perf_counter()
    components, mean, n_iter = RIVALS[name](X, int(max_iter))
    seconds = time.perf_counter() - began
    np.savez(answer, components=components, mean=mean, n_iter=n_iter, seconds=seconds)


if __name__ == "__main__":
    main()
