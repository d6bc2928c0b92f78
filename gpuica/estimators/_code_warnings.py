"""Warnings about rows whose codes are unfinished, raised at once or when a lazy result is computed."""

from uuid import uuid4

from sklearn.exceptions import ConvergenceWarning

from ..messages import warn

_WARNED: dict[str, object] = {}  # key of a lazy result -> the task of this process that warned


def warn_of_unfinished(n_unfinished, n_rows, coder):
    """Issue a ConvergenceWarning if the codes of some rows are unfinished; `coder.unfinished` explains the cause."""
    if n_unfinished:
        warn(f"The codes of {n_unfinished} of {n_rows} rows {coder.unfinished}", ConvergenceWarning)


class DeferredWarning:
    """Replaces `code_sums.Unfinished` where codes are computed lazily: warns when a task reports unfinished rows.

    A task has only the count of its own chunk, so each process warns once, for its first chunk with unfinished rows.
    """

    count = 0  # of unfinished rows before any task ran

    def __init__(self, coder):
        self.coder, self.key = coder, uuid4().hex

    def add(self, n_unfinished, n_rows):
        """Report the number of unfinished rows of one chunk."""
        mine = object()
        if n_unfinished and _WARNED.setdefault(self.key, mine) is mine:
            from ..rows.dask import warn_in_task

            warn_in_task(
                f"The codes of {n_unfinished} of the {n_rows} rows of a chunk {self.coder.unfinished} "
                "Chunks computed later are not counted.",
                ConvergenceWarning,
            )
