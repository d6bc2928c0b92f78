"""One sweep over the scores Y (n, k): w g(Y) in place of Y, and the column sums of g', g² and G beside it.

The scalar body is the contrast's own `at_point`, compiled for the dtype of Y with its parameters as constants; tanh,
exp and log1p are libdevice's, not the approximations of fast math, whose tanh has three digits.

Threads of a block are laid out as `lanes` rows of `columns` columns, so that neighbours read neighbours whatever k is.
Each thread keeps its column and loads four of its rows while it processes the four before, so that enough loads are in
flight to hide their latency (62 % of a copy's rate on an H200, 51 % with alternating loads and work).  It sums TILE
groups of four in the dtype of Y, then in float64.  Blocks are interleaved along the rows, so that all access
neighbouring memory; lanes are added by a tree, blocks by one sum over their partial totals.  No atomics: results are
reproducible bit for bit.
"""

import math
from functools import cache
from types import FunctionType
from typing import Any

import numpy as np
from numba import cuda, float64, int64

from ...contrasts import CONTRASTS
from ...device import array_device
from . import THREADS_PER_BLOCK, Build, launch, multiprocessors, numba_type

TILE = 16  # groups of rows that a thread sums in the dtype of Y
BLOCKS = 4  # for each multiprocessor: as many as are resident, given the registers of a thread
ELEMENTARY = {"tanh": math.tanh, "exp": math.exp, "log1p": math.log1p, "math": math}

# The globals of the copies of `_sweep` that `_swept` makes.
real: Any = np.float32
at_point: Any = None
of_number: Any = None
PARAMS: Any = ()
WEIGHTED = False


@cuda.jit(device=True)
def four(array, index, step):
    """Four numbers of an array, `step` places apart."""
    second = index + step
    third = second + step
    return array[index], array[second], array[third], array[third + step]


@cuda.jit(device=True)
def add_lanes(totals, lane, lanes, columns):
    """Add the totals (3, threads) of all lanes to those of the first, by a tree."""
    t = cuda.threadIdx.x
    while lanes > 1:
        upper = (lanes + 1) // 2
        if lane < lanes - upper:
            for m in range(3):
                totals[m, t] += totals[m, t + upper * columns]
        lanes = upper
        cuda.syncthreads()


