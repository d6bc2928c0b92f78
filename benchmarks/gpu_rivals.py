"""The figures of `benchmarks.gpu` beside other ICAs: scikit-learn and python-picard on all cores, fastica-torch and
icalens on the same card, where they can be imported; functions of (bench, seconds left) that give results.

Rivals on the host work in a process of their own (`benchmarks.gpu_rival_process`) for some seconds.  What their whole
fit would take follows from what they do once and from their iterations: the clock is read at each.
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

from . import contestants
from .gpu_bench import gradient

ROOT = Path(__file__).parents[1]


def rival(name, arrays, settings, seconds):
    """What a rival's process says after about so many seconds of work, a dict, or None where it fails or takes much
    longer.  arrays: name -> array."""
    with tempfile.TemporaryDirectory() as folder:
        for array in arrays:
            np.save(Path(folder) / f"{array}.npy", arrays[array])
        settings = json.dumps({**settings, "seconds": seconds})
        command = [sys.executable, "-m", "benchmarks.gpu_rival_process", name, folder, settings]
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


def _beside(name, part, n_rows, n_iter, ours, seconds):
    """The entries of a result that compare with a rival's whole fit of n_rows rows.  part: those that it works on."""
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
    """FastICA of 500,000 x 512 rows in host memory, transfers included, beside scikit-learn on all cores.

    Both follow the same path from the same start, so that scikit-learn's iterations are as many as ours.
    """
    n, k = bench.n(500_000), bench.k(512)
    there = bench.rows(n, k) @ bench.normal((k, k))
    X = there.get()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        FastICA(random_state=0, device="cuda").fit(X[: n // 10])
        seconds, found = bench.wall(lambda: FastICA(random_state=0, device="cuda").fit(X), repeats=2)
    reached = gradient(bench.xp, there, found.components_, found.mean_)
    note = f"gradient {reached:.1e}, {found.n_iter_} iterations, converged: {found.converged_}"
    result = {"figure": f"FastICA, {n:,} x {k}, from the host", "value": seconds, "unit": "s", "note": note}
    yield result  # the rival may be stopped
    yield (
        result
        | {"figure": f"{result['figure']}, beside scikit-learn"}
        | _beside("scikit-learn", X, n, found.n_iter_, seconds, 8)
    )


def picard_fit(bench, left):
    """Picard of 2,000,000 x 768 rows as of a language model, from host memory and on the device, beside python-picard.

    python-picard is taken to need as many iterations on all rows as ours reads them: fewer than it would.
    """
    n, k = bench.n(2_000_000), bench.k(768)
    there = bench.activations(n, k)
    X = there.get()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Picard(random_state=0, device="cuda").fit(X[: n // 20])
        resident, _ = bench.wall(lambda: Picard(random_state=0).fit(there))
        seconds, found = bench.wall(lambda: Picard(random_state=0, device="cuda").fit(X))
    reached = gradient(bench.xp, there, found.components_, found.mean_)
    note = f"gradient {reached:.1e}, {found.n_iter_} iterations, {found.n_passes_:.1f} passes, "
    note += f"converged: {found.converged_}; {resident:.2f} s where the rows are on the device"
    result = {"figure": f"Picard, {n:,} x {k}, dependent sources, from the host"}
    result |= {"value": seconds, "unit": "s", "note": note}
    yield result  # the rival may be stopped
    n_iter = int(np.ceil(max(found.n_iter_, found.n_passes_)))
    there = None
    part = X[: max(n // 20, 2 * k)]
    yield (
        result
        | {"figure": f"{result['figure']}, beside python-picard"}
        | _beside("python-picard", part, n, n_iter, seconds, 10)
    )


def same_card(bench, left):
    """A fixed number of iterations over 1,000,000 x 512 rows in host memory by fastica-torch and icalens."""
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
        ("icalens", "icalens", partial(contestants.icalens, resident=True)),  # not batch by batch every time
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
