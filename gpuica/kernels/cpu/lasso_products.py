"""Lasso for many rows against one dictionary without its Gram matrix, and for rows whose supports are ill-conditioned.

As `lasso`, with h = D (x - c D) of many rows by one matrix product.  A product costs more than what follows it, so a
row makes the most of each: the largest violation in every block of atoms is a candidate, and the row's problem is
solved on its support and the candidates, whose correlations are computed one by one, before the next product.

Three things keep ill-conditioned supports accurate: the distance of an atom close to the span of the support is
measured on the data; an atom that depends on the support may replace another; the inverse M is recomputed where the
support's equations do not hold.
"""

import numpy as np
from numba import njit

from ...coders.support import DEPENDENCE_TOL
from ..status import FINISHED, NO_ROOM, REFACTORED, RUNNING, STUCK, UNFINISHED
from ..tolerances import ENTRY_SHARE, MAX_ENTERING, NEAR_DEPENDENCE, OPTIMALITY_TOL
from ..workspace import COEFFICIENTS, COORDINATES, CORRELATIONS, ENTERED, INNER_PRODUCTS, N_LISTS, SIGNS, Support
from .lasso_state import Buffers, Round, RowStates, Settings
from .row import write
from .support import PAD, border, drop, refine, settle, subtract, times
from .vectors import ENTRY, INLINED, OPTIONS, Searchable, any_at_least, copy, dot, inner, largest, search_mask

MAX_TOL_GROWTH = 1e3  # a row ends when its tolerance has grown by this factor: tenfold with each recomputed inverse
N_CANDIDATES = 64
ROWS_PER_PRODUCT = 512
INITIAL_ROOM = 64  # atoms of a support; doubled where a row needs more
MAX_SUPPORT_BYTES = 1 << 27  # of the inverses of supports that outgrew INITIAL_ROOM


@njit(**OPTIONS)
def _measure(atom, D, support, residual, m):
    """The squared distance of an atom from the span of the support, in units of its square.

    lists[INNER_PRODUCTS]: its inner products with the support.  Its coordinates are left in lists[COORDINATES].
    """
    M, atoms, lists = support
    w, a = lists[COORDINATES], lists[INNER_PRODUCTS]
    times(M, a, w, m)
    square = inner(D[atom], D[atom])
    outside = square
    for i in range(m):
        outside -= a[i] * w[i]
    if outside < NEAR_DEPENDENCE * square:
        refine(D[atom], D, support, w, 0.0, w, residual, m)
        subtract(D[atom], D, atoms, w, residual, m)
        outside = inner(residual, residual)
    return outside / square


@njit(**OPTIONS)
def _make_way(sign, support, m):
    """Change c along (-w, 1) sign, which changes no fit, until the coefficient of an atom is zero; it leaves.

    For a new atom with coordinates w in the support, on which it depends.  Returns the support's size and the new
    atom's coefficient; the size is m where no coefficient reaches zero.
    """
    lists = support.lists
    c, w, a = lists[COEFFICIENTS], lists[COORDINATES], lists[INNER_PRODUCTS]
    step, first = np.inf, m
    for i in range(m):
        if c[i] * w[i] * sign > 0 and c[i] / (w[i] * sign) < step:
            step, first = c[i] / (w[i] * sign), i
    if first == m:
        return m, 0.0
    for i in range(m):
        c[i] -= step * sign * w[i]
    a[first] = a[m - 1]
    return drop(support, first, m), step * sign


@njit(**INLINED)
def _append(support, atom, m, value, sign, correlation, now):
    """Write a new atom behind the m of the support."""
    _, atoms, lists = support
    atoms[m], lists[COEFFICIENTS, m], lists[SIGNS, m] = atom, value, sign
    lists[CORRELATIONS, m], lists[ENTERED, m] = correlation, now


@njit(**OPTIONS)
def _enter(x, atom, sign, exchange, dependence, now, D, support, residual, m):
    """An atom enters the support, unless it depends on it; with `exchange` another atom then leaves.

    Returns the support's size.
    """
    M, atoms, lists = support
    a, w = lists[INNER_PRODUCTS], lists[COORDINATES]
    value = 0.0
    for i in range(m):
        a[i] = dot(D[atom], D[atoms[i]])
    for attempt in range(2):
        outside = _measure(atom, D, support, residual, m)
        if outside > dependence and m < min(D.shape):
            border(M, w, outside * inner(D[atom], D[atom]), m)
            _append(support, atom, m, value, sign, inner(D[atom], x), now)
            return m + 1
        if attempt or not exchange:
            break
        m, value = _make_way(sign, support, m)
    return m


