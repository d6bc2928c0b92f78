"""Rounds of the lasso without Gram matrix: candidates from approximate correlations, then the row's own problem.

Atoms whose correlation exceeds alpha beyond its error are candidates, the largest of every block of atoms; the row's
problem is solved on its support and the candidates, whose correlations are computed one by one.  Where no atom exceeds
alpha so clearly, those that might are computed: a row ends when none of them does.
"""

import numpy as np
from numba import njit

from ..status import FINISHED, ILL_CONDITIONED, NO_ROOM, REFACTORED, RUNNING, UNFINISHED
from ..tolerances import ENTRY_SHARE, MAX_ENTERING
from ..workspace import COEFFICIENTS, CORRELATIONS, ENTERED, INNER_PRODUCTS, SIGNS, SOLUTION, Support
from .int8 import ATOMS, LANES
from .lasso_state import Round
from .support import PAD, enter, refine, settle, subtract
from .vectors import ENTRY, INLINED, MERGED, any_at_least, copy, dot, inner

MAX_TOL_GROWTH = 1e3  # a row ends when its tolerance has grown by this factor: tenfold with each recomputed inverse


@njit(**INLINED)
def size_of(value, positive):
    return value if positive else abs(value)


@njit(**MERGED)
def _choose(h, tops, K, least, positive, candidates):
    """The largest of the atoms of every block that are above `least`, at most len(candidates); returns their number."""
    n, n_panels = np.int64(0), len(tops)
    size = (n_panels + len(candidates) - 1) // len(candidates)
    for start in range(0, n_panels, size):
        best, panel = least, -1
        for p in range(start, min(start + size, n_panels)):
            if tops[p] > best:
                best, panel = tops[p], p
        if panel >= 0:
            j, first = np.int64(0), panel * ATOMS
            for k in range(first, min(first + ATOMS, K)):
                j = max(j, np.int64(k) if size_of(h[k], positive) == best else j)
            candidates[n] = j
            n += 1
    return n


@njit(**MERGED)
def _check(D, r, h, tops, least, bound, positive, candidates):
    """Of the atoms above `least`, those whose exact correlations exceed the bound, until `candidates` is full.

    Returns their number.
    """
    n, K = np.int64(0), len(D)
    for p in range(len(tops)):
        if not tops[p] > least:
            continue
        for start in range(p * ATOMS, min(p * ATOMS + ATOMS, K), LANES):
            stop = min(start + LANES, K)
            if not any_at_least(h[start:stop], least):  # it vectorises; the loop over atoms does not
                continue
            for j in range(start, stop):
                is_near = size_of(h[j], positive) > least and n < len(candidates)
                if is_near and size_of(dot(D[j], r), positive) > bound:
                    candidates[n] = j
                    n += 1
    return n


@njit(**MERGED)
def choose_candidates(D, r, row, bound, positive, candidates):
    """Write the candidates of a row; return their number.  row: (values, tops, unit, error)."""
    h, tops, unit, error = row
    sure = np.float32((bound + error) / unit)
    n = _choose(h, tops, len(D), sure, positive, candidates)
    if n == 0:
        n = _check(D, r, h, tops, np.float32((bound - error) / unit), bound, positive, candidates)
    return n


@njit(**INLINED)
def dots(D, atoms, y, out, m):
    """out[i] = D[atoms[i]] · y for the first m, in the dtype of D: one load of y for four products."""
    whole = m - m % 4
    for i in range(0, whole, 4):
        x0, x1, x2, x3 = D[atoms[i]], D[atoms[i + 1]], D[atoms[i + 2]], D[atoms[i + 3]]
        t0 = t1 = t2 = t3 = D.dtype.type(0)
        for k in range(len(y)):
            t0 += x0[k] * y[k]
            t1 += x1[k] * y[k]
            t2 += x2[k] * y[k]
            t3 += x3[k] * y[k]
        out[i], out[i + 1], out[i + 2], out[i + 3] = t0, t1, t2, t3
    for i in range(whole, m):
        total = D.dtype.type(0)
        for k in range(len(y)):
            total += D[atoms[i], k] * y[k]
        out[i] = total


@njit(**INLINED)
def append(support, atom, m, value, sign, correlation, now):
    """Write a new atom behind the m of the support."""
    _, atoms, lists = support
    atoms[m], lists[COEFFICIENTS, m], lists[SIGNS, m] = atom, value, sign
    lists[CORRELATIONS, m], lists[ENTERED, m] = correlation, now


@njit(**MERGED)
def enter_independent(x, atom, square, sign, exchange, dependence, now, D, support, residual, m):
    """An atom of this squared norm enters the support, unless it depends on it.  Returns the support's size.

    exchange, residual: not used.
    """
    _, atoms, lists = support
    dots(D, atoms, D[atom], lists[INNER_PRODUCTS], m)
    if m < min(D.shape) and enter(support, square, m, dependence):
        append(support, atom, m, 0.0, sign, inner(D[atom], x), now)
        m += 1
    return m


@njit(**MERGED)
def refine_signed(x, D, alpha, signed, support, residual, m):
    """`support.refine` of the coefficients; a coefficient that thereby changes its sign becomes 0."""
    c, s = support.lists[COEFFICIENTS], support.lists[SIGNS]
    refine(x, D, support, c, alpha, s, residual, m)
    if signed:
        for i in range(m):  # zero, up to rounding
            c[i] = max(c[i] * s[i], 0.0) * s[i]


