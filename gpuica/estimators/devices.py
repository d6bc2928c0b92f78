"""One fit on several GPUs of this machine: a thread for each, and rows that they share."""

import threading
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.base import clone

from ..comm import loopback
from ..device import device_count
from ..input import as_source
from ..io.sources import SelectedRows, Source
from ..messages import collect_warnings, warn
from ..rows.shared import Shared


def fit_on_devices(estimator: Any, X: Any, devices: Any = "all", sample_weight: Any = None) -> Any:
    """Fit an estimator on several devices of this machine, each holding a part of the rows.

    The result is that of a fit on one device, up to the order of additions.

    Parameters
    ----------
    estimator : estimator of this package
        Estimator with a `fit` method.  It is fitted in place; its parameter `device` is ignored.
    X : array-like of shape (n_samples, n_features)
        Rows: an array that can be sliced, or paths of files, as `fit` accepts them.
    devices : "all" or list of str, default="all"
        Devices, such as `["cuda:0", "cuda:1"]`; "all" means all GPUs of this machine.  A device that is listed
        several times is used by several threads.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the rows, for estimators whose `fit` has this parameter.

    Returns
    -------
    estimator : object
        The fitted estimator.  Its `device_` lists all devices.

    Raises
    ------
    RuntimeError
        If `devices="all"` and there is no GPU.
    Exception
        Any exception that `fit` raises.

    See Also
    --------
    gpuica.shared : Rows distributed over processes: several machines, or a process for each GPU.

    Notes
    -----
    Each device runs the whole algorithm on its part of the rows; sums over rows are added over all devices, in the
    order of the list, after each pass.  If the estimator has a `checkpoint`, the devices from the second on append
    `-1`, `-2`, ... to its path.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica import FastICA, fit_on_devices
    >>> X = np.random.default_rng(0).laplace(size=(1000, 4))
    >>> ica = fit_on_devices(FastICA(random_state=0), X, ["cpu", "cpu"])
    >>> ica.components_.shape
    (4, 4)
    >>> ica.device_
    'cpu, cpu'
    """
    names = [f"cuda:{i}" for i in range(device_count())] if isinstance(devices, str) else list(devices)
    if not names:
        raise RuntimeError(
            "devices='all' found no GPU: install the GPU dependencies, pip install 'gpuica[cu13]', or pass a list of "
            "devices."
        )
    source = as_source(X)
    parts = _split(X if source is None else source, sample_weight, len(names))
    models = [_for_rank(estimator, rank, name) for rank, name in enumerate(names)]
    caught = _fit_in_threads(models, parts)
    _copy_fitted_attributes(models[0], estimator)
    estimator.device_ = ", ".join(names)
    for message, category in dict.fromkeys(caught):  # each rank issues the same warnings
        warn(message, category)
    return estimator


def _split(X: Any, sample_weight: Any, n_parts: Any) -> Any:
    """The rows and the keyword arguments of `fit` for each of n_parts consecutive parts of X."""
    ends = np.linspace(0, len(X), n_parts + 1).astype(int).tolist()
    parts = []
    for start, stop in pairwise(ends):
        rows = SelectedRows(X, np.arange(start, stop)) if isinstance(X, Source) else X[start:stop]
        parts.append((rows, {} if sample_weight is None else {"sample_weight": sample_weight[start:stop]}))
    return parts


def _for_rank(estimator: Any, rank: int, device: str) -> Any:
    """A clone for one device; only the first is verbose, and each has its own checkpoint."""
    model = clone(estimator).set_params(device=device)
    if rank and getattr(model, "verbose", 0):
        model.set_params(verbose=0)
    if rank and getattr(model, "checkpoint", None) is not None:
        model.set_params(checkpoint=f"{model.checkpoint}-{rank}")
    return model


def _fit_in_threads(models: Any, parts: Any) -> Any:
    """Fit each model to its part of the rows, the first in this thread; return the warnings, (message, category)."""
    comms = loopback(len(models), timeout=None)
    failures: list[BaseException | None] = [None] * len(models)
    caught: list[tuple] = []

    def fit(rank: int) -> None:
        rows, options = parts[rank]
        try:
            with collect_warnings() as warnings:
                models[rank].fit(Shared(rows, comms[rank]), **options)
            caught.extend(warnings)
        except BaseException as error:  # including KeyboardInterrupt
            failures[rank] = error
            comms[rank].leave()  # so that no rank waits for this one

    threads = [threading.Thread(target=fit, args=(rank,), daemon=True) for rank in range(1, len(models))]
    for thread in threads:
        thread.start()
    fit(0)
    for thread in threads:
        thread.join()
    _raise_first(failures)
    return caught


def _raise_first(failures: Any) -> None:
    """Raise the cause of a failed fit, if any: a rank that another left fails too, with a RuntimeError."""
    errors = [error for error in failures if error is not None]
    causes = [error for error in errors if not isinstance(error, RuntimeError)]
    for error in causes or errors:
        raise error


def _copy_fitted_attributes(model: Any, estimator: Any) -> None:
    """Set the attributes of the estimator that are not parameters to those of a fitted clone."""
    parameters = estimator.get_params()
    vars(estimator).update({name: value for name, value in vars(model).items() if name not in parameters})
