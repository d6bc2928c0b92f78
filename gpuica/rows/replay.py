"""Rows whose sums are stored in a checkpoint."""

from numbers import Real
from types import FunctionType

from ..io.digest import digest
from .base import Rows, forwarded


class ReplayedRows(Rows):
    """Rows that return the sums of a checkpoint, in their order, and compute and store the sums after these."""

    n_rows, n_features, dtype = forwarded("n_rows"), forwarded("n_features"), forwarded("dtype")
    n_local = forwarded("n_local")
    weights, weight, has_counts, n_kish = (forwarded(name) for name in ("weights", "weight", "has_counts", "n_kish"))
    xp, scratch, batch_window = forwarded("xp"), forwarded("scratch"), forwarded("batch_window")
    random_access_is_costly, all_ranks = forwarded("random_access_is_costly"), forwarded("all_ranks")
    map, for_each, reduce = forwarded("map"), forwarded("for_each"), forwarded("reduce")
    take, subset, fixed_sample = forwarded("take"), forwarded("subset"), forwarded("fixed_sample")
    batches, epochs, to_memory = forwarded("batches"), forwarded("epochs"), forwarded("to_memory")

    def __init__(self, rows, checkpoint, n_replayed=0, origin=""):
        """n_replayed: the number of passes that the checkpoint replaced so far.

        origin: a digest of how `rows` was derived from the rows that the checkpoint belongs to.
        """
        self.rows, self.checkpoint, self.n_replayed, self.origin = rows, checkpoint, n_replayed, origin

    @property
    def n_passes(self):  # type: ignore[override]  # replayed passes count as passes
        return self.rows.n_passes + self.n_replayed

    def sum(self, contribution, *params):
        key = digest(self.origin, *map(_identity, (contribution, *params)))
        totals, replayed = self.checkpoint.recall_or_compute(
            key, lambda: self.rows.sum(contribution, *params), self.rows.all_ranks
        )
        self.n_replayed += replayed
        return tuple(self.xp.asarray(total) for total in totals)

    def cached_result(self, name, make, *key):
        key = digest(self.origin, name, self.batch_window, *key)
        parts, _ = self.checkpoint.recall_or_compute(key, make, self.rows.all_ranks)
        return [self.xp.asarray(part) for part in parts]

    def sample(self, n, rng):
        origin = digest(self.origin, "sample", n, rng)
        return ReplayedRows(self.rows.sample(n, rng), self.checkpoint, origin=origin)

    def project_with(self, projection):
        origin = digest(self.origin, "onto", *projection)  # "onto" identifies projections in stored checkpoints
        return ReplayedRows(self.rows.project_with(projection), self.checkpoint, self.n_replayed, origin)


def _identity(value):
    """What distinguishes a sum from others: its identifier, which renaming does not change, and its parameters.

    The type suffices for a contrast: it is a parameter of the fit, which the checkpoint compares.
    """
    if hasattr(value, "identifier"):
        return value.identifier
    if hasattr(value, "shape") or isinstance(value, FunctionType | Real | str | list):
        return value
    return type(value).__qualname__
