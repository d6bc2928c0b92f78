"""Rows of re-iterable, forward-only streams of matrices."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..device import logger, to_host
from .digest import FixedSample
from .sources import Source, check_dtype, check_shape

NAN_CHECK_ROWS = 1 << 14  # rows of a NaN check: they stay in the cache
FIRST_MESSAGE_SECONDS = 10.0  # of counting rows until the first message; the time doubles until each later one


class IterableSource(Source):
    """A re-iterable object of 2-D arrays, for instance a torch DataLoader.

    It is iterated over once when it is opened, to count the rows.  Every later pass must yield as many rows, of the
    same width and dtype.
    """

    in_any_order = False
    slow = True

    def __init__(self, iterable: Any, as_array: Any) -> None:
        """as_array: a function of an item of the iterable that returns (rows as stored, whether they are bfloat16)."""
        if iter(iterable) is iterable:
            raise TypeError(
                "X is a generator: it can be iterated over once, and a fit reads the data many times. Write it to "
                "files first, X = gpuica.spool(X, directory), or call partial_fit for every chunk."
            )
        self.iterable, self.as_array = iterable, as_array
        self.sample = FixedSample()
        self.shape = 0, 0
        n_rows, began, patience = 0, time.monotonic(), FIRST_MESSAGE_SECONDS
        for chunk in iterable:
            part = self._checked(chunk)
            n_rows += len(part)
            self.sample.add(part)
            if (passed := time.monotonic() - began) >= patience:
                patience = 2 * passed
                logger.warning(
                    "X: %d rows counted in %.0f s. An iterable is iterated over once before a fit, to count its rows: "
                    "if it does not end, pass gpuica.limited(X, n_rows).",
                    *(n_rows, passed),
                )
        if not self.shape[1]:
            raise ValueError("X yielded no chunk: there is nothing to fit.")
        self.shape = n_rows, self.shape[1]
        self._round: Iterator = iter(())
        self._next, self._rest = n_rows, None

    def read(self, start: Any, stop: Any, buffer: Any = None) -> Any:
        """As of `Source`; rows before those read last start a new iteration."""
        if start < self._next:
            self._round, self._next, self._rest = iter(self.iterable), 0, None
        out = np.empty((stop - start, self.shape[1]), self.stored) if buffer is None else buffer[: stop - start]
        row = 0
        while row < len(out):
            part = self._rest if self._rest is not None else self._chunk()
            skipped = min(max(start - self._next, 0), len(part))
            wanted = part[skipped : skipped + len(out) - row]
            # copied before the next chunk is requested, which may be in the same memory
            out[row : row + len(wanted)] = to_host(wanted)
            row += len(wanted)
            done = skipped + len(wanted)
            self._next += done
            self._rest = part[done:] if done < len(part) else None
        if stop == self.shape[0] and (self._rest is not None or any(len(self._checked(c)) for c in self._round)):
            raise ValueError(self._changed("more"))
        self._check_finite(out, start)
        return out

    def fixed_sample(self) -> Any:
        return self.sample.kept

    def _check_finite(self, out: Any, start: Any) -> None:
        """ValueError if these rows contain NaN or infinity, which in a later pass would seem to be the solver's.

        start: the number of the first row.  The sum of the rows is checked first, at the speed of the memory; if it is
        not finite, their entries are, because the sum may have overflowed.
        """
        if not self.is_bfloat16 and self.stored.kind != "f":
            return
        for first in range(0, len(out), NAN_CHECK_ROWS):
            part = out[first : first + NAN_CHECK_ROWS]
            if _sum_is_finite(part, self.is_bfloat16):
                continue
            finite = np.isfinite(self.decode(part)).all(axis=1)
            if not finite.all():
                row = start + first + int(np.argmin(finite))
                raise ValueError(f"Input X contains NaN or infinity, first in {self.locate(row)}: clean it.")

    def _checked(self, chunk: Any) -> Any:
        """The array of a chunk; ValueError unless its width and dtype are those of the first chunk."""
        part, is_bfloat16 = self.as_array(chunk)
        if not self.shape[1]:
            self.shape = 0, check_shape(part.shape, "a chunk of X")[1]
            self.stored, self.is_bfloat16 = check_dtype(part.dtype, "a chunk of X"), is_bfloat16
        like, kind = (
            (self.shape[1], _name(self.stored, self.is_bfloat16)),
            (part.shape[1], _name(part.dtype, is_bfloat16)),
        )
        if like != kind:
            raise ValueError(
                "X yielded a chunk of {} features of {} after chunks of {} of {}: all chunks must be alike, in every "
                "pass.".format(*kind, *like)
            )
        return part

    def _chunk(self) -> Any:
        """The next chunk of this pass; ValueError if the iterable is exhausted."""
        for chunk in self._round:
            return self._checked(chunk)
        raise ValueError(self._changed("fewer"))

    def _changed(self, how: Any) -> Any:
        """The message for a pass that yields fewer or more rows than the first."""
        return (
            f"X yielded {how} than the {self.shape[0]} rows of the first pass: every pass must yield the same rows. A "
            "generator that is exhausted yields none; write it to files first with gpuica.spool(X, directory)."
        )


def _sum_is_finite(part: Any, is_bfloat16: Any) -> Any:
    """Whether the sum of the entries is finite; for half precision, whose sums overflow, whether all entries are."""
    if part.itemsize == 2:
        bits = part.view(np.dtype(np.uint16).newbyteorder(part.dtype.byteorder))
        exponent = 0x7F80 if is_bfloat16 else 0x7C00
        return not ((bits & exponent) == exponent).any()
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(part.sum()))


class Limited:
    """The first n_rows rows of an iterable; see `limited`."""

    def __init__(self, iterable: Any, n_rows: Any) -> None:
        self.iterable, self.n_rows = iterable, n_rows

    def __iter__(self) -> Any:
        return _first_rows(self.iterable, self.n_rows)


def limited(iterable: Any, n_rows: Any) -> Any:
    """Limit an iterable of arrays to its first rows, for example one that does not end.

    Parameters
    ----------
    iterable : iterable
        Yields arrays of shape (n, n_features) of NumPy, CuPy or torch, or tuples or dictionaries whose first item
        is one.
    n_rows : int
        The number of rows; fewer if the iterable ends before.

    Returns
    -------
    iterable
        Yields arrays with n_rows rows in all, from the beginning in each iteration: an X for every estimator. For a
        generator, which can be iterated over once, a generator, which `gpuica.spool` takes.

    Raises
    ------
    ValueError
        If n_rows is not an integer >= 1.
    TypeError
        If the first argument is not iterable.

    See Also
    --------
    spool : Write an iterable or generator of arrays to files.

    Examples
    --------
    >>> import itertools, numpy as np, gpuica
    >>> class Endless:
    ...     def __iter__(self):
    ...         rng = np.random.default_rng(0)
    ...         return (rng.laplace(size=(500, 4)) for _ in itertools.count())
    >>> gpuica.FastICA(random_state=0).fit(gpuica.limited(Endless(), 2000)).components_.shape
    (4, 4)
    """
    if isinstance(n_rows, bool) or not isinstance(n_rows, int | np.integer) or n_rows < 1:
        raise ValueError(f"n_rows must be a whole number >= 1, got {n_rows!r}.")
    if not hasattr(iterable, "__iter__"):
        raise TypeError(f"limited() takes an iterable of arrays, got {type(iterable).__name__}.")
    return _first_rows(iterable, n_rows) if iter(iterable) is iterable else Limited(iterable, n_rows)


def _first_rows(iterable: Any, n_rows: Any) -> Any:
    """Yield chunks up to n_rows rows in all."""
    left = n_rows
    for chunk in iterable:
        matrix = first_matrix(chunk)[:left]
        left -= matrix.shape[0]
        yield matrix
        if not left:
            return


def first_matrix(chunk: Any) -> Any:
    """The matrix of an item of an iterable: the item, or the first element of a tuple or dict such as (rows, labels).

    ValueError or TypeError in one sentence for anything else.
    """
    given, what = chunk, "yields"
    if isinstance(chunk, dict):
        given, what = next(iter(chunk.values()), None), "yields dictionaries whose first value is"
    elif isinstance(chunk, tuple | list) and chunk and hasattr(chunk[0], "ndim"):
        given = chunk[0]
    if hasattr(given, "tocsr"):
        raise TypeError("X yields sparse matrices when iterated over: yield dense ones, chunk.toarray().")
    ndim = getattr(given, "ndim", None)
    if ndim is None:
        raise ValueError(
            f"X {what} something else than arrays (n, n_features) when iterated over: {type(given).__name__}. Pass an "
            "array, files (gpuica.shards), or an iterable of 2-D arrays."
        )
    if ndim != 2:
        check_shape(tuple(given.shape), "an array that X yielded when iterated over")
    return given


def _name(dtype: Any, is_bfloat16: Any) -> Any:
    return "bfloat16" if is_bfloat16 else str(dtype)
