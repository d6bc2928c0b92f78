"""Pursuits of many rows on the device, a block of threads for each row: `kernels.orthogonal` and `kernels.pursuit`.

Correlations are refreshed from rows of the Gram matrix, as on the host (Batch-OMP; Rubinstein, Zibulevsky and Elad,
2008): a step of a support of m atoms reads m K numbers that all blocks share, hence mostly from the L2, where a product
with the dictionary has 2 d K operations; matching pursuit reads one row.  The numbers of a row that a step changes
belong to one thread each, and threads meet in the choice of the atom.  The small problem is `support`'s, in float64, in
a workspace of the block, which the L1 holds; blocks go from row to row.
"""

import math

import numpy as np
from numba import cuda, float64, int32

from ...device import array_device
from ..orthogonal import CLOSE
from ..pursuit import FLOOR, NOISE
from . import Build, launch, multiprocessors, numba_type
from .block import first_largest, largest, summed
from .support import BORN, LISTS, A, B, C, S, V, W, Z, border, outside_span, settle, times

THREADS = 128
BLOCKS = 12  # for each multiprocessor
ROOM = 64  # atoms of a support before more room is made
MEMORY = 1 << 30  # bytes of the workspaces


@cuda.jit(device=True)
def _square(x, tree):
    """‖x‖², in float64."""
    part = 0.0
    for f in range(cuda.threadIdx.x, len(x), cuda.blockDim.x):
        part += float64(x[f]) * float64(x[f])
    return summed(part, tree)


@cuda.jit(device=True)
def _measure(j, G, M, lists, act, m):
    """The squared distance of atom j from the span of the support; its coordinates in lists[W]."""
    for i in range(cuda.threadIdx.x, m, cuda.blockDim.x):
        lists[A, i] = G[j, act[i]]
    cuda.syncthreads()
    times(M, lists[A], lists[W], m)
    return outside_span(lists[A], lists[W], float64(G[j, j]), m)


@cuda.jit(device=True)
def _refine(x, D, M, lists, act, r, tree, m):
    """Add M D_act (x - c D_act) to c: what the residual of the data still asks for.  r: (d,), float64."""
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    c, v, z = lists[C], lists[V], lists[Z]
    for f in range(t, len(r), threads):
        left = float64(x[f])
        for i in range(m):
            left -= c[i] * float64(D[act[i], f])
        r[f] = left
    cuda.syncthreads()
    for i in range(m):
        part = 0.0
        for f in range(t, len(r), threads):
            part += float64(D[act[i], f]) * r[f]
        total = summed(part, tree)
        if t == 0:
            v[i] = total
    cuda.syncthreads()
    times(M, v, z, m)
    for i in range(t, m, threads):
        c[i] += z[i]
    cuda.syncthreads()


@cuda.jit(device=True)
def _write(q, act, c, m):
    """q becomes the code: zero but for c on the support."""
    for k in range(cuda.threadIdx.x, len(q), cuda.blockDim.x):
        q[k] = 0
    cuda.syncthreads()
    for i in range(cuda.threadIdx.x, m, cuda.blockDim.x):
        q[act[i]] = c[i]
    cuda.syncthreads()


@cuda.jit
def _orthogonal(
    X, D, G, Q, rows, full, most, target, by_gain, floor, noise, close, Ms, listss, acts, coefficients, outsides, rs
):  # fmt: skip
    """See `orthogonal`.  Q becomes the codes, full (rows,) whether a row found no room.  The workspaces of a block:
    M, lists and act; the atom's coordinates in the dtype of Q (room,); `outside` (K,), squares of the atoms' parts
    outside the span of the support; a residual (d,)."""
    tree = cuda.shared.array(THREADS, float64)
    places = cuda.shared.array(THREADS, int32)
    t, threads, block = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
    M, lists, act, real, outside = Ms[block], listss[block], acts[block], coefficients[block], outsides[block]
    c, w, K, number = lists[C], lists[W], Q.shape[1], Q.dtype.type
    for at in range(block, len(rows), cuda.gridDim.x):
        row = rows[at]
        x, h, m, left, rounding, nearest, fits = X[row], Q[row], 0, _square(X[row], tree), 0.0, 1.0, True
        for k in range(t, K, threads):
            outside[k] = G[k, k]
        while m < most and (left > target or target == 0):
            best, place = 0.0, int32(K)
            for k in range(t, K, threads):
                if outside[k] > floor * G[k, k]:
                    score = float64(h[k] * h[k] / outside[k] if by_gain else h[k] * h[k])
                    if score > best:
                        best, place = score, int32(k)
            top, j = first_largest(best, place, tree, places)
            if top <= rounding:
                break
            if m == len(act):
                fits = False
                break
            rounding = max(rounding, noise * top)
            far, mine = _measure(j, G, M, lists, act, m), float64(h[j])
            cuda.syncthreads()  # all have read h_j
            if far <= floor * G[j, j]:
                if j % threads == t:
                    outside[j] = 0
                continue
            nearest = min(nearest, far / G[j, j])
            step = mine / math.sqrt(far)
            for i in range(t, m, threads):
                c[i] -= mine / far * w[i]
                real[i] = w[i]
            cuda.syncthreads()
            scale, share = number(1 / math.sqrt(far)), number(step)
            for k in range(t, K, threads):  # all atoms along the new direction of the support
                part = G[j, k]
                for i in range(m):
                    part -= real[i] * G[act[i], k]
                part *= scale
                h[k] -= share * part
                outside[k] -= part * part
                if k == j:
                    h[k] = 0
                    outside[k] = 0
            border(M, w, far, m)
            if t == 0:
                act[m] = j
                c[m] = mine / far
            cuda.syncthreads()
            m += 1
            left -= step * step
        if t == 0:
            full[at] = not fits
        if fits:
            _refine(x, D, M, lists, act, rs[block], tree, m)
            if nearest < close:
                _refine(x, D, M, lists, act, rs[block], tree, m)
            _write(h, act, c, m)


