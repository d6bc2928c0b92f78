"""Rows in a column of lists: Arrow tables and Hugging Face datasets."""

import numpy as np

from .sources import Source, check_dtype, check_shape


class Column(Source):
    """A column of lists of numbers of equal length, (n_rows, length of a list)."""

    slow = True

    def __init__(self, piece, n_rows, name):
        """piece: a function (start, stop) -> array (stop - start, n_features).  name: for messages."""
        if not n_rows:
            raise ValueError(f"column {name!r} has no rows.")
        self.piece, self.name = piece, name
        first = self._matrix(0, 1)
        self.shape = check_shape((n_rows, first.shape[1]), f"column {name!r}")
        self.stored = check_dtype(first.dtype, f"column {name!r}")

    def read(self, start, stop, buffer=None):
        return self._matrix(start, stop) if stop > start else np.empty((0, self.shape[1]), self.stored)

    def locate(self, row):
        return f"row {row} of column {self.name!r}"

    def _matrix(self, start, stop):
        """Rows start to stop of the column as a matrix; ValueError unless all rows have one length and dtype."""
        try:
            found = self.piece(start, stop)
        except NotAMatrixError as error:
            row = "" if error.row is None else f" in row {start + error.row}"
            raise ValueError(
                f"column {self.name!r} must hold lists of the same number of numbers, but has {error.what}{row}."
            ) from error
        if found.ndim != 2:
            raise ValueError(
                f"column {self.name!r} must hold lists of the same number of numbers, but rows {start} to {stop} have "
                f"the shape {found.shape}: flatten them to one list a row."
            )
        if hasattr(self, "stored") and (found.shape[1], found.dtype) != (self.shape[1], self.stored):
            raise ValueError(
                f"column {self.name!r} has lists of {found.shape[1]} {found.dtype} in rows {start} to {stop}, after "
                f"lists of {self.shape[1]} {self.stored}: all rows must be alike."
            )
        return found


class NotAMatrixError(ValueError):
    """A column does not hold lists of one length."""

    def __init__(self, what, row=None):
        """what: a description of what it holds instead.  row: the row of the piece that holds it, if known."""
        super().__init__(what)
        self.what, self.row = what, row


def open_table(table, column=None):
    """The source of a pyarrow Table, a (chunked) array, or a `datasets.Dataset`.  column: its name."""
    if hasattr(table, "with_format"):  # datasets.Dataset
        column = _one_of(table.column_names, column)
        numbers = table.with_format("numpy", columns=[column])

        def piece(start, stop):
            try:
                return np.asarray(numbers[start:stop][column])
            except ValueError as error:  # lists of several lengths
                raise NotAMatrixError("lists of several lengths") from error

        return Column(piece, len(table), column)
    if hasattr(table, "column_names"):
        column = _one_of(table.column_names, column)
        table = table.column(column)
    return Column(lambda start, stop: _lists(table.slice(start, stop - start)), len(table), column or "X")


def _one_of(names, column):
    """The name of the column to read: the given one, or the only one."""
    if column is None and len(names) == 1:
        return names[0]
    if column not in names:
        raise ValueError(f"the table has columns {list(names)}: select the one that holds the rows, with nothing else.")
    return column


def _lists(column):
    """The array (n, n_features) of a pyarrow array of lists of one length."""
    import pyarrow

    parts = column.chunks if isinstance(column, pyarrow.ChunkedArray) else [column]
    before = 0
    found: list[np.ndarray] = []
    for part in (part for part in parts if len(part)):
        found.append(_matrix(part, before, width=found[0].shape[1] if found else None))
        before += len(part)
    if not found:
        return np.empty((0, 0))
    return np.concatenate(found) if len(found) != 1 else found[0]


def _matrix(part, before, width):
    """The array (n, width) of one pyarrow array of lists.

    before: the number of rows of the piece before it.  width: the length of a list; None for that of the first one.
    """
    import pyarrow
    import pyarrow.compute

    if not hasattr(part, "flatten") or not hasattr(part.type, "value_type") or pyarrow.types.is_dictionary(part.type):
        raise NotAMatrixError(f"values of type {part.type}")
    if part.null_count:
        raise NotAMatrixError("no list (null)", before + int(np.argmax(part.is_null().to_numpy(zero_copy_only=False))))
    sizes = pyarrow.compute.list_value_length(part).to_numpy(zero_copy_only=False)
    width = int(sizes[0]) if width is None else width
    unlike = np.flatnonzero(sizes != width)
    if len(unlike):
        raise NotAMatrixError(f"a list of {sizes[unlike[0]]} after lists of {width}", before + int(unlike[0]))
    numbers = part.flatten()
    if numbers.null_count:
        position = int(np.argmax(numbers.is_null().to_numpy(zero_copy_only=False)))
        raise NotAMatrixError("a missing number (null)", before + position // width)
    if hasattr(numbers.type, "value_type"):
        raise NotAMatrixError(f"lists of {numbers.type}")
    return numbers.to_numpy(zero_copy_only=False).reshape(len(part), width)
