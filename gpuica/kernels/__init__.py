"""The inner loops worth compiling: what is done to every number between two matrix products.

The same function names for every device; the array code of the contrast itself serves where no kernel does.
"""

from ..device import CPU, array_device

# Below this many numbers NumPy is as fast as the compiled loop, and a small fit then never loads Numba (0.4 s).
WORTH_COMPILING = 50_000


def column_sums(A):
    """Σ over the rows of A (n, k), (k,).  As a product: NumPy's own sum is ten times slower for few columns."""
    return array_device(A).xp.ones(len(A), dtype=A.dtype) @ A


def score(Y, contrast):
    """Replace Y (n, k) by g(Y); return Σ g'(y) and Σ g(y)² over the rows, (k,) each."""
    if _compiled(Y, contrast):
        from . import cpu

        return cpu.score(Y, contrast)
    g, slope = contrast.at(Y, array_device(Y).xp)
    Y[...] = g
    return column_sums(slope), column_sums(Y * Y)


def score_and_loss(Y, contrast):
    """Replace Y (n, k) by g(Y); return Σ G(y), Σ g'(y) and Σ g(y)² over the rows, (k,) each."""
    if _compiled(Y, contrast):
        from . import cpu

        return cpu.score_and_loss(Y, contrast)
    loss = column_sums(contrast.loss(Y, array_device(Y).xp))
    return loss, *score(Y, contrast)


def encode(X, D, gram, coder):
    """Codes (n, K) of the rows X (n, d) by a coder, and how many rows were not finished.  gram: D Dᵀ, or None."""
    if coder.kernel is None or array_device(X) != CPU:
        return coder.encode(X, D, array_device(X).xp)
    from . import coding

    return coding.encode(X, D, gram, coder)


def compress(C):
    """(non-zeros a row (n,), their columns, their values) of codes C (n, K) on the host."""
    from . import coding

    return coding.compress(C)


def add_code_moments(X, D, counts, indices, values, A, B):
    """Add Σ c cᵀ to A (K, K) and Σ c xᵀ to B (K, d) for compressed codes; return ‖x - c D‖² of every row (n,)."""
    from . import coding

    return coding.add_moments(X, D, counts, indices, values, A, B)


def _compiled(Y, contrast):
    return Y.size >= WORTH_COMPILING and hasattr(contrast, "at_point") and array_device(Y) == CPU