@cuda.jit
def _nonnegative(X, D, G, Q, rows, full, most, target, floor, noise, Ms, listss, acts, coefficients, rs):
    """See `nonnegative`.  Workspaces as for `_orthogonal`; coefficients: of the support, in the dtype of Q."""
    tree = cuda.shared.array(THREADS, float64)
    places = cuda.shared.array(THREADS, int32)
    t, threads, block = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
    M, lists, act, real = Ms[block], listss[block], acts[block], coefficients[block]
    c, K = lists[C], Q.shape[1]
    for at in range(block, len(rows), cuda.gridDim.x):
        row = rows[at]
        x, q, m, fits, least = X[row], Q[row], 0, True, 0.0
        square = _square(x, tree)
        left = square
        for now in range(2 * most):  # atoms may leave again
            for i in range(t, m, threads):
                real[i] = c[i]
            cuda.syncthreads()
            best, place = 0.0, int32(K)
            for k in range(t, K, threads):
                h = q[k]
                for i in range(m):
                    h -= real[i] * G[act[i], k]
                if h > best:
                    best, place = float64(h), int32(k)
            top, j = first_largest(best, place, tree, places)
            if now == 0:
                least = noise * top
            if m == most or left <= target or top <= least:
                break
            if m == len(act):
                fits = False
                break
            far = _measure(j, G, M, lists, act, m)
            if far <= floor * G[j, j]:
                break
            border(M, lists[W], far, m)
            if t == 0:
                act[m] = j
                c[m] = 0.0
                lists[S, m] = 1.0
                lists[B, m] = q[j]
                lists[BORN, m] = now
            cuda.syncthreads()
            m = settle(M, act, lists, m + 1, 0.0, True)
            left = square
            for i in range(m):
                left -= lists[B, i] * c[i]
        if t == 0:
            full[at] = not fits
        if fits:
            _refine(x, D, M, lists, act, rs[block], tree, m)
            for i in range(t, m, threads):
                c[i] = max(c[i], 0.0)
            cuda.syncthreads()
            _write(q, act, c, m)


@cuda.jit
def _matching(X, G, Q, most, target, gradient, noise, acts, cs, moves, images):
    """See `matching_pursuit`.  The workspaces of a block: act, c and the moves of the support; h's change (K,)."""
    tree = cuda.shared.array(THREADS, float64)
    places = cuda.shared.array(THREADS, int32)
    t, threads, block = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
    act, c, moved, image, K = acts[block], cs[block], moves[block], images[block], Q.shape[1]
    for row in range(block, len(Q), cuda.gridDim.x):
        h, m, left, least = Q[row], 0, _square(X[row], tree), 0.0
        for now in range(most):
            best, place = 0.0, int32(K)
            for k in range(t, K, threads):
                if abs(h[k]) > best:
                    best, place = float64(abs(h[k])), int32(k)
            top, j = first_largest(best, place, tree, places)
            if now == 0:
                least = noise * top
            if left <= target or top <= least:
                break
            found = 0.0
            for i in range(t, m, threads):
                if act[i] == j:
                    found = i + 1.0
            known = int(largest(found, tree)) - 1  # after which all have found h_j's place, and the tree is free
            mine = h[j]
            cuda.syncthreads()
            if known < 0:
                known = m
                m += 1
                if t == 0:
                    act[known] = j
                    c[known] = 0.0
                cuda.syncthreads()
            if gradient:  # Blumensath and Davies, "Gradient pursuits", 2008: all coefficients of the support move
                part = 0.0
                for i in range(t, m, threads):
                    moved[i] = h[act[i]]
                    part += float64(moved[i]) * float64(moved[i])
                along = summed(part, tree)
                for k in range(t, K, threads):
                    change = moved[0] * G[act[0], k]
                    for i in range(1, m):
                        change += moved[i] * G[act[i], k]
                    image[k] = change
                cuda.syncthreads()
                part = 0.0
                for i in range(t, m, threads):
                    part += float64(moved[i]) * float64(image[act[i]])
                step = along / summed(part, tree)
                for i in range(t, m, threads):
                    c[i] += step * float64(moved[i])
                for k in range(t, K, threads):
                    h[k] -= h.dtype.type(step) * image[k]
                left -= step * along
            else:
                step = float64(mine) / float64(G[j, j])
                if t == 0:
                    c[known] += step
                for k in range(t, K, threads):
                    h[k] -= h.dtype.type(step) * G[j, k]
                left -= step * float64(mine)
            cuda.syncthreads()
        _write(h, act, c, m)


