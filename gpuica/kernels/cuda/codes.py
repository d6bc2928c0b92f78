"""Compressed codes on the device, and what dictionary learning sums over them.

Codes are compressed as on the host: non-zeros a row (n,), their columns and their values, row after row.

Σ c cᵀ without atomics: non-zeros are sorted by atom (stable, so each atom's in the order of the rows), and each block
sums over a part of the rows of one atom, so that an atom that most rows use does not prolong the kernel; the sums of
parts are added in their order.  For m non-zeros a row that is m² products a row, where the dense product has K²: 400
against 17 million at m = 20, K = 4,096.  The dense product would cost as much as a round of the lasso at K = 8 d.
"""

import numpy as np
from numba import cuda, float64, int32, int64

from ...device import array_device
from . import Build, launch, numba_type
from .block import ALL, rank_among, summed

THREADS = 128
PART_THREADS = 32  # of a block that adds rows to the sums of an atom: a row has few non-zeros
TILE = 4096  # columns of Σ c cᵀ that a block keeps in shared memory, 32 KB
MIN_PART_ROWS = 512  # rows of a part; more where the sums of the parts would exceed
MAX_PARTS_BYTES = 1 << 28


@cuda.jit
def _compress(C, starts, indices, values):
    """Each block writes one row's non-zeros (n, K) to where the row starts, in the order of the columns."""
    slots = cuda.shared.array(THREADS, int32)
    row, t, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    K, slot = C.shape[1], starts[row]
    first = 0
    while first < K:
        j = first + t
        value = C[row, j] if j < K else C.dtype.type(0)
        flag = np.int32(1) if value != 0 else np.int32(0)
        if cuda.syncthreads_or(flag) != 0:
            before, found = rank_among(flag, slots)
            if flag == 1:
                indices[slot + before] = j
                values[slot + before] = value
            slot += found
        first += threads


@cuda.jit(device=True)
def _segment(of_atom, first, atoms, length):
    """This block's part of an atom's non-zeros: the atom, which of its parts, where that starts and stops.

    first (K + 1,): the number of an atom's first block, of which it has at least one.  atoms: those of the
    blocks, K for blocks without work.
    """
    j = atoms[cuda.blockIdx.x]
    if j + 1 >= len(of_atom):
        return j, int64(0), int64(0), int64(0)
    part = cuda.blockIdx.x - first[j]
    start = of_atom[j] + part * length
    return j, part, start, min(start + length, of_atom[j + 1])


@cuda.jit
def _products(starts, indices, values, of_atom, first, atoms, length, rows, weights, A, parts, tile):
    """Σ c_j c (K,) over a part of the rows that use atom j; a block of one warp for a part and a tile of columns.

    An atom's first part is added to A_j; part i goes to parts[first_j - j + i - 1], to be added by `_add_parts`.
    Every lane reads the bounds of a row, then all lanes process these rows sequentially.
    """
    sums = cuda.shared.array(0, float64)
    j, part, start, stop = _segment(of_atom, first, atoms, length)
    if start >= stop:
        return
    t, threads, left = cuda.threadIdx.x, cuda.blockDim.x, cuda.blockIdx.y * tile
    right = min(left + tile, A.shape[1])
    k = t
    while k < right - left:
        sums[k] = 0.0
        k += threads
    cuda.syncthreads()
    while start < stop:
        mine = min(start + t, stop - 1)
        my_weight, my_start, my_stop = float64(weights[mine]), starts[rows[mine]], starts[rows[mine] + 1]
        source, count = 0, min(stop - start, threads)
        while source < count:
            weight = cuda.shfl_sync(ALL, my_weight, source)
            e, end = cuda.shfl_sync(ALL, my_start, source) + t, cuda.shfl_sync(ALL, my_stop, source)
            while e < end:
                k = indices[e] - left
                if k >= 0 and k < right - left:
                    sums[k] += weight * float64(values[e])
                e += threads
            cuda.syncthreads()
            source += 1
        start += threads
    k = t
    while k < right - left:
        if part == 0:
            A[j, left + k] += sums[k]
        else:
            parts[first[j] - j + part - 1, left + k] = sums[k]
        k += threads


@cuda.jit
def _weighted_rows(X, of_atom, first, atoms, length, rows, weights, B, parts):
    """Σ c_j x (d,) over a part of the rows that use atom j, as `_products`; blocks of features along y."""
    j, part, start, stop = _segment(of_atom, first, atoms, length)
    f = cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if f < X.shape[1] and start < stop:
        total, p = 0.0, start
        while p < stop:
            total += float64(weights[p]) * float64(X[rows[p], f])
            p += 1
        if part == 0:
            B[j, f] += total
        else:
            parts[first[j] - j + part - 1, f] = total


