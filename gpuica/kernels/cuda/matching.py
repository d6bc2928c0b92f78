"""Matching and gradient pursuit of many rows on the device, a block of threads for each row: see `pursuit`."""

import numpy as np
from numba import cuda, float64, int32

from ...coders.support import EPS, RESIDUAL_TOL, ROUNDING_TOL
from ...device import array_device
from ..fallback import recode_ill_conditioned
from ..status import FINISHED, ILL_CONDITIONED, UNFINISHED
from . import Build, launch, numba_type
from .block import LANES, first_largest, largest, summed
from .row import THREADS, blocks_for, check_code, combined, square_of, write


@cuda.jit
def _matching(X, D, G, Q, ends, most, target, gradient, noise, excess, eps, acts, cs, moves, rs, steps):
    """See `matching_pursuit`.  The workspaces of a block: act, c and the moves of the support; the residual and the
    image of a step in it (d,)."""
    tree = cuda.shared.array(LANES, float64)
    places = cuda.shared.array(LANES, int32)
    t, threads, block = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.x
    act, c, moved, r, way = acts[block], cs[block], moves[block], rs[block], steps[block]
    K, d = Q.shape[1], X.shape[1]
    row = block
    while row < len(Q):
        x, h, m, least = X[row], Q[row], 0, 0.0
        square = square_of(x, tree)
        left = square
        f = t
        while f < d:
            r[f] = x[f]
            f += threads
        for now in range(most):
            best, place = 0.0, int32(K)
            k = t
            while k < K:
                if abs(h[k]) > best:
                    best, place = float64(abs(h[k])), int32(k)
                k += threads
            top, j = first_largest(best, place, tree, places)
            if now == 0:
                least = noise * top
            if left <= target or top <= least:
                break
            found = 0.0
            i = t
            while i < m:
                if act[i] == j:
                    found = i + 1.0
                i += threads
            known = int(largest(found, tree)) - 1  # after which all have looked through act
            if known < 0:
                known = m
                m += 1
                if t == 0:
                    act[known] = j
                    c[known] = 0.0
                cuda.syncthreads()
            if gradient:  # Blumensath and Davies, "Gradient pursuits", 2008: all coefficients of the support move
                i = t
                while i < m:
                    moved[i] = h[act[i]]
                    i += threads
                cuda.syncthreads()
            # the best step along the image, with the residual of the data: it cannot grow, whatever rounding does to h
            along, size = 0.0, 0.0
            f = t
            while f < d:
                step = float64(D[j, f])
                if gradient:
                    step = 0.0
                    for i in range(m):
                        step += float64(moved[i]) * float64(D[act[i], f])
                way[f] = step
                along += step * r[f]
                size += step * step
                f += threads
            along = summed(along, tree)
            size = summed(size, tree)
            if not size > 0:
                break
            step, part = along / size, 0.0
            f = t
            while f < d:
                r[f] -= step * way[f]
                part += r[f] * r[f]
                f += threads
            left = summed(part, tree)
            if gradient:
                i = t
                while i < m:
                    c[i] += step * float64(moved[i])
                    i += threads
                k = t
                while k < K:
                    for change in combined(moved, G, act, m, k):
                        if k < K:
                            h[k] -= h.dtype.type(step) * change
                        k += threads
            else:
                if t == 0:
                    c[known] += step
                k = t
                while k < K:
                    h[k] -= h.dtype.type(step) * G[j, k]
                    k += threads
            cuda.syncthreads()
        write(h, act, c, m)
        end, left = check_code(x, D, h, act, m, square, square, target, eps, tree)
        if end == ILL_CONDITIONED:  # worse than nothing, for the coefficients are rounded as they are written
            k = t
            while k < K:
                h[k] = 0
                k += threads
            end = UNFINISHED if left > (1 + excess) * square or (target > 0 and square > target) else FINISHED
        if t == 0:
            ends[row] = end
        row += cuda.gridDim.x


def matching_pursuit(X, D, G, Q, coder, threads=THREADS, blocks=None):
    """As `pursuit.orthogonal`, by n_nonzero steps of matching or gradient pursuit."""
    xp, (K, d), real, size = array_device(X).xp, D.shape, Q.dtype, Q.dtype.itemsize
    most, ends = min(coder.n_nonzero, K), xp.empty(len(X), dtype=np.int32)
    n = blocks_for(len(X), 12 * most + most * real.itemsize + 16 * d, blocks, X)
    spaces = ((n, most), np.int32), ((n, most), np.float64), ((n, most), real), ((n, d), np.float64)
    act, c, moved, r = (xp.empty(shape, dtype=dtype) for shape, dtype in spaces)
    settings = coder.n_nonzero, float(coder.target), coder.gradient, ROUNDING_TOL[size], RESIDUAL_TOL[size], EPS[size]
    launch(_matching, n, threads, X, D, G, Q, ends, *settings, act, c, moved, r, xp.empty_like(r))
    return recode_ill_conditioned(X, D, Q, ends, coder)


def builds():
    """See `gpuica.kernels.cuda`."""
    from numba import boolean, int64

    for dtype in (np.float32, np.float64):
        real, name = numba_type(dtype), np.dtype(dtype).name
        rows, doubles = real[:, ::1], float64[:, ::1]
        workspace = int32[:, ::1], doubles, rows, doubles, doubles
        settings = int64, float64, boolean, float64, float64, float64
        signature = rows, rows, rows, rows, int32[::1], *settings, *workspace
        yield Build(f"matching, {name}", _matching.py_func, signature)
