"""Matching and gradient pursuit of many rows on the device, a block of threads for each row.

Barriers: as in `support`; `_position` and the sums end with one."""

import numpy as np
from numba import cuda, float64, int32

from ...coders.support import EPS, RESIDUAL_TOL, ROUNDING_TOL
from ...device import array_device
from ..fallback import recode_ill_conditioned
from ..status import FINISHED, ILL_CONDITIONED, UNFINISHED
from . import Build, launch, numba_type
from .block import LANES, first_largest, largest, summed
from .row import THREADS, blocks_for, check_code, combined, square_of, write


@cuda.jit(device=True)
def _largest_correlation(h, tree, indices):
    """The largest |h| over the K atoms, and its atom; K if all are 0."""
    best, index = 0.0, int32(len(h))
    k = cuda.threadIdx.x
    while k < len(h):
        if abs(h[k]) > best:
            best, index = float64(abs(h[k])), int32(k)
        k += cuda.blockDim.x
    return first_largest(best, index, tree, indices)


@cuda.jit(device=True)
def _position(j, act, m, tree):
    """The position of atom j in the support, -1 for an atom outside of it."""
    found = 0.0
    i = cuda.threadIdx.x
    while i < m:
        if act[i] == j:
            found = i + 1.0
        i += cuda.blockDim.x
    return int(largest(found, tree)) - 1  # a barrier: all have read act


@cuda.jit(device=True)
def _image(j, gradient, D, act, changes, m, r, way, tree):
    """The image of a step, way (d,): atom j, or Σ moved_i D_i over the support (gradient).

    Returns its inner products with the residual r (d,) and with itself.
    """
    along, size = 0.0, 0.0
    f = cuda.threadIdx.x
    while f < len(r):
        step = float64(D[j, f])
        if gradient:
            step = 0.0
            for i in range(m):
                step += float64(changes[i]) * float64(D[act[i], f])
        way[f] = step
        along += step * r[f]
        size += step * step
        f += cuda.blockDim.x
    along = summed(along, tree)
    return along, summed(size, tree)


@cuda.jit(device=True)
def _residual_after(step, way, r, tree):
    """r -= step way; returns ‖r‖²."""
    part = 0.0
    f = cuda.threadIdx.x
    while f < len(r):
        r[f] -= step * way[f]
        part += r[f] * r[f]
        f += cuda.blockDim.x
    return summed(part, tree)


@cuda.jit(device=True)
def _update(step, j, position, gradient, G, h, act, c, changes, m):
    """Coefficients c and correlations h (K,) after a step: of atom j, or along `changes` (gradient)."""
    t, threads, K = cuda.threadIdx.x, cuda.blockDim.x, len(h)
    if gradient:
        i = t
        while i < m:
            c[i] += step * float64(changes[i])
            i += threads
        k = t
        while k < K:
            for change in combined(changes, G, act, m, k):
                if k < K:
                    h[k] -= h.dtype.type(step) * change
                k += threads
    else:
        if t == 0:
            c[position] += step
        k = t
        while k < K:
            h[k] -= h.dtype.type(step) * G[j, k]
            k += threads
    cuda.syncthreads()


@cuda.jit(device=True, inline="always")  # a call would take up to 18 registers more
def _encode(x, D, G, h, square, n_steps, target, gradient, rounding, act, c, changes, r, way, tree, indices):
    """Matching or gradient pursuit of one row of correlations h; returns the size of its support.

    The step is the best one along its image, with the residual of the data, which thus cannot grow, whatever rounding
    does to h.
    """
    t, threads, m, least, left = cuda.threadIdx.x, cuda.blockDim.x, 0, 0.0, square
    f = t
    while f < len(x):
        r[f] = x[f]
        f += threads
    for now in range(n_steps):
        top, j = _largest_correlation(h, tree, indices)
        if now == 0:
            least = rounding * top
        if left <= target or top <= least:
            break
        position = _position(j, act, m, tree)
        if position < 0:
            position = m
            m += 1
            if t == 0:
                act[position] = j
                c[position] = 0.0
            cuda.syncthreads()
        if gradient:  # all coefficients change (Blumensath and Davies, "Gradient pursuits", 2008)
            i = t
            while i < m:
                changes[i] = h[act[i]]
                i += threads
            cuda.syncthreads()
        along, size = _image(j, gradient, D, act, changes, m, r, way, tree)
        if not size > 0:
            break
        step = along / size
        left = _residual_after(step, way, r, tree)
        _update(step, j, position, gradient, G, h, act, c, changes, m)
    return m


@cuda.jit
def _matching(X, D, G, Q, ends, n_steps, target, gradient, rounding, excess, eps, acts, cs, changes_of, rs, steps):
    """See `matching_pursuit`; Q becomes the codes, ends (n,) the status of the rows.

    The workspaces of a block: act, c and the changes of the support's coefficients; the residual and the image of a
    step (d,).
    """
    tree = cuda.shared.array(LANES, float64)
    indices = cuda.shared.array(LANES, int32)
    block, row = cuda.blockIdx.x, cuda.blockIdx.x
    act, c, changes, r, way = acts[block], cs[block], changes_of[block], rs[block], steps[block]
    while row < len(Q):
        x, h = X[row], Q[row]
        square = square_of(x, tree)
        m = _encode(x, D, G, h, square, n_steps, target, gradient, rounding, act, c, changes, r, way, tree, indices)
        write(h, act, c, m)
        end, left = check_code(x, D, h, act, m, square, square, target, eps, tree)
        if end == ILL_CONDITIONED:  # worse than zeros, because the coefficients are rounded as they are written
            k = cuda.threadIdx.x
            while k < len(h):
                h[k] = 0
                k += cuda.blockDim.x
            end = UNFINISHED if left > (1 + excess) * square or (target > 0 and square > target) else FINISHED
        if cuda.threadIdx.x == 0:
            ends[row] = end
        row += cuda.gridDim.x


def matching_pursuit(X, D, G, Q, coder, threads=THREADS, blocks=None):
    """As `orthogonal.orthogonal`, by n_nonzero steps of matching or gradient pursuit."""
    xp, (K, d), real, size = array_device(X).xp, D.shape, Q.dtype, Q.dtype.itemsize
    most, ends = min(coder.n_nonzero, K), xp.empty(len(X), dtype=np.int32)
    n = blocks_for(len(X), 12 * most + most * real.itemsize + 16 * d, blocks, X)
    spaces = ((n, most), np.int32), ((n, most), np.float64), ((n, most), real), ((n, d), np.float64)
    act, c, changes, r = (xp.empty(shape, dtype=dtype) for shape, dtype in spaces)
    settings = coder.n_nonzero, float(coder.target), coder.gradient, ROUNDING_TOL[size], RESIDUAL_TOL[size], EPS[size]
    launch(_matching, n, threads, X, D, G, Q, ends, *settings, act, c, changes, r, xp.empty_like(r))
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
