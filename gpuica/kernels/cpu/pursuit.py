"""Non-negative OMP, matching and gradient pursuit, least angle regression for many rows against one dictionary.

One atom a step; correlations are refreshed from rows of the Gram matrix (Rubinstein, Zibulevsky and Elad, 2008) instead
of a product with the dictionary.
"""

import numpy as np
from numba import njit

from ...coders.support import EPS, EXCESS, FLOOR, NOISE
from ..fallback import CLOSE, DONE, DOUBT, DRIFT, HARD, UNFINISHED, finish
from .support import enter, refine, settle, subtract, times, workspace, write
from .vectors import ENTRY, INLINED, OPTIONS, any_beyond, copy, fill, inner, largest, subtract_atoms


@njit(**INLINED)
def judged(x, D, q, act, c, residual, m, square, limit, target, eps):
    """How a row ends whose code q is written: DONE, UNFINISHED where ‖x - c D‖² misses the target, HARD where it is
    more than `limit` or ‖x‖² = square.  In the dtype of residual.

    Leaves the coefficients as they are written in c, x - c D in residual.
    """
    for i in range(m):
        c[i] = q[act[i]]
    subtract(x, D, act, c, residual, m)
    left = inner(residual, residual)
    if not left <= min(limit, square):
        return HARD
    return UNFINISHED if target > 0 and np.sqrt(left) > np.sqrt(target) + 4 * eps * np.sqrt(square) else DONE


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
def _nonnegative(x, D, G, q, most, target, close, doubt, noise, mask, h, bits, M, scratch, act):
    """Non-negative orthogonal matching pursuit of one row: its support in act and scratch[0].

    Returns the support's size, what is left of ‖x‖², and how the row ended.
    Ends with `most` atoms, at a squared residual of `target`, or when what is left is rounding.
    """
    c, s, b, born, w, a = scratch[0], scratch[1], scratch[2], scratch[3], scratch[6], scratch[7]
    K, m, square = len(q), np.int64(0), inner(x, x)
    copy(q, h)
    top = largest(h, bits, mask)
    least, left = noise * top, square
    for now in range(2 * most):  # atoms may leave again
        if target > 0 and abs(left - target) <= doubt * square:
            return m, left, HARD
        if m == most or left <= target or top <= least:
            return m, left, DONE
        j = _where_positive(h[:K], top)
        row = G[j]
        for i in range(m):
            a[i] = row[act[i]]
        if not enter(M, a, w, row[j], m, close):
            return m, left, HARD
        act[m], c[m], s[m], b[m], born[m] = j, 0.0, 1.0, inner(x, D[j]), now
        m = settle(M, act, scratch, m + 1, 0.0, True)
        stays = False
        for i in range(m):
            stays |= act[i] == j
        if not stays:
            return m, left, HARD
        copy(q, h)
        subtract_atoms(h[:K], G, act, c, m)
        left = square
        for i in range(m):
            h[act[i]] = 0  # but for rounding
            left -= b[i] * c[i]
        top = largest(h, bits, mask)
    return m, left, DONE if m == most or left <= target or top <= least else HARD


@njit(**OPTIONS)
def _matching(x, D, G, q, most, target, gradient, noise, mask, h, bits, scratch, act, place, residual, image):
    """Matching pursuit, or gradient pursuit, of one row in `most` steps; returns the size of its support.

    The step is the best one along the image of the direction, with the residual of the data: whatever rounding does to
    h, which only chooses the direction, the residual cannot grow.  place (K,): -1, and again on return.
    """
    c, moved = scratch[0], scratch[4]
    K, m, left = len(q), np.int64(0), inner(x, x)
    copy(q, h)
    copy(x, residual)
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
            fill(image, 0)
            for i in range(m):
                moved[i] = -h[act[i]]
            subtract_atoms(image, D, act, moved, m)
            square = inner(image, image)
            if not square > 0:
                break
            step = inner(image, residual) / square
            for k in range(len(image)):
                residual[k] -= step * image[k]
            for i in range(m):
                moved[i] *= -step
                c[i] += moved[i]
            subtract_atoms(h[:K], G, act, moved, m)
        else:
            row, atom = G[j], D[j]
            if not row[j] > 0:
                break
            step = inner(atom, residual) / row[j]
            for k in range(len(atom)):
                residual[k] -= step * atom[k]
            c[place[j]] += step
            real = h.dtype.type(step)
            for k in range(K):
                h[k] -= real * row[k]
        if target > 0:
            left = inner(residual, residual)
        top = largest(h, bits, mask)
    for i in range(m):
        place[act[i]] = -1
    return m


@njit(**OPTIONS)
def _angles(G, q, most, floor, close, noise, mask, h, bits, M, scratch, act, slopes, place):
    """Least angle regression of one row up to `most` atoms.

    Returns the size of its support, the correlation that all of its atoms have but for signs, the first of those, and
    how the row ended.

    Efron, Hastie, Johnstone and Tibshirani, "Least angle regression", 2004.  slopes, place (K,): scratch, place is -1.
    """
    c, s, direction, w, a = scratch[0], scratch[1], scratch[4], scratch[6], scratch[7]
    K, m = len(q), np.int64(0)
    copy(q, h)
    top = np.float64(largest(h, bits, mask))
    first, end, j = top, DONE, _where(h[:K], h.dtype.type(top))
    least = noise * top
    while m < most and top > least:
        row = G[j]
        for i in range(m):
            a[i] = row[act[i]]
        place[j] = 1
        if not enter(M, a, w, row[j], m, close):
            end = HARD
            break
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
    return m, top, first, end


