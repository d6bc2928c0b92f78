"""One fit on several GPUs of this machine: a thread for each, and rows that they share."""

import threading
from typing import Any

import numpy as np
from sklearn.base import clone

from ..comm import loopback
from ..device import device_count
from ..io.sources import SelectedRows, Source
from ..messages import collect_warnings, warn
from ..rows.shared import Shared
from ._shell import as_source


def fit_on_devices(estimator, X, devices="all", sample_weight=None):
    """Fit an estimator of this package on several devices, each working on a part of the rows; return the estimator.

    estimator : with `fit`, of this package; its `device` does not count.
    X : array of shape (n_samples, n_features) that can be sliced, or files, as `fit` takes them.
    devices : "all" GPUs of this machine, or a list of devices, ["cuda:0", "cuda:1"].
    sample_weight : array of shape (n_samples,), for estimators whose `fit` takes it.

    The answer is that of one device, up to the order of additions.  For several machines, or a process for each GPU:
    `gpuica.shared`.  Raises what `fit` raises; RuntimeError for "all" where there is no GPU.

    >>> import numpy as np, gpuica
    >>> X = np.random.default_rng(0).laplace(size=(1000, 4))
    >>> gpuica.fit_on_devices(gpuica.FastICA(random_state=0), X, ["cpu", "cpu"]).components_.shape
    (4, 4)
    """
    names = [f"cuda:{i}" for i in range(device_count())] if isinstance(devices, str) else list(devices)
    if not names:
        raise RuntimeError("devices='all' finds no GPU: pip install 'gpuica[cu13]', or name devices.")
    source = as_source(X)
    X = X if source is None else source
    ends = np.linspace(0, len(X), len(names) + 1).astype(int).tolist()
    comms = loopback(len(names), timeout=None)
    models = [_for_rank(estimator, rank, name) for rank, name in enumerate(names)]
    failures: list[Any] = [None] * len(names)
    said: list[tuple] = []

    def fit(rank):
        part = slice(ends[rank], ends[rank + 1])
        weights = {} if sample_weight is None else {"sample_weight": sample_weight[part]}
        rows = SelectedRows(X, np.arange(part.start, part.stop)) if isinstance(X, Source) else X[part]
        try:
            with collect_warnings() as warnings:
                models[rank].fit(Shared(rows, comms[rank]), **weights)
            said.extend(warnings)
        except BaseException as error:  # an interrupt too
            failures[rank] = error
            comms[rank].leave()  # nobody must wait for this rank

    others = [threading.Thread(target=fit, args=(rank,), daemon=True) for rank in range(1, len(names))]
    for thread in others:
        thread.start()
    fit(0)
    for thread in others:
        thread.join()
    first = [error for error in failures if error is not None and not isinstance(error, RuntimeError)]
    if error := next(iter(first or filter(None, failures)), None):
        raise error
    parameters = estimator.get_params()
    vars(estimator).update({name: value for name, value in vars(models[0]).items() if name not in parameters})
    estimator.device_ = ", ".join(names)
    for message, category in dict.fromkeys(said):  # ranks say the same
        warn(message, category)
    return estimator


def _for_rank(estimator, rank, device):
    """A clone for one device; only the first is verbose, and each has a checkpoint of its own."""
    model = clone(estimator).set_params(device=device)
    if rank and getattr(model, "verbose", 0):
        model.set_params(verbose=0)
    if rank and getattr(model, "checkpoint", None) is not None:
        model.set_params(checkpoint=f"{model.checkpoint}-{rank}")
    return model
