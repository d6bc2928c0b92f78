"""Rows coded by the definition of their coder, in array code: all of them where there is no Gram matrix, and those that
a compiled pursuit cannot code accurately.

A compiled pursuit works on the Gram matrix in the precision of the data, which loses as many digits as an atom is close
to the span of others; `status` lists how a row can end.  The definitions work in float64 on the data themselves.
"""

from ..device import array_device
from .status import ILL_CONDITIONED, UNFINISHED

MAX_BATCH_NUMBERS = 1 << 20  # of an array of the definitions
MIN_BATCH_ROWS = 16


def encode_in_batches(X, D, coder):
    """Codes (n, K) of X (n, d) by `coder.encode`, and the number of unfinished rows.

    In batches of rows, because the definitions allocate several arrays of the size of the codes and of the atoms of
    all supports.
    """
    xp, n_atoms = array_device(X).xp, min(getattr(coder, "n_nonzero", 1), *D.shape)
    C, n_unfinished = xp.empty((len(X), len(D)), dtype=X.dtype), 0
    size = max(MAX_BATCH_NUMBERS // max(len(D), n_atoms * D.shape[1]), MIN_BATCH_ROWS)
    for start in range(0, len(X), size):
        C[start : start + size], more = coder.encode(X[start : start + size], D, xp)
        n_unfinished += more
    return C, n_unfinished


def recode_ill_conditioned(X, D, C, status, coder):
    """Replace the codes C (n, K) of the rows whose status (n,) is ILL_CONDITIONED; return the number of unfinished
    rows."""
    if not status.any():
        return 0
    rows, n_unfinished = array_device(X).xp.flatnonzero(status == ILL_CONDITIONED), int((status == UNFINISHED).sum())
    if len(rows):
        C[rows], more = encode_in_batches(X[rows], D, coder)
        n_unfinished += more
    return n_unfinished
