"""Coders that bound the number of atoms of a code: pursuits, least angle regression, the largest."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

ROUNDING = 4  # epsilons of a row's largest correlation: what is left below is rounding


@dataclass(frozen=True)
class OMP:
    """Orthogonal matching pursuit: the atom of largest |D (x - c D)| enters, c = least squares on all that entered.

    Until n_nonzero atoms entered, or ‖x - c D‖² <= target.  Pati, Rezaiifar and Krishnaprasad, 1993.  positive: the
    largest correlation enters and least squares are over c >= 0 (Bruckstein, Elad and Zibulevsky, 2008).
    """

    n_nonzero: int
    target: float = 0.0
    positive: bool = False
    by_gain: ClassVar[bool] = False

    @property
    def kernel(self):
        """The name of the compiled form."""
        return "nonnegative" if self.positive else "orthogonal"

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and 0."""
        if self.positive:
            return self._nonnegative(X, D, xp), 0
        C, live, R = xp.zeros((len(X), len(D)), dtype=X.dtype), xp.arange(len(X)), X
        chosen, least = xp.zeros((len(X), 0), dtype=int), None
        for _ in range(min(self.n_nonzero, *D.shape)):
            H = abs(R @ D.T)
            least = _noise(H) if least is None else least
            going = ((R * R).sum(axis=1) > self.target) & (H.max(axis=1) > least)
            live, least, chosen, H = live[going], least[going], chosen[going], H[going]
            if not len(live):
                break
            chosen = xp.concatenate([chosen, H.argmax(axis=1)[:, None]], axis=1)
            atoms = D[chosen]
            values = _solve(atoms, atoms @ X[live][:, :, None], xp)
            C[live[:, None], chosen] = values
            R = X[live] - (values[:, None, :] @ atoms)[:, 0]
        return C, 0

    def _nonnegative(self, X, D, xp):
        """Codes (n, K) >= 0.  Atoms whose coefficient meets zero leave, and make place for others."""
        most = min(self.n_nonzero, *D.shape)
        C, live, R = xp.zeros((len(X), len(D)), dtype=X.dtype), xp.arange(len(X)), X
        chosen, values, least = xp.zeros((len(X), 0), dtype=int), xp.zeros((len(X), 0), dtype=X.dtype), None
        for _ in range(2 * most):
            H = R @ D.T
            least = _noise(H) if least is None else least
            going = ((R * R).sum(axis=1) > self.target) & (H.max(axis=1) > least) & ((values > 0).sum(axis=1) < most)
            live, least, chosen, values, H = (A[going] for A in (live, least, chosen, values, H))
            if not len(live):
                break
            chosen = xp.concatenate([chosen, H.argmax(axis=1)[:, None]], axis=1)
            values = xp.concatenate([values, xp.zeros((len(live), 1), dtype=X.dtype)], axis=1)
            atoms = D[chosen]
            values = _downhill(values, atoms, X[live], xp)
            for i in range(chosen.shape[1]):  # an atom that left and came back has two places, the first of them 0
                C[live, chosen[:, i]] = 0
            for i in range(chosen.shape[1]):
                C[live, chosen[:, i]] += values[:, i]
            R = X[live] - (values[:, None, :] @ atoms)[:, 0]
        return C

    def penalty(self, C):
        """0: the number of atoms is bounded, not weighed."""
        return 0.0