@cuda.jit
def _add_parts(first, parts, out):
    """out_j += the parts of atom j beyond the first, in their order; blocks of columns along y."""
    j, k = cuda.blockIdx.x, cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if k < out.shape[1]:
        total, i, stop = out[j, k], first[j] - j, first[j + 1] - j - 1
        while i < stop:
            total += parts[i, k]
            i += 1
        out[j, k] = total


@cuda.jit
def _squares(X, D, starts, indices, values, squares):
    """‖x - c D‖² of one row a block."""
    tree = cuda.shared.array(THREADS, float64)
    row, total = cuda.blockIdx.x, 0.0
    f = cuda.threadIdx.x
    while f < X.shape[1]:
        left = float64(X[row, f])
        for e in range(starts[row], starts[row + 1]):
            left -= float64(values[e]) * float64(D[indices[e], f])
        total += left * left
        f += cuda.blockDim.x
    total = summed(total, tree)
    if cuda.threadIdx.x == 0:
        squares[row] = total


def compress(C, threads=THREADS):
    """(non-zeros a row (n,), their columns, their values) of codes C (n, K), on the device.

    Synchronises, to read the number of non-zeros.
    """
    xp = array_device(C).xp
    counts = (C != 0).sum(axis=1)
    starts = _starts(counts, xp)
    total = int(starts[-1])
    indices, values = xp.empty(total, dtype=np.int32), xp.empty(total, dtype=C.dtype)
    if total:
        launch(_compress, len(C), threads, C, starts, indices, values)
    return counts, indices, values


def add_moments(X, D, counts, indices, values, A, B, threads=THREADS, walkers=PART_THREADS, tile=TILE, length=None):
    """Add Σ c cᵀ to A (K, K) and Σ c xᵀ to B (K, d), float64; return ‖x - c D‖² of every row, (n,) float64.

    length: rows of a part.
    """
    xp, (n, d), K, total = array_device(X).xp, X.shape, len(D), len(indices)
    squares, starts = xp.empty(n, dtype=np.float64), _starts(counts, xp)
    launch(_squares, n, threads, X, D, starts, indices, values, squares)
    if not total:
        return squares
    by_atom = xp.argsort(indices, kind="stable")
    rows = (xp.searchsorted(starts, by_atom, side="right") - 1).astype(np.int32)
    of_atom = xp.searchsorted(indices[by_atom], xp.arange(K + 1, dtype=np.int32))
    length = length or max(MIN_PART_ROWS, -(-8 * total * max(K, d) // MAX_PARTS_BYTES))
    more = total // length  # parts beyond an atom's first, at most
    first = _starts(xp.maximum(-(-(of_atom[1:] - of_atom[:-1]) // length), 1), xp)
    atoms = xp.searchsorted(first[1:], xp.arange(K + more), side="right")
    work, weights, tiles = (of_atom, first, atoms, length, rows), values[by_atom], -(-K // tile)
    parts = xp.empty((more, K), dtype=np.float64)
    # one tile for all where K is below it
    launch(
        _products, (K + more, tiles), walkers, starts, indices, values, *work, weights, A, parts, tile,
        shared=8 * min(tile, K),
    )  # fmt: skip
    if more:
        launch(_add_parts, (K, -(-K // threads)), threads, first, parts, A)
    parts = xp.empty((more, d), dtype=np.float64)
    launch(_weighted_rows, (K + more, -(-d // threads)), threads, X, *work, weights, B, parts)
    if more:
        launch(_add_parts, (K, -(-d // threads)), threads, first, parts, B)
    return squares


def _starts(counts, xp):
    """The index of each row's first non-zero, and their total; (n + 1,)."""
    starts = xp.zeros(len(counts) + 1, dtype=np.int64)
    starts[1:] = xp.cumsum(counts)
    return starts


def builds():
    """See `gpuica.kernels.cuda`."""
    long, whole = int64[::1], int32[::1]
    work = long, long, long, int64, whole
    yield Build("add parts", _add_parts.py_func, (long, float64[:, ::1], float64[:, ::1]))
    for dtype in (np.float32, np.float64):
        real, name = numba_type(dtype), np.dtype(dtype).name
        rows, numbers, sums = real[:, ::1], real[::1], float64[:, ::1]
        for kernel, *signature in (
            (_compress, rows, long, whole, numbers),
            (_products, long, whole, numbers, *work, numbers, sums, sums, int64),
            (_weighted_rows, rows, *work, numbers, sums, sums),
            (_squares, rows, rows, long, whole, numbers, float64[::1]),
        ):
            yield Build(f"{kernel.py_func.__name__[1:]}, {name}", kernel.py_func, tuple(signature))
