"""The lasso of many rows on the device: `kernels.cpu.lasso_products`, with a block of threads for each row.

A round is one product H = (X - C D) Dᵀ for the rows that have not ended, in their own dtype, and two kernels:

`_choose`: has the row converged, up to the rounding of its dtype?  If not, the largest violation |h_j| > alpha of every
thread is a candidate, and the largest of these are, with the row's support, its working set.

`_solve`: the lasso on the working set, from the Gram matrix of its atoms, in float64 in shared memory: atoms enter the
support and leave it as on the host (feature-sign steps on M, the inverse of the support's Gram matrix), until none of
the working set violates.  M is recomputed in each round, so a round also corrects the rounding of the last, with
correlations of the data: no factor is kept between rounds, only the code.  A row that has converged is refined by one
more such step, whose sums are in float64, and written.

Rows that have ended are removed from the product.  Rows whose support outgrows shared memory continue in
`_solve_in_memory`.

Work: 2 d K operations a row and round for the product; reading H is K numbers.  The other data of a row, (m + 16)²
numbers of D Dᵀ and m rows of D, are less for m below some hundred.  So there is no form on the Gram matrix alone: m of
its rows a round would be m K numbers, 20 times the bytes of H at m = 20, and more time than the product.
"""

import numpy as np
from numba import cuda, float64, int32, uint32

from ...coders.support import DEPENDENCE_TOL
from ...device import array_device
from ..status import FINISHED, NO_ROOM, RUNNING, UNFINISHED
from ..tolerances import OPTIMALITY_TOL
from ..workspace import N_LISTS
from . import Build, launch, numba_type
from .block import largest
from .lasso_row import CANDIDATES, solve
from .row import at_once

SHARED_ROOM = 32  # atoms of a support in shared memory; with the Gram matrix 35 KB: six blocks a multiprocessor
PITCH = SHARED_ROOM + 1  # of M, so that no two entries of a column are in one bank
SHARED_WIDTH = SHARED_ROOM + CANDIDATES
MAX_PRODUCT_NUMBERS = 1 << 26  # of H
MAX_PAIRS_BYTES = 1 << 30  # of the inner products of working sets
MAX_THREADS = 128  # of a block, at most: `_choose` has a candidate for each
MAX_MISSES = 6  # a row is UNFINISHED when its support has missed its equations more often


@cuda.jit(device=True)
def _largest_of(h, positive):
    """The largest |h_j|, or h_j > 0, of those that are this thread's, and its first index; (0, -1) for none."""
    best, index = 0.0, int32(-1)
    j = cuda.threadIdx.x
    while j < len(h):
        value = float64(h[j]) if positive else abs(float64(h[j]))
        if value > best:
            best, index = value, int32(j)
        j += cuda.blockDim.x
    return best, index


@cuda.jit
def _choose(H, live, state, levels, acts, codes, picks, alpha, positive, slack, max_iter):
    """The status of each live row, and its working set: picks (rows, wide), the support first.

    state (n, 4): size of the support, rounds, how often it missed its equations, status.  levels (n, 3): see
    `solve`.  acts, codes (n, room): the support.
    """
    violations = cuda.shared.array(MAX_THREADS, float64)
    tree = cuda.shared.array(MAX_THREADS, float64)
    block, t, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    row, h = live[block], H[block]
    m, age, misses = state[row, 0], state[row, 1], state[row, 2]
    best, index = _largest_of(h, positive)
    top = largest(best, tree)
    rounding = slack * top if age == 0 else levels[row, 0]
    missed = 0.0
    for i in range(m):
        sign = 1.0 if codes[row, i] > 0 else -1.0
        missed = max(missed, abs(float64(h[acts[row, i]]) - alpha * sign))
    if missed > 10 * rounding and age > 1:  # the first time that is A's rounding
        misses += 1
    end = RUNNING
    if top <= alpha + rounding and missed <= 10 * rounding:
        end = FINISHED
    elif age == max_iter or misses > MAX_MISSES:
        end = UNFINISHED
    for i in range(m):
        if acts[row, i] == index:
            best = 0.0
    violations[t] = best if end == RUNNING and best > alpha + rounding else 0.0
    cuda.syncthreads()
    rank, chosen = 0, 0
    for other in range(threads):
        chosen += violations[other] > 0
        if violations[other] > violations[t] or (violations[other] == violations[t] and other < t):
            rank += 1
    if violations[t] > 0 and m + rank < picks.shape[1] and rank < CANDIDATES:
        picks[block, m + rank] = index
    chosen = min(chosen, min(CANDIDATES, picks.shape[1] - m))
    i = t
    while i < picks.shape[1]:
        if i < m:
            picks[block, i] = acts[row, i]
        elif i >= m + chosen:
            picks[block, i] = -1
        i += threads
    if t == 0:
        state[row, 1] = age + 1
        state[row, 2] = misses
        state[row, 3] = end
        levels[row, 0] = rounding
        levels[row, 1] = top
        levels[row, 2] = missed


