"""What a task does with the partitions of a group, on a worker: they are `MemoryRows`, worked on by the one thread that
the worker gives the task.  Knows nothing of Dask; results are on the host, except those of a lazy map.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..device import array_device, to_host
from .memory import MemoryRows
from .threaded import RunningTotals


@dataclass(frozen=True)
class Work:
    """What all tasks of a pass do: verb(rows of the partitions, *params)."""

    verb: Any
    params: tuple
    dtype: Any
    chunk_rows: int | None
    prepare: Any

    def rows(self, block, weights=None):
        return Partition(
            block,
            dtype=self.dtype,
            device=array_device(block),
            chunk_rows=self.chunk_rows,
            prepare=self.prepare,
            weights=weights,
        )


@dataclass(frozen=True)
class Held:
    """A list of arrays that Dask shall not look into."""

    parts: list


class Partition(MemoryRows):
    """Rows of one task, worked on by the thread that runs it."""

    def _each_chunk(self, work, wait_for_slot=None):
        for i in range(-(-self.n_rows // self.chunk_rows)):
            work(i, self._chunk(i))


def do(work, blocks, weights, *more):
    """A task: what its verb makes of the blocks, on the host."""
    if blocks is None:
        return _on_host(work.verb(*work.params, *more))
    device = array_device(blocks[0])
    with device.active():
        parts = [None] * len(blocks) if weights is None else weights.parts
        rows = [work.rows(block, part) for block, part in zip(blocks, parts, strict=True)]
        return _on_host(work.verb(rows, *_put(work.params, device), *more))


def mapped(block, work):
    """The function of a lazy map on one partition, whose library the result has."""
    rows = work.rows(block)
    with rows.device.active():
        return rows.map(work.verb, *_put(work.params, rows.device))


def summed(partitions, contribution, *params):
    return added_up([rows.sum(contribution, *params) for rows in partitions])


def added_up(parts):
    """Totals of tuples of arrays, in order."""
    totals = RunningTotals()
    for part in parts:
        totals.add(part)
    return totals.sums


def folded(partitions, kind, start, function, *params):
    total = kind(*start)
    for rows in partitions:
        rows.for_each(total.add, function, *params)
    return total.added, total.kept


def merged(kind, start, parts):
    total = kind(*start)
    for added, kept in parts:
        total.merge(added, kept)
    return total.added, total.kept


def listed(partitions, function, *params):
    results: list = []
    for rows in partitions:
        rows.for_each(lambda result: results.append(_on_host(result)), function, *params)
    return results


def taken(partitions, indices):
    return partitions[0].take(indices)


def _put(params, device):
    """The arrays among the parameters, and in tuples of them, on the device."""
    if type(params) is tuple:
        return tuple(_put(param, device) for param in params)
    return device.put(params) if isinstance(params, np.ndarray) else params


def _on_host(result):
    """The arrays of a result, and in tuples and lists, on the host."""
    if type(result) in (tuple, list):
        return type(result)(map(_on_host, result))
    return to_host(result) if hasattr(result, "dtype") else result
