"""The atoms of a block, updated sequentially, on the device: see `kernels.descend`.

Atom j becomes s_j u_j, u_j = U_j - Σ_{i<j} L_ji (s_i u_i - D_i), s_j = 1 / max(‖u_j‖, 1).  Only the scales have
to be computed sequentially.  With P = U + L D the atoms are u = R P, R = (1 + L diag(s))⁻¹, so that

    u_j = P_j - Σ_{i<j} L_ji s_i u_i,    ‖u_j‖² = R_j S R_jᵀ,    S = P Pᵀ (b, b),

and one block of threads computes s and R from L and S, in b² operations an atom whatever the number of features d.
What depends on d is three products, P, S and (diag(s) R) P.  They and the kernel are in float64, since R can be large
where atoms are used together.

The lower bound, for K = 16,384 atoms of d = 2,304 features in float32: 2 K² d = 1.2e12 operations for A D, 25 ms at 50
TFLOP/s (the bytes, K² + K d numbers in blocks of 128, are 10 ms at 3 TB/s); K sequential steps of about 0.5 µs (64 rows
of two 128 x 128 matrices from L1, by 512 threads, and five barriers), 8 ms; 6 K b d operations in float64, 3e10, 1 ms.
A sweep over features for each atom (one multiprocessor: 2 to 5 µs an atom) or a barrier over the grid (1.5 to 2 µs)
would be 30 to 80 ms for the steps alone.  Where entries must be positive or norms are 1, that algebra does not hold:
`_descend` is the plain loop, in one block.
"""

import math

import numpy as np
from numba import cuda, float64

from ...device import array_device
from . import Build, launch, numba_type
from .block import LANES, summed
from .loading import resident

THREADS = 1024  # of `_descend`, over features: as many loads in flight as one multiprocessor can have
COLUMNS = 128  # of `_scales`, over the atoms of a block: each computes its columns of R and of R S,
SLICES = 4  # in so many slices of the rows above
SPREAD = SLICES * COLUMNS


@cuda.jit
@resident(SPREAD, 1)
def _scales(L, S, used, R, Y, columns):
    """R (b, b) becomes diag(s) (1 + L diag(s))⁻¹ for L (b, b), strictly lower, and S = P Pᵀ.  Y: (b, b), scratch.

    Threads in slices of `columns`: each works on columns of its own, row by row, and a slice on some of the rows above;
    the first slice adds their sums, in their order.  All threads add ‖u_j‖².
    """
    tree = cuda.shared.array(LANES, float64)
    ys = cuda.shared.array(SPREAD, float64)
    rs = cuda.shared.array(SPREAD, float64)
    t, threads, b = cuda.threadIdx.x, cuda.blockDim.x, len(L)
    piece, column, pieces = t // columns, t % columns, threads // columns
    for j in range(b):
        square, k = 0.0, column
        for _ in range(0, b, columns):
            y, r, i = 0.0, 0.0, piece
            while i < j and k < b:
                y += L[j, i] * Y[i, k]
                r += L[j, i] * R[i, k]
                i += pieces
            ys[t], rs[t] = y, r
            cuda.syncthreads()
            if piece == 0 and k < b:
                y, r, other = S[j, k] - y, (1.0 if k == j else 0.0) - r, t + columns
                while other < threads:
                    y -= ys[other]
                    r -= rs[other]
                    other += columns
                Y[j, k], R[j, k] = y, r
                square += r * y
            cuda.syncthreads()  # before the next sums overwrite these
            k += columns
        norm = math.sqrt(max(summed(square, tree), 0.0))
        if used[j] and norm > 1:
            k = t
            while k < b:
                Y[j, k] /= norm
                R[j, k] /= norm
                k += threads
        cuda.syncthreads()  # all slices read these rows


@cuda.jit
@resident(THREADS, 1)
def _descend(D, U, L, used, positive, unit, steps):
    """As `kernels.descend`: D (b, d) is replaced, U (b, d) overwritten.  steps: (b, d), scratch.

    One block; a thread works on features of its own, and all threads add ‖u_j‖².
    """
    tree = cuda.shared.array(LANES, float64)
    t, threads = cuda.threadIdx.x, cuda.blockDim.x
    b, d = D.shape
    for j in range(b):
        if used[j]:
            square = 0.0
            f = t
            while f < d:
                u = U[j, f]
                for i in range(j):
                    u -= L[j, i] * steps[i, f]
                if positive and u < 0:
                    u = D.dtype.type(0)
                U[j, f] = u
                square += float64(u) * float64(u)
                f += threads
            norm = math.sqrt(summed(square, tree))
            scale = D.dtype.type(1)
            if unit or norm > 1:
                scale = D.dtype.type(1 / norm if norm > 0 else 0)
            f = t
            while f < d:
                if unit and norm == 0:  # no direction: the old atom stays
                    steps[j, f] = D.dtype.type(0)
                else:
                    new = U[j, f] * scale
                    steps[j, f] = new - D[j, f]
                    D[j, f] = new
                f += threads
        else:
            f = t
            while f < d:
                steps[j, f] = D.dtype.type(0)
                f += threads


def descend(D, U, L, used, positive, unit, threads=None):
    """See `kernels.descend`.  D can be a view of rows in sequence.  Does not synchronise."""
    xp = array_device(D).xp
    if positive or unit:
        steps = xp.empty(U.shape, dtype=U.dtype)
        launch(_descend, 1, threads or THREADS, D, U, L, used, positive, unit, steps)
        return
    L, old = xp.tril(L.astype(np.float64), -1) * used[:, None], D.astype(np.float64)
    P = xp.where(used[:, None], U.astype(np.float64) + L @ old, old)  # an atom that is not used is kept
    R, Y = xp.empty((2, *L.shape))
    columns = max((threads or SPREAD) // SLICES, 1)
    launch(_scales, 1, (threads or SPREAD) // columns * columns, L, P @ P.T, used, R, Y, columns)
    D[...] = (R @ P).astype(D.dtype)


def builds():
    """See `gpuica.kernels.cuda`."""
    from numba import boolean, int64

    square = float64[:, ::1]
    yield Build("scales, float64", _scales.py_func, (square, square, boolean[::1], square, square, int64))
    for dtype in (np.float32, np.float64):
        rows = numba_type(dtype)[:, ::1]
        signature = rows, rows, rows, boolean[::1], boolean, boolean, rows
        yield Build(f"descend, {np.dtype(dtype).name}", _descend.py_func, signature)
