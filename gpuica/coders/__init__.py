"""Sparse coders: which code c a row x gets from a dictionary D, x ≈ c D.

`protocol.Coder` states what a coder is.  `encode` is its definition, in array code for NumPy and CuPy; where it names a
`kernel`, `gpuica.kernels` has a compiled form.  A new coder is a class in a module of this package, decorated with
`register`.
"""

from .counted import OMP, ORMP, TopK
from .penalised import Fista, Lasso, Threshold
from .protocol import Coder
from .registry import CODERS, accepts, as_coder, register, supports_positive
from .stepwise import Lars, MatchingPursuit

__all__ = [
    "CODERS",
    "OMP",
    "ORMP",
    "Coder",
    "Fista",
    "Lars",
    "Lasso",
    "MatchingPursuit",
    "Threshold",
    "TopK",
    "accepts",
    "as_coder",
    "register",
    "supports_positive",
]