def _sweep(Y, k, weights, partials, columns):
    """Y (n k,), n rows of k scores in sequence, becomes w g(Y).  partials (blocks along y, 3, k): Σ G, Σ g' and
    Σ g², times w, of the rows of a block.

    weights: (n,), or of any length where WEIGHTED is False.  columns: of a block, at most its threads.  Indices are
    unsigned, which saves the test for negative ones, and incremented, which saves products.
    """
    lanes = cuda.blockDim.x // columns
    lane = cuda.threadIdx.x // columns
    j = cuda.blockIdx.x * columns + cuda.threadIdx.x - lane * columns
    totals = cuda.shared.array((3, THREADS_PER_BLOCK), float64)
    loss, slope, square = 0.0, 0.0, 0.0
    if lane < lanes and j < k:
        row, rows, one = np.uint64(cuda.blockIdx.y * lanes + lane), np.uint64(cuda.gridDim.y * lanes), real(1)
        index, step, stop = row * np.uint64(k) + np.uint64(j), rows * np.uint64(k), np.uint64(Y.size)
        ahead = step + step + step  # from the first of four rows to the last
        n0, n1, n2, n3, v0, v1, v2, v3 = one, one, one, one, one, one, one, one
        whole = index + ahead < stop
        if whole:
            n0, n1, n2, n3 = four(Y, index, step)
            if WEIGHTED:
                v0, v1, v2, v3 = four(weights, row, rows)
        while whole:
            tile_loss, tile_slope, tile_square = real(0), real(0), real(0)
            for _ in range(TILE):
                first, second, third, fourth = index, index + step, index + step + step, index + ahead
                u0, u1, u2, u3, w0, w1, w2, w3 = n0, n1, n2, n3, v0, v1, v2, v3
                index = fourth + step
                whole = index + ahead < stop
                if whole:  # the next four are loaded while these are processed
                    n0, n1, n2, n3 = four(Y, index, step)
                    if WEIGHTED:
                        row += rows + rows + rows + rows
                        v0, v1, v2, v3 = four(weights, row, rows)
                Y[first], G0, h0, q0 = of_number(u0, w0)
                Y[second], G1, h1, q1 = of_number(u1, w1)
                Y[third], G2, h2, q2 = of_number(u2, w2)
                Y[fourth], G3, h3, q3 = of_number(u3, w3)
                tile_loss += (G0 + G1) + (G2 + G3)
                tile_slope += (h0 + h1) + (h2 + h3)
                tile_square += (q0 + q1) + (q2 + q3)
                if not whole:
                    break
            loss += tile_loss
            slope += tile_slope
            square += tile_square
        while index < stop:  # the last rows, fewer than four
            w0 = weights[index // np.uint64(k)] if WEIGHTED else one
            Y[index], G0, h0, q0 = of_number(Y[index], w0)
            loss += G0
            slope += h0
            square += q0
            index += step
    t = cuda.threadIdx.x
    totals[0, t], totals[1, t], totals[2, t] = loss, slope, square
    cuda.syncthreads()
    add_lanes(totals, lane, lanes, columns)
    if lane == 0 and j < k:
        for m in range(3):
            partials[cuda.blockIdx.y, m, j] = totals[m, t]


def score(Y, contrast, weights=None):
    """Replace Y (n, k), C order, by w g(Y); return Σ w g'(y) and Σ w g(y)² over the rows, (k,) each, float64.

    weights w: (n,) in the dtype of Y; None means weight 1.  Does not synchronise.
    """
    return _totals(Y, contrast, weights, False)[1:]


def score_and_loss(Y, contrast, weights=None):
    """Replace Y (n, k), C order, by w g(Y); return Σ w G(y), Σ w g'(y) and Σ w g(y)² over the rows, (k,) each."""
    return _totals(Y, contrast, weights, True)


def _totals(Y, contrast, weights, with_loss):
    """Launch the sweep over Y (n, k); return the column sums (3, k): of G, g' and g²."""
    n, k = Y.shape
    device = array_device(Y)
    weighted = weights is not None
    columns, tiles, blocks = layout(n, k, THREADS_PER_BLOCK, BLOCKS * multiprocessors(device.index))
    partials = device.xp.empty((blocks, 3, k), dtype=np.float64)
    kind: Any = type(contrast)
    kernel = _kernel(kind, tuple(contrast.params), Y.dtype, weighted, with_loss)
    if not weighted:
        weights = device.xp.empty(1, dtype=Y.dtype)  # not read
    known = kind.__module__ == "gpuica.contrasts"  # source_files() does not cover other modules
    about = f"{kind.__name__}{contrast.params} {weighted} {with_loss}" if known else None
    launch(kernel, (tiles, blocks), THREADS_PER_BLOCK, Y.reshape(-1), k, weights, partials, columns, about=about)
    return tuple(partials.sum(axis=0))


def layout(n, k, block, blocks):
    """(columns of a block, blocks along the columns, blocks along the rows) of a sweep over (n, k).

    block: threads; blocks: how many fill the device.
    """
    if k <= block:
        columns, tiles = k, 1
    else:  # as even as possible, in whole warps
        tiles = -(-k // block)
        columns = min(block, -(-k // (32 * tiles)) * 32)
        tiles = -(-k // columns)
    rows = 4 * (block // columns)
    return columns, tiles, min(-(-n // rows), max(1, blocks // tiles), 65535)


@cache
def _kernel(kind, params, dtype, weighted, with_loss):
    return cuda.jit(_swept(kind, params, dtype, weighted, with_loss))


def _swept(kind, params, dtype, weighted, with_loss):
    """A copy of `_sweep` with the `at_point` of a contrast class among its globals; without the loss, the compiler
    removes its computation."""
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
    scope["of_number"] = cuda.jit(FunctionType(_of_number.__code__, dict(scope), "of_number"), device=True)
    return FunctionType(_sweep.__code__, scope, f"{_sweep.__name__}_{kind.__name__}")


def _of_number(u, w):
    """w g(u), and the terms of the sums: w G(u), w g'(u), w g(u)²."""
    G, g, h = at_point(u, *PARAMS)
    if WEIGHTED:
        return w * g, w * G, w * h, w * (g * g)
    return g, G, h, g * g


def _without_loss(u, *params):
    _, g, h = at_point(u, *params)
    return real(0), g, h


def builds():
    """See `gpuica.kernels.cuda`: the sweeps of the contrasts that have names."""
    for name, kind in CONTRASTS.items():
        for dtype in (np.float32, np.float64):
            number = numba_type(dtype)
            signature = (number[::1], int64, number[::1], float64[:, :, ::1], int64)
            for weighted in (False, True):
                for with_loss in (False, True):
                    what = ("weighted " if weighted else "") + f"score{' and loss' if with_loss else ''}"
                    function = _swept(kind, kind().params, dtype, weighted, with_loss)
                    yield Build(f"{what}, {name}, {np.dtype(dtype).name}", function, signature, {}, dtype == np.float32)
