"""Figures of gpuica's ICA compared with scikit-learn and python-picard on all cores, fastica-torch and icalens on the
same GPU, if they are installed: functions of (bench, seconds left), see `Line`.

Rivals on the host run in a process of their own (rival_process.py) for some seconds.  The time of their whole fit is
extrapolated from the time before the first iteration and the time of one iteration.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from gpuica import FastICA, Picard

from ..common.command import ROOT
from ..ica import contestants
from .bench import gradient


def rival(name, arrays, settings, seconds):
    """The results of a rival's process, a dict with its arrays, or None if it fails or takes much too long.

    arrays: {name: array}.  settings: of the rival's function.  seconds: that the rival may work, about.
    """
    with tempfile.TemporaryDirectory() as folder:
        for array in arrays:
            np.save(Path(folder) / f"{array}.npy", arrays[array])
        settings = json.dumps({**settings, "seconds": seconds})
        command = [sys.executable, "-m", "benchmarks.gpu.rival_process", name, folder, settings]
        try:
            run = subprocess.run(
                command, cwd=ROOT, timeout=30 + 3 * seconds, capture_output=True, text=True, check=True
            )
        except subprocess.TimeoutExpired:
            return None
        except subprocess.CalledProcessError as error:
            print(error.stderr[-2000:])
            return None
        answer = json.loads(run.stdout.splitlines()[-1])
        return answer | {path.stem: np.load(path) for path in Path(folder).glob("*.npy") if path.stem not in arrays}


def _compared(name, part, n_rows, n_iter, ours, seconds):
    """The entries of a result that compare it with a rival's whole fit of n_rows rows; `part` of them are timed."""
    module = {"scikit-learn": "sklearn", "python-picard": "picard"}[name]
    if importlib.util.find_spec(module) is None:
        return {"note": f"{name} is not installed"}
    theirs = rival(name, {"X": part}, {}, seconds)
    if theirs is None:
        return {"note": f"{name} failed, or took too long"}
    share = len(part) / n_rows
    whole = (theirs["before"] + n_iter * theirs["step"]) / share
    how = f"{theirs['before']:.1f} s and {theirs['step']:.2f} s an iteration, the median of {theirs['steps']}"
    how += f", of {len(part):,} rows" if share < 1 else ""
    return {
        "ratio": whole / ours,
        "against": f"{name} on {theirs['cores']} cores, whose {n_iter} iterations would take {whole:.0f} s ({how})"
        + theirs.get("remark", ""),
    }


def transactional_fit(bench, left):
    """FastICA of 500,000 x 512 rows in host memory, including transfers, compared with scikit-learn on all cores.

    Both compute the same iterates from the same starting point, so that scikit-learn needs as many iterations.
    """
    n, k = bench.n(500_000), bench.k(512)
    resident_rows = bench.rows(n, k) @ bench.normal((k, k))
    X = resident_rows.get()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FastICA(random_state=0, device="cuda").fit(X[: n // 10])
        seconds, found = bench.wall(lambda: FastICA(random_state=0, device="cuda").fit(X), repeats=2)
    reached = gradient(bench.xp, resident_rows, found.components_, found.mean_)
    note = f"gradient {reached:.1e}, {found.n_iter_} iterations, converged: {found.converged_}"
    result = {"figure": f"FastICA, {n:,} x {k}, from the host", "value": seconds, "unit": "s", "note": note}
    yield result  # now, because the rival may be killed
    yield (
        result
        | {"figure": f"{result['figure']}, beside scikit-learn"}
        | _compared("scikit-learn", X, n, found.n_iter_, seconds, 8)
    )


def picard_fit(bench, left):
    """Picard of 2,000,000 x 768 rows like activations, from host memory and on the device; python-picard.

    python-picard is assumed to need as many iterations as gpuica makes passes: fewer than it would.
    """
    n, k = bench.n(2_000_000), bench.k(768)
    resident_rows = bench.activations(n, k)
    X = resident_rows.get()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Picard(random_state=0, device="cuda").fit(X[: n // 20])
        resident, _ = bench.wall(lambda: Picard(random_state=0).fit(resident_rows))
        seconds, found = bench.wall(lambda: Picard(random_state=0, device="cuda").fit(X))
    reached = gradient(bench.xp, resident_rows, found.components_, found.mean_)
    note = f"gradient {reached:.1e}, {found.n_iter_} iterations, {found.n_passes_:.1f} passes, "
    note += f"converged: {found.converged_}; {resident:.2f} s where the rows are on the device"
    result = {"figure": f"Picard, {n:,} x {k}, dependent sources, from the host"}
    result |= {"value": seconds, "unit": "s", "note": note}
    yield result  # now, because the rival may be killed
    n_iter = int(np.ceil(max(found.n_iter_, found.n_passes_)))
    resident_rows = None
    part = X[: max(n // 20, 2 * k)]
    yield (
        result
        | {"figure": f"{result['figure']}, beside python-picard"}
        | _compared("python-picard", part, n, n_iter, seconds, 10)
    )


def same_card(bench, left):
    """A fixed number of iterations over 1,000,000 x 512 rows in host memory: fastica-torch and icalens."""
    n, k, n_iter = bench.n(1_000_000), bench.k(512), 20
    X = bench.rows(n, k).get()
    problem = SimpleNamespace(n_components=k)
    result = {"figure": f"FastICA, {n:,} x {k}, {n_iter} iterations, from the host", "unit": "s"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = FastICA(max_iter=n_iter, tol=0, random_state=0, device="cuda")
        model.fit(X[: n // 50])
        ours, _ = bench.wall(lambda: model.fit(X), repeats=2)
    yield result | {"value": ours}
    for name, module, fit in (
        ("fastica-torch", "fastica_torch", contestants.fastica_torch),
        ("icalens", "icalens", partial(contestants.icalens, resident=True)),  # copies all rows to the device once
    ):
        if importlib.util.find_spec(module) is None:
            yield {"figure": f"{name}, {n:,} x {k}", "note": "not installed"}
            continue
        bench.tidy()
        try:
            call = partial(fit, problem=problem, seed=0, tol=0, max_iter=n_iter, device="cuda")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                call(X[: n // 50])
                theirs, _ = bench.wall(lambda: call(X), repeats=2)  # noqa: B023
        except Exception as error:
            yield {"figure": f"{name}, {n:,} x {k}", "note": f"failed: {type(error).__name__}: {str(error)[:200]}"}
            continue
        finally:
            _free_torch()
        yield result | {"value": ours, "ratio": theirs / ours, "against": f"{name} ({theirs:.2f} s)"}


def _free_torch():
    if "torch" in sys.modules and sys.modules["torch"].cuda.is_available():
        sys.modules["torch"].cuda.empty_cache()
