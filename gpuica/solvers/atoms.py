"""The dictionary of a sparse code from two sums over rows: A = Σ c cᵀ and B = Σ c xᵀ.

Rows x ~ c D, atoms the rows of D.  For fixed codes ½ Σ ‖x - c D‖² is ½ tr(Dᵀ A D) - tr(Dᵀ B) and a constant, so an
update needs neither rows nor codes.  Shapes: D and B (k, d), A (k, k) for k atoms of d features.

Every function of `UPDATES` takes (D, A, B) and

    positive: whether entries of D must be at least 0.
    norm: "ball", every atom of norm at most 1 (Mairal, scikit-learn), or "unit", norm 1.
    least_use: an atom with A_jj = Σ c_j² at or below this is unused; it stays as it is, but for entries below 0 if
        positive.

and returns the new D, in D's dtype, and which atoms are unused, (k,) booleans.
"""

from typing import Any

import numpy as np

from .. import kernels

LEAST_USE = 1e-6  # scikit-learn's and, it says, SPAMS's
BLOCK = 128  # atoms of a block: fewer make slow products, more make work within blocks; flat from 96 to 256
PARALLEL = 1 - 1e-6  # a larger |cosine| makes two atoms the same


def block_descent(D, A, B, *, positive=False, norm="ball", least_use=LEAST_USE, block=BLOCK, sweeps=1, xp=np):
    """Each atom in turn to its best place while all others stay: u_j = (B_j - A_j D) / A_jj + D_j, constrained.

    Mairal, Bach, Ponce, Sapiro, "Online dictionary learning for sparse coding", ICML 2009, algorithm 2.  The objective
    never rises (norm="unit": from atoms of norm 1).  sweeps: times over all atoms.

    Blocked: within a block of atoms only the block's own rows of D change, so one product A D serves the block, and
    what its atoms do to each other is corrected on the way.  The same operations as one product per atom, up to the
    order of additions.
    """
    used, scale = _use(A, least_use, xp)
    D = D.copy()
    for _ in range(sweeps):
        for start in range(0, len(D), block):
            rows = slice(start, start + block)
            across = A[rows].astype(D.dtype, copy=False)
            divisor = scale[rows, None].astype(D.dtype)
            U = (B[rows].astype(D.dtype, copy=False) - across @ D) / divisor + D[rows]
            within = xp.ascontiguousarray(across[:, rows] / divisor)
            kernels.descend(D[rows], U, within, used[rows], positive, _is_unit(norm))
    return _allowed(D, positive, xp), ~used


def least_squares(D, A, B, *, positive=False, norm="ball", least_use=LEAST_USE, ridge=None, xp=np):
    """All atoms at once to the least-squares solution A⁻¹ B, then constrained: the method of optimal directions, MOD.

    Engan, Aase, Husøy, "Method of optimal directions for frame design", ICASSP 1999.  The constraint comes after the
    solution, so the objective may rise; code the rows again before comparing.

    ridge: D - old D is shortened as if each A_jj were larger by this share, so that atoms that the codes cannot tell
    apart move little.  Default: the rounding of D's dtype to the power 2/3.  Solved in float64.
    """
    used, scale = _use(A, least_use, xp)
    ridge = float(np.finfo(D.dtype).eps) ** (2 / 3) if ridge is None else ridge
    system = xp.where(used[:, None] & used, A.astype(np.float64, copy=False), 0.0)
    places = xp.arange(len(A))
    system[places, places] += xp.where(used, ridge * scale, 1.0)  # an unused atom has no equation but "stay"
    old = D.astype(np.float64)
    step = xp.linalg.solve(system, (B - A @ old) * used[:, None])
    return _settled(D, old + step, used, positive, norm, xp)


