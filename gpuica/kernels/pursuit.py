"""Non-negative OMP, matching and gradient pursuit, least angle regression for many rows against one dictionary.

One atom a step; correlations are refreshed from rows of the Gram matrix (Rubinstein, Zibulevsky and Elad, 2008) instead
of a product with the dictionary.
"""

import numpy as np
from numba import njit

from .support import enter, refine, settle, times, workspace, write
from .vectors import ENTRY, OPTIONS, any_beyond, copy, fill, inner, largest, subtract_atoms

# Share of an atom's square outside the span of others below which it depends on them.
FLOOR = {4: 1e-6, 8: 1e-12}
NOISE = {4: 1e-6, 8: 1e-14}  # of a row's largest correlation: what is left below it is rounding


@njit(**OPTIONS)
def _where(h, top):
    """The first index with |h| = top, the largest of them."""
    for start in range(0, len(h), 64):
        stop = min(start + 64, len(h))
        if any_beyond(h[start:stop], top):
            for j in range(start, stop):
                if abs(h[j]) >= top:
                    return j
    return 0


@njit(**OPTIONS)
def _where_positive(h, top):
    for j in range(len(h)):
        if h[j] >= top:
            return j
    return 0


@njit(**OPTIONS)
def _nonnegative(x, D, G, q, most, target, floor, noise, mask, h, bits, M, scratch, act):
    """Non-negative orthogonal matching pursuit of one row; returns the size of its support, in act and scratch[0].

    Ends with `most` atoms, at a squared residual of `target`, or when what is left is rounding.
    """
    c, s, b, born, w, a = scratch[0], scratch[1], scratch[2], scratch[3], scratch[6], scratch[7]
    K, m, square = len(q), np.int64(0), inner(x, x)
    copy(q, h)
    top = largest(h, bits, mask)
    least, left = noise * top, square
    for now in range(2 * most):  # atoms may leave again
        if m == most or left <= target or top <= least:
            break
        j = _where_positive(h[:K], top)
        row = G[j]
        for i in range(m):
            a[i] = row[act[i]]
        if not enter(M, a, w, row[j], m, floor):
            break
        act[m], c[m], s[m], b[m], born[m] = j, 0.0, 1.0, inner(x, D[j]), now
        m += 1
        m = settle(M, act, scratch, m, 0.0, True)
        copy(q, h)
        subtract_atoms(h[:K], G, act, c, m)
        top = largest(h, bits, mask)
        left = square
        for i in range(m):
            left -= b[i] * c[i]
    return m


@njit(**OPTIONS)
def _matching(x, G, q, most, target, gradient, noise, mask, h, bits, scratch, act, place):
    """Matching pursuit, or gradient pursuit, of one row in `most` steps; returns the size of its support.

    place (K,): -1, and again on return.
    """
    c, moved = scratch[0], scratch[4]
    K, m, left = len(q), np.int64(0), inner(x, x)
    copy(q, h)
    top = largest(h, bits, mask)
    least = noise * top
    for _ in range(most):
        if left <= target or top <= least:
            break
        j = _where(h[:K], top)
        if place[j] < 0:
            place[j], act[m], c[m] = m, j, 0.0
            m += 1
        if gradient:  # Blumensath and Davies, "Gradient pursuits", 2008: all coefficients of the support move
            along, curvature = 0.0, 0.0
            for i in range(m):
                moved[i] = h[act[i]]
                along += moved[i] * moved[i]
            for i in range(m):
                for k in range(m):
                    curvature += moved[i] * G[act[i], act[k]] * moved[k]
            step = along / curvature
            for i in range(m):
                moved[i] *= step
                c[i] += moved[i]
            subtract_atoms(h[:K], G, act, moved, m)
            left -= step * along
        else:
            step = h[j] / G[j, j]
            left -= step * h[j]
            c[place[j]] += step
            row, real = G[j], h.dtype.type(step)
            for k in range(K):
                h[k] -= real * row[k]
        top = largest(h, bits, mask)
    for i in range(m):
        place[act[i]] = -1
    return m


