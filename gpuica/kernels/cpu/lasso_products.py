"""Lasso for many rows against one dictionary without its Gram matrix, and for rows whose supports are ill-conditioned.

As `lasso`, with h = D (x - c D) of many rows by one product, of two digits: `screening`.  Atoms whose correlation
exceeds alpha beyond its error are candidates, the largest of every block of atoms; the row's problem is solved on its
support and the candidates, whose correlations are computed one by one, before the next product.  Where no atom exceeds
alpha so clearly, those that might are computed: a row ends when none of them does.
"""

import numpy as np
from numba import njit

from ...coders.support import DEPENDENCE_TOL
from ..status import FINISHED, NO_ROOM, REFACTORED, RUNNING, STUCK, UNFINISHED
from ..tolerances import ENTRY_SHARE, MAX_ENTERING, OPTIMALITY_TOL
from ..workspace import COEFFICIENTS, ENTERED, N_LISTS, SIGNS, SOLUTION, Support
from .codes import gather, padded_codes, scatter, widened
from .int8 import ATOMS, LANES
from .lasso_state import Buffers, Problem, Round, RowStates, Settings
from .lasso_support import dots, enter_or_replace, refactor, refine_signed
from .screening import correlate, screened
from .support import PAD, settle, subtract
from .vectors import ENTRY, INLINED, OPTIONS, any_at_least, copy, dot

MAX_TOL_GROWTH = 1e3  # a row ends when its tolerance has grown by this factor: tenfold with each recomputed inverse
N_CANDIDATES = 64
ROWS_PER_PRODUCT = {True: 128, False: 512}  # of integers: their correlations stay in the cache; of float32
INITIAL_ROOM = 64  # atoms of a support; doubled where a row needs more
MAX_SUPPORT_BYTES = 1 << 27  # of the inverses of supports that outgrew INITIAL_ROOM


@njit(**INLINED)
def _size(value, positive):
    return value if positive else abs(value)


@njit(**OPTIONS)
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
                j = max(j, np.int64(k) if _size(h[k], positive) == best else j)
            candidates[n] = j
            n += 1
    return n