def approximate_ksvd(D, A, B, *, positive=False, norm="unit", least_use=LEAST_USE, xp=np):
    """All atoms at once to E_jᵀ c_j normalised, E_j = X - C D + c_j D_j the residual without atom j, D old throughout.

    E_jᵀ c_j = B_j - A_j D + A_jj D_j is one power iteration towards the first singular vector that K-SVD asks for:
    the atoms' half of approximate K-SVD (Rubinstein, Zibulevsky, Elad, Technion CS-2008-08), in the parallel form of
    Irofti and Dumitrescu, "GPU parallel implementation of the approximate K-SVD algorithm", EUSIPCO 2014.  The codes
    stay, they are found anew with the new atoms.  Atoms that move at once may overshoot: the objective may rise.

    norm="ball" keeps the length E_jᵀ c_j / A_jj, cut to 1: `block_descent` by Jacobi instead of Gauss-Seidel.
    """
    used, scale = _use(A, least_use, xp)
    A, B, scale = (part.astype(D.dtype, copy=False) for part in (A, B, scale))
    return _settled(D, (B - A @ D) / scale[:, None] + D, used, positive, norm, xp)


UPDATES: dict[str, Any] = {
    "block_descent": block_descent,
    "least_squares": least_squares,
    "approximate_ksvd": approximate_ksvd,
}


def replace_unused(D, unused, candidates, *, rng, positive=False, xp=np):
    """D with each unused atom replaced by a candidate of norm 1, or a random direction when they run out.

    unused: (k,) booleans.  candidates: (m, d), the worst-reconstructed rows, worst first; taken in this order, without
    zeros, multiples of used atoms and multiples of each other.  rng: a NumPy generator or RandomState.
    What A and B hold about a replaced atom is the caller's to forget.
    """
    places = xp.nonzero(unused)[0]
    if len(places) == 0:
        return D
    fresh = _distinct(candidates.astype(D.dtype, copy=False), D[~unused], positive, xp)[: len(places)]
    drawn = rng.normal(size=(len(places) - len(fresh), D.shape[1]))
    drawn = np.abs(drawn) if positive else drawn
    drawn = xp.asarray((drawn / np.sqrt((drawn**2).sum(axis=1, keepdims=True))).astype(D.dtype))
    D = D.copy()
    D[places] = xp.concatenate([fresh, drawn])
    return D


def _distinct(candidates, atoms, positive, xp, chunk=1024):
    """The candidates (m, d) as directions, without zeros and those parallel to an atom (k, d) or an earlier one."""
    directions = kernels.constrained(candidates, 0, positive, unit=True)
    atoms = kernels.constrained(atoms, 0, False, unit=True)
    keep = (directions * directions).sum(axis=1) > 0
    order = xp.arange(len(directions))
    for start in range(0, len(directions), chunk):  # cosines of all at once might not fit
        rows = slice(start, start + chunk)
        earlier = (xp.abs(directions[rows] @ directions.T) > PARALLEL) & (order < order[rows, None])
        keep[rows] &= ~earlier.any(axis=1)
        keep[rows] &= ~(xp.abs(directions[rows] @ atoms.T) > PARALLEL).any(axis=1)
    return directions[keep]


def _use(A, least_use, xp):
    """Which atoms are used, (k,) booleans, and A_jj, 1 where atom j is not."""
    diagonal = A.diagonal()
    used = diagonal > least_use
    return used, xp.where(used, diagonal, 1)


def _settled(D, U, used, positive, norm, xp):
    """U (k, d) constrained, in D's dtype, with D's rows for unused atoms; and which are unused."""
    D = _allowed(D, positive, xp)
    U = kernels.constrained(U, D, positive, _is_unit(norm))
    return xp.where(used[:, None], U, D).astype(D.dtype, copy=False), ~used


def _allowed(D, positive, xp):
    """D with entries at least 0 if positive, for atoms that an update leaves as they are: a start may have others."""
    return xp.maximum(D, 0) if positive else D


def _is_unit(norm):
    if norm not in ("ball", "unit"):
        raise ValueError(f"norm must be 'ball' (at most 1) or 'unit', got {norm!r}.")
    return norm == "unit"
