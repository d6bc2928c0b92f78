"""Warnings about rows whose codes are not what was asked for, at once or when a lazy result is computed."""

from uuid import uuid4

from sklearn.exceptions import ConvergenceWarning

from ..messages import warn

_WARNED: dict[str, object] = {}  # the lazy results of this process that warned, by key


def warn_of_unfinished(n_unfinished, n_rows, coder):
    """A ConvergenceWarning if the codes of some rows are not what was asked for; coder.unfinished says how and why."""
    if n_unfinished:
        warn(f"The codes of {n_unfinished} of {n_rows} rows {coder.unfinished}", ConvergenceWarning)


class WarnLater:
    """Takes the counts of codes that tasks compute later, as `sums.Unfinished` does of those computed at once.

    No task knows whether others will follow, so the first one whose rows are not all finished warns, once in a process.
    """

    count = 0  # at once

    def __init__(self, coder):
        self.coder, self.key = coder, uuid4().hex

    def add(self, n_unfinished, n_rows):
        """Take the counts of one task."""
        mine = object()
        if n_unfinished and _WARNED.setdefault(self.key, mine) is mine:
            from ..rows.dask import warn_in_task

            warn_in_task(
                f"The codes of {n_unfinished} of the {n_rows} rows of a chunk {self.coder.unfinished} "
                "Rows of other chunks, which are computed later, are not counted.",
                ConvergenceWarning,
            )
