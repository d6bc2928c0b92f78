"""The inner loops worth compiling: what is done to every number between two matrix products.

The same function names for every device; the array code of the contrast itself serves where no kernel does.
"""

from ..device import CPU, array_device, log_once, why_no_kernels
from .compiling import compiled

# Below this many numbers NumPy is as fast as the compiled loop, and a small fit then never loads Numba (0.4 s).
WORTH_COMPILING = 50_000
LARGEST_GRAM = 1 << 30  # bytes

# The same for a block of atoms, where it is Python's loop over atoms that the compiled one replaces.
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


def encode(X, D, gram, coder):
    """Codes (n, K) of the rows X (n, d) by a coder, and how many rows were not finished.  gram: D Dᵀ, or None."""
    xp, place = array_device(X).xp, "cpu.coding" if array_device(X) == CPU else "cuda.coding"
    if coder.kernel is None or not (array_device(X) == CPU or on_cuda(X)):
        return coder.encode(X, D, xp)
    C, n_unfinished = compiled(place).encode(X, D, gram, coder)
    if n_unfinished and hasattr(coder, "no_worse_than_zeros"):
        C = coder.no_worse_than_zeros(X, D, C, xp)
    return C, n_unfinished


def gram(D, coder):
    """D Dᵀ (K, K) of a dictionary D (K, d), or None where a coder does better without it or has no use for it."""
    if array_device(D) == CPU:
        pays = gram_pays(len(D), D.shape[1], D.dtype.itemsize, coder)
    elif pays := coder.kernel is not None and on_cuda(D):
        pays = compiled("cuda.coding").gram_pays(len(D), D.dtype.itemsize, coder, array_device(D).budget())
    return D @ D.T if pays else None


def gram_pays(n_atoms, n_features, itemsize, coder):
    """Whether a coder on the host should be given D Dᵀ: where it has a kernel, the memory allows it, and nothing else
    is faster.

    The lasso without it takes less time once D Dᵀ exceeds half a megabyte for each feature.  Measured on one core with
    2 MB of L2, at 16, 64 and 144 features (for 2,000, 2,700 and 4,000 atoms of float32).  At 384 features it takes 1.5
    times as long with up to 12,288 atoms, but from 7,000 on computing D Dᵀ costs what 10,000 rows gain by it.
    """
    size = n_atoms**2 * itemsize
    most = n_features << 19 if coder.kernel == "lasso" else LARGEST_GRAM
    return coder.kernel is not None and size <= min(most, LARGEST_GRAM)


def compresses(C):
    """Whether `compress` and `add_code_moments` work where the codes C are."""
    return array_device(C) == CPU or on_cuda(C)


def compress(C):
    """(non-zeros a row (n,), their columns, their values) of codes C (n, K), where they are."""
    return _of_codes(C).compress(C)


def add_code_moments(X, D, counts, indices, values, A, B):
    """Add Σ c cᵀ to A (K, K) and Σ c xᵀ to B (K, d) for compressed codes; return ‖x - c D‖² of every row (n,)."""
    return _of_codes(X).add_moments(X, D, counts, indices, values, A, B)


def _of_codes(array):
    """The module that works on compressed codes where an array is."""
    if array_device(array) == CPU:
        return compiled("cpu.coding")
    return compiled("cuda.codes")


def constrained(U, D, positive, unit):
    """U (m, d) with its entries at least 0 if positive, then rows of norm 1 if unit, and else of norm at most 1.

    A row that has no direction to be made a unit vector, because it is 0, is D's row (m, d).
    """
    xp = array_device(U).xp
    if positive:
        U = xp.maximum(U, 0)
    norm = xp.sqrt((U * U).sum(axis=1, keepdims=True))
    if unit:
        return xp.where(norm > 0, U / xp.where(norm > 0, norm, 1), D)
    return U / xp.maximum(norm, 1)


def descend(D, U, L, used, positive, unit):
    """Replace the atoms of a block D (b, d), one after the other: u_j = U_j - Σ_{i<j} L_ji (new D_i - old D_i), then
    `constrained`.  Atoms that are not used, (b,) booleans, stay.

    U: (b, d), overwritten; where each atom would go if the others of the block stayed.  L: (b, b).
    """
    if U.size >= ATOMS_WORTH_COMPILING and array_device(U) == CPU:
        compiled("cpu.contrast").descend(D, U, L, used, positive, unit)
        return
    if on_cuda(U):
        compiled("cuda.atoms").descend(D, U, L, used, positive, unit)
        return
    steps = array_device(U).xp.zeros(U.shape, dtype=U.dtype)
    for j in [j for j, is_used in enumerate(used.tolist()) if is_used]:
        new = constrained(U[j : j + 1] - L[j : j + 1, :j] @ steps[:j], D[j : j + 1], positive, unit)
        steps[j : j + 1] = new - D[j : j + 1]
        D[j : j + 1] = new


def products_pay(M):
    """Whether M (k, k) is better worked on by many products than by a decomposition: on a device, where a decomposition
    is slow and a wait; see `solvers.polar`."""
    return array_device(M) != CPU


def polar(M):
    """The orthonormal rows nearest to those of M (k, k) and their defect, see `solvers.polar`, by one kernel.

    None where there is no kernel for M.
    """
    if array_device(M) == CPU or M.dtype != float or not on_cuda(M):
        return None
    return compiled("cuda.polar").polar(M)


def _sweeps(Y, contrast):
    """The compiled sweeps for scores Y (n, k) where they are, or None: the arrays of the contrast do as well."""
    if not hasattr(contrast, "at_point"):
        return None
    if array_device(Y) == CPU:
        if Y.size < WORTH_COMPILING:
            return None
        return compiled("cpu.contrast")
    if not on_cuda(Y) or not Y.flags.c_contiguous:
        return None
    return compiled("cuda.contrast")


def on_cuda(array):
    """Whether kernels of `kernels.cuda` can work on an array; logs once why they cannot where the device is a GPU."""
    if not hasattr(array, "__cuda_array_interface__"):
        return False
    if reason := why_no_kernels():
        log_once(f"On the GPU by array operations, without compiled kernels: {reason}")
    return not reason