@njit(**MERGED)
def missed_conditions(D, r, h, alpha, support, m):
    """The largest violation of D_i r = alpha s_i on the support, of which h becomes 0."""
    _, atoms, lists = support
    found, missed = lists[SOLUTION], 0.0
    dots(D, atoms, r, found, m)
    for i in range(m):
        missed = max(missed, abs(found[i] - alpha * lists[SIGNS, i]))
        h[atoms[i]] = 0
    return missed


@njit(**MERGED)
def improve(enter, x, D, squares, r, n, bound, dependence, refactored, settings, support, buffers, m):
    """Solve the row on its support and n candidates.

    enter: the function by which an atom enters the support, such as `enter_independent`.  refactored: whether M was
    recomputed.  r (d,): the residual, overwritten.  Returns the size of the support, whether it changed, and the
    largest correlation of a candidate before.
    """
    _, atoms, lists = support
    candidates, near, residual = buffers
    alpha, positive, has_changed, alone = settings.alpha, settings.positive, False, False
    first = 0.0
    c, entered, room, most = lists[COEFFICIENTS], lists[ENTERED], len(atoms) - 2 * PAD, min(D.shape)
    for now in range(10 * len(candidates)):
        dots(D, candidates, r, near, n)
        top = 0.0
        for k in range(n):
            top = max(top, size_of(near[k], positive))
        first = top if now == 0 else first
        if top <= bound and not (refactored and now == 0):
            break
        least, before, n_entered = top if alone else bound + ENTRY_SHARE * (top - bound), m, 0
        for k in range(n):
            atom, inside = candidates[k], False
            if size_of(near[k], positive) < least or n_entered == (1 if alone else MAX_ENTERING) or m == room < most:
                continue
            for i in range(m):
                inside |= atoms[i] == atom
            if not inside:
                exchange, sign = alone and alpha > 0, 1.0 if near[k] > 0 else -1.0
                m = enter(x, atom, squares[atom], sign, exchange, dependence, now, D, support, residual, m)
                n_entered += 1
        m = settle(support, m, alpha, positive or alpha > 0)
        changed = m != before
        for i in range(m):
            changed |= entered[i] == now
        subtract(x, D, atoms, c, r, m)
        has_changed |= changed
        if alone and not changed:
            break
        alone = not changed  # of several that entered none was right: the largest violation alone is
    for i in range(m):
        entered[i] = -1
    return m, has_changed, first


@njit(**MERGED)
def take_rounds(take_round, X, D, squares, correlations, rows, settings, buffers, states):
    """One round of some rows, of `Screened` correlations: those that have not ended come first in `rows`.

    take_round: see `_round`.  Returns the number of rows that have not ended.
    """
    n_left, residual = 0, buffers.residual
    values, tops, units, errors = correlations
    for i in range(len(rows)):
        row = rows[i]
        support = Support(states.inverses[row], states.atoms[row], states.lists[row])
        if states.n_rounds[row] == 0:
            top = np.float32(0)
            for p in range(tops.shape[1]):
                top = max(top, tops[i, p])
            states.roundings[row] = settings.optimality * top * units[i]
            states.dependence[row] = settings.dependence
        this = Round(
            states.roundings[row],
            states.dependence[row],
            states.status[row],
            states.n_rounds[row] == settings.max_iter,
            states.dependence[row] <= MAX_TOL_GROWTH * settings.dependence,
        )
        h, r, m = (values[i], tops[i], units[i], errors[i]), states.residuals[row], states.sizes[row]
        m, status = take_round(X[row], D, squares, h, r, this, settings, support, buffers, m)
        states.n_rounds[row] += 1
        states.sizes[row], states.status[row] = m, status
        if status == REFACTORED:
            states.dependence[row] *= 10
        if status < 0 or status == NO_ROOM:
            subtract(X[row], D, support.atoms, support.lists[COEFFICIENTS], residual, m)
            copy(residual, states.residuals[row])
        if status < 0:
            rows[n_left] = row
            n_left += 1
    return n_left


@njit(**MERGED)
def _round(x, D, squares, row, r, this, settings, support, buffers, m):
    """One round of a row of approximate correlations; the last round only evaluates it.

    row: (values, tops, unit, error).  this: a `Round`.  Returns the size of the support and the status of the row.
    """
    alpha, bound = settings.alpha, settings.alpha + this.rounding
    if missed_conditions(D, r, row[0], alpha, support, m) > 10 * this.rounding:
        return m, ILL_CONDITIONED
    n = choose_candidates(D, r, row, bound, settings.positive, buffers.candidates)
    if n == 0 or this.is_last:
        return m, UNFINISHED if n else FINISHED
    enter, dependence = enter_independent, this.dependence
    m, changed, _ = improve(enter, x, D, squares, r, n, bound, dependence, False, settings, support, buffers, m)
    if changed:
        refine_signed(x, D, alpha, settings.positive or alpha > 0, support, buffers.residual, m)
        return m, RUNNING
    return m, NO_ROOM if m == len(support.atoms) - 2 * PAD < min(D.shape) else ILL_CONDITIONED


@njit(**ENTRY)
def independent_rounds(X, D, squares, correlations, rows, settings, buffers, states):
    """`take_rounds` of rows without nearly dependent atoms; others end as ILL_CONDITIONED."""
    return take_rounds(_round, X, D, squares, correlations, rows, settings, buffers, states)
