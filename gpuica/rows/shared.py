"""Rows that several processes share.

Each process, a rank, has its own rows.  All make the same calls in the same order, and totals are added over the ranks,
so every rank has the same W in every iteration without sending it.
"""

import numpy as np

from ..device import array_device, to_host
from .base import Rows, forwarded
from .memory import memory_rows


def shared(X, comm):
    """Declare X to be this rank's rows of one matrix that is distributed over processes.

    Rows are numbered rank by rank. An estimator fits the model of the rows of all ranks, the same on each;
    `transform` returns this rank's rows, and `sample_weight` holds this rank's weights. Every rank must make
    the same calls.

    Parameters
    ----------
    X : array-like of shape (n_samples_of_this_rank, n_features)
        This rank's rows, of any kind that estimators accept. There may be none.
    comm : Comm
        Sums arrays over the ranks, see `gpuica.comm`.

    Returns
    -------
    X : Shared
        What every estimator accepts as X.

    See Also
    --------
    gpuica.comm.TorchComm : Ranks of torch.distributed.
    gpuica.comm.MPIComm : Ranks of an mpi4py communicator.
    gpuica.comm.loopback : Ranks that are threads of this process.

    Examples
    --------
    >>> import numpy as np, gpuica
    >>> X = gpuica.shared(np.random.default_rng(0).laplace(size=(1000, 4)), gpuica.comm.loopback(1)[0])
    >>> gpuica.FastICA(random_state=0).fit(X).components_.shape
    (4, 4)
    """
    return Shared(X, comm)


class Shared:
    """This rank's X, and the communicator to the other ranks."""

    def __init__(self, local, comm, n_rows=None):
        """n_rows: the number of rows of all ranks, if known."""
        self.local, self.comm, self.n_rows = local, comm, n_rows

    @property
    def shape(self):
        """(n_rows, n_features) of all ranks.  The first call communicates."""
        if self.n_rows is None:
            self.n_rows = int(gather(self.comm, [self.local.shape[0]]).sum())
        return self.n_rows, self.local.shape[1]

    ndim = property(lambda self: self.local.ndim)
    dtype = property(lambda self: self.local.dtype)

    def __len__(self):
        return self.shape[0]


def gather(comm, numbers):
    """The numbers (m,) of each rank, (size, m) in float64."""
    table = np.zeros((comm.size, len(numbers)))
    table[comm.rank] = numbers
    return comm.allreduce([table])[0]


def agree(comm, work):
    """work(), after every rank has finished its own; RuntimeError if that of another rank raised an error."""
    error = result = None
    try:
        result = work()
    except BaseException as raised:  # an interrupt too, because the other ranks wait
        error = raised
    failed = gather(comm, [error is not None])[:, 0]
    if error is not None:
        raise error
    if failed.any():
        raise RuntimeError(
            f"rank {int(np.flatnonzero(failed)[0])} of {comm.size} stopped with an error, so rank {comm.rank} stops "
            "too: see the output of that rank."
        )
    return result


class SharedRows(Rows):
    """This rank's Rows, and through `comm` those of the other ranks.

    `sum` and `reduce` are over all ranks, `take` and `to_memory` return rows of any rank to every rank, `map` and
    `for_each` process this rank's rows.  `weights` and `scratch` are this rank's.
    """

    xp, n_passes = forwarded("xp", "local"), forwarded("n_passes", "local")
    n_local = forwarded("n_rows", "local")
    n_features, dtype = forwarded("n_features", "local"), forwarded("dtype", "local")
    weights, scratch = forwarded("weights", "local"), forwarded("scratch", "local")
    random_access_is_costly = forwarded("random_access_is_costly", "local")

    def __init__(self, local, comm, numbers=None):
        """numbers: the global numbers of this rank's rows, ascending; by default rows are numbered rank by rank."""
        self.local, self.comm, self.numbers = local, comm, numbers
        if self.weights is not None:
            w = to_host(self.weights).astype(np.float64)
            table = gather(comm, [w.sum(), (w * w).sum(), local.has_counts or not len(w)])
            self._weight, self._square, counts_of_ranks = table.sum(axis=0).tolist()
            self._has_counts = counts_of_ranks == len(table)
        counts = gather(comm, [local.n_rows])[:, 0].astype(np.int64)
        self.n_rows = int(counts.sum())
        self.first = int(counts[: comm.rank].sum())

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
        mine, local = self._mine(indices)
        found = agree(self.comm, lambda: to_host(self.local.take(local)) if len(local) else 0)
        rows = np.zeros((len(indices), self.n_features))
        rows[mine] = found
        return self.xp.asarray(self.comm.allreduce([rows])[0].astype(self.dtype))

    def subset(self, indices):
        mine, local = self._mine(np.asarray(indices))
        return SharedRows(agree(self.comm, lambda: self.local.subset(local)), self.comm, mine)

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
        return memory_rows(rows, dtype=self.dtype, device=array_device(rows), weights=weights)

    def batches(self, size, rng=None):
        order = np.arange(self.n_rows) if rng is None else rng.permutation(self.n_rows)
        for start in range(0, self.n_rows, size):
            yield self.subset(np.sort(order[start : start + size]))

    def project_with(self, projection):
        local = agree(self.comm, lambda: self.local.project_with(projection))
        return SharedRows(local, self.comm, self.numbers)

    def _mine(self, indices):
        """The positions among indices of this rank's rows, ascending, and the local numbers of these rows."""
        if self.numbers is None:
            local = indices - self.first
            mine = np.flatnonzero((local >= 0) & (local < self.local.n_rows))
        else:
            local = np.searchsorted(self.numbers, indices)
            found = np.append(self.numbers, -1)[local]
            mine = np.flatnonzero(found == indices)
        return mine, local[mine]

    def _added(self, parts):
        """The sums of arrays over the ranks, in float64, on the device of this rank's rows."""
        totals = self.comm.allreduce([to_host(part).astype(np.float64) for part in parts])
        return tuple(self.xp.asarray(total) for total in totals)

    def _joined(self, arrays):
        """Arrays, concatenated over the ranks in their order."""
        if not arrays:
            return ()
        counts = gather(self.comm, [len(arrays[0])])[:, 0].astype(np.int64)
        first = counts[: self.comm.rank].sum()
        tables = [np.zeros((counts.sum(), *array.shape[1:])) for array in arrays]
        for table, array in zip(tables, arrays, strict=True):
            table[first : first + len(array)] = to_host(array)
        joined = zip(self.comm.allreduce(tables), arrays, strict=True)
        return tuple(self.xp.asarray(table.astype(array.dtype)) for table, array in joined)
