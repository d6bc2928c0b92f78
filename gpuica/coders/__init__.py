"""Sparse coders: which code c a row x gets from a dictionary D, x ≈ c D.

Every coder is a value whose docstring is its formula.  `encode` is its definition, in array code that runs with NumPy
and CuPy; `gpuica.kernels` has a compiled form for the CPU under the name `kernel`.
"""

from .counted import OMP, ORMP, TopK
from .penalised import Fista, Lasso, Threshold
from .stepwise import Lars, MatchingPursuit

LASSO = ("lasso_lars", "lasso_cd", "fista")
BY_COUNT = ("omp", "nnomp", "ormp", "lars", "matching_pursuit", "gradient_pursuit", "topk")
CODERS = (*LASSO, *BY_COUNT, "threshold")
NO_POSITIVE = ("omp", "ormp", "lars", "matching_pursuit", "gradient_pursuit")


def as_coder(name, shape, *, alpha=None, n_nonzero=None, positive=False, max_iter=1000):
    """The coder of a name in CODERS, for dictionaries of this shape (K, d).

    alpha: the penalty or threshold, 1 by default; for pursuits the squared residual to be reached, in place of a
    number of atoms.  n_nonzero: atoms a row, by default a tenth of the features, at least 1.
    Raises ValueError for positive codes where a coder has none, and for more atoms than there are.
    """
    n_atoms, n_features = shape
    if positive and name in NO_POSITIVE:
        remedy = " Use 'nnomp'." if name == "omp" else ""
        raise ValueError(f"Positive constraint not supported for '{name}' coding method.{remedy}")
    if name in LASSO:
        kind = Fista if name == "fista" else Lasso
        return kind(1.0 if alpha is None else float(alpha), positive, max_iter)
    if name == "threshold":
        return Threshold(1.0 if alpha is None else float(alpha), positive)
    if n_nonzero is not None and n_nonzero > n_atoms:
        raise ValueError(f"n_nonzero_coefs={n_nonzero} is more than the {n_atoms} atoms of the dictionary.")
    count = int(min(max(n_features / 10, 1), n_atoms)) if n_nonzero is None else int(n_nonzero)
    if name == "lars":
        return Lars(count)
    if name == "topk":
        return TopK(count, positive)
    target = 0.0 if alpha is None else float(alpha)
    if alpha is not None:
        count = n_atoms
    if name in ("omp", "nnomp"):
        return OMP(count, target, positive=name == "nnomp")
    if name == "ormp":
        return ORMP(count, target)
    return MatchingPursuit(count, target, gradient=name == "gradient_pursuit")
