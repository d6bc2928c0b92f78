"""Rows of a Dask array.

Chunks stay on the workers.  A pass is one task per group of neighbouring partitions, which sums the contributions of
their rows, and a tree of tasks that adds the totals of the groups.  Only the small parameters, once, and the totals are
transferred.

Groups and tree depend on the chunks of the array alone, so results do not depend on the number of workers, and two runs
agree bit for bit.  Tasks run on the caller's `distributed` client if there is one, else on Dask's own scheduler.
Dask recomputes lost chunks.
"""

import sys
import warnings
from functools import cached_property

import dask
import dask.array as da
import numpy as np

from ..device import CPU, to_host
from ..interrupts import interruptible
from .base import Rows, project_chunk
from .host import BATCH_CHUNK_ROWS, HostRows
from .tasks import (
    Opaque,
    Work,
    add_totals,
    list_results,
    map_partition,
    merge_totals,
    reduce_partitions,
    run_task,
    sum_partitions,
    take_rows,
)

GROUP_BYTES = 1 << 24  # neighbouring partitions of one task: 0.1 s of work, while a task costs a millisecond
MAX_GROUPS = 4096  # tasks of a pass; groups are larger where there would be more
FAN_IN = 16  # totals that one task adds
MAX_PENDING_GROUPS = 16  # groups whose results may wait for the caller
MAX_GRAPH_BYTES = 1 << 23  # parameters that are part of the task graph; larger ones are sent to every worker first


