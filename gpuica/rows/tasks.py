"""What a Dask task computes from the partitions of a group, on a worker.

A task processes its partitions as rows in memory, in the one thread that the worker gives it.  Results are on the host,
except those of a lazy map.  This module does not import Dask.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..device import CPU, array_device, to_host
from .device import DeviceRows
from .host import HostRows
from .threaded import RunningTotals


@dataclass(frozen=True)
class Work:
    """What all tasks of a pass share: each computes verb(rows of its partitions, *params)."""

    verb: Any
    params: tuple
    dtype: Any
    chunk_rows: int | None
    prepare: Any

    def rows(self, block, weights=None):
        """The rows of one partition, on the device that holds it."""
        settings = {"dtype": self.dtype, "chunk_rows": self.chunk_rows, "prepare": self.prepare, "weights": weights}
        device = array_device(block)
        return HostPartition(block, **settings) if device == CPU else DeviceRows(block, device=device, **settings)


@dataclass(frozen=True)
class Opaque:
    """A list of arrays that Dask does not traverse."""

    parts: list


class HostPartition(HostRows):
    """Rows of one task on the host, processed by the thread that runs the task."""

    is_threaded = False


def run_task(work, blocks, weights, *more):
    """A task: work.verb of the rows of the blocks, with its result on the host.  blocks: None to call the verb alone.

    weights: `Opaque` of the weights of each block, or None.  more: further arguments of the verb.
    """
    if blocks is None:
        return _on_host(work.verb(*work.params, *more))
    device = array_device(blocks[0])
    with device.active():
        parts = [None] * len(blocks) if weights is None else weights.parts
        rows = [work.rows(block, part) for block, part in zip(blocks, parts, strict=True)]
        return _on_host(work.verb(rows, *_put(work.params, device), *more))


def map_partition(block, work):
    """The function of a lazy map on one partition; the result is of the library of the partition."""
    rows = work.rows(block)
    with rows.device.active():
        return rows.map(work.verb, *_put(work.params, rows.device))


def sum_partitions(partitions, contribution, *params):
    """`Rows.sum` over the partitions of a group."""
    return add_totals([rows.sum(contribution, *params) for rows in partitions])


def add_totals(parts):
    """The sums of tuples of arrays, added in order."""
    totals = RunningTotals()
    for part in parts:
        totals.add(part)
    return totals.sums


def reduce_partitions(partitions, kind, start, function, *params):
    """(added, kept) of `Rows.reduce` over the partitions of a group."""
    total = kind(*start)
    for rows in partitions:
        rows.for_each(total.add, function, *params)
    return total.added, total.kept


def merge_totals(kind, start, parts):
    """(added, kept) of the results of several groups, merged in order."""
    total = kind(*start)
    for added, kept in parts:
        total.merge(added, kept)
    return total.added, total.kept


def list_results(partitions, function, *params):
    """The results of `Rows.for_each` over the partitions of a group, in a list."""
    results: list = []
    for rows in partitions:
        rows.for_each(lambda result: results.append(_on_host(result)), function, *params)
    return results


def take_rows(partitions, indices):
    """`Rows.take` of the only partition."""
    return partitions[0].take(indices)


def _put(params, device):
    """The parameters, with arrays, also those inside tuples, on the device."""
    if type(params) is tuple:
        return tuple(_put(param, device) for param in params)
    return device.put(params) if isinstance(params, np.ndarray) else params


def _on_host(result):
    """A result, with arrays, also those inside tuples and lists, on the host."""
    if type(result) in (tuple, list):
        return type(result)(map(_on_host, result))
    return to_host(result) if hasattr(result, "dtype") else result
