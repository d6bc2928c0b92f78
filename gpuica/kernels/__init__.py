"""The inner loops worth compiling: what is computed for every number between two matrix products.

`cpu` and `cuda` have modules and functions of the same names, and this module chooses between them by the device of the
arrays.  Where neither applies, the array code of a contrast or coder does.
"""

import numpy as np

from ..device import CPU, array_device, log_once, why_no_kernels
from .compiling import import_kernels

# Below this many numbers NumPy is as fast as the compiled loop, and a small fit then never imports Numba (0.4 s).
WORTH_COMPILING = 50_000

# The same for a block of atoms, where the compiled loop replaces Python's loop over atoms.
ATOMS_WORTH_COMPILING = 4_000


def column_sums(A, weights=None):
    """Σ w a over the rows a of A (n, k), (k,).  As a product: NumPy's own sum is ten times slower for few columns."""
    return (array_device(A).xp.ones(len(A), dtype=A.dtype) if weights is None else weights) @ A


def score(Y, contrast, weights=None):
    """Replace Y (n, k) by w g(Y); return Σ w g'(y) and Σ w g(y)² over the rows, (k,) each.  weights w: (n,) or None."""
    if sweeps := _sweeps(Y, contrast):
        return sweeps.score(Y, contrast, weights)
    g, slope = contrast.at(Y, array_device(Y).xp)
    Y[...] = g
    square = column_sums(Y * Y, weights)
    if weights is not None:
        Y *= weights[:, None]
    return column_sums(slope, weights), square


def score_and_loss(Y, contrast, weights=None):
    """Replace Y (n, k) by w g(Y); return Σ w G(y), Σ w g'(y) and Σ w g(y)² over the rows, (k,) each."""
    if sweeps := _sweeps(Y, contrast):
        return sweeps.score_and_loss(Y, contrast, weights)
    loss = column_sums(contrast.loss(Y, array_device(Y).xp), weights)
    return loss, *score(Y, contrast, weights)


def encode(X, D, prepared, coder):
    """Codes (n, K) of the rows X (n, d) by a coder, and the number of unfinished rows.  prepared: see `prepare`."""
    xp = array_device(X).xp
    if coder.kernel is None or not has_kernels(X):
        return coder.encode(X, D, xp)
    C, n_unfinished = _kernels("coding", X).encode(X, D, prepared, coder)
    return _improved(X, D, C, n_unfinished, coder), n_unfinished


def encode_compressed(X, D, prepared, coder):
    """As `encode`, with codes in the form of `compress`, where `has_kernels` holds."""
    if coder.kernel is None or not hasattr(_kernels("coding", X), "encode_compressed"):
        C, n_unfinished = encode(X, D, prepared, coder)
        return compress(C), n_unfinished
    codes, n_unfinished = _kernels("coding", X).encode_compressed(X, D, prepared, coder)
    if n_unfinished:
        counts, indices, values = codes
        C = array_device(X).xp.zeros((len(X), len(D)), dtype=X.dtype)
        C[array_device(X).xp.arange(len(X)).repeat(counts), indices] = values
        codes = compress(_improved(X, D, C, n_unfinished, coder))
    return codes, n_unfinished


def _improved(X, D, C, n_unfinished, coder):
    """Codes C (n, K), or zeros where some rows are unfinished and zeros cost less."""
    if n_unfinished and hasattr(coder, "no_worse_than_zeros"):
        return coder.no_worse_than_zeros(X, D, C, array_device(X).xp)
    return C


def prepare(D, coder):
    """What the kernel of a coder computes once from the dictionary D (K, d): D Dᵀ (K, K), or another form that `encode`
    takes, or None."""
    if coder.kernel is None or not has_kernels(D):
        return None
    return _kernels("coding", D).prepare(D, coder)


def are_compressed(prepared):
    """Whether codes are computed in compressed form, given what `prepare` returned."""
    return isinstance(prepared, tuple)


def compress(C):
    """(non-zeros a row (n,), their columns, their values) of codes C (n, K), where `has_kernels` holds."""
    return _kernels("codes", C).compress(C)


def add_code_moments(X, D, counts, indices, values, A, B):
    """Add Σ c cᵀ to A (K, K) and Σ c xᵀ to B (K, d) for compressed codes; return ‖x - c D‖² of every row (n,)."""
    return _kernels("codes", X).add_moments(X, D, counts, indices, values, A, B)


