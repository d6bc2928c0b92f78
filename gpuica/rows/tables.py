"""Rows in a column of lists: Arrow tables and the data sets of Hugging Face."""

import numpy as np

from .sources import Source, check_dtype


class Column(Source):
    """A column of equally long lists of numbers, (n_rows, length of a list)."""

    slow = True

    def __init__(self, piece, n_rows, name):
        """piece: (start, stop) -> array (stop - start, n_features)."""
        if not n_rows:
            raise ValueError(f"column {name!r} has no rows.")
        self.piece, self.name = piece, name
        first = self._matrix(0, 1)
        self.shape, self.stored = (n_rows, first.shape[1]), check_dtype(first.dtype, f"column {name!r}")

    def read(self, start, stop, buffer=None):
        return self._matrix(start, stop) if stop > start else np.empty((0, self.shape[1]), self.stored)

    def where(self, row):
        return f"row {row} of column {self.name!r}"

    def _matrix(self, start, stop):
        found = self.piece(start, stop)
        if found.ndim != 2:
            raise ValueError(
                f"column {self.name!r} must hold lists of the same number of numbers; rows {start} to {stop} do not."
            )
        return found


def open_table(table, column=None):
    """The source of a pyarrow Table, (chunked) array, or a `datasets.Dataset`; column: its name, if it has several."""
    if hasattr(table, "with_format"):  # datasets.Dataset
        column = _one_of(table.column_names, column)
        numbers = table.with_format("numpy", columns=[column])
        return Column(lambda start, stop: np.asarray(numbers[start:stop][column]), len(table), column)
    if hasattr(table, "column_names"):
        column = _one_of(table.column_names, column)
        table = table.column(column)
    return Column(lambda start, stop: _lists(table.slice(start, stop - start)), len(table), column or "X")


def _one_of(names, column):
    if column is None and len(names) == 1:
        return names[0]
    if column not in names:
        raise ValueError(f"the table has columns {list(names)}: select the one that holds the rows, with nothing else.")
    return column


def _lists(column):
    """(n, n_features) of a pyarrow array of lists."""
    import pyarrow

    parts = column.chunks if isinstance(column, pyarrow.ChunkedArray) else [column]
    flat = [part.flatten().to_numpy(zero_copy_only=False) for part in parts]
    numbers = np.concatenate(flat) if len(flat) != 1 else flat[0]
    return numbers.reshape(len(column), -1) if len(column) and len(numbers) % len(column) == 0 else numbers