@njit(**OPTIONS)
def _angles(G, q, most, floor, noise, mask, h, bits, M, scratch, act, slopes, place):
    """Least angle regression of one row up to `most` atoms; returns the size of its support.

    Efron, Hastie, Johnstone and Tibshirani, "Least angle regression", 2004.  slopes, place (K,): scratch, place is -1.
    """
    c, s, direction, w, a = scratch[0], scratch[1], scratch[4], scratch[6], scratch[7]
    K, m = len(q), np.int64(0)
    copy(q, h)
    top = np.float64(largest(h, bits, mask))
    least, j = noise * top, _where(h[:K], h.dtype.type(top))
    while m < most and top > least:
        row = G[j]
        for i in range(m):
            a[i] = row[act[i]]
        place[j] = 1
        entered = enter(M, a, w, row[j], m, floor)
        if entered:
            act[m], c[m], s[m] = j, 0.0, 1.0 if h[j] > 0 else -1.0
            m += 1
        # all correlations of the support fall alike, at rate 1, along direction = M s
        times(M, s, direction, m)
        fill(slopes, 0)
        subtract_atoms(slopes, G, act, direction, m)
        step, j = top, np.int64(-1)
        for k in range(K):
            if place[k] < 0:
                fall = -np.float64(slopes[k])  # of h_l for a unit step; at 1 it keeps up, as duplicates do
                if fall < 1 - floor and (top - h[k]) / (1 - fall) < step:
                    step, j = (top - h[k]) / (1 - fall), k
                if fall > floor - 1 and (top + h[k]) / (1 + fall) < step:
                    step, j = (top + h[k]) / (1 + fall), k
        step = max(step, np.float64(0))
        for i in range(m):
            c[i] += step * direction[i]
        copy(q, h)
        subtract_atoms(h[:K], G, act, c, m)
        top -= step
        if j < 0:
            break
    for k in range(K):
        place[k] = -1
    return m


@njit(**ENTRY)
def _nonnegative_rows(X, D, G, Q, most, target, floor, noise, mask, h, bits, M, scratch, act, residual):
    for row in range(len(Q)):
        q = Q[row]
        m = _nonnegative(X[row], D, G, q, most, target, floor, noise, mask, h, bits, M, scratch, act)
        refine(X[row], D, act, scratch[0], 0.0, scratch[1], M, scratch[4], scratch[5], residual, m)
        for i in range(m):
            scratch[0, i] = max(scratch[0, i], 0.0)
        write(q, act, scratch[0], m)


@njit(**ENTRY)
def _matching_rows(X, G, Q, most, target, gradient, noise, mask, h, bits, scratch, act, place):
    for row in range(len(Q)):
        m = _matching(X[row], G, Q[row], most, target, gradient, noise, mask, h, bits, scratch, act, place)
        write(Q[row], act, scratch[0], m)


@njit(**ENTRY)
def _angles_rows(G, Q, most, floor, noise, mask, h, bits, M, scratch, act, slopes, place):
    for row in range(len(Q)):
        m = _angles(G, Q[row], most, floor, noise, mask, h, bits, M, scratch, act, slopes, place)
        write(Q[row], act, scratch[0], m)


def nonnegative(X, D, G, Q, coder):
    """Codes of X (n, d) by non-negative OMP: n_nonzero atoms, or fewer where ‖x - c D‖² <= target.

    G = D Dᵀ; Q = X Dᵀ becomes the codes.  coder: n_nonzero, target.  Returns 0, as every row is finished.
    """
    size, most = Q.dtype.itemsize, min(coder.n_nonzero, *D.shape)
    h, bits, *arrays = workspace(Q.dtype, len(D), D.shape[1], most)
    mask = bits.dtype.type(-1)
    settings = most, float(coder.target), FLOOR[size], NOISE[size], mask
    _nonnegative_rows(X, D, G, Q, *settings, h, bits, *arrays)
    return 0


def matching_pursuit(X, D, G, Q, coder):
    """As `nonnegative`, by n_nonzero steps of matching or gradient pursuit.  coder: n_nonzero, target, gradient."""
    h, bits, *_ = workspace(Q.dtype, len(D), 0, 0)
    scratch, act = np.zeros((8, coder.n_nonzero)), np.empty(coder.n_nonzero, np.int64)
    place, mask = np.full(len(D), -1), np.iinfo(bits.dtype).max
    settings = coder.n_nonzero, float(coder.target), coder.gradient, NOISE[Q.dtype.itemsize], bits.dtype.type(mask)
    _matching_rows(X, G, Q, *settings, h, bits, scratch, act, place)
    return 0


def lars(X, D, G, Q, coder):
    """As `nonnegative`, by least angle regression up to n_nonzero atoms.  coder: n_nonzero."""
    size, most = Q.dtype.itemsize, min(coder.n_nonzero, *D.shape)
    h, bits, M, scratch, act, _ = workspace(Q.dtype, len(D), D.shape[1], most)
    slopes, place, mask = np.empty(len(D), Q.dtype), np.full(len(D), -1), np.iinfo(bits.dtype).max
    settings = most, FLOOR[size], NOISE[size], bits.dtype.type(mask)
    _angles_rows(G, Q, *settings, h, bits, M, scratch, act, slopes, place)
    return 0
