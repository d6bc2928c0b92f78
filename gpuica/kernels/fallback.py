"""Rows by the definition of their coder, in array code: all of them where there is no Gram matrix, and those that a
compiled pursuit leaves.

A compiled pursuit works on the Gram matrix in the precision of the data, which loses as many digits as an atom is
close to the span of others.  It says of each row how it ended: its code is good; it is good but not what was asked for
(UNFINISHED); or the digits did not suffice for it (HARD).  The definitions work in float64 on the data themselves.
"""

from ..device import array_device

DONE, UNFINISHED, HARD = 0, 1, 2  # how a row ends

# By the bytes of a number.  Share of an atom's square outside the span of the support below which a row is HARD.
CLOSE = {4: 1e-2, 8: 1e-6}
# What the residual of a code may exceed the one that the pursuit kept account of, in units of ‖x‖², and how close that
# may come to the target before the decision is left to the definition.
DRIFT = {4: 1e-5, 8: 1e-11}
DOUBT = {4: 1e-6, 8: 1e-14}
# Determinant of the Gram matrix of a support of unit atoms above which its code needs no check: the smallest eigenvalue
# is e times smaller at most, and rounding that much below it raises ‖x - c D‖² by less than DRIFT.
SAFE = {4: 1e-3, 8: 1e-9}
# Squares of correlations that numbers of the dtype hold well.
SMALLEST, LARGEST = {4: 1e-28, 8: 1e-280}, {4: 1e35, 8: 1e300}
PART = 1 << 20  # numbers of an array of the definitions


def in_parts(X, D, coder):
    """Codes (n, K) of X (n, d), and how many were not finished; some rows at a time, since this makes several arrays of
    the size of the codes and of the supports' atoms."""
    xp, n_atoms = array_device(X).xp, min(getattr(coder, "n_nonzero", 1), *D.shape)
    C, unfinished = xp.empty((len(X), len(D)), dtype=X.dtype), 0
    size = max(PART // max(len(D), n_atoms * D.shape[1]), 16)
    for start in range(0, len(X), size):
        C[start : start + size], more = coder.encode(X[start : start + size], D, xp)
        unfinished += more
    return C, unfinished


def finish(X, D, C, ends, coder):
    """Replace the codes C of the rows that ended HARD; return how many rows were not finished.  ends (n,): how."""
    if not ends.any():
        return 0
    hard, unfinished = array_device(X).xp.flatnonzero(ends == HARD), int((ends == UNFINISHED).sum())
    if len(hard):
        C[hard], more = in_parts(X[hard], D, coder)
        unfinished += more
    return unfinished
