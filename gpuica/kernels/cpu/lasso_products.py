"""Lasso for many rows against one dictionary without its Gram matrix, and for rows whose supports are ill-conditioned.

As `lasso`, with h = D (x - c D) of many rows by one product, of two digits: `screening`.  Rows take the rounds of
`lasso_rounds`, and those with nearly dependent atoms then the rounds of `lasso_dependent`.
"""

import numpy as np
from numba import njit

from ...coders.support import DEPENDENCE_TOL
from ..status import ILL_CONDITIONED, NO_ROOM, UNFINISHED
from ..tolerances import LASSO_DEPENDENCE_TOL, OPTIMALITY_TOL
from ..workspace import COEFFICIENTS, N_LISTS, Support
from .codes import gather, padded_codes, scatter, widened
from .lasso_dependent import dependent_rounds
from .lasso_rounds import independent_rounds, refine_signed
from .lasso_state import Buffers, Problem, RowStates, Settings
from .screening import correlate, screened
from .support import PAD
from .vectors import ENTRY

N_CANDIDATES = 64
ROWS_PER_PRODUCT = {True: 128, False: 512}  # of integers: their correlations stay in the cache; of float32
INITIAL_ROOM = 64  # atoms of a support; doubled where a row needs more
MAX_SUPPORT_BYTES = 1 << 27  # of the inverses of supports that outgrew INITIAL_ROOM


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


def lasso_products(X, D, screen, coder, independent=True):
    """Codes C (n, K) of the rows X (n, d), and the number of unfinished rows: as `lasso`, without Gram matrix.

    screen: a `screening.Screen` of D.  independent: False for rows that are known to have nearly dependent atoms.
    """
    C, start, n_unfinished = np.empty((len(X), len(D)), X.dtype), 0, 0
    for codes, left in _batches(X, D, screen, coder, independent):
        scatter(*codes, C[start : start + len(codes.counts)])
        start, n_unfinished = start + len(codes.counts), n_unfinished + left
    return C, n_unfinished


def compressed_lasso_products(X, D, screen, coder):
    """As `lasso_products`, with codes in the form of `codes.compress`."""
    batches = list(_batches(X, D, screen, coder, independent=True))
    found = [(codes.counts, *gather(*codes)) for codes, _ in batches]
    return tuple(map(np.concatenate, zip(*found, strict=True))), sum(left for _, left in batches)


def _batches(X, D, screen, coder, independent):
    """For some rows at a time, the `PaddedCodes` and the number of unfinished rows."""
    size = X.dtype.itemsize
    fast = Settings(
        float(coder.alpha), coder.positive, coder.max_iter, OPTIMALITY_TOL[size], LASSO_DEPENDENCE_TOL[size]
    )
    careful = fast._replace(dependence=DEPENDENCE_TOL[size])
    buffers = Buffers(np.empty(N_CANDIDATES, np.int64), np.empty(N_CANDIDATES, X.dtype), np.empty(X.shape[1]))
    n_rows = ROWS_PER_PRODUCT[screen.is_int8]
    memory = screened(screen, min(len(X), n_rows), X.shape[1])
    for start in range(0, len(X), n_rows):
        x = X[start : start + n_rows]
        codes, rows, n_unfinished = padded_codes(len(x), 0, X.dtype), np.arange(len(x)), 0
        if independent:
            problem = Problem(x, D, screen, fast, memory, buffers, independent_rounds)
            codes, rows, n_unfinished = _solve(problem, rows, _initial_states(x, D), codes)
        if len(rows):
            problem = Problem(x, D, screen, careful, memory, buffers, dependent_rounds)
            codes, _, more = _solve(problem, rows, _initial_states(x[rows], D), codes)
            n_unfinished += more
        yield codes, n_unfinished


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

    which: the numbers of the rows.  Returns also those of the ill-conditioned rows, and the number of unfinished ones.
    """
    X, D, screen, settings, memory, buffers, take_rounds = problem
    x, rows, signed = X[which], np.arange(len(which)), settings.positive or settings.alpha > 0
    while len(rows):
        correlate(screen, states.residuals, rows, settings.positive, memory)
        correlations = memory.values, memory.tops, memory.units, memory.errors
        rows = rows[: take_rounds(x, D, screen.squares, correlations, rows, settings, buffers, states)]
    found = widened(found, states.sizes.max(initial=0))
    _write(x, D, settings.alpha, signed, buffers.residual, states, which, found)
    n_unfinished, full = int((states.status == UNFINISHED).sum()), np.flatnonzero(states.status == NO_ROOM)
    ill_conditioned = [which[states.status == ILL_CONDITIONED]]
    *scalars, lists, atoms, inverses = states
    room = min(2 * (atoms.shape[1] - 2 * PAD), *D.shape)
    at_once = max(1, MAX_SUPPORT_BYTES // (8 * room**2))
    for start in range(0, len(full), at_once):  # rows that need more room continue from their states
        some = full[start : start + at_once]
        larger = _supports(len(some), room)
        for new, old in zip(larger, (lists, atoms, inverses), strict=True):
            new[tuple(map(slice, (len(some), *old.shape[1:])))] = old[some]
        more = RowStates(*(array[some] for array in scalars), *larger)
        found, others, left = _solve(problem, which[some], more, found)
        ill_conditioned.append(others)
        n_unfinished += left
    return found, np.concatenate(ill_conditioned), n_unfinished