@njit(**OPTIONS)
def _check(D, r, h, tops, least, bound, positive, candidates, near):
    """Exact correlations of the atoms above `least`: those that exceed the bound, until `candidates` is full.

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
                if _size(h[j], positive) > least:
                    value = dot(D[j], r)
                    if _size(value, positive) > bound and n < len(candidates):
                        candidates[n], near[n] = j, value
                        n += 1
    return n


@njit(**OPTIONS)
def _candidates(D, r, row, bound, positive, candidates, near):
    """The candidates of a row and their correlations; returns their number.  row: (values, tops, unit, error)."""
    h, tops, unit, error = row
    sure = np.float32((bound + error) / unit)
    n = _choose(h, tops, len(D), sure, positive, candidates)
    dots(D, candidates, r, near, n)
    if n == 0:
        n = _check(D, r, h, tops, np.float32((bound - error) / unit), bound, positive, candidates, near)
    return n


@njit(**OPTIONS)
def _improve(x, D, squares, r, n, bound, dependence, refactored, settings, support, buffers, m):
    """Solve the row on its support and n candidates.  Returns the size of the support and whether it changed.

    refactored: whether M was recomputed.  r (d,): scratch in the dtype of x."""
    _, atoms, lists = support
    candidates, near, residual = buffers
    alpha, positive, has_changed, alone = settings.alpha, settings.positive, False, False
    c, entered, room, most = lists[COEFFICIENTS], lists[ENTERED], len(atoms) - 2 * PAD, min(D.shape)
    for now in range(10 * len(candidates)):
        top = 0.0
        for k in range(n):
            top = max(top, _size(near[k], positive))
        if top <= bound and not (refactored and now == 0):
            break
        least, before, n_entered = top if alone else bound + ENTRY_SHARE * (top - bound), m, 0
        for k in range(n):
            atom, inside = candidates[k], False
            if _size(near[k], positive) < least or n_entered == (1 if alone else MAX_ENTERING) or m == room < most:
                continue
            for i in range(m):
                inside |= atoms[i] == atom
            if not inside:
                exchange, sign = alone and alpha > 0, 1.0 if near[k] > 0 else -1.0
                m = enter_or_replace(x, atom, squares[atom], sign, exchange, dependence, now, D, support, residual, m)
                n_entered += 1
        m = settle(support, m, alpha, positive or alpha > 0)
        changed = m != before
        for i in range(m):
            changed |= entered[i] == now
        subtract(x, D, atoms, c, r, m)
        dots(D, candidates, r, near, n)
        has_changed |= changed
        if alone and not changed:
            break
        alone = not changed  # of several that entered none was right: the largest violation alone is
    for i in range(m):
        entered[i] = -1
    return m, has_changed


@njit(**OPTIONS)
def _round(x, D, squares, row, r, this, settings, support, buffers, m):
    """One round of a row of approximate correlations; the last round only evaluates it.

    row: (values, tops, unit, error).  this: a `Round`.  Returns the size of the support and the status of the row.
    """
    _, atoms, lists = support
    alpha, rounding, missed, room = settings.alpha, this.rounding, 0.0, len(atoms) - 2 * PAD
    dots(D, atoms, r, lists[SOLUTION], m)
    for i in range(m):
        missed = max(missed, abs(lists[SOLUTION, i] - alpha * lists[SIGNS, i]))
        row[0][atoms[i]] = 0
    refactors = missed > 10 * rounding or this.previous == STUCK
    candidates, near, residual = buffers
    n, top = _candidates(D, r, row, alpha + rounding, settings.positive, candidates, near), 0.0
    if n == 0 and not refactors:
        return m, FINISHED
    if this.is_last or (refactors and not this.may_refactor):
        return m, UNFINISHED
    for k in range(n):
        top = max(top, _size(near[k], settings.positive))
    if refactors:
        m = refactor(x, D, this.dependence, support, residual, m)
    m, changed = _improve(
        x, D, squares, r, n, alpha + rounding, this.dependence, refactors, settings, support, buffers, m
    )
    if changed or refactors:
        refine_signed(x, D, alpha, settings.positive or alpha > 0, support, residual, m)
        return m, REFACTORED if refactors else RUNNING
    if m == room < min(D.shape):
        return m, NO_ROOM
    return m, FINISHED if top <= alpha + 10 * rounding else STUCK


@njit(**ENTRY)
def _rounds(X, D, squares, correlations, rows, settings, buffers, states):
    """One round of some rows, of `Screened` correlations: those that have not ended come first in `rows`.

    Returns the number of rows that have not ended.
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
        h = values[i], tops[i], units[i], errors[i]
        m, status = _round(
            X[row], D, squares, h, states.residuals[row], this, settings, support, buffers, states.sizes[row]
        )
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


@njit(**ENTRY)
def _write(X, D, alpha, signed, residual, states, where, found):
    """Write the codes of the rows that ended, the non-zeros in the order of the atoms, into rows `where` of `found`."""
    for row in range(len(X)):
        if states.status[row] == NO_ROOM:
            continue
        support, m = Support(states.inverses[row], states.atoms[row], states.lists[row]), states.sizes[row]
        refine_signed(X[row], D, alpha, signed, support, residual, m)
        indices, values, n = found.indices[where[row]], found.values[where[row]], np.int64(0)
        for i in range(m):
            value = values.dtype.type(support.lists[COEFFICIENTS, i])
            if value != 0:
                j = n
                while j > 0 and indices[j - 1] > support.atoms[i]:
                    indices[j], values[j] = indices[j - 1], values[j - 1]
                    j -= 1
                indices[j], values[j] = support.atoms[i], value
                n += 1
        found.counts[where[row]] = n


