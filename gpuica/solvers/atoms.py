"""The dictionary of a sparse code from two sums over rows: A = Σ c cᵀ and B = Σ c xᵀ.

Rows x ~ c D, atoms the rows of D.  For fixed codes ½ Σ ‖x - c D‖² is ½ tr(Dᵀ A D) - tr(Dᵀ B) and a constant, so an
update needs neither rows nor codes.  Shapes: D and B (k, d), A (k, k) for k atoms of d features.

Every function of `UPDATES` takes (D, A, B) and

    positive: whether entries of D must be at least 0.
    norm: "ball", every atom of norm at most 1 (Mairal, scikit-learn), or "unit", norm 1.
    least_use: an atom with A_jj = Σ c_j² at or below this is unused and stays unchanged, except that entries below 0
        become 0 if positive.

and returns the new D, in D's dtype, and which atoms are unused, (k,) booleans.
"""

from typing import Any

import numpy as np

from .. import kernels

LEAST_USE = 1e-6  # as in scikit-learn and SPAMS
ATOMS_PER_BLOCK = (
    128  # atoms of a block: fewer make slow products, more make more work within blocks; flat from 96 to 256
)
MAX_COSINE = 1 - 1e-6  # directions with a larger |cosine| count as the same


def block_descent(D, A, B, *, positive=False, norm="ball", least_use=LEAST_USE, block=ATOMS_PER_BLOCK, sweeps=1, xp=np):
    """Block coordinate descent, atom by atom: u_j = (B_j - A_j D) / A_jj + D_j, then constrained.

    Mairal, Bach, Ponce, Sapiro, "Online dictionary learning for sparse coding", ICML 2009, algorithm 2.  The objective
    never rises (norm="unit": from atoms of norm 1).  sweeps: passes over all atoms.

    Blocked: within a block of atoms only the block's own rows of D change, so one product A D suffices for the block,
    and the changes of its own atoms are added as they occur.  The same operations as one product per atom, up to the
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
    return _nonnegative(D, positive, xp), ~used


def least_squares(D, A, B, *, positive=False, norm="ball", least_use=LEAST_USE, ridge=None, xp=np):
    """All atoms at once by least squares, A⁻¹ B, then constrained: the method of optimal directions, MOD.

    Engan, Aase, Husøy, "Method of optimal directions for frame design", ICASSP 1999.  The constraint is applied after
    the solution, so the objective can rise; code the rows again before comparing.

    ridge: each A_jj is larger by this fraction where it multiplies D - old D, so that atoms that the codes cannot
    distinguish change little.  Default: the rounding unit of D's dtype to the power 2/3.  Solved in float64.
    """
    used, scale = _use(A, least_use, xp)
    ridge = float(np.finfo(D.dtype).eps) ** (2 / 3) if ridge is None else ridge
    system = xp.where(used[:, None] & used, A.astype(np.float64, copy=False), 0.0)
    diagonal = xp.arange(len(A))
    system[diagonal, diagonal] += xp.where(used, ridge * scale, 1.0)  # the step of an unused atom is 0
    old = D.astype(np.float64)
    step = xp.linalg.solve(system, (B - A @ old) * used[:, None])
    return _constrained(D, old + step, used, positive, norm, xp)


def approximate_ksvd(D, A, B, *, positive=False, norm="unit", least_use=LEAST_USE, xp=np):
    """All atoms at once: E_jᵀ c_j normalised, with E_j = X - C D + c_j D_j the residual without atom j.

    E_jᵀ c_j = B_j - A_j D + A_jj D_j is one power iteration towards the first singular vector, which K-SVD computes:
    the atom update of approximate K-SVD (Rubinstein, Zibulevsky, Elad, Technion CS-2008-08), in the parallel form of
    Irofti and Dumitrescu, "GPU parallel implementation of the approximate K-SVD algorithm", EUSIPCO 2014.  The codes
    are not updated; they are computed again for the new atoms.  D is the old dictionary throughout, so that atoms can
    overshoot and the objective can rise.

    norm="ball" has E_jᵀ c_j / A_jj, shortened to norm 1: `block_descent` by Jacobi instead of Gauss-Seidel.
    """
    used, scale = _use(A, least_use, xp)
    A, B, scale = (part.astype(D.dtype, copy=False) for part in (A, B, scale))
    return _constrained(D, (B - A @ D) / scale[:, None] + D, used, positive, norm, xp)


UPDATES: dict[str, Any] = {
    "block_descent": block_descent,
    "least_squares": least_squares,
    "approximate_ksvd": approximate_ksvd,
}


def replace_unused(D, unused, candidates, *, rng, positive=False, xp=np):
    """D with each unused atom replaced by a normalised candidate, or a random direction when candidates run out.

    unused: (k,) booleans.  candidates: (m, d), the worst-reconstructed rows, worst first; used in this order, except
    zeros, multiples of used atoms and multiples of each other.  rng: a NumPy generator or RandomState.
    The caller resets A and B of the replaced atoms.
    """
    indices = xp.nonzero(unused)[0]
    if len(indices) == 0:
        return D
    fresh = _distinct(candidates.astype(D.dtype, copy=False), D[~unused], positive, xp)[: len(indices)]
    drawn = rng.normal(size=(len(indices) - len(fresh), D.shape[1]))
    drawn = np.abs(drawn) if positive else drawn
    drawn = xp.asarray((drawn / np.sqrt((drawn**2).sum(axis=1, keepdims=True))).astype(D.dtype))
    D = D.copy()
    D[indices] = xp.concatenate([fresh, drawn])
    return D


def _distinct(candidates, atoms, positive, xp, chunk=1024):
    """The candidates (m, d) as directions, without zeros and those parallel to an atom (k, d) or an earlier one."""
    directions = kernels.constrained(candidates, 0, positive, unit=True)
    atoms = kernels.constrained(atoms, 0, False, unit=True)
    keep = (directions * directions).sum(axis=1) > 0
    order = xp.arange(len(directions))
    for start in range(0, len(directions), chunk):  # all cosines at once might not fit in memory
        rows = slice(start, start + chunk)
        earlier = (xp.abs(directions[rows] @ directions.T) > MAX_COSINE) & (order < order[rows, None])
        keep[rows] &= ~earlier.any(axis=1)
        keep[rows] &= ~(xp.abs(directions[rows] @ atoms.T) > MAX_COSINE).any(axis=1)
    return directions[keep]


def _use(A, least_use, xp):
    """Which atoms are used, (k,) booleans, and A_jj, or 1 where atom j is unused."""
    diagonal = A.diagonal()
    used = diagonal > least_use
    return used, xp.where(used, diagonal, 1)


def _constrained(D, U, used, positive, norm, xp):
    """U (k, d) with the constraint, in D's dtype, with D's rows for unused atoms; and which are unused."""
    D = _nonnegative(D, positive, xp)
    U = kernels.constrained(U, D, positive, _is_unit(norm))
    return xp.where(used[:, None], U, D).astype(D.dtype, copy=False), ~used


def _nonnegative(D, positive, xp):
    """D with entries at least 0 if positive; unused atoms are not updated, and initial ones can have others."""
    return xp.maximum(D, 0) if positive else D


def _is_unit(norm):
    """Whether norm is "unit"; ValueError if it is neither that nor "ball"."""
    if norm not in ("ball", "unit"):
        raise ValueError(f"norm must be 'ball' (at most 1) or 'unit', got {norm!r}.")
    return norm == "unit"
