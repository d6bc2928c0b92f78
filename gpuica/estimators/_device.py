"""The device that an estimator computes on."""

from dataclasses import replace

from ..device import CPU, choose_device, memory_size
from ..input import is_dask


def select_device(estimator, data, *, work, refusal=None):
    """The device for an estimator's `device` and `memory_limit` parameters and these data, see `choose_device`.

    For a Dask array it is the CPU, where the solver works on totals; chunks are processed where they are stored.
    """
    name, limit = estimator.device, estimator.memory_limit
    if not is_dask(data.array):
        return choose_device(name, data.local, work=work, refusal=refusal, memory_limit=limit)
    if name not in ("auto", "cpu"):
        raise ValueError(
            f"device={name!r} does not move the chunks of a Dask array: use device='auto', and pass chunks that are on "
            "the workers' GPUs, X.map_blocks(cupy.asarray)."
        )
    return replace(CPU, limit=memory_size(limit))
