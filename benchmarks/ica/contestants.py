"""The implementations compared.  Each fits the same X from the same starting point, with its best settings.

BLAS uses its default number of threads.  X is in C order; Fortran order made no measurable difference to any NumPy
contestant.
"""

import importlib.util
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np

FLOAT32, FLOAT64 = "float32", "float64"


class Fit(NamedTuple):
    """A fitted model: components (k, d) and mean (d,) in float64; n_passes is None if it is not counted."""

    components: np.ndarray
    mean: np.ndarray
    n_iter: int
    n_passes: float | None
    converged: bool


@dataclass(frozen=True)
class Contestant:
    """fit: (X, problem, seed, tol, max_iter) -> Fit, with X (n, d) in one of `dtypes`.

    why_not: a sentence if it cannot run on this machine, or "".  device_peak: () -> peak bytes on the GPU, or None.
    """

    name: str
    fit: Callable[..., Fit]
    dtypes: tuple[str, ...] = (FLOAT32, FLOAT64)
    why_not: Callable[[], str] = lambda: ""
    device_peak: Callable[[], Any] = lambda: None

    @property
    def ours(self):
        return self.name.startswith("gpuica")


def scikit_learn(X, problem, seed, tol, max_iter, *, whiten_solver):
    """scikit-learn's FastICA."""
    from sklearn.decomposition import FastICA

    estimator = FastICA(
        problem.n_components, whiten_solver=whiten_solver, random_state=seed, tol=tol, max_iter=max_iter
    )
    converged = without_warning("did not converge", estimator.fit, X)[1]
    return as_fit(estimator.components_, estimator.mean_, estimator.n_iter_, None, converged)


def gpuica(X, problem, seed, tol, max_iter, *, device):
    """gpuica's FastICA."""
    from gpuica import FastICA

    estimator = FastICA(problem.n_components, random_state=seed, tol=tol, max_iter=max_iter, device=device)
    without_warning("did not converge", estimator.fit, X)
    return as_fit(estimator.components_, estimator.mean_, estimator.n_iter_, estimator.n_passes_, estimator.converged_)


def gpuica_picard(X, problem, seed, tol, max_iter, *, device):
    """gpuica's Picard-O, on growing samples if X is large; it stops by the relative gradient, as python-picard."""
    from gpuica import Picard

    estimator = Picard(problem.n_components, random_state=seed, tol=problem.gradient, max_iter=max_iter, device=device)
    without_warning("did not converge", estimator.fit, X)
    return as_fit(estimator.components_, estimator.mean_, estimator.n_iter_, estimator.n_passes_, estimator.converged_)


def picard(X, problem, seed, tol, max_iter, *, ortho):
    """python-picard; it stops by the relative gradient, at what FastICA reaches with its tol on this problem."""
    from picard import picard

    (K, W, _, mean, n_iter), converged = without_warning(
        "did not converge",
        partial(
            picard,
            n_components=problem.n_components,
            ortho=ortho,
            extended=True,
            tol=problem.gradient,
            max_iter=max_iter,
            random_state=seed,
            return_X_mean=True,
            return_n_iter=True,
        ),
        X.T,
    )
    return as_fit(W @ K, mean, n_iter, None, converged)


def fastica_torch(X, problem, seed, tol, max_iter, *, device):
    """fastica-torch, with its faster whitening."""
    import torch
    from fastica_torch import FastICA

    estimator = FastICA(
        problem.n_components,
        whiten_solver="eigh",
        tol=tol,
        max_iter=max_iter,
        w_init=torch.from_numpy(_start(problem, seed, X.dtype)).to(device),
    )
    with torch.inference_mode():
        estimator.fit(torch.from_numpy(X).to(device))
    components, mean = (part.cpu().numpy() for part in (estimator.components_, estimator.mean_))
    return as_fit(components, mean, estimator.n_iter_, None, estimator.n_iter_ < max_iter)


