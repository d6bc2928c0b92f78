"""One sweep over the scores Y (n, k): w g(Y) in place of Y, and the column sums of g', g² and G beside it.

The scalar body is the contrast's own `at_point`, compiled for the dtype of Y with its parameters as constants; tanh,
exp and log1p are libdevice's, not the approximations of fast math, whose tanh has three digits.

Threads of a block are laid out as `lanes` rows of `columns` columns, so that neighbours read neighbours whatever k is.
Each thread keeps its column and adds up TILE of its rows in the dtype of Y, then in float64; lanes are added by a tree
and blocks by one sum over their partial totals.  No atomics: the same call gives the same bits.
"""

import math
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from numba import cuda, float64, int64

from ...contrasts import CONTRASTS
from ...device import array_device
from . import BLOCK, Build, launch, multiprocessors, numba_type

TILE = 64  # rows that a thread adds up before it goes over to float64
TOGETHER = 4  # rows that a thread reads before it works on the first: loads in flight hide the memory's latency
BLOCKS = 8  # for each multiprocessor
ELEMENTARY = {"tanh": math.tanh, "exp": math.exp, "log1p": math.log1p, "math": math}

real: Any = np.float32  # these are set for every kernel in `_swept`
at_point: Any = None
PARAMS: Any = ()
WEIGHTED = False