def orthogonal(X, D, G, Q, coder, **sizes):
    """Codes of X (n, d), as `kernels.orthogonal.orthogonal`: Q = X Dᵀ (n, K) becomes the codes.  G = D Dᵀ.

    Waits for the device only where more than ROOM atoms may enter.  Returns 0, as every row is finished.
    """
    size, target = Q.dtype.itemsize, float(coder.target)
    settings = target, coder.by_gain, FLOOR[size], NOISE[size] ** 2, CLOSE[size]
    return _in_rooms(_orthogonal, X, D, G, Q, coder, settings, True, **sizes)


def nonnegative(X, D, G, Q, coder, **sizes):
    """As `orthogonal`, by non-negative OMP."""
    size = Q.dtype.itemsize
    settings = float(coder.target), FLOOR[size], NOISE[size]
    return _in_rooms(_nonnegative, X, D, G, Q, coder, settings, False, **sizes)


def _in_rooms(kernel, X, D, G, Q, coder, settings, overwrites, threads=THREADS, blocks=None, room=ROOM):
    xp, (K, d), real = array_device(X).xp, D.shape, Q.dtype
    most, rows = min(coder.n_nonzero, K, d), array_device(X).xp.arange(len(X), dtype=np.int32)
    room = min(room, most)
    while len(rows):
        full = xp.zeros(len(rows), dtype=bool)
        n = _blocks(len(rows), 8 * room * (room + LISTS) + K * real.itemsize + 8 * d, blocks, X)
        arrays: tuple = (
            xp.empty((n, room, room), dtype=np.float64),
            xp.zeros((n, LISTS, room), dtype=np.float64),
            xp.empty((n, room), dtype=np.int32),
            xp.empty((n, room), dtype=real),
        )
        if overwrites:
            arrays = *arrays, xp.empty((n, K), dtype=real)
        launch(
            kernel, n, threads, X, D, G, Q, rows, full, most, *settings, *arrays, xp.empty((n, d), dtype=np.float64)
        )  # fmt: skip
        if room == most:
            break
        rows, room = rows[full], most
        if overwrites and len(rows):  # from the beginning
            Q[rows] = X[rows] @ D.T
    return 0


def matching_pursuit(X, D, G, Q, coder, threads=THREADS, blocks=None):
    """As `orthogonal`, by n_nonzero steps of matching or gradient pursuit.  Never waits."""
    xp, K, real = array_device(X).xp, len(D), Q.dtype
    most = min(coder.n_nonzero, K)
    n = _blocks(len(X), 12 * most + (most + K) * real.itemsize, blocks, X)
    spaces = ((n, most), np.int32), ((n, most), np.float64), ((n, most), real), ((n, K), real)
    arrays = [xp.empty(shape, dtype=dtype) for shape, dtype in spaces]
    settings = coder.n_nonzero, float(coder.target), coder.gradient, NOISE[real.itemsize]
    launch(_matching, n, threads, X, G, Q, *settings, *arrays)
    return 0


def _blocks(n, workspace, blocks, X):
    """How many blocks to launch for n rows, each with a workspace of so many bytes."""
    blocks = blocks or BLOCKS * multiprocessors(array_device(X).index)
    return max(1, min(n, blocks, MEMORY // workspace))


def builds():
    """See `gpuica.kernels.cuda`."""
    from numba import boolean, int64

    for dtype in (np.float32, np.float64):
        real, name = numba_type(dtype), np.dtype(dtype).name
        rows, doubles = real[:, ::1], float64[:, ::1]
        arrays = rows, rows, rows, rows, int32[::1], boolean[::1], int64, float64
        spaces = float64[:, :, ::1], float64[:, :, ::1], int32[:, ::1], rows
        orthogonal = *arrays, boolean, float64, float64, float64, *spaces, rows, doubles
        yield Build(f"orthogonal, {name}", _orthogonal.py_func, orthogonal)
        yield Build(f"nonnegative, {name}", _nonnegative.py_func, (*arrays, float64, float64, *spaces, doubles))
        matching = rows, rows, rows, int64, float64, boolean, float64, int32[:, ::1], doubles, rows, rows
        yield Build(f"matching, {name}", _matching.py_func, matching)
