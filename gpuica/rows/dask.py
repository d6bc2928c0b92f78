"""Rows of a Dask array.  Chunks stay with the workers: a pass is one task for each group of neighbouring partitions,
which adds up what their rows contribute, and a tree of tasks that adds the groups' totals.  What travels is the small
parameter, once, and totals.

Groups and tree depend on the array's chunks alone, so the answer does not depend on the number of workers, and two runs
agree bit for bit.  Tasks run on the caller's `distributed` client where there is one, else on Dask's own scheduler.
Lost chunks are Dask's to compute again.
"""

import sys
import warnings
from functools import cached_property

import dask
import dask.array as da
import numpy as np

from ..device import CPU, to_host
from ..interrupts import interruptible
from . import memory
from .base import Rows, project_chunk
from .tasks import Held, Work, added_up, do, folded, listed, mapped, merged, summed, taken

GROUP = 1 << 24  # bytes of neighbouring partitions that one task takes: 0.1 s of work, against a millisecond for a task
MOST_GROUPS = 4096  # tasks of a pass; larger groups where there would be more
FAN_IN = 16  # totals that one task adds up
WINDOW = 16  # groups whose results may wait for the caller at one time
IN_GRAPH = 1 << 23  # bytes of parameters that travel with the tasks; larger ones are sent to every worker first