@njit(**OPTIONS)
def _refactor(x, D, dependence, support, residual, m):
    """Recompute M and b from the atoms; those that depend on the atoms before them leave.  Returns the size."""
    M, atoms, lists = support
    a, w = lists[INNER_PRODUCTS], lists[COORDINATES]
    kept = np.int64(0)
    for i in range(m):
        atom = atoms[i]
        for j in range(kept):
            a[j] = inner(D[atom], D[atoms[j]])
        outside = _measure(atom, D, support, residual, kept)
        if outside > dependence:
            border(M, w, outside * inner(D[atom], D[atom]), kept)
            value, sign, entered = lists[COEFFICIENTS, i], lists[SIGNS, i], lists[ENTERED, i]
            _append(support, atom, kept, value, sign, inner(D[atom], x), entered)
            kept += 1
    return kept


@njit(**OPTIONS)
def _refine(x, D, alpha, signed, support, residual, m):
    """`support.refine` of the coefficients; a coefficient that thereby changes its sign becomes 0."""
    c, s = support.lists[COEFFICIENTS], support.lists[SIGNS]
    refine(x, D, support, c, alpha, s, residual, m)
    if signed:
        for i in range(m):  # zero, up to rounding
            c[i] = max(c[i] * s[i], 0.0) * s[i]


@njit(**OPTIONS)
def _choose(h, bound, positive, candidates, near):
    """The largest |h| > bound of every block of atoms, and those h; returns their number."""
    K, n = len(h), 0
    size = (K + len(candidates) - 1) // len(candidates)
    for start in range(0, K, size):
        best, largest, stop = -1, bound, min(start + size, K)
        if any_at_least(h[start:stop], h.dtype.type(bound)):
            for j in range(start, stop):
                violation = h[j] if positive else abs(h[j])
                if violation > largest:
                    best, largest = j, violation
        if best >= 0:
            candidates[n], near[n] = best, h[best]
            n += 1
    return n


@njit(**OPTIONS)
def _improve(x, D, h, r, bound, dependence, refactored, settings, support, buffers, m):
    """Solve the row on its support and the candidates that h gives.  Returns the size of the support and whether it
    changed.  refactored: whether M was recomputed.  r (d,): scratch in the dtype of x."""
    _, atoms, lists = support
    candidates, near, residual = buffers
    alpha, positive = settings.alpha, settings.positive
    c, entered, room, most = lists[COEFFICIENTS], lists[ENTERED], len(atoms) - 2 * PAD, min(D.shape)
    n, alone, has_changed = _choose(h, bound, positive, candidates, near), False, False
    for now in range(10 * len(candidates)):
        top = 0.0
        for k in range(n):
            top = max(top, near[k] if positive else abs(near[k]))
        if top <= bound and not (refactored and now == 0):
            break
        least, before, n_entered = top if alone else bound + ENTRY_SHARE * (top - bound), m, 0
        for k in range(n):
            atom, violation, inside = candidates[k], near[k] if positive else abs(near[k]), False
            if violation < least or n_entered == (1 if alone else MAX_ENTERING) or m == room < most:
                continue
            for i in range(m):
                inside |= atoms[i] == atom
            if not inside:
                exchange, sign = alone and alpha > 0, 1.0 if near[k] > 0 else -1.0
                m = _enter(x, atom, sign, exchange, dependence, now, D, support, residual, m)
                n_entered += 1
        m = settle(support, m, alpha, positive or alpha > 0)
        changed = m != before
        for i in range(m):
            changed |= entered[i] == now
        subtract(x, D, atoms, c, residual, m)
        copy(residual, r)
        for k in range(n):
            near[k] = dot(D[candidates[k]], r)
        has_changed |= changed
        if alone and not changed:
            break
        alone = not changed  # of several that entered none was right: the largest violation alone is
    for i in range(m):
        entered[i] = -1
    return m, has_changed


@njit(**OPTIONS)
def _round(x, D, h, r, this, settings, support, buffers, m):
    """One round of a row of correlations h; the last round only evaluates the row.

    this: a `Round`.  Returns the size of the support and the status of the row.
    """
    _, atoms, lists = support
    alpha, rounding, missed, room = settings.alpha, this.rounding, 0.0, len(atoms) - 2 * PAD
    for i in range(m):
        missed = max(missed, abs(h[atoms[i]] - alpha * lists[SIGNS, i]))
    refactors = missed > 10 * rounding or this.previous == STUCK
    if this.top <= alpha + rounding and not refactors:
        return m, FINISHED
    if this.is_last or (refactors and not this.may_refactor):
        return m, UNFINISHED
    if refactors:
        m = _refactor(x, D, this.dependence, support, buffers.residual, m)
    m, changed = _improve(x, D, h, r, alpha + rounding, this.dependence, refactors, settings, support, buffers, m)
    if changed or refactors:
        _refine(x, D, alpha, settings.positive or alpha > 0, support, buffers.residual, m)
        return m, REFACTORED if refactors else RUNNING
    if m == room < min(D.shape):
        return m, NO_ROOM
    return m, FINISHED if this.top <= alpha + 10 * rounding else STUCK


