"""The inner loops worth compiling: what is done to every number between two matrix products.

The same function names for every device; the array code of the contrast itself serves where no kernel does.
"""

from ..device import CPU, array_device

# Below this many numbers NumPy is as fast as the compiled loop, and a small fit then never loads Numba (0.4 s).
WORTH_COMPILING = 50_000


def column_sums(A, weights=None):
    """Σ w a over the rows a of A (n, k), (k,).  As a product: NumPy's own sum is ten times slower for few columns."""
    return (array_device(A).xp.ones(len(A), dtype=A.dtype) if weights is None else weights) @ A


def score(Y, contrast, weights=None):
    """Replace Y (n, k) by w g(Y); return Σ w g'(y) and Σ w g(y)² over the rows, (k,) each.  weights w: (n,) or None."""
    if _compiled(Y, contrast):
        from . import cpu

        return cpu.score(Y, contrast, weights)
    g, slope = contrast.at(Y, array_device(Y).xp)
    Y[...] = g
    square = column_sums(Y * Y, weights)
    if weights is not None:
        Y *= weights[:, None]
    return column_sums(slope, weights), square


def score_and_loss(Y, contrast, weights=None):
    """Replace Y (n, k) by w g(Y); return Σ w G(y), Σ w g'(y) and Σ w g(y)² over the rows, (k,) each."""
    if _compiled(Y, contrast):
        from . import cpu

        return cpu.score_and_loss(Y, contrast, weights)
    loss = column_sums(contrast.loss(Y, array_device(Y).xp), weights)
    return loss, *score(Y, contrast, weights)


def _compiled(Y, contrast):
    return Y.size >= WORTH_COMPILING and hasattr(contrast, "at_point") and array_device(Y) == CPU