def lasso_products(X, D, screen, coder):
    """Codes C (n, K) of the rows X (n, d), and the number of unfinished rows: as `lasso`, without Gram matrix.

    screen: a `screening.Screen` of D.
    """
    C, start, n_unfinished = np.empty((len(X), len(D)), X.dtype), 0, 0
    for codes, left in _batches(X, D, screen, coder):
        scatter(*codes, C[start : start + len(codes.counts)])
        start, n_unfinished = start + len(codes.counts), n_unfinished + left
    return C, n_unfinished


def compressed_lasso_products(X, D, screen, coder):
    """As `lasso_products`, with codes in the form of `codes.compress`."""
    batches = list(_batches(X, D, screen, coder))
    found = [(codes.counts, *gather(*codes)) for codes, _ in batches]
    return tuple(map(np.concatenate, zip(*found, strict=True))), sum(left for _, left in batches)


def _batches(X, D, screen, coder):
    """For some rows at a time, the `PaddedCodes` and the number of unfinished rows."""
    size = X.dtype.itemsize
    settings = Settings(float(coder.alpha), coder.positive, coder.max_iter, OPTIMALITY_TOL[size], DEPENDENCE_TOL[size])
    buffers = Buffers(np.empty(N_CANDIDATES, np.int64), np.empty(N_CANDIDATES, X.dtype), np.empty(X.shape[1]))
    n_rows = ROWS_PER_PRODUCT[screen.is_int8]
    memory = screened(screen, min(len(X), n_rows), X.shape[1])
    for start in range(0, len(X), n_rows):
        x = X[start : start + n_rows]
        problem = Problem(x, D, screen, settings, memory, buffers)
        yield _solve(problem, np.arange(len(x)), _initial_states(x, D), padded_codes(len(x), 0, X.dtype))


def _initial_states(X, D):
    """The states of rows X before their first round.

    No variable of the caller holds them, so that those of the next rows reuse the memory: new pages took 20 % of the
    time.
    """
    status, n_rounds, sizes = np.zeros((3, len(X)), np.int64)
    roundings, dependence = np.empty((2, len(X)))
    supports = _supports(len(X), min(INITIAL_ROOM, *D.shape))
    return RowStates(X.copy(), status, n_rounds, roundings, dependence, sizes, *supports)


def _supports(n, room):
    """The lists, atoms and inverses of n supports of at most `room` atoms."""
    size = room + 2 * PAD
    return np.zeros((n, N_LISTS, size)), np.empty((n, size), np.int64), np.empty((n, size, size))


def _solve(problem, which, states, found):
    """The `PaddedCodes`, `found` with the codes of some rows of a batch, from the states that these rows are in.

    which: the numbers of the rows.  Returns also the number of unfinished rows.
    """
    X, D, screen, settings, memory, buffers = problem
    x, rows, signed = X[which], np.arange(len(which)), settings.positive or settings.alpha > 0
    while len(rows):
        correlate(screen, states.residuals, rows, settings.positive, memory)
        correlations = memory.values, memory.tops, memory.units, memory.errors
        rows = rows[: _rounds(x, D, screen.squares, correlations, rows, settings, buffers, states)]
    found = widened(found, states.sizes.max(initial=0))
    _write(x, D, settings.alpha, signed, buffers.residual, states, which, found)
    n_unfinished, full = int((states.status == UNFINISHED).sum()), np.flatnonzero(states.status == NO_ROOM)
    *scalars, lists, atoms, inverses = states
    room = min(2 * (atoms.shape[1] - 2 * PAD), *D.shape)
    at_once = max(1, MAX_SUPPORT_BYTES // (8 * room**2))
    for start in range(0, len(full), at_once):  # rows that need more room continue from their states
        some = full[start : start + at_once]
        larger = _supports(len(some), room)
        for new, old in zip(larger, (lists, atoms, inverses), strict=True):
            new[tuple(map(slice, (len(some), *old.shape[1:])))] = old[some]
        more = RowStates(*(array[some] for array in scalars), *larger)
        found, left = _solve(problem, which[some], more, found)
        n_unfinished += left
    return found, n_unfinished