@dataclass(frozen=True)
class ORMP:
    """Order-recursive matching pursuit: the atom enters that lowers ‖x - c D‖² most, c = least squares on all of them.

    Until n_nonzero atoms entered, or ‖x - c D‖² <= target.  Better codes than OMP's, at its cost.  Chen, Billings and
    Luo (as orthogonal least squares), 1989; Gharavi-Alkhansari and Huang, 1998.  It is what SPAMS calls OMP.
    """

    n_nonzero: int
    target: float = 0.0
    kernel: ClassVar[str] = "orthogonal"
    by_gain: ClassVar[bool] = True
    penalty = OMP.penalty

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and 0."""
        floor = 1e3 * float(np.finfo(X.dtype).eps)
        squares, left = (D * D).sum(axis=1), (X * X).sum(axis=1)
        enough = xp.maximum(left * floor**2, self.target)
        C, live, H = xp.zeros((len(X), len(D)), dtype=X.dtype), xp.arange(len(X)), X @ D.T
        outside = xp.zeros_like(H) + squares  # of every atom's part outside the span of those chosen
        chosen, along = xp.zeros((len(X), 0), dtype=int), xp.zeros((len(X), 0, len(D)), dtype=X.dtype)
        for _ in range(min(self.n_nonzero, *D.shape)):
            free = outside > floor * squares
            gain = xp.where(free, H * H / xp.where(free, outside, 1), 0)
            going = (left > enough) & (gain.max(axis=1) > 0)
            live, H, outside, left, enough, gain = (A[going] for A in (live, H, outside, left, enough, gain))
            chosen, along = chosen[going], along[going]
            if not len(live):
                break
            j, rows = gain.argmax(axis=1), xp.arange(len(live))
            # all atoms along the new direction: the new atom less its parts along earlier ones, normalised
            part = D[j] @ D.T - (along[rows, :, j][:, :, None] * along).sum(axis=1)
            part = part / xp.sqrt(outside[rows, j])[:, None]
            step = H[rows, j] / xp.sqrt(outside[rows, j])
            H, outside, left = H - step[:, None] * part, outside - part * part, left - step * step
            outside[rows, j] = 0
            along = xp.concatenate([along, part[:, None]], axis=1)
            chosen = xp.concatenate([chosen, j[:, None]], axis=1)
            atoms = D[chosen]
            C[live[:, None], chosen] = _solve(atoms, atoms @ X[live][:, :, None], xp)
        return C, 0


@dataclass(frozen=True)
class Lars:
    """Least angle regression up to n_nonzero atoms: all their correlations equal and the largest, on the way to least
    squares.  Efron, Hastie, Johnstone and Tibshirani, 2004.
    """

    n_nonzero: int
    kernel: ClassVar[str] = "lars"
    penalty = OMP.penalty

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and 0."""
        C, live, R, H = xp.zeros((len(X), len(D)), dtype=X.dtype), xp.arange(len(X)), X, X @ D.T
        inside, chosen = xp.zeros(H.shape, dtype=bool), xp.zeros((len(X), 0), dtype=int)
        top, least, enters = abs(H).max(axis=1), _noise(H), abs(H).argmax(axis=1)
        for _ in range(min(self.n_nonzero, *D.shape)):
            going = top > least
            R, H, inside, chosen = R[going], H[going], inside[going], chosen[going]
            live, top, least, enters = live[going], top[going], least[going], enters[going]
            if not len(live):
                break
            rows = xp.arange(len(live))
            inside[rows, enters] = True
            chosen = xp.concatenate([chosen, enters[:, None]], axis=1)
            atoms = D[chosen]
            signs = xp.sign(H[rows[:, None], chosen])
            direction = _solve(atoms, signs[:, :, None], xp)  # all correlations inside fall alike, at rate 1
            image = (direction[:, None, :] @ atoms)[:, 0]
            falls = image @ D.T
            reach = xp.minimum(_meeting(top, H, falls, inside, xp), _meeting(top, -H, -falls, inside, xp))
            enters, step = reach.argmin(axis=1), xp.minimum(reach.min(axis=1), top)
            C[live[:, None], chosen] += step[:, None] * direction
            R, top = R - step[:, None] * image, top - step
            H = R @ D.T
        return C, 0


def _meeting(top, H, falls, inside, xp):
    """How far top falls at rate 1 until it meets each of H (n, K), which falls at its own rate; infinity if never."""
    never = inside | (falls >= 1 - float(np.finfo(falls.dtype).eps) ** 0.75)  # those that keep up, as duplicates do
    return xp.where(never, np.inf, (top[:, None] - H) / xp.where(never, 1, 1 - falls))


