"""Rows that several processes share: each has its own, all ask the same questions in the same order, and totals are
added over all of them.  So every process has the same W at every step, without sending it.
"""

import numpy as np

from ..device import array_device, to_host
from .base import Rows
from .memory import MemoryRows


def shared(X, comm):
    """This rank's rows of one large X, to be handed to an estimator on every rank.

    X : array of shape (n_samples of this rank, n_features), of any kind that estimators take; it may have no rows.
    comm : how ranks add up their totals, see `gpuica.comm`.

    Rows are numbered rank by rank.  What is fitted is the model of all ranks' rows, the same on each; `transform` gives
    this rank's rows; `sample_weight` is this rank's weights.  Every rank must make the same calls.

    >>> import numpy as np, gpuica
    >>> X = gpuica.shared(np.random.default_rng(0).laplace(size=(1000, 4)), gpuica.comm.loopback(1)[0])
    >>> gpuica.FastICA(random_state=0).fit(X).components_.shape
    (4, 4)
    """
    return Shared(X, comm)


class Shared:
    """This rank's X, and how to reach the others."""

    def __init__(self, local, comm, n_rows=None):
        """n_rows: of all ranks together, if known."""
        self.local, self.comm, self.n_rows = local, comm, n_rows

    @property
    def shape(self):
        """(n_rows, n_features) of all ranks' rows.  Asked of the ranks the first time."""
        if self.n_rows is None:
            self.n_rows = int(gather(self.comm, [self.local.shape[0]]).sum())
        return self.n_rows, self.local.shape[1]

    ndim = property(lambda self: self.local.ndim)
    dtype = property(lambda self: self.local.dtype)

    def __len__(self):
        return self.shape[0]


def gather(comm, numbers):
    """The numbers (m,) of every rank, (size, m) in float64."""
    table = np.zeros((comm.size, len(numbers)))
    table[comm.rank] = numbers
    return comm.allreduce([table])[0]


def agree(comm, work):
    """work(), once every rank has done its own; RuntimeError where that of another rank raised an error."""
    error = result = None
    try:
        result = work()
    except BaseException as raised:  # an interrupt too: the others wait
        error = raised
    failed = gather(comm, [error is not None])[:, 0]
    if error is not None:
        raise error
    if failed.any():
        raise RuntimeError(
            f"rank {int(np.flatnonzero(failed)[0])} of {comm.size} stopped with an error, so rank {comm.rank} stops "
            "too: see what that rank says."
        )
    return result


class SharedRows(Rows):
    """This rank's Rows, and through `comm` the others'.

    `sum` and `reduce` are over all ranks, `take` and `to_memory` give rows of any rank to every rank, `map` and
    `for_each` see this rank's.  `weights` and `scratch` are this rank's.
    """

    def __init__(self, local, comm, numbers=None):
        """numbers: those that this rank's rows have among all, ascending; by default rows are numbered rank by rank."""
        self.local, self.comm, self.numbers = local, comm, numbers
        self.n_features, self.dtype = local.n_features, local.dtype
        self.weights, self.scratch = local.weights, local.scratch
        if self.weights is not None:
            w = to_host(self.weights).astype(np.float64)
            table = gather(comm, [w.sum(), (w * w).sum(), local.has_counts or not len(w)])
            self._weight, self._square, counts_of_ranks = table.sum(axis=0).tolist()
            self._has_counts = counts_of_ranks == len(table)
        counts = gather(comm, [local.n_rows])[:, 0].astype(np.int64)
        self.n_rows = int(counts.sum())
        self.first = int(counts[: comm.rank].sum())

    @property
    def xp(self):
        return self.local.xp

    @property
    def n_passes(self):  # type: ignore[override]  # counted by the rows that are read
        return self.local.n_passes

    @property
    def random_access_is_costly(self):  # type: ignore[override]
        return self.local.random_access_is_costly

    @property
    def weight(self):
        return self.n_rows if self.weights is None else self._weight

    @property
    def has_counts(self):
        return self.weights is not None and self._has_counts

    @property
    def n_kish(self):
        return self.n_rows if self.weights is None else self._weight**2 / self._square

    def sum(self, contribution, *params):
        return self._added(agree(self.comm, lambda: self.local.sum(contribution, *params)))

    def map(self, function, *params, out=None):
        return agree(self.comm, lambda: self.local.map(function, *params, out=out))

    def for_each(self, consume, function, *params):
        agree(self.comm, lambda: self.local.for_each(consume, function, *params))

    def reduce(self, kind, start, function, *params):
        mine = agree(self.comm, lambda: self.local.reduce(kind, start, function, *params))
        total = kind(*start)
        total.merge(self._added(mine.added), self._joined(mine.kept))
        return total

    def take(self, indices):
        indices = np.asarray(indices)
        mine, here = self._mine(indices)
        found = agree(self.comm, lambda: to_host(self.local.take(here)) if len(here) else 0)
        rows = np.zeros((len(indices), self.n_features))
        rows[mine] = found
        return self.xp.asarray(self.comm.allreduce([rows])[0].astype(self.dtype))

    def subset(self, indices):
        mine, here = self._mine(np.asarray(indices))
        return SharedRows(agree(self.comm, lambda: self.local.subset(here)), self.comm, mine)

    def all_ranks(self, fact):
        return bool(gather(self.comm, [fact])[:, 0].all())

    def upload(self):
        self.local.upload()
        return self

    def to_memory(self):
        everything = np.arange(self.n_rows)
        weights = None
        if self.weights is not None:
            weights = np.zeros(self.n_rows)
            weights[self._mine(everything)[0]] = to_host(self.weights)
            weights = self.comm.allreduce([weights])[0]
        rows = self.take(everything)
        return MemoryRows(rows, dtype=self.dtype, device=array_device(rows), weights=weights)

    def batches(self, size, rng=None):
        order = np.arange(self.n_rows) if rng is None else rng.permutation(self.n_rows)
        for start in range(0, self.n_rows, size):
            yield self.subset(np.sort(order[start : start + size]))

    def project_with(self, ready):
        local = agree(self.comm, lambda: self.local.project_with(ready))
        return SharedRows(local, self.comm, self.numbers)

    def _mine(self, indices):
        """Which of the indices are of this rank's rows, ascending; and the numbers of these rows among this rank's."""
        if self.numbers is None:
            here = indices - self.first
            mine = np.flatnonzero((here >= 0) & (here < self.local.n_rows))
        else:
            here = np.searchsorted(self.numbers, indices)
            found = np.append(self.numbers, -1)[here]
            mine = np.flatnonzero(found == indices)
        return mine, here[mine]

    def _added(self, parts):
        """Arrays added up over the ranks, in float64, where this rank's are."""
        totals = self.comm.allreduce([to_host(part).astype(np.float64) for part in parts])
        return tuple(self.xp.asarray(total) for total in totals)

    def _joined(self, arrays):
        """Arrays of some rows each, joined over the ranks in their order."""
        if not arrays:
            return ()
        counts = gather(self.comm, [len(arrays[0])])[:, 0].astype(np.int64)
        first = counts[: self.comm.rank].sum()
        tables = [np.zeros((counts.sum(), *array.shape[1:])) for array in arrays]
        for table, array in zip(tables, arrays, strict=True):
            table[first : first + len(array)] = to_host(array)
        joined = zip(self.comm.allreduce(tables), arrays, strict=True)
        return tuple(self.xp.asarray(table.astype(array.dtype)) for table, array in joined)