@njit(**ENTRY)
def _nonnegative_rows(
    X, D, G, Q, ends, most, target, close, doubt, noise, drift, eps, mask, h, bits, M, scratch, act, residual
):
    c, missing = scratch[0], scratch[4]
    for row in range(len(Q)):
        q, x = Q[row], X[row]
        m, left, end = _nonnegative(x, D, G, q, most, target, close, doubt, noise, mask, h, bits, M, scratch, act)
        if end == DONE:
            bar = np.float64(q[0])
            for j in range(len(q)):
                bar = max(bar, np.float64(q[j]))
            refine(x, D, act, c, 0.0, scratch[1], M, missing, scratch[5], residual, m)
            for i in range(m):
                c[i] = max(c[i], 0.0)
                if abs(missing[i]) > 100 * noise * bar:
                    end = HARD
        if end == DONE:
            write(q, act, c, m)
            square = inner(x, x)
            end = judged(x, D, q, act, c, residual, m, square, left + drift * square, target, eps)
            if end == UNFINISHED and left <= target:
                end = HARD
        ends[row] = end


@njit(**ENTRY)
def _matching_rows(
    X, D, G, Q, ends, most, target, gradient, noise, excess, eps, mask, h, bits, scratch, act, place, residual, image
):
    c = scratch[0]
    for row in range(len(Q)):
        q, x = Q[row], X[row]
        m = _matching(x, D, G, q, most, target, gradient, noise, mask, h, bits, scratch, act, place, residual, image)
        write(q, act, c, m)
        square, left, size, end = inner(x, x), inner(residual, residual), 0.0, DONE
        for i in range(m):
            size += abs(c[i]) * np.sqrt(G[act[i], act[i]])
        if target > 0 or np.sqrt(left) + eps * size > np.sqrt(square):  # as the coefficients are rounded
            end = judged(x, D, q, act, c, residual, m, square, square, target, eps)
        if end == HARD:  # worse than nothing
            fill(q, 0)
            missed = target > 0 and square > target
            end = UNFINISHED if missed or inner(residual, residual) > (1 + excess) * square else DONE
        ends[row] = end


@njit(**ENTRY)
def _angles_rows(
    X, D, G, Q, ends, most, floor, close, noise, drift, mask, h, bits, M, scratch, act, residual, slopes, place
):
    c, s = scratch[0], scratch[1]
    for row in range(len(Q)):
        q, x = Q[row], X[row]
        m, top, first, end = _angles(G, q, most, floor, close, noise, mask, h, bits, M, scratch, act, slopes, place)
        if end == DONE:
            write(q, act, c, m)
            square = inner(x, x)
            end = judged(x, D, q, act, c, residual, m, square, square, 0.0, 0.0)
            for i in range(m):
                if abs(inner(D[act[i]], residual) * s[i] - top) > drift * first:
                    end = HARD
        ends[row] = end


def nonnegative(X, D, G, Q, coder):
    """Codes of X (n, d) by non-negative OMP: n_nonzero atoms, or fewer where ‖x - c D‖² <= target.

    G = D Dᵀ; Q = X Dᵀ becomes the codes.  coder: n_nonzero, target.  Returns how many rows were not finished.
    """
    size, most, ends = Q.dtype.itemsize, min(coder.n_nonzero, *D.shape), np.empty(len(X), np.int64)
    h, bits, *arrays = workspace(Q.dtype, len(D), D.shape[1], most)
    mask = bits.dtype.type(-1)
    settings = most, float(coder.target), CLOSE[size], DOUBT[size], NOISE[size], DRIFT[size], EPS[size], mask
    _nonnegative_rows(X, D, G, Q, ends, *settings, h, bits, *arrays)
    return finish(X, D, Q, ends, coder)


def matching_pursuit(X, D, G, Q, coder):
    """As `nonnegative`, by n_nonzero steps of matching or gradient pursuit.  coder: n_nonzero, target, gradient."""
    size, most, ends = Q.dtype.itemsize, coder.n_nonzero, np.empty(len(X), np.int64)
    h, bits, *_ = workspace(Q.dtype, len(D), 0, 0)
    scratch, act = np.zeros((8, most)), np.empty(most, np.int64)
    place, mask = np.full(len(D), -1), bits.dtype.type(np.iinfo(bits.dtype).max)
    settings = most, float(coder.target), coder.gradient, NOISE[size], EXCESS[size], EPS[size], mask
    _matching_rows(X, D, G, Q, ends, *settings, h, bits, scratch, act, place, *np.empty((2, D.shape[1])))
    return finish(X, D, Q, ends, coder)


def lars(X, D, G, Q, coder):
    """As `nonnegative`, by least angle regression up to n_nonzero atoms.  coder: n_nonzero."""
    size, most, ends = Q.dtype.itemsize, min(coder.n_nonzero, *D.shape), np.empty(len(X), np.int64)
    h, bits, M, scratch, act, residual = workspace(Q.dtype, len(D), D.shape[1], most)
    slopes, place, mask = np.empty(len(D), Q.dtype), np.full(len(D), -1), np.iinfo(bits.dtype).max
    settings = most, FLOOR[size], CLOSE[size], NOISE[size], DRIFT[size], bits.dtype.type(mask)
    _angles_rows(X, D, G, Q, ends, *settings, h, bits, M, scratch, act, residual, slopes, place)
    return finish(X, D, Q, ends, coder)
