"""The inner loops worth compiling: what is done to every number between two matrix products.

The same function names for every device; the array code of the contrast itself serves where no kernel does.
"""

import numpy as np

from ..device import CPU, array_device

# Below this many numbers NumPy is as fast as the compiled loop, and a small fit then never loads Numba (0.4 s).
WORTH_COMPILING = 50_000


def score(Y, contrast):
    """Replace Y (k, n) by g(Y); return Σ g'(y) over each row, (k,)."""
    if _compiled(Y, contrast):
        from . import cpu

        return cpu.score(Y, contrast)
    _, g, slope = contrast.at(Y, array_device(Y).xp)
    Y[...] = g
    return slope.sum(axis=-1)


def score_and_loss(Y, contrast):
    """Replace Y (k, n) by g(Y); return Σ G(y) and Σ g'(y) over each row, (k,) each."""
    if _compiled(Y, contrast):
        from . import cpu

        return cpu.score_and_loss(Y, contrast)
    G, g, slope = contrast.at(Y, array_device(Y).xp)
    loss = G.sum(axis=-1)
    Y[...] = g
    return loss, slope.sum(axis=-1)


def _compiled(Y, contrast):
    return Y.size >= WORTH_COMPILING and hasattr(contrast, "at_point") and array_device(Y) == CPU
