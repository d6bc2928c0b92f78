"""Non-negative orthogonal matching pursuit of many rows at once, in float64: a definition in array code."""

import numpy as np

from .support import DEPENDENCE_TOL, EPS, ROUNDING_TOL, missed


def nonnegative(X, D, coder, xp):
    """Codes (n, K) >= 0 of X (n, d), and the number of unfinished rows.  coder: n_nonzero, target.

    Atoms whose coefficient reaches zero leave the support, so that others can enter.  An atom that left keeps its place
    in `chosen`, with coefficient 0, and gets another place if it enters again.
    """
    size, most = X.dtype.itemsize, min(coder.n_nonzero, *D.shape)
    C, unfinished = xp.zeros((len(X), len(D)), dtype=X.dtype), 0
    X, D = X.astype(np.float64), D.astype(np.float64)
    rows, R, H, squares = xp.arange(len(X)), X, X @ D.T, (D * D).sum(axis=1)
    chosen, values = xp.zeros((len(X), 0), dtype=int), xp.zeros((len(X), 0))
    least = ROUNDING_TOL[size] * abs(H).max(axis=1)
    for step in range(2 * most + 1):
        number = xp.arange(len(rows))
        for i in range(chosen.shape[1]):
            H[number, chosen[:, i]] = xp.where(values[:, i] > 0, 0, H[number, chosen[:, i]])
        top, j = H.max(axis=1), H.argmax(axis=1)
        full = (values > 0).sum(axis=1) == most
        ends = ((R * R).sum(axis=1) <= coder.target) | (top <= least) | full
        dependent = ~ends & (_outside(D[j], D[chosen], values > 0, xp) <= DEPENDENCE_TOL[size] * squares[j])
        short = dependent | (~ends & (step == 2 * most))
        goes = ~(ends | short)
        tried, places = values, chosen
        if bool(goes.any()):
            places = xp.concatenate([chosen, j[:, None]], axis=1)
            tried = xp.concatenate([values, xp.zeros((len(rows), 1))], axis=1)
            tried[goes] = _downhill(tried[goes], D[places[goes]], X[goes], xp)
        left = X - (_stored(tried, C.dtype)[:, None, :] @ D[places])[:, 0]
        # the row ends when its code, as it is stored, no longer improves
        square, before = (left * left).sum(axis=1), (R * R).sum(axis=1)
        worse = goes & ~(square < before)
        short |= worse & (top > 1e3 * least)
        ends = ~goes | worse
        unfinished += _write(C, rows, chosen, values, R, X, ends, short, coder.target, xp)
        on = goes & ~worse
        rows, chosen, values, R, X, least = rows[on], places[on], tried[on], left[on], X[on], least[on]
        if not len(rows):
            break
        H = R @ D.T
    return C, unfinished


def _stored(values, dtype):
    """Coefficients rounded to a dtype, in float64."""
    return values.astype(dtype).astype(np.float64)


def _write(C, rows, chosen, values, R, X, ends, short, target, xp):
    """Write the codes of the rows that end into C; return how many of them are unfinished."""
    where = rows[ends]
    for i in range(chosen.shape[1]):
        C[where, chosen[ends, i]] = 0
    for i in range(chosen.shape[1]):
        C[where, chosen[ends, i]] += values[ends, i].astype(C.dtype)
    square, size = (R * R).sum(axis=1), (X * X).sum(axis=1)
    return int((ends & (short | missed(square, size, target, EPS[C.dtype.itemsize], xp))).sum())


def _least_squares(atoms, inside, X, xp):
    """argmin ‖x - c atoms‖ (n, m) over c that are 0 where not inside, and the residual of x (n, d).

    By QR decompositions: normal equations have the square of the atoms' condition number.
    """
    c, number = xp.zeros(inside.shape), xp.arange(len(X))[:, None]
    most = int(inside.sum(axis=1).max()) if inside.size else 0
    if not most:
        return c, X
    first = xp.argsort(~inside, axis=1)[:, :most]  # those inside
    is_inside = inside[number, first]
    basis, triangle = xp.linalg.qr((atoms[number, first] * is_inside[:, :, None]).transpose(0, 2, 1))
    along = (X[:, None, :] @ basis)[:, 0] * is_inside
    rest = X - (basis @ along[:, :, None])[:, :, 0]
    triangle = xp.where(is_inside[:, :, None], triangle, 0) + xp.eye(first.shape[1]) * ~is_inside[:, :, None]
    c[number, first] = xp.linalg.solve(triangle, along[:, :, None])[:, :, 0]
    return c, rest - (basis @ ((rest[:, None, :] @ basis)[:, 0] * is_inside)[:, :, None])[:, :, 0]


def _outside(new, atoms, inside, xp):
    """The squared distances (n,) of atoms new (n, d) from the spans of those inside."""
    _, rest = _least_squares(atoms, inside, new, xp)
    return (rest * rest).sum(axis=1)


def _downhill(values, atoms, X, xp):
    """argmin ‖x - c atoms‖² over c >= 0 (n, m), from `values`, whose last atom has just entered; the others that are 0
    stay 0.  Lawson and Hanson's inner loop: to the solution, or until the first coefficient is zero, which leaves."""
    inside = values > 0
    inside[:, -1] = True
    for _ in range(atoms.shape[1] + 1):
        goal, _ = _least_squares(atoms, inside, X, xp)
        meets = inside & (goal <= 0)
        if not bool(meets.any()):
            break
        fraction = xp.where(meets, values / xp.where(meets & (values > goal), values - goal, 1), 1)
        first = fraction.min(axis=1, keepdims=True)
        values = values + xp.where(inside, first * (goal - values), 0)
        inside = inside & ~(meets & (fraction <= first))
        values = xp.where(inside, values, 0)
    return xp.where(inside, goal, 0)
