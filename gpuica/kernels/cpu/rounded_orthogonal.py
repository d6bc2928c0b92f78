"""Orthogonal matching pursuit of float64 rows whose atoms are chosen in float32, from arrays of half the size.

A choice counts if the rounding of float32 cannot change it; rows with other choices are coded in float64.  The
coefficients on the chosen atoms are least squares in float64.

ORMP is left to `orthogonal`: the gains of atoms close to the span of the support, h² divided by what is outside of it,
have few digits, and on image patches a quarter of the rows was uncertain.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from ...coders.support import ROUNDING_TOL
from ..fallback import encode_in_batches
from ..status import FINISHED, ILL_CONDITIONED
from ..tolerances import GRAM_DEPENDENCE_TOL
from .codes import gather, padded_codes, scatter
from .orthogonal import encode, orthogonal, settings, workspace
from .vectors import ENTRY, MERGED, copy, inner, inner_four

FLOAT32_EPS = float(np.finfo(np.float32).eps)
# Of float32 correlations, in units of ‖x‖ ‖d‖.  With an eighth of it none of 260,000 codes (image patches, activations,
# coherent, uncentered and unlike atoms) had other atoms than in float64; with 0 up to 3 of 10,000.
UNCERTAINTY = 16 * FLOAT32_EPS
MIN_DETERMINANT = 1e-8  # of the Gram matrix of a support of unit atoms
MAX_ATOMS_PER_FEATURE = 1 / 4  # of a support: residuals of larger ones are small, and most choices uncertain
MIN_NORM, MAX_NORM = 1e-12, 1e12  # of atoms that float32 represents accurately, and their inner products
MAX_CORRELATION = 1e140  # in float64, whose square does not overflow
MANY = 64  # rows of a chunk for which the kernel in float64 is worth compiling, and its Gram matrix worth computing
FIRST_ROWS = 64  # of a chunk; no others are tried where most of these are uncertain


class Rounded(NamedTuple):
    """A dictionary (K, d) and its Gram matrix (K, K) in float32.

    norm: the largest of an atom.  exact: a list with the Gram matrix in float64, once a chunk has needed it.
    """

    atoms: Any
    gram: Any
    squares: Any
    norm: float
    exact: list


def rounded(D, coder):
    """The `Rounded` form of a dictionary D (K, d), or None where it does not serve the coder."""
    if D.dtype != np.float64 or coder.kernel != "orthogonal" or coder.by_gain or coder.target > 0:
        return None
    norms = np.sqrt((D * D).sum(axis=1))
    accurate = ((norms == 0) | ((norms > MIN_NORM) & (norms < MAX_NORM))).all()
    if coder.n_nonzero > MAX_ATOMS_PER_FEATURE * D.shape[1] or not accurate:
        return None
    atoms = D.astype(np.float32)
    gram = atoms @ atoms.T
    return Rounded(atoms, gram, np.diagonal(gram).copy(), float(norms.max()), [])


@njit(**ENTRY)
def _choose(X, Q, G, squares, n_nonzero, settings, work, chosen, status):
    """Write the atoms of each row into chosen (n, n_nonzero); status (n,): FINISHED where they are certain."""
    n_uncertain = np.int64(0)
    for row in range(len(X)):
        if row >= FIRST_ROWS and n_uncertain > row // 2:
            status[row] = ILL_CONDITIONED
            n_uncertain += 1
            continue
        square = np.float64(inner(X[row], X[row]))
        m, _, shares, end = encode(G, Q[row], squares, square, settings, work)
        is_certain = end == FINISHED and m == n_nonzero and shares >= settings.safe_determinant
        status[row] = FINISHED if is_certain else ILL_CONDITIONED
        n_uncertain += not is_certain and square > 0
        for i in range(m):
            chosen[row, i] = work.atoms[i]


@njit(**MERGED)
def _least_squares(x, D, atoms, m, dependence, L, c):
    """c becomes the least squares coefficients of x on the first m atoms, by Cholesky's factor L of their products.

    Returns whether each atom has more than `dependence` of its square outside the span of those before it.
    """
    for i in range(m):
        atom, whole = D[atoms[i]], (i + 1) // 4 * 4
        c[i] = inner(atom, x)
        for j in range(0, whole, 4):
            four = inner_four(D[atoms[j]], D[atoms[j + 1]], D[atoms[j + 2]], D[atoms[j + 3]], atom)
            L[i, j], L[i, j + 1], L[i, j + 2], L[i, j + 3] = four
        for j in range(whole, i + 1):
            L[i, j] = inner(atom, D[atoms[j]])
    for i in range(m):
        square = L[i, i]
        for j in range(i + 1):
            total = L[i, j]
            for k in range(j):
                total -= L[i, k] * L[j, k]
            L[i, j] = total / L[j, j] if j < i else total
        if not L[i, i] > dependence * square:
            return False
        L[i, i] = np.sqrt(L[i, i])
        total = c[i]
        for k in range(i):
            total -= L[i, k] * c[k]
        c[i] = total / L[i, i]
    for i in range(m - 1, -1, -1):
        total = c[i]
        for k in range(i + 1, m):
            total -= L[k, i] * c[k]
        c[i] = total / L[i, i]
    return True


@njit(**MERGED)
def _next_atom(x, D, atoms, m, c, residual):
    """The atom of the largest |D (x - c D)|, where c is zero but for the first m atoms, and that correlation."""
    copy(x, residual)
    for i in range(m):
        for k in range(len(residual)):
            residual[k] -= c[i] * D[atoms[i], k]
    top, best = 0.0, np.int32(0)
    for j in range(len(D)):
        value = abs(inner(D[j], residual))
        if value > top:
            top, best = value, np.int32(j)
    return best, top


@njit(**ENTRY)
def _solve(X, D, chosen, status, exact, rounding, dependence, residual, L, c, counts, indices, values):
    """Write the codes of the rows X with the atoms chosen (n, n_nonzero), in the order of the atoms.

    exact: whether to choose the atoms of rows that are not FINISHED again, in float64.  rounding, dependence: see
    `tolerances`.
    """
    n_nonzero = chosen.shape[1]
    for row in range(len(X)):
        x, atoms, least = X[row], chosen[row], 0.0
        m, is_solved = n_nonzero if status[row] == FINISHED else np.int64(0), exact or status[row] == FINISHED
        if inner(x, x) == 0:
            status[row] = FINISHED
            continue
        while is_solved:
            is_solved = _least_squares(x, D, atoms, m, dependence, L, c)
            if not is_solved or m == n_nonzero:
                break
            atoms[m], top = _next_atom(x, D, atoms, m, c, residual)
            m, least = m + 1, max(least, rounding * top)
            is_solved = least < top < MAX_CORRELATION
        status[row] = FINISHED if is_solved else ILL_CONDITIONED
        for i in range(n_nonzero):
            j, atom = i, atoms[i]
            while j > 0 and indices[row, j - 1] > atom:
                indices[row, j], values[row, j] = indices[row, j - 1], values[row, j - 1]
                j -= 1
            indices[row, j], values[row, j] = atom, c[i]
        counts[row] = n_nonzero


def rounded_orthogonal(X, D, form, coder):
    """Codes C (n, K) of the rows X (n, d), and the number of unfinished rows: as `orthogonal`.

    form: the `Rounded` form of D.
    """
    codes, n_unfinished = _codes(X, D, form, coder)
    C = np.empty((len(X), len(D)), X.dtype)
    scatter(*codes, C)
    return C, n_unfinished


def compressed_rounded_orthogonal(X, D, form, coder):
    """As `rounded_orthogonal`, with codes in the form of `codes.compress`."""
    (counts, indices, values), n_unfinished = _codes(X, D, form, coder)
    return (counts, *gather(counts, indices, values)), n_unfinished


def _codes(X, D, form, coder):
    """The `PaddedCodes` of the rows X, and the number of unfinished rows."""
    n_nonzero = min(coder.n_nonzero, *D.shape)
    chosen, status = np.zeros((len(X), n_nonzero), np.int32), np.empty(len(X), np.int64)
    _choose_in_float32(X, form, coder, chosen, status)
    codes, size = padded_codes(len(X), n_nonzero, X.dtype), X.itemsize
    scratch = np.empty(D.shape[1]), np.empty((n_nonzero, n_nonzero)), np.empty(n_nonzero)
    few = bool((status != FINISHED).sum() < MANY)
    _solve(X, D, chosen, status, few, ROUNDING_TOL[size], GRAM_DEPENDENCE_TOL[size], *scratch, *codes)
    return codes, _code_others(X, D, np.flatnonzero(status != FINISHED), form, coder, codes)


def _choose_in_float32(X, form, coder, chosen, status):
    """Write the atoms of the rows X into chosen (n, n_nonzero), and whether they are certain into status (n,)."""
    dtype, shape = form.atoms.dtype, form.atoms.shape
    shared = settings(dtype, shape, coder, UNCERTAINTY * form.norm)._replace(safe_determinant=MIN_DETERMINANT)
    with np.errstate(over="ignore", invalid="ignore"):  # rows that float32 cannot represent are not certain
        x = X.astype(dtype)
        Q = x @ form.atoms.T
    _choose(x, Q, form.gram, form.squares, chosen.shape[1], shared, workspace(dtype, shape, coder), chosen, status)


def _code_others(X, D, rows, form, coder, codes):
    """Write the codes of some rows, computed in float64, into `codes`; return the number of unfinished rows."""
    if not len(rows):
        return 0
    if len(rows) < MANY:
        C, n_unfinished = encode_in_batches(X[rows], D, coder)
    else:
        if not form.exact:  # two threads can both compute it
            form.exact[:] = [D @ D.T]
        C = X[rows] @ D.T
        n_unfinished = orthogonal(X[rows], D, form.exact[0], C, coder)
    columns = np.argsort(C == 0, axis=1, kind="stable")[:, : codes.indices.shape[1]]
    codes.counts[rows] = (C != 0).sum(axis=1)
    codes.indices[rows], codes.values[rows] = columns, np.take_along_axis(C, columns, axis=1)
    return n_unfinished