def constrained(U, D, positive, unit):
    """U (m, d) with its entries clipped at 0 if positive, and rows scaled to norm 1 if unit, else to norm at most 1.

    A row of zeros, which cannot be scaled to norm 1, becomes the row of D (m, d).
    """
    xp = array_device(U).xp
    if positive:
        U = xp.maximum(U, 0)
    norm = xp.sqrt((U * U).sum(axis=1, keepdims=True))
    if unit:
        return xp.where(norm > 0, U / xp.where(norm > 0, norm, 1), D)
    return U / xp.maximum(norm, 1)


def descend(D, U, L, used, positive, unit):
    """Replace the atoms of a block D (b, d) sequentially: u_j = U_j - Σ_{i<j} L_ji (new D_i - old D_i), then
    `constrained`.  Atoms that are not used, (b,) booleans, are kept.

    U: (b, d), overwritten; each atom's new value if the others of the block were kept.  L: (b, b).
    """
    if has_kernels(U) and (array_device(U) != CPU or U.size >= ATOMS_WORTH_COMPILING):
        _kernels("atoms", U).descend(D, U, L, used, positive, unit)
        return
    steps = array_device(U).xp.zeros(U.shape, dtype=U.dtype)
    for j in [j for j, is_used in enumerate(used.tolist()) if is_used]:
        new = constrained(U[j : j + 1] - L[j : j + 1, :j] @ steps[:j], D[j : j + 1], positive, unit)
        steps[j : j + 1] = new - D[j : j + 1]
        D[j : j + 1] = new


def descend_on_rows(D, R, starts, rows, values, weights, used, positive):
    """Replace the atoms of D (K, d) sequentially by the minimisers of Σ w ½‖r‖² over norms of at most 1, on the host.

    R (n, d): the residuals, which are updated.  starts (T, K + 1): where the non-zeros of each atom start in rows and
    values (n_nonzero,), in each of T batches of weight `weights` (T,).  Atoms that are not used, (K,), are kept.
    """
    descend = import_kernels("cpu.atoms").descend_on_rows
    descend(D, R, starts, rows, values, weights, used, positive, np.empty(D.shape[1], D.dtype))


def add_atoms(R, starts, rows, values, atoms, steps):
    """R += C_j step for some atoms j (m,) and their steps (m, d), on the host; other arguments: `descend_on_rows`."""
    import_kernels("cpu.atoms").add_atoms(R, starts, rows, values, atoms, steps)


def subtract_codes(R, D, counts, indices, values):
    """R -= C D for compressed codes C on the host; returns the squared norms of the rows of R (n,)."""
    squares = np.empty(len(R))
    import_kernels("cpu.atoms").subtract_codes(R, D, counts, indices, values, squares)
    return squares


def products_pay(M):
    """Whether many products of M (k, k) are faster than a decomposition: on a device, where a decomposition is slow and
    synchronises; see `solvers.orthonormal`."""
    return array_device(M) != CPU


def polar(M):
    """The orthonormal rows nearest to those of M (k, k) and their defect, by one kernel; see `solvers.orthonormal`.

    None where there is no kernel for M.
    """
    if array_device(M) == CPU or M.dtype != float or not has_kernels(M):
        return None
    return _kernels("polar", M).polar(M)


def has_kernels(array):
    """Whether compiled kernels can work on an array: on the host, and on GPUs where `on_cuda` holds."""
    return array_device(array) == CPU or on_cuda(array)


def on_cuda(array):
    """Whether kernels of `kernels.cuda` can work on an array; logs once why they cannot where the device is a GPU."""
    if not hasattr(array, "__cuda_array_interface__"):
        return False
    if reason := why_no_kernels():
        log_once(f"Using array operations on the GPU, without compiled kernels: {reason}")
    return not reason


def _kernels(name, array):
    """The module `name` of `kernels.cpu` or `kernels.cuda`, by the device of an array."""
    return import_kernels(f"cpu.{name}" if array_device(array) == CPU else f"cuda.{name}")


def _sweeps(Y, contrast):
    """The compiled sweeps for scores Y (n, k), or None where the array code of the contrast is used."""
    if not hasattr(contrast, "at_point"):
        return None
    if array_device(Y) == CPU:
        return _kernels("contrast", Y) if Y.size >= WORTH_COMPILING else None
    return _kernels("contrast", Y) if on_cuda(Y) and Y.flags.c_contiguous else None
