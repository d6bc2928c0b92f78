"""Sparse coders: which code c a row x gets from a dictionary D, x ≈ c D.

Every coder is a value whose docstring is its formula.  `encode` is its definition, in array code that runs with NumPy
and CuPy; `gpuica.kernels` has a compiled form for the CPU under the name `kernel`.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

ROUNDING = 4  # epsilons of a row's largest correlation: what is left below is rounding


@dataclass(frozen=True)
class Lasso:
    """c = argmin ½‖x - c D‖² + alpha ‖c‖₁, over c >= 0 if positive.

    max_iter: rounds for a row (or batch); what they leave undone is counted, and reported by a ConvergenceWarning.
    """

    alpha: float = 1.0
    positive: bool = False
    max_iter: int = 1000
    kernel: ClassVar[str] = "lasso"
    cpu_only: ClassVar[bool] = False

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and how many rows were not finished.  As `Fista` finds them."""
        return Fista(self.alpha, self.positive, 50 * self.max_iter).encode(X, D, xp)

    def penalty(self, C):
        """alpha ‖c‖₁, summed over rows."""
        return self.alpha * abs(C).sum()


@dataclass(frozen=True)
class Fista:
    """The lasso by accelerated proximal gradient steps (Beck and Teboulle, 2009), restarted where they overshoot.

    Stops at a relative duality gap of tol in every row.  max_iter: steps.
    """

    alpha: float = 1.0
    positive: bool = False
    max_iter: int = 1000
    tol: float = 1e-6
    kernel: ClassVar[None] = None
    cpu_only: ClassVar[bool] = False

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and how many rows were not finished."""
        G, Q = D @ D.T, X @ D.T
        lipschitz = float(xp.linalg.norm(G, 2)) if len(G) <= 512 else float(abs(G).sum(axis=1).max())
        C = xp.zeros_like(Q)
        ahead, momentum = C, xp.ones((len(Q), 1), dtype=Q.dtype)
        unfinished = len(X)
        for step in range(self.max_iter):
            if step % 10 == 0:
                unfinished = int((self._gap(X, C, D, Q, G, xp) > self.tol).sum())
                if not unfinished:
                    break
            new = soft(ahead + (Q - ahead @ G) / max(lipschitz, 1e-30), self.alpha / max(lipschitz, 1e-30), xp)
            if self.positive:
                new = xp.maximum(new, 0)
            uphill = ((ahead - new) * (new - C)).sum(axis=1, keepdims=True) > 0
            later = (1 + xp.sqrt(1 + 4 * momentum**2)) / 2
            push = xp.where(uphill, 0, (momentum - 1) / later)
            C, ahead, momentum = new, new + push * (new - C), xp.where(uphill, 1, later)
        return C, unfinished

    def _gap(self, X, C, D, Q, G, xp):
        """Duality gap of every row over ½‖x‖²."""
        R, H = X - C @ D, Q - C @ G
        loss, size = (R * R).sum(axis=1) / 2, (X * X).sum(axis=1) / 2
        largest = (H if self.positive else abs(H)).max(axis=1)
        scale = xp.minimum(1, self.alpha / xp.maximum(largest, 1e-30))
        dual = scale * (X * R).sum(axis=1) - scale**2 * loss
        return (loss + self.alpha * abs(C).sum(axis=1) - dual) / xp.where(size > 0, size, 1)

    penalty = Lasso.penalty


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
        return "omp" if self.positive else "orthogonal"

    @property
    def cpu_only(self):
        """Whether there is no form for other devices."""
        return self.positive

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and 0."""
        if self.positive:
            raise NotImplementedError("Non-negative orthogonal matching pursuit runs on the CPU alone: device='cpu'.")
        G, Q = D @ D.T, X @ D.T
        rows, C = xp.arange(len(X)), xp.zeros_like(Q)
        chosen = xp.zeros((len(X), 0), dtype=int)
        eps = ROUNDING * float(np.finfo(Q.dtype).eps)
        going = xp.ones(len(X), dtype=bool)
        least = eps * abs(Q).max(axis=1)
        for _ in range(min(self.n_nonzero, *D.shape)):
            R = X - C @ D
            H = R @ D.T
            going = going & ((R * R).sum(axis=1) > self.target) & (abs(H).max(axis=1) > least)
            if not bool(going.any()):
                break
            chosen = xp.concatenate([chosen, abs(H).argmax(axis=1)[:, None]], axis=1)
            new = xp.zeros_like(C)
            new[rows[:, None], chosen] = _least_squares(G, Q, chosen, rows, xp)
            C = xp.where(going[:, None], new, C)
        return C, 0

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
    cpu_only: ClassVar[bool] = False
    penalty = OMP.penalty

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and 0."""
        G, Q = D @ D.T, X @ D.T
        rows, floor = xp.arange(len(X)), 1e3 * float(np.finfo(Q.dtype).eps)
        squares = G.diagonal()
        H, outside = Q.copy(), xp.zeros_like(Q) + squares
        chosen, along = xp.zeros((len(X), 0), dtype=int), xp.zeros((len(X), 0, len(D)), dtype=Q.dtype)
        left = (X * X).sum(axis=1)
        enough = xp.maximum(left * floor**2, self.target)
        C = xp.zeros_like(Q)
        for _ in range(min(self.n_nonzero, *D.shape)):
            possible = outside > floor * squares
            gain = xp.where(possible, H * H / xp.where(possible, outside, 1), 0)
            j = gain.argmax(axis=1)
            going = (left > enough) & (gain[rows, j] > 0)
            if not bool(going.any()):
                break
            # every atom along the new direction: the new atom less its parts along earlier ones, normalised
            norm = xp.sqrt(xp.where(going, outside[rows, j], 1))
            part = G[j] - (along[rows, :, j][:, :, None] * along).sum(axis=1)
            part = xp.where(going[:, None], part / norm[:, None], 0)
            step = xp.where(going, H[rows, j] / norm, 0)
            H, outside = H - step[:, None] * part, outside - part * part
            outside[rows, j] = xp.where(going, 0, outside[rows, j])
            left = left - step * step
            along = xp.concatenate([along, part[:, None]], axis=1)
            chosen = xp.concatenate([chosen, j[:, None]], axis=1)
            new = xp.zeros_like(C)
            new[rows[:, None], chosen] = _least_squares(G, Q, chosen, rows, xp)
            C = xp.where(going[:, None], new, C)
        return C, 0


@dataclass(frozen=True)
class Lars:
    """Least angle regression up to n_nonzero atoms: all their correlations equal and the largest, on the way to least
    squares.  Efron, Hastie, Johnstone and Tibshirani, 2004.
    """

    n_nonzero: int
    kernel: ClassVar[str] = "lars"
    cpu_only: ClassVar[bool] = True
    penalty = OMP.penalty

    def encode(self, X, D, xp=np):
        """Runs on the CPU alone."""
        raise NotImplementedError("Least angle regression runs on the CPU alone: device='cpu'.")


@dataclass(frozen=True)
class MatchingPursuit:
    """n_nonzero times: c_j += D_j r / ‖D_j‖² for the atom of largest |D_j r|, r = x - c D.  Mallat and Zhang, 1993.

    gradient: all chosen coefficients move along their gradient, by the best step (Blumensath and Davies, 2008).
    """

    n_nonzero: int
    target: float = 0.0
    gradient: bool = False
    kernel: ClassVar[str] = "matching_pursuit"
    cpu_only: ClassVar[bool] = False
    penalty = OMP.penalty

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and 0."""
        G, H = D @ D.T, X @ D.T
        rows, C = xp.arange(len(X)), xp.zeros_like(H)
        chosen = xp.zeros(H.shape, dtype=bool)
        left = (X * X).sum(axis=1)
        least = ROUNDING * float(np.finfo(H.dtype).eps) * abs(H).max(axis=1)
        for _ in range(self.n_nonzero):
            j = abs(H).argmax(axis=1)
            going = (left > self.target) & (abs(H).max(axis=1) > least)
            if not bool(going.any()):
                break
            chosen[rows, j] = True
            one = xp.zeros_like(H)
            one[rows, j] = H[rows, j]
            direction = H * chosen if self.gradient else one
            image = direction @ G
            along = (direction * H).sum(axis=1)
            step = xp.where(going, along / xp.maximum((direction * image).sum(axis=1), 1e-30), 0)
            C, H, left = C + step[:, None] * direction, H - step[:, None] * image, left - step * along
        return C, 0