@cuda.jit
def _solve(X, D, G, pairs, H, R, live, state, levels, acts, codes, picks, C, alpha, positive, dependence):
    """One round of every live row; see `lasso_row.solve`."""
    M = cuda.shared.array((SHARED_ROOM, PITCH), float64)
    A = cuda.shared.array((SHARED_WIDTH, SHARED_WIDTH), float64)
    lists = cuda.shared.array((N_LISTS, SHARED_ROOM), float64)
    wide = cuda.shared.array((3, SHARED_WIDTH), float64)
    ids = cuda.shared.array((3, SHARED_WIDTH), uint32)  # unsigned, or Numba would look for negative indices
    tree = cuda.shared.array(MAX_THREADS, float64)
    workspace = M, A, lists, wide, ids, tree
    solve(X, D, G, pairs, H, R, live, state, levels, acts, codes, picks, C, alpha, positive, dependence, *workspace)


@cuda.jit
def _solve_in_memory(
    X, D, G, pairs, H, R, live, state, levels, acts, codes, picks, C, alpha, positive, dependence,
    Ms, As, listss, wides, idss,
):  # fmt: skip
    """`_solve` with the small problem of each row in a workspace."""
    tree = cuda.shared.array(MAX_THREADS, float64)
    b = cuda.blockIdx.x
    workspace = Ms[b], As[b], listss[b], wides[b], idss[b], tree
    solve(X, D, G, pairs, H, R, live, state, levels, acts, codes, picks, C, alpha, positive, dependence, *workspace)