def icalens(X, problem, seed, tol, max_iter, *, device, resident=False):
    """The FastICA of icalens on raw rows.  It has no stopping rule, so scikit-learn's is applied in a callback.

    resident: copy all rows to the device first; otherwise it copies them batch by batch in every iteration.
    """
    import torch
    from icalens._fastica import _symmetric_decorrelation, fit_fastica

    class ConvergedError(Exception):
        pass

    start = _symmetric_decorrelation(torch.from_numpy(_start(problem, seed, X.dtype)).to(device))
    last = [(0, start)]

    def stop(n_iter, W, K, center):
        converged = bool(((W * last[-1][1]).sum(dim=1).abs() - 1).abs().max() < tol)
        last[:] = [(n_iter, W, K, center, converged)]
        if converged:
            raise ConvergedError

    with suppress(ConvergedError):
        fit_fastica(
            torch.from_numpy(X).to(device if resident else "cpu"),
            n_components=problem.n_components,
            max_iter=max_iter,
            device=device,
            row_normalize=False,
            objective_every=max_iter,
            initial_unmixing=start,
            checkpoint_callback=stop,
        )
    n_iter, W, K, center, converged = last[0]
    return as_fit((W @ K).cpu().numpy(), center.cpu().numpy(), n_iter, None, converged)


def _start(problem, seed, dtype):
    """The initial matrix (k, k) that scikit-learn and gpuica draw from this seed."""
    return np.random.RandomState(seed).normal(size=(problem.n_components,) * 2).astype(dtype)


def as_fit(components, mean, n_iter, n_passes, converged):
    """A `Fit` of an estimator's attributes."""
    return Fit(np.asarray(components, np.float64), np.asarray(mean, np.float64), int(n_iter), n_passes, bool(converged))


def without_warning(words, call, X):
    """call(X), and whether no warning contained these words; all warnings are suppressed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = call(X)
    return result, not any(words in str(warning.message) for warning in caught)


def needs(module, package):
    """A function: a sentence if a module cannot be imported, or ""."""
    return lambda: "" if importlib.util.find_spec(module) else f"{package} is not installed: pip install {package}"


def needs_torch_gpu(module, package):
    def why_not():
        if reason := needs(module, package)():
            return reason
        import torch

        return "" if torch.cuda.is_available() else "PyTorch finds no GPU"

    return why_not


def _no_gpu():
    from gpuica.device import why_no_gpu

    return why_no_gpu()


def _cupy_peak():
    """Bytes that CuPy's pool holds, its peak: the pool returns no memory by itself."""
    import cupy

    return cupy.get_default_memory_pool().total_bytes()


def _torch_peak():
    import torch

    return torch.cuda.max_memory_allocated()


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant("gpuica-cuda", partial(gpuica, device="cuda"), why_not=_no_gpu, device_peak=_cupy_peak),
        Contestant("gpuica", partial(gpuica, device="cpu")),
        Contestant(
            "gpuica-picard-cuda", partial(gpuica_picard, device="cuda"), why_not=_no_gpu, device_peak=_cupy_peak
        ),
        Contestant("gpuica-picard", partial(gpuica_picard, device="cpu")),
        Contestant("sklearn-eigh", partial(scikit_learn, whiten_solver="eigh")),
        Contestant("sklearn-svd", partial(scikit_learn, whiten_solver="svd")),
        Contestant("picard-o", partial(picard, ortho=True), (FLOAT64,), needs("picard", "python-picard")),
        Contestant("picard", partial(picard, ortho=False), (FLOAT64,), needs("picard", "python-picard")),
        Contestant(
            "fastica-torch", partial(fastica_torch, device="cpu"), why_not=needs("fastica_torch", "fastica-torch")
        ),
        Contestant(
            "fastica-torch-cuda",
            partial(fastica_torch, device="cuda"),
            why_not=needs_torch_gpu("fastica_torch", "fastica-torch"),
            device_peak=_torch_peak,
        ),
        Contestant("icalens", partial(icalens, device="cpu"), why_not=needs("icalens", "icalens")),
        Contestant(
            "icalens-cuda",
            partial(icalens, device="cuda"),
            why_not=needs_torch_gpu("icalens", "icalens"),
            device_peak=_torch_peak,
        ),
    )
}
