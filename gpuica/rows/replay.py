"""Rows whose sums are answered by a checkpoint, as far as it goes."""

from numbers import Real
from types import FunctionType

from ..io.digest import digest
from .base import Rows


class RecordedRows(Rows):
    """Rows whose sums are answered by a checkpoint as far as it goes, and kept there from then on."""

    def __init__(self, rows, checkpoint, told=0, origin=""):
        """told: passes that were answered by the checkpoint so far.  origin: a digest of how the rows were made of
        those that the checkpoint is of."""
        self.rows, self.checkpoint, self.told, self.origin = rows, checkpoint, told, origin
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
        return self.rows.n_passes + self.told

    @property
    def batch_window(self):  # type: ignore[override]
        return self.rows.batch_window

    def sum(self, contribution, *params):
        asked = digest(self.origin, *map(_identified, (contribution, *params)))
        totals, before = self.checkpoint.answer(
            asked, lambda: self.rows.sum(contribution, *params), self.rows.everywhere
        )
        self.told += before
        return tuple(self.xp.asarray(total) for total in totals)

    def map(self, function, *params, out=None):
        return self.rows.map(function, *params, out=out)

    def each(self, consume, function, *params):
        self.rows.each(consume, function, *params)

    def fold(self, kind, start, function, *params):
        return self.rows.fold(kind, start, function, *params)

    def take(self, indices):
        return self.rows.take(indices)

    def only(self, indices):
        return self.rows.only(indices)

    def spread(self):
        return self.rows.spread()

    def everywhere(self, fact):
        return self.rows.everywhere(fact)

    @property
    def scattered(self):  # type: ignore[override]
        return self.rows.scattered

    def remembered(self, name, make, *asked):
        asked = digest(self.origin, name, self.batch_window, *asked)
        return [self.xp.asarray(part) for part in self.checkpoint.answer(asked, make, self.rows.everywhere)[0]]

    def gathered(self):
        return self.rows.gathered()

    def batches(self, size, rng=None):
        yield from self.rows.batches(size, rng)

    def cycled(self, size, rng=None, skip=0):
        return self.rows.cycled(size, rng, skip)

    def sample(self, n, rng):
        origin = digest(self.origin, "sample", n, rng)
        return RecordedRows(self.rows.sample(n, rng), self.checkpoint, origin=origin)

    def onto(self, ready):
        origin = digest(self.origin, "onto", *ready)
        return RecordedRows(self.rows.onto(ready), self.checkpoint, self.told, origin)


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