def _sweep(Y, k, weights, partials, columns, slab):
    """Y (n k,), n rows of k scores one after the other, becomes w g(Y).  partials (blocks along y, 3, k): Σ G, Σ g' and
    Σ g², times w, of a slab of rows.

    weights: (n,), or of any length where WEIGHTED is False.  columns: of a block, at most its threads.  Places in Y are
    unsigned, which spares a test for negative ones, and added to, which spares products.
    """
    lanes = cuda.blockDim.x // columns
    lane = cuda.threadIdx.x // columns
    j = cuda.blockIdx.x * columns + cuda.threadIdx.x - lane * columns
    totals = cuda.shared.array((3, BLOCK), float64)
    loss, slope, square = 0.0, 0.0, 0.0
    if lane < lanes and j < k:
        first = cuda.blockIdx.y * slab
        row, rows = np.uint64(first + lane), np.uint64(lanes)
        place, step = np.uint64((first + lane) * k + j), np.uint64(lanes * k)
        stop = np.uint64(min(Y.size, (first + slab) * k))
        u = cuda.local.array(TOGETHER, real)
        w = cuda.local.array(TOGETHER, real)
        while place < stop:
            tile_loss, tile_slope, tile_square = real(0), real(0), real(0)
            for _ in range(TILE // TOGETHER):
                at = place
                for m in range(TOGETHER):
                    if at < stop:
                        u[m] = Y[at]
                        if WEIGHTED:
                            w[m] = weights[row]
                    at += step
                    row += rows
                at = place
                for m in range(TOGETHER):
                    if at < stop:
                        G, g, h = at_point(u[m], *PARAMS)
                        if WEIGHTED:
                            Y[at] = w[m] * g
                            tile_loss += w[m] * G
                            tile_slope += w[m] * h
                            tile_square += w[m] * (g * g)
                        else:
                            Y[at] = g
                            tile_loss += G
                            tile_slope += h
                            tile_square += g * g
                    at += step
                place = at
                if place >= stop:
                    break
            loss += tile_loss
            slope += tile_slope
            square += tile_square
    t = cuda.threadIdx.x
    totals[0, t] = loss
    totals[1, t] = slope
    totals[2, t] = square
    cuda.syncthreads()
    while lanes > 1:
        upper = (lanes + 1) // 2
        if lane < lanes - upper:
            for m in range(3):
                totals[m, t] += totals[m, t + upper * columns]
        lanes = upper
        cuda.syncthreads()
    if lane == 0 and j < k:
        for m in range(3):
            partials[cuda.blockIdx.y, m, j] = totals[m, t]


def score(Y, contrast, weights=None):
    """Replace Y (n, k), C order, by w g(Y); return Σ w g'(y) and Σ w g(y)² over the rows, (k,) each, float64.

    weights w: (n,) in the dtype of Y, or all 1.  On the device; nothing waits.
    """
    return _totals(Y, contrast, weights, False)[1:]


def score_and_loss(Y, contrast, weights=None):
    """Replace Y (n, k), C order, by w g(Y); return Σ w G(y), Σ w g'(y) and Σ w g(y)² over the rows, (k,) each."""
    return _totals(Y, contrast, weights, True)


def _totals(Y, contrast, weights, with_loss):
    n, k = Y.shape
    device = array_device(Y)
    columns, tiles, slab, slabs = layout(n, k, BLOCK, BLOCKS * multiprocessors(device.index))
    partials = device.xp.empty((slabs, 3, k), dtype=np.float64)
    kind: Any = type(contrast)
    weighted = weights is not None
    kernel = _kernel(kind, tuple(contrast.params), Y.dtype, weighted, with_loss)
    if not weighted:
        weights = device.xp.empty(1, dtype=Y.dtype)  # not read
    known = kind.__module__ == "gpuica.contrasts"  # of another, the body may change without notice
    about = f"{kind.__name__}{contrast.params} {weighted} {with_loss}" if known else None
    launch(kernel, (tiles, slabs), BLOCK, Y.reshape(-1), k, weights, partials, columns, slab, about=about)
    return tuple(partials.sum(axis=0))


def layout(n, k, block, blocks):
    """(columns of a block, blocks along the columns, rows of a slab, slabs) of a sweep over (n, k).

    block: threads; blocks: how many fill the device.
    """
    if k <= block:
        columns, tiles = k, 1
    else:  # as even as possible, in whole warps
        tiles = -(-k // block)
        columns = min(block, -(-k // (32 * tiles)) * 32)
        tiles = -(-k // columns)
    lanes = block // columns
    slabs = max(1, min(-(-n // (lanes * TOGETHER)), blocks // tiles, 65535))
    slab = max(1, -(-n // slabs))
    return columns, tiles, slab, -(-n // slab)


@cache
def _kernel(kind, params, dtype, weighted, with_loss):
    return cuda.jit(_swept(kind, params, dtype, weighted, with_loss))


def _swept(kind, params, dtype, weighted, with_loss):
    """`_sweep` around the `at_point` of a contrast class; without the loss, nothing of it is left to be computed."""
    number = np.dtype(dtype).type
    body = kind.at_point
    point = FunctionType(body.__code__, {**body.__globals__, **ELEMENTARY, "real": number}, "at_point")
    scope: dict[str, Any] = {
        **globals(),
        "real": number,
        "PARAMS": tuple(number(p) for p in params),
        "WEIGHTED": weighted,
        "at_point": cuda.jit(point, device=True),
    }
    if not with_loss:
        scope["at_point"] = cuda.jit(FunctionType(_without_loss.__code__, dict(scope), "at_point"), device=True)
    return FunctionType(_sweep.__code__, scope, f"{_sweep.__name__}_{kind.__name__}")


def _without_loss(u, *params):
    _, g, h = at_point(u, *params)
    return real(0), g, h


def builds():
    """See `gpuica.kernels.cuda`: the sweeps of the contrasts that have names."""
    for name, kind in CONTRASTS.items():
        for dtype in (np.float32, np.float64):
            number = numba_type(dtype)
            signature = (number[::1], int64, number[::1], float64[:, :, ::1], int64, int64)
            for weighted in (False, True):
                for with_loss in (False, True):
                    what = ("weighted " if weighted else "") + f"score{' and loss' if with_loss else ''}"
                    function = _swept(kind, kind().params, dtype, weighted, with_loss)
                    yield Build(f"{what}, {name}, {np.dtype(dtype).name}", function, signature, {}, dtype == np.float32)