class DaskRows(Rows):
    """A Dask array (n_rows, n_features).  Parameters and totals are NumPy arrays, whatever its chunks are.

    `map` is lazy: it gives a Dask array, in the partitions of this one.
    """

    random_access_is_costly = True

    def __init__(self, array, *, dtype, chunk_rows=None, prepare=None, work=None, weights=None):
        """array: (n_rows, n_features), `with_known_chunks` or not.  chunk_rows: rows that a task works on at a time.

        prepare: as for MemoryRows.  work: as there, of rows that come to the caller.  weights: (n_rows,) or None, on
        the host.
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
        root = _tree(self._tasks(summed, contribution, *params), dask.delayed(added_up, pure=False))
        return tuple(map(_writable, _computed(root)[0]))

    def for_each(self, consume, function, *params):
        self.n_passes += 1
        tasks = self._tasks(listed, function, *params)
        for i in range(0, len(tasks), WINDOW):
            for results in _computed(*tasks[i : i + WINDOW]):
                for result in results:
                    consume(result)

    def reduce(self, kind, start, function, *params):
        self.n_passes += 1
        tasks = self._tasks(folded, kind, start, function, *params)
        merge = self._sent(merged, kind, start)
        added, kept = _computed(_tree(tasks, lambda parts: merge(None, None, parts)))[0]
        total = kind(*start)
        total.merge(added, kept)
        return total

    def map(self, function, *params, out=None):
        if out is not None:
            self.for_each(_Placed(out).add, function, *params)
            return out
        self.n_passes += 1
        one = function(np.zeros((1, self.n_features), self.dtype), *params)  # tells the shape
        return self.array.map_blocks(
            mapped,
            work=self._ready(function, *params),
            dtype=one.dtype,
            chunks=(self.array.chunks[0], *((size,) for size in one.shape[1:])),
            meta=np.empty_like(self.array._meta, shape=(0,) * one.ndim, dtype=one.dtype),
        )

    def take(self, indices):
        indices = np.asarray(indices)
        rows = np.empty((len(indices), self.n_features), self.dtype)
        places, tasks = self._tasks_at(indices)
        for place, found in zip(places, _computed(*tasks), strict=True):
            rows[place] = found
        return rows

    def subset(self, indices):
        indices = np.asarray(indices)
        return self._held(indices, min(self.chunk_rows or memory.BATCH_CHUNK, memory.BATCH_CHUNK))

    def batches(self, size, rng=None):
        order = np.arange(self.n_rows) if rng is None else rng.permutation(self.n_rows)
        for start in range(0, self.n_rows, size):
            yield self._drawn(np.sort(order[start : start + size]))

    def project_with(self, ready):
        size = self.n_rows * len(ready[1]) * self.dtype.itemsize
        if not _fits(size):
            return super().project_with(ready)
        stored = self.map(project_chunk, ready)
        sizes = [sum(self.array.chunks[0][i] for i in group) for group in self._groups]
        stored = stored.rechunk((tuple(sizes), -1)).persist()
        rows = DaskRows(stored, dtype=self.dtype, weights=self.weights)
        rows.n_passes = self.n_passes
        return rows

    def _drawn(self, indices):
        """The rows of these numbers, sorted: in the caller's memory if they fit, else left with the workers."""
        size = len(indices) * self.n_features * self.dtype.itemsize
        if CPU.fits(size):
            return self._held(indices, self.chunk_rows)
        places, tasks = self._tasks_at(indices)
        parts = [
            da.from_delayed(task, (len(place), self.n_features), self.dtype)
            for place, task in zip(places, tasks, strict=True)
        ]
        drawn = da.concatenate(parts).persist()
        weights = self._weights_of(indices)
        return DaskRows(drawn, dtype=self.dtype, chunk_rows=self.chunk_rows, work=self.work, weights=weights)

    def _held(self, indices, chunk_rows):
        """The rows of these numbers, in any order, in the caller's memory."""
        weights = self._weights_of(indices)
        return memory.MemoryRows(self.take(indices), chunk_rows=chunk_rows, work=self.work, weights=weights)

    def _weights_of(self, indices):
        return None if self.weights is None else self.weights[indices]

    @cached_property
    def _groups(self):
        """Numbers of neighbouring partitions, empty ones left out, for each task of a pass."""
        sizes = self.array.chunks[0]
        row = self.n_features * self.array.dtype.itemsize
        most = max(GROUP, self.n_rows * row // MOST_GROUPS) // max(row, 1)
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
        """For every group the weights of its partitions, with the workers; or None."""
        if self.weights is None:
            return [None] * len(self._groups)
        ends = np.cumsum(self.array.chunks[0])
        parts = [[self.weights[ends[i] - self.array.chunks[0][i] : ends[i]] for i in group] for group in self._groups]
        return dask.persist(*(dask.delayed(Held(part), traverse=False, pure=False) for part in parts))

    def _tasks(self, verb, *params):
        """verb(rows of the group's partitions, *params) for each group, its result on the host; not yet computed."""
        call = self._sent(verb, *params)
        return [
            call([self._blocks[i] for i in group], weights)
            for group, weights in zip(self._groups, self._weights, strict=True)
        ]

    def _tasks_at(self, indices):
        """For every partition that holds some of these rows: their places among indices, and a task that takes them."""
        ends = np.cumsum(self.array.chunks[0])
        home = np.searchsorted(ends, indices, side="right")
        order = np.argsort(home, kind="stable")
        homes, begins = np.unique(home[order], return_index=True)
        places = np.split(order, begins[1:]) if len(homes) else []
        call = self._sent(taken)
        tasks = [
            call([self._blocks[i]], None, indices[place] - (ends[i] - self.array.chunks[0][i]))
            for i, place in zip(homes, places, strict=True)
        ]
        return places, tasks

    def _sent(self, verb, *params):
        """A function (blocks, weights, *more) -> task, with what all tasks of a pass share sent once."""
        work, task = self._ready(verb, *params), dask.delayed(do, pure=False)
        return lambda *given: task(work, *given)

    def _ready(self, verb, *params):
        """What all tasks of a pass share, on its way to the workers."""
        work = Work(verb, params, self.dtype, self.chunk_rows, self.prepare)
        client = _client()
        if client is not None and _size(params) > IN_GRAPH:
            return client.scatter(work, broadcast=True, hash=False)
        return dask.delayed(work, traverse=False, pure=False)


def with_known_chunks(array):
    """The Dask array with one block of columns and known chunk sizes, which are computed where they are not known.

    TypeError for what is not a Dask array.
    """
    if not isinstance(array, da.Array):
        kind = f"{type(array).__module__}.{type(array).__name__}"
        raise TypeError(f"{kind} is not a Dask array; of a Dask frame, pass X.to_dask_array(lengths=True).")
    if array.ndim == 2 and array.numblocks[1] > 1:
        array = array.rechunk({1: -1})
    if np.isnan(array.shape).any():
        array = da.Array(array.dask, array.name, array.chunks, meta=array._meta)  # the caller's stays as it is
        array.compute_chunk_sizes()
    return array


def _computed(*tasks):
    """The results of tasks.  Ctrl-C ends the wait for them, and is Dask's to pass on to the workers."""
    with interruptible():
        return dask.compute(*tasks)


def warn_in_task(message, category):
    """`warnings.warn` in a task; on a worker of `distributed` the clients are warned too."""
    issue = getattr(sys.modules.get("distributed"), "warn", warnings.warn)
    issue(message, category, stacklevel=2)


class _Placed:
    """Writes parts to an array, one after the other."""

    def __init__(self, out):
        self.out, self.start = out, 0

    def add(self, part):
        self.out[self.start : self.start + len(part)] = part
        self.start += len(part)


def _tree(tasks, add):
    """One task that adds up the tasks' results, FAN_IN at a time, in an order that only their number decides.

    add: a list of tasks -> a task.
    """
    while len(tasks) > 1:
        tasks = [add(tasks[i : i + FAN_IN]) for i in range(0, len(tasks), FAN_IN)]
    return tasks[0]


def _writable(array):
    """The array; a copy where it is a view of what came over the wire."""
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
    """Whether so many bytes may be stored by the workers, or in this process where Dask works without a client."""
    client = _client()
    if client is None:
        return CPU.fits(size)
    try:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
    except TypeError:  # an older distributed tells of all workers, unasked
        workers = client.scheduler_info()["workers"].values()
    if not all(worker["memory_limit"] for worker in workers):  # no limit is set: theirs to spill
        return True
    free = sum(max(worker["memory_limit"] - worker["metrics"].get("memory", 0), 0) for worker in workers)
    return size <= free // 2
