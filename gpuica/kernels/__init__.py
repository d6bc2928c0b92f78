"""The inner loops worth compiling: what is done to every number between two matrix products.

The same function names for every device; the array code of the contrast itself serves where no kernel does.
"""

from ..device import CPU, array_device

# Below this many numbers NumPy is as fast as the compiled loop, and a small fit then never loads Numba (0.4 s).
WORTH_COMPILING = 50_000


def score(Y, contrast):
    """Replace Y (n, k) by g(Y); return Σ g'(y) and Σ g(y)² over the rows, (k,) each."""
    if _compiled(Y, contrast):
        from . import cpu

        return cpu.score(Y, contrast)
    g, slope = contrast.at(Y.T, array_device(Y).xp)
    Y[...] = g.T
    return slope.sum(axis=-1), (Y * Y).sum(axis=0)


def score_and_loss(Y, contrast):
    """Replace Y (n, k) by g(Y); return Σ G(y), Σ g'(y) and Σ g(y)² over the rows, (k,) each."""
    if _compiled(Y, contrast):
        from . import cpu

        return cpu.score_and_loss(Y, contrast)
    loss = contrast.loss(Y, array_device(Y).xp).sum(axis=0)
    return loss, *score(Y, contrast)


def _compiled(Y, contrast):
    return Y.size >= WORTH_COMPILING and hasattr(contrast, "at_point") and array_device(Y) == CPU