@dataclass(frozen=True)
class MatchingPursuit:
    """n_nonzero times: c_j += D_j r / ‖D_j‖² for the atom of largest |D_j r|, r = x - c D.  Mallat and Zhang, 1993.

    gradient: all chosen coefficients move along their gradient, by the best step (Blumensath and Davies, 2008).
    """

    n_nonzero: int
    target: float = 0.0
    gradient: bool = False
    kernel: ClassVar[str] = "matching_pursuit"
    penalty = OMP.penalty

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and 0."""
        rows, R, H = xp.arange(len(X)), X, X @ D.T
        C, chosen, least = xp.zeros_like(H), xp.zeros(H.shape, dtype=bool), _noise(H)
        for _ in range(self.n_nonzero):
            j = abs(H).argmax(axis=1)
            going = ((R * R).sum(axis=1) > self.target) & (abs(H).max(axis=1) > least)
            if not bool(going.any()):
                break
            chosen[rows, j] = True
            one = xp.zeros_like(H)
            one[rows, j] = H[rows, j]
            direction = H * chosen if self.gradient else one
            image = direction @ D if self.gradient else H[rows, j][:, None] * D[j]
            along, square = (direction * H).sum(axis=1), (image * image).sum(axis=1)
            step = xp.where(going, along / xp.where(square > 0, square, 1), 0)[:, None]
            C, R = C + step * direction, R - step * image
            H = R @ D.T
        return C, 0


@dataclass(frozen=True)
class TopK:
    """The n_nonzero largest |q|, q = x Dᵀ, and zeros; the largest q above zero if positive."""

    n_nonzero: int
    positive: bool = False
    kernel: ClassVar[None] = None
    penalty = OMP.penalty

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and 0."""
        C = X @ D.T
        if self.positive:
            C = xp.maximum(C, 0)
        if self.n_nonzero < len(D):
            kept = xp.argpartition(-abs(C), self.n_nonzero - 1, axis=1)[:, : self.n_nonzero]
            rows, sparse = xp.arange(len(C))[:, None], xp.zeros_like(C)
            sparse[rows, kept] = C[rows, kept]
            C = sparse
        return C, 0


def _downhill(values, atoms, X, xp):
    """argmin ‖x - c atoms‖² over c >= 0 (n, m), from `values`, whose last atom has just entered; the others that are 0
    stay so.  Lawson and Hanson's inner loop: to the solution, or as far as the first that meets zero, which leaves."""
    inside = values > 0
    inside[:, -1] = True
    B, eye = (atoms @ X[:, :, None])[:, :, 0], xp.eye(atoms.shape[1], dtype=atoms.dtype)
    gram = (atoms @ atoms.transpose(0, 2, 1)) * (1 + eye * ROUNDING * float(np.finfo(atoms.dtype).eps))
    for _ in range(atoms.shape[1] + 1):
        system = xp.where(inside[:, :, None] & inside[:, None, :], gram, eye)
        goal = xp.linalg.solve(system, (B * inside)[:, :, None])[:, :, 0]
        meets = inside & (goal <= 0)
        if not bool(meets.any()):
            break
        share = xp.where(meets, values / xp.where(meets & (values > goal), values - goal, 1), 1)
        first = share.min(axis=1, keepdims=True)
        values = values + xp.where(inside, first * (goal - values), 0)
        inside = inside & ~(meets & (share <= first))
        values = xp.where(inside, values, 0)
    return xp.where(inside, goal, 0)


def _solve(atoms, B, xp):
    """Solutions (n, m) of the systems atoms atomsᵀ c = B, for atoms (n, m, d) and B (n, m, 1)."""
    ridge = 1 + xp.eye(atoms.shape[1], dtype=atoms.dtype) * ROUNDING * float(np.finfo(atoms.dtype).eps)
    return xp.linalg.solve((atoms @ atoms.transpose(0, 2, 1)) * ridge, B)[:, :, 0]


def _noise(H):
    """(n,) below which correlations of the rows are rounding, from H (n, K) before the first atom entered."""
    return ROUNDING * float(np.finfo(H.dtype).eps) * abs(H).max(axis=1)
