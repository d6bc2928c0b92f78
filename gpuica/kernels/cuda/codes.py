"""Compressed codes on the device, and what dictionary learning sums over them.

Codes are compressed as on the host: non-zeros a row (n,), their columns and their values, row after row.

Σ c cᵀ without atomics: non-zeros are sorted by atom (stable, so each atom's in the order of the rows), and one block
walks along the rows of one atom.  For m non-zeros a row that is m² products a row, where the dense product has K²: 400
against 17 million at m = 20, K = 4,096.  The dense product would cost as much as a round of the lasso at K = 8 d.
"""

import numpy as np
from numba import cuda, float64, int32

from ...device import array_device
from . import Build, launch, numba_type
from .block import place_among, summed

THREADS = 128
WALKERS = 32  # threads that add a row's atoms to an atom's sums: a row has few
TILE = 4096  # columns of Σ c cᵀ that a block keeps in shared memory, 32 KB


@cuda.jit
def _compress(C, starts, indices, values):
    """Each block writes one row's non-zeros (n, K) to where the row starts, in the order of the columns."""
    places = cuda.shared.array(THREADS, int32)
    row, t, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    K, place = C.shape[1], starts[row]
    first = 0
    while first < K:
        j = first + t
        value = C[row, j] if j < K else C.dtype.type(0)
        flag = np.int32(1) if value != 0 else np.int32(0)
        if cuda.syncthreads_or(flag) != 0:
            before, found = place_among(flag, places)
            if flag == 1:
                indices[place + before] = j
                values[place + before] = value
            place += found
        first += threads


@cuda.jit
def _products(starts, indices, values, of_atom, rows, weights, A, tile):
    """A_j (K,) += Σ c_j c over the rows that use atom j; one block for an atom and a tile of columns."""
    sums = cuda.shared.array(0, float64)
    j, t, threads = cuda.blockIdx.x, cuda.threadIdx.x, cuda.blockDim.x
    left = cuda.blockIdx.y * tile
    right = min(left + tile, A.shape[1])
    if of_atom[j] == of_atom[j + 1]:
        return
    k = t
    while k < right - left:
        sums[k] = 0.0
        k += threads
    cuda.syncthreads()
    for p in range(of_atom[j], of_atom[j + 1]):
        row, weight = rows[p], float64(weights[p])
        e = starts[row] + t
        while e < starts[row + 1]:
            k = indices[e]
            if left <= k and k < right:
                sums[k - left] += weight * float64(values[e])
            e += threads
        cuda.syncthreads()
    k = t
    while k < right - left:
        A[j, left + k] += sums[k]
        k += threads


@cuda.jit
def _weighted_rows(X, of_atom, rows, weights, B):
    """B_j (d,) += Σ c_j x over the rows that use atom j; blocks of features along y."""
    j, f = cuda.blockIdx.x, cuda.blockIdx.y * cuda.blockDim.x + cuda.threadIdx.x
    if f < X.shape[1] and of_atom[j] < of_atom[j + 1]:
        total = 0.0
        for p in range(of_atom[j], of_atom[j + 1]):
            total += float64(weights[p]) * float64(X[rows[p], f])
        B[j, f] += total


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
    """(non-zeros a row (n,), their columns, their values) of codes C (n, K), on the device.  Waits for their number."""
    xp = array_device(C).xp
    counts = (C != 0).sum(axis=1)
    starts = _starts(counts, xp)
    total = int(starts[-1])
    indices, values = xp.empty(total, dtype=np.int32), xp.empty(total, dtype=C.dtype)
    if total:
        launch(_compress, len(C), threads, C, starts, indices, values)
    return counts, indices, values


def add_moments(X, D, counts, indices, values, A, B, threads=THREADS, walkers=WALKERS, tile=TILE):
    """Add Σ c cᵀ to A (K, K) and Σ c xᵀ to B (K, d), float64; return ‖x - c D‖² of every row, (n,) float64."""
    xp, (n, d), K = array_device(X).xp, X.shape, len(D)
    squares, starts = xp.empty(n, dtype=np.float64), _starts(counts, xp)
    launch(_squares, n, threads, X, D, starts, indices, values, squares)
    if len(indices):
        by_atom = xp.argsort(indices, kind="stable")
        rows = (xp.searchsorted(starts, by_atom, side="right") - 1).astype(np.int32)
        of_atom = xp.searchsorted(indices[by_atom], xp.arange(K + 1, dtype=np.int32))
        weights, tiles = values[by_atom], -(-K // tile)
        # one tile for all where K is below it
        launch(
            _products, (K, tiles), walkers, starts, indices, values, of_atom, rows, weights, A, tile,
            shared=8 * min(tile, K),
        )  # fmt: skip
        launch(_weighted_rows, (K, -(-d // threads)), threads, X, of_atom, rows, weights, B)
    return squares


def _starts(counts, xp):
    """Where each row's non-zeros start, and their number, (n + 1,)."""
    starts = xp.zeros(len(counts) + 1, dtype=np.int64)
    starts[1:] = xp.cumsum(counts)
    return starts


def builds():
    """See `gpuica.kernels.cuda`."""
    long, whole = numba_type(np.int64)[::1], int32[::1]
    for dtype in (np.float32, np.float64):
        real, name = numba_type(dtype), np.dtype(dtype).name
        rows, numbers, sums = real[:, ::1], real[::1], float64[:, ::1]
        for kernel, *signature in (
            (_compress, rows, long, whole, numbers),
            (_products, long, whole, numbers, long, whole, numbers, sums, numba_type(np.int64)),
            (_weighted_rows, rows, long, whole, numbers, sums),
            (_squares, rows, rows, long, whole, numbers, float64[::1]),
        ):
            yield Build(f"{kernel.py_func.__name__[1:]}, {name}", kernel.py_func, tuple(signature))