@njit(**ENTRY)
def _rounds(X, D, H, bits, rows, settings, buffers, states):
    """One round of some rows, of correlations H (rows, K + 1): those that have not ended come first in `rows`.

    bits: the memory of H, as integers.  Returns the number of rows that have not ended.
    """
    n_left, residual = 0, buffers.residual
    for i in range(len(rows)):
        row, h = rows[i], H[i]
        top = largest(Searchable(h, bits[i], settings.mask))
        support = Support(states.inverses[row], states.atoms[row], states.lists[row])
        if states.n_rounds[row] == 0:
            states.roundings[row], states.dependence[row] = settings.optimality * top, settings.dependence
        this = Round(
            top,
            states.roundings[row],
            states.dependence[row],
            states.status[row],
            states.n_rounds[row] == settings.max_iter,
            states.dependence[row] <= MAX_TOL_GROWTH * settings.dependence,
        )
        m, status = _round(
            X[row], D, h[: len(D)], states.residuals[row], this, settings, support, buffers, states.sizes[row]
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
def _write(X, D, C, alpha, signed, residual, states):
    """C becomes the codes of the rows that ended."""
    for row in range(len(X)):
        if states.status[row] != NO_ROOM:
            support, m = Support(states.inverses[row], states.atoms[row], states.lists[row]), states.sizes[row]
            _refine(X[row], D, alpha, signed, support, residual, m)
            write(C[row], support.atoms, support.lists[COEFFICIENTS], m)


def lasso_products(X, D, coder):
    """Codes C (n, K) of the rows X (n, d), and the number of unfinished rows: as `lasso`, without Gram matrix."""
    size, C, n_unfinished = X.dtype.itemsize, np.empty((len(X), len(D)), X.dtype), 0
    settings = Settings(
        float(coder.alpha),
        coder.positive,
        coder.max_iter,
        OPTIMALITY_TOL[size],
        DEPENDENCE_TOL[size],
        search_mask(X.dtype, coder.positive),
    )
    buffers = Buffers(np.empty(N_CANDIDATES, np.int64), np.empty(N_CANDIDATES, X.dtype), np.empty(X.shape[1]))
    bits = np.empty((min(len(X), ROWS_PER_PRODUCT), len(D) + 1), f"i{size}")
    for start in range(0, len(X), ROWS_PER_PRODUCT):
        x, code = X[start : start + ROWS_PER_PRODUCT], C[start : start + ROWS_PER_PRODUCT]
        n_unfinished += _solve(x, D, code, bits, settings, buffers, _initial_states(x, D))
    return C, n_unfinished


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


def _solve(X, D, C, bits, settings, buffers, states):
    """C becomes the codes of the rows X, from the state that they are in; returns the number of unfinished rows."""
    alpha, H, rows = settings.alpha, bits.view(X.dtype), np.arange(len(X))
    while len(rows):
        np.matmul(states.residuals[rows], D.T, out=H[: len(rows), :-1])
        rows = rows[: _rounds(X, D, H, bits, rows, settings, buffers, states)]
    _write(X, D, C, alpha, settings.positive or alpha > 0, buffers.residual, states)
    n_unfinished, full = int((states.status == UNFINISHED).sum()), np.flatnonzero(states.status == NO_ROOM)
    *scalars, lists, atoms, inverses = states
    room = min(2 * (atoms.shape[1] - 2 * PAD), *D.shape)
    at_once = max(1, MAX_SUPPORT_BYTES // (8 * room**2))
    for start in range(0, len(full), at_once):  # rows that need more room continue from their states
        some = full[start : start + at_once]
        larger, code = _supports(len(some), room), np.empty((len(some), len(D)), X.dtype)
        for new, old in zip(larger, (lists, atoms, inverses), strict=True):
            new[tuple(map(slice, (len(some), *old.shape[1:])))] = old[some]
        more = RowStates(*(array[some] for array in scalars), *larger)
        n_unfinished += _solve(X[some], D, code, bits, settings, buffers, more)
        C[some] = code
    return n_unfinished