class DaskRows(Rows):
    """A Dask array (n_rows, n_features).  Parameters and totals are NumPy arrays, whatever its chunks are.

    `map` is lazy: it returns a Dask array with the partitions of this one.
    """

    random_access_is_costly = True

    def __init__(self, array, *, dtype, chunk_rows=None, prepare=None, work=None, weights=None):
        """array: (n_rows, n_features), with known chunks or not.  chunk_rows: rows that a task processes at once.

        prepare: as for `ChunkedRows`.  work: as for `ChunkedRows`, of rows that are fetched to the caller.  weights:
        (n_rows,) on the host, or None.
        """
        self.array = with_known_chunks(array)
        self.n_rows, self.n_features = self.array.shape
        self.dtype, self.chunk_rows, self.prepare, self.work = np.dtype(dtype), chunk_rows, prepare, work
        self.weights = None if weights is None else to_host(weights).astype(self.dtype, copy=False)
        self.n_passes = 0

    @property
    def xp(self):
        return np

    def sum(self, contribution, *params):
        self.n_passes += 1
        root = _tree(self._tasks(sum_partitions, contribution, *params), dask.delayed(add_totals, pure=False))
        return tuple(map(_writable, _computed(root)[0]))

    def for_each(self, consume, function, *params):
        self.n_passes += 1
        tasks = self._tasks(list_results, function, *params)
        for i in range(0, len(tasks), MAX_PENDING_GROUPS):
            for results in _computed(*tasks[i : i + MAX_PENDING_GROUPS]):
                for result in results:
                    consume(result)

    def reduce(self, kind, start, function, *params):
        self.n_passes += 1
        tasks = self._tasks(reduce_partitions, kind, start, function, *params)
        merge = self._task_maker(merge_totals, kind, start)
        added, kept = _computed(_tree(tasks, lambda parts: merge(None, None, parts)))[0]
        total = kind(*start)
        total.merge(added, kept)
        return total

    def map(self, function, *params, out=None):
        if out is not None:
            self.for_each(_ArrayFiller(out).add, function, *params)
            return out
        self.n_passes += 1
        one = function(np.zeros((1, self.n_features), self.dtype), *params)  # determines the shape
        return self.array.map_blocks(
            map_partition,
            work=self._shared_work(function, *params),
            dtype=one.dtype,
            chunks=(self.array.chunks[0], *((size,) for size in one.shape[1:])),
            meta=np.empty_like(self.array._meta, shape=(0,) * one.ndim, dtype=one.dtype),
        )

    def take(self, indices):
        indices = np.asarray(indices)
        rows = np.empty((len(indices), self.n_features), self.dtype)
        positions, tasks = self._tasks_at(indices)
        for position, found in zip(positions, _computed(*tasks), strict=True):
            rows[position] = found
        return rows

    def subset(self, indices):
        indices = np.asarray(indices)
        return self._fetched(indices, min(self.chunk_rows or BATCH_CHUNK_ROWS, BATCH_CHUNK_ROWS))

    def batches(self, size, rng=None):
        order = np.arange(self.n_rows) if rng is None else rng.permutation(self.n_rows)
        for start in range(0, self.n_rows, size):
            yield self._drawn(np.sort(order[start : start + size]))

    def project_with(self, projection):
        size = self.n_rows * len(projection[1]) * self.dtype.itemsize
        if not _fits(size):
            return super().project_with(projection)
        stored = self.map(project_chunk, projection)
        sizes = [sum(self.array.chunks[0][i] for i in group) for group in self._groups]
        stored = stored.rechunk((tuple(sizes), -1)).persist()
        rows = DaskRows(stored, dtype=self.dtype, weights=self.weights)
        rows.n_passes = self.n_passes
        return rows

    def _drawn(self, indices):
        """X[indices], for ascending indices: in the caller's memory if they fit the budget, else on the workers."""
        size = len(indices) * self.n_features * self.dtype.itemsize
        if CPU.fits(size):
            return self._fetched(indices, self.chunk_rows)
        positions, tasks = self._tasks_at(indices)
        parts = [
            da.from_delayed(task, (len(position), self.n_features), self.dtype)
            for position, task in zip(positions, tasks, strict=True)
        ]
        drawn = da.concatenate(parts).persist()
        weights = self._weights_of(indices)
        return DaskRows(drawn, dtype=self.dtype, chunk_rows=self.chunk_rows, work=self.work, weights=weights)

    def _fetched(self, indices, chunk_rows):
        """X[indices], for indices in any order, in the caller's memory."""
        weights = self._weights_of(indices)
        return HostRows(self.take(indices), chunk_rows=chunk_rows, work=self.work, weights=weights)

    def _weights_of(self, indices):
        return None if self.weights is None else self.weights[indices]

    @cached_property
    def _groups(self):
        """The numbers of the non-empty neighbouring partitions of each task of a pass."""
        sizes = self.array.chunks[0]
        row = self.n_features * self.array.dtype.itemsize
        most = max(GROUP_BYTES, self.n_rows * row // MAX_GROUPS) // max(row, 1)
        groups: list[list[int]] = []
        n_rows = 0
        for i, size in enumerate(sizes):
            if not size:
                continue
            if not groups or n_rows + size > most:
                groups.append([])
                n_rows = 0
            groups[-1].append(i)
            n_rows += size
        return groups

    @cached_property
    def _blocks(self):
        """Every partition, as a Delayed."""
        return self.array.to_delayed().ravel().tolist()

    @cached_property
    def _weights(self):
        """For each group the weights of its partitions, on the workers; or None."""
        if self.weights is None:
            return [None] * len(self._groups)
        ends = np.cumsum(self.array.chunks[0])
        parts = [[self.weights[ends[i] - self.array.chunks[0][i] : ends[i]] for i in group] for group in self._groups]
        return dask.persist(*(dask.delayed(Opaque(part), traverse=False, pure=False) for part in parts))

    def _tasks(self, verb, *params):
        """Tasks verb(rows of the partitions, *params), one per group, with results on the host."""
        call = self._task_maker(verb, *params)
        return [
            call([self._blocks[i] for i in group], weights)
            for group, weights in zip(self._groups, self._weights, strict=True)
        ]

    def _tasks_at(self, indices):
        """For each partition that holds some of the rows, their positions among indices and a task that takes them."""
        ends = np.cumsum(self.array.chunks[0])
        partition = np.searchsorted(ends, indices, side="right")
        order = np.argsort(partition, kind="stable")
        partitions, starts = np.unique(partition[order], return_index=True)
        positions = np.split(order, starts[1:]) if len(partitions) else []
        call = self._task_maker(take_rows)
        tasks = [
            call([self._blocks[i]], None, indices[position] - (ends[i] - self.array.chunks[0][i]))
            for i, position in zip(partitions, positions, strict=True)
        ]
        return positions, tasks

    def _task_maker(self, verb, *params):
        """A function (blocks, weights, *more) -> task; what all tasks of a pass share is sent once."""
        work, task = self._shared_work(verb, *params), dask.delayed(run_task, pure=False)
        return lambda *given: task(work, *given)

    def _shared_work(self, verb, *params):
        """The `Work` of all tasks of a pass, as a Delayed or as a future on every worker."""
        work = Work(verb, params, self.dtype, self.chunk_rows, self.prepare)
        client = _client()
        if client is not None and _size(params) > MAX_GRAPH_BYTES:
            return client.scatter(work, broadcast=True, hash=False)
        return dask.delayed(work, traverse=False, pure=False)


def with_known_chunks(array):
    """The Dask array with one block of columns and known chunk sizes, which are computed if need be.

    TypeError for anything but a Dask array.
    """
    if not isinstance(array, da.Array):
        kind = f"{type(array).__module__}.{type(array).__name__}"
        raise TypeError(f"{kind} is not a Dask array; of a Dask frame, pass X.to_dask_array(lengths=True).")
    if array.ndim == 2 and array.numblocks[1] > 1:
        array = array.rechunk({1: -1})
    if np.isnan(array.shape).any():
        array = da.Array(array.dask, array.name, array.chunks, meta=array._meta)  # the caller's array does not change
        array.compute_chunk_sizes()
    return array


def _computed(*tasks):
    """The results of tasks.  Ctrl-C interrupts the wait; Dask forwards it to the workers."""
    with interruptible():
        return dask.compute(*tasks)


def warn_in_task(message, category):
    """`warnings.warn` in a task; a worker of `distributed` also forwards the warning to the clients."""
    issue = getattr(sys.modules.get("distributed"), "warn", warnings.warn)
    issue(message, category, stacklevel=2)


class _ArrayFiller:
    """Writes parts to an array sequentially."""

    def __init__(self, out):
        self.out, self.start = out, 0

    def add(self, part):
        self.out[self.start : self.start + len(part)] = part
        self.start += len(part)


def _tree(tasks, add):
    """One task that adds the results of tasks, FAN_IN at a time, in an order that depends on their number alone.

    add: a function of a list of tasks that returns a task.
    """
    while len(tasks) > 1:
        tasks = [add(tasks[i : i + FAN_IN]) for i in range(0, len(tasks), FAN_IN)]
    return tasks[0]


def _writable(array):
    """The array; a copy if it is a read-only view of a network buffer."""
    return array if array.flags.writeable else array.copy()


def _size(params):
    """Bytes of the arrays among the parameters."""
    if isinstance(params, tuple):
        return sum(map(_size, params))
    return getattr(params, "nbytes", 0)


def _client():
    """The distributed client that `dask.compute` would use, or None."""
    client = getattr(dask.base.get_scheduler(), "__self__", None)
    return client if hasattr(client, "scatter") else None


def _fits(size):
    """Whether so many bytes fit the memory of the workers, or of this process where Dask has no client."""
    client = _client()
    if client is None:
        return CPU.fits(size)
    try:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
    except TypeError:  # an older distributed, which returns all workers by default
        workers = client.scheduler_info()["workers"].values()
    if not all(worker["memory_limit"] for worker in workers):  # workers without a limit spill to disk
        return True
    free = sum(max(worker["memory_limit"] - worker["metrics"].get("memory", 0), 0) for worker in workers)
    return size <= free // 2