def lasso(X, D, G, coder, threads=64):
    """Codes C (n, K) of the rows X (n, d), and the number of unfinished rows: as `kernels.cpu.lasso_products`, on the
    device.

    G: D Dᵀ (K, K), or None.  Synchronises once a round, for the number of rows that have not ended.
    """
    xp, (n, d), K, unfinished = array_device(X).xp, X.shape, len(D), 0
    C = xp.zeros((n, K), dtype=X.dtype)
    rows = MAX_PRODUCT_NUMBERS // max(K, d)
    if G is not None:
        rows = min(rows, MAX_PAIRS_BYTES // (8 * SHARED_WIDTH * d))
    rows = max(rows, 64)
    for start in range(0, n, rows):
        x, code = X[start : start + rows], C[start : start + rows]
        state, levels = xp.zeros((len(x), 4), dtype=np.int32), xp.zeros((len(x), 3), dtype=np.float64)
        acts, codes = _room(len(x), SHARED_ROOM, xp)
        live = xp.arange(len(x), dtype=np.int32)
        unfinished += _rounds(x, D, G, code, x.copy(), live, state, levels, acts, codes, coder, threads)
    return C, unfinished


def _room(n, room, xp):
    """Supports of n rows: which atoms (n, room), and the codes."""
    return xp.zeros((n, room), dtype=np.int32), xp.zeros((n, room), dtype=np.float64)


def _rounds(X, D, G, C, R, live, state, levels, acts, codes, coder, threads):
    """C becomes the codes of the live rows, from the state that they are in; returns the number of unfinished rows."""
    xp, size, room = array_device(X).xp, X.dtype.itemsize, acts.shape[1]
    alpha, began = float(coder.alpha), live
    while len(live):
        H = R[live] @ D.T
        picks = xp.empty((len(live), room + CANDIDATES), dtype=np.int32)
        settings, counts = (alpha, coder.positive), (OPTIMALITY_TOL[size], coder.max_iter)
        launch(_choose, len(live), 2 * threads, H, live, state, levels, acts, codes, picks, *settings, *counts)
        arrays = X, D, D if G is None else G, _pairs(D, G, picks), H, R, live, state, levels, acts, codes, picks, C
        if room == SHARED_ROOM:
            launch(_solve, len(live), threads, *arrays, *settings, DEPENDENCE_TOL[size])
        else:
            workspace = _workspace(len(live), room, xp)
            launch(_solve_in_memory, len(live), threads, *arrays, *settings, DEPENDENCE_TOL[size], *workspace)
        live = live[state[live, 3] == RUNNING]
    ends = state[began, 3]
    unfinished = int((ends == UNFINISHED).sum())
    full = began[ends == NO_ROOM]  # rows that need more room continue from their states
    larger = min(4 * room, *D.shape)
    some_rows = at_once(len(full), _bytes_of_a_row(larger, D, G), X)
    for start in range(0, len(full), some_rows):
        some = full[start : start + some_rows]
        more_acts, more_codes = _room(len(some), larger, xp)
        more_acts[:, :room], more_codes[:, :room] = acts[some], codes[some]
        code = xp.zeros((len(some), len(D)), dtype=X.dtype)
        all_of_them, states = xp.arange(len(some), dtype=np.int32), (state[some], levels[some])
        supports = more_acts, more_codes
        unfinished += _rounds(X[some], D, G, code, R[some], all_of_them, *states, *supports, coder, threads)
        C[some] = code
    return unfinished


def _bytes_of_a_row(room, D, G):
    """Bytes that a row in `_solve_in_memory` needs, approximately."""
    wide, products = room + CANDIDATES, 0 if G is not None else room + CANDIDATES + D.shape[1]
    return 8 * (room**2 + wide**2 + N_LISTS * room + 5 * wide) + D.itemsize * (3 * sum(D.shape) + wide * products)


def _pairs(D, G, picks):
    """Inner products of the atoms of each working set (rows, wide, wide), where there is no G."""
    xp = array_device(D).xp
    if G is not None:
        return xp.zeros((1, 1, 1), dtype=D.dtype)
    atoms = D[xp.maximum(picks, 0)]
    return atoms @ atoms.transpose(0, 2, 1)


def _workspace(n, room, xp):
    """The arrays of n rows in `_solve_in_memory`."""
    wide = room + CANDIDATES
    shapes = (n, room, room), (n, wide, wide), (n, N_LISTS, room), (n, 3, wide)
    return *(xp.empty(shape, dtype=np.float64) for shape in shapes), xp.empty((n, 3, wide), dtype=np.uint32)


def builds():
    """See `gpuica.kernels.cuda`."""
    from numba import boolean, int64

    whole, rows_of_ints, rows_of_doubles = int32[::1], int32[:, ::1], float64[:, ::1]
    for dtype in (np.float32, np.float64):
        real, name = numba_type(dtype), np.dtype(dtype).name
        rows, stack, doubles = real[:, ::1], real[:, :, ::1], float64[:, :, ::1]
        known = whole, rows_of_ints, rows_of_doubles, rows_of_ints, rows_of_doubles, rows_of_ints
        choose = rows, *known, float64, boolean, float64, int64
        yield Build(f"choose, {name}", _choose.py_func, choose)
        arrays = rows, rows, rows, stack, rows, rows, *known, rows, float64, boolean, float64
        yield Build(f"solve, {name}", _solve.py_func, arrays)
        workspace = doubles, doubles, doubles, doubles, uint32[:, :, ::1]
        yield Build(f"solve in memory, {name}", _solve_in_memory.py_func, (*arrays, *workspace))
