"""Rows whose sums are answered by a checkpoint, as far as it goes."""

from numbers import Real
from types import FunctionType

from ..io.digest import digest
from .base import Rows


class ReplayedRows(Rows):
    """Rows whose sums are answered by a checkpoint as far as it goes, and kept there from then on."""

    def __init__(self, rows, checkpoint, n_replayed=0, origin=""):
        """n_replayed: passes that were answered by the checkpoint so far.  origin: a digest of how the rows were
        made of those that the checkpoint is of."""
        self.rows, self.checkpoint, self.n_replayed, self.origin = rows, checkpoint, n_replayed, origin
        self.n_rows, self.n_features, self.dtype = rows.n_rows, rows.n_features, rows.dtype
        self.weights, self.scratch = rows.weights, rows.scratch

    @property
    def xp(self):
        return self.rows.xp

    @property
    def weight(self):
        return self.rows.weight

    @property
    def has_counts(self):
        return self.rows.has_counts

    @property
    def n_kish(self):
        return self.rows.n_kish

    @property
    def n_passes(self):  # type: ignore[override]  # those of the past are passes too
        return self.rows.n_passes + self.n_replayed

    @property
    def batch_window(self):  # type: ignore[override]
        return self.rows.batch_window

    def sum(self, contribution, *params):
        asked = digest(self.origin, *map(_identified, (contribution, *params)))
        totals, before = self.checkpoint.recall_or_compute(
            asked, lambda: self.rows.sum(contribution, *params), self.rows.all_ranks
        )
        self.n_replayed += before
        return tuple(self.xp.asarray(total) for total in totals)

    def map(self, function, *params, out=None):
        return self.rows.map(function, *params, out=out)

    def for_each(self, consume, function, *params):
        self.rows.for_each(consume, function, *params)

    def reduce(self, kind, start, function, *params):
        return self.rows.reduce(kind, start, function, *params)

    def take(self, indices):
        return self.rows.take(indices)

    def subset(self, indices):
        return self.rows.subset(indices)

    def fixed_sample(self):
        return self.rows.fixed_sample()

    def all_ranks(self, fact):
        return self.rows.all_ranks(fact)

    @property
    def random_access_is_costly(self):  # type: ignore[override]
        return self.rows.random_access_is_costly

    def cached_result(self, name, make, *asked):
        asked = digest(self.origin, name, self.batch_window, *asked)
        return [
            self.xp.asarray(part) for part in self.checkpoint.recall_or_compute(asked, make, self.rows.all_ranks)[0]
        ]

    def to_memory(self):
        return self.rows.to_memory()

    def batches(self, size, rng=None):
        yield from self.rows.batches(size, rng)

    def epochs(self, size, rng=None, skip=0):
        return self.rows.epochs(size, rng, skip)

    def sample(self, n, rng):
        origin = digest(self.origin, "sample", n, rng)
        return ReplayedRows(self.rows.sample(n, rng), self.checkpoint, origin=origin)

    def project_with(self, ready):
        origin = digest(self.origin, "onto", *ready)
        return ReplayedRows(self.rows.project_with(ready), self.checkpoint, self.n_replayed, origin)


def _identified(value):
    """What tells one question from another: the identifier of a sum, which no renaming changes; arrays and numbers.

    Of a contrast its kind is enough: it is a parameter of the fit, which the checkpoint compares.
    """
    if hasattr(value, "identifier"):
        return value.identifier
    return (
        value
        if hasattr(value, "shape") or isinstance(value, FunctionType | Real | str | list)
        else type(value).__qualname__
    )