@dataclass(frozen=True)
class Threshold:
    """c = sign(q) max(|q| - alpha, 0), q = x Dᵀ; max(q - alpha, 0) if positive."""

    alpha: float = 1.0
    positive: bool = False
    kernel: ClassVar[None] = None
    cpu_only: ClassVar[bool] = False
    penalty = Lasso.penalty

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and 0."""
        C = soft(X @ D.T, self.alpha, xp)
        return (xp.maximum(C, 0) if self.positive else C), 0


@dataclass(frozen=True)
class TopK:
    """The n_nonzero largest |q|, q = x Dᵀ, and zeros; the largest q above zero if positive."""

    n_nonzero: int
    positive: bool = False
    kernel: ClassVar[None] = None
    cpu_only: ClassVar[bool] = False
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


def _least_squares(G, Q, chosen, rows, xp):
    """Coefficients (n, m) of the chosen atoms (n, m) of every row; a little ridge for rows that chose one twice."""
    ridge = ROUNDING * float(np.finfo(G.dtype).eps) * xp.eye(chosen.shape[1], dtype=G.dtype)
    small = G[chosen[:, :, None], chosen[:, None, :]] + ridge
    return xp.linalg.solve(small, Q[rows[:, None], chosen][:, :, None])[:, :, 0]


def soft(A, threshold, xp):
    """sign(A) max(|A| - threshold, 0)."""
    return xp.sign(A) * xp.maximum(abs(A) - threshold, 0)


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
