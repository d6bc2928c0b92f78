"""Coders that penalise the size of a code: the lasso, and soft thresholds."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .registry import register


@register
@dataclass(frozen=True)
class Lasso:
    """c = argmin ½‖x - c D‖² + alpha ‖c‖₁, over c >= 0 if positive.

    max_iter: rounds of a row (or batch); rows that need more are counted, and reported by a ConvergenceWarning.
    """

    alpha: float = 1.0
    positive: bool = False
    max_iter: int = 1000
    names: ClassVar[dict[str, dict]] = {"lasso_lars": {}, "lasso_cd": {}}
    kernel: ClassVar[str] = "lasso"
    unfinished: ClassVar[str] = (
        "did not converge. Increase transform_max_iter (max_iter of a function), or alpha: smaller penalties take more "
        "rounds."
    )

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d) by `Fista`, and the number of unfinished rows."""
        return Fista(self.alpha, self.positive, 50 * self.max_iter).encode(X, D, xp)

    def penalty(self, C):
        """alpha ‖c‖₁, summed over rows."""
        return self.alpha * abs(C).sum()

    def no_worse_than_zeros(self, X, D, C, xp=np):
        """Codes C (n, K), or zeros where these cost less, as they can before convergence."""
        return no_worse_than_zeros(X, D, C, self.alpha, xp)


ROUNDED_GAP = 32  # rounding of a relative duality gap, in units of eps: 1.1e-6 was observed in float32


@register
@dataclass(frozen=True)
class Fista:
    """The lasso by accelerated proximal gradient steps (Beck and Teboulle, 2009), restarted where they overshoot.

    Stops at a relative duality gap of tol in every row, or at its rounding.  max_iter: steps.
    """

    alpha: float = 1.0
    positive: bool = False
    max_iter: int = 1000
    tol: float = 1e-6
    names: ClassVar[dict[str, dict]] = {"fista": {}}
    kernel: ClassVar[None] = None
    unfinished: ClassVar[str] = Lasso.unfinished

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and the number of unfinished rows."""
        Q, times_gram = X @ D.T, _times_gram(D)
        lipschitz = max(float(largest_eigenvalue(D @ D.T if len(D) < D.shape[1] else D.T @ D, xp)), 1e-30)
        C = xp.zeros_like(Q)
        ahead, momentum = C, xp.ones((len(Q), 1), dtype=Q.dtype)
        unfinished, tol = len(X), max(self.tol, ROUNDED_GAP * float(np.finfo(Q.dtype).eps))
        for step in range(self.max_iter):
            if step % 10 == 0:
                unfinished = int((self._gap(X, C, D, xp) > tol).sum())
                if not unfinished:
                    break
            new = soft(ahead + (Q - times_gram(ahead)) / lipschitz, self.alpha / lipschitz, xp)
            if self.positive:
                new = xp.maximum(new, 0)
            uphill = ((ahead - new) * (new - C)).sum(axis=1, keepdims=True) > 0
            later = (1 + xp.sqrt(1 + 4 * momentum**2)) / 2
            push = xp.where(uphill, 0, (momentum - 1) / later)
            C, ahead, momentum = new, new + push * (new - C), xp.where(uphill, 1, later)
        return no_worse_than_zeros(X, D, C, self.alpha, xp), unfinished

    def _gap(self, X, C, D, xp):
        """Duality gap of every row, in units of ½‖x‖²; (n,)."""
        R = X - C @ D
        H = R @ D.T
        loss, size = (R * R).sum(axis=1) / 2, (X * X).sum(axis=1) / 2
        largest = (H if self.positive else abs(H)).max(axis=1)
        scale = xp.minimum(1, self.alpha / xp.maximum(largest, 1e-30))
        dual = scale * (X * R).sum(axis=1) - scale**2 * loss
        return (loss + self.alpha * abs(C).sum(axis=1) - dual) / xp.where(size > 0, size, 1)

    penalty = Lasso.penalty


@register
@dataclass(frozen=True)
class Threshold:
    """c = sign(q) max(|q| - alpha, 0), q = x Dᵀ; max(q - alpha, 0) if positive."""

    alpha: float = 1.0
    positive: bool = False
    names: ClassVar[dict[str, dict]] = {"threshold": {}}
    kernel: ClassVar[None] = None
    unfinished: ClassVar[str] = ""
    penalty = Lasso.penalty

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and 0."""
        C = soft(X @ D.T, self.alpha, xp)
        return (xp.maximum(C, 0) if self.positive else C), 0


def no_worse_than_zeros(X, D, C, alpha, xp):
    """Codes C (n, K) of X (n, d), or zeros where ½‖x‖² is less than ½‖x - c D‖² + alpha ‖c‖₁."""
    R = X - C @ D
    worse = (R * R).sum(axis=1) / 2 + alpha * abs(C).sum(axis=1) > (X * X).sum(axis=1) / 2
    return xp.where(worse[:, None], xp.zeros_like(C), C)


def soft(A, threshold, xp):
    """sign(A) max(|A| - threshold, 0)."""
    return xp.sign(A) * xp.maximum(abs(A) - threshold, 0)


def largest_eigenvalue(S, xp):
    """An upper bound of the largest eigenvalue of a positive semidefinite S (m, m): the Frobenius norm of S⁶⁴, to the
    power 1/64.

    At most m^(1/128) times too large.  By squaring, which is faster than a decomposition on every device.
    """
    log = 0.0
    for power in range(7):
        norm = xp.maximum(xp.sqrt((S * S).sum()), 1e-30)
        log = log + xp.log(norm) / 2**power
        S = (S / norm) @ (S / norm) if power < 6 else S
    return 1.001 * xp.exp(log)  # for the rounding of the products


def _times_gram(D):
    """The function A ↦ A D Dᵀ, with the products in the order that costs less."""
    if len(D) < 2 * D.shape[1]:
        G = D @ D.T
        return lambda A: A @ G
    return lambda A: (A @ D) @ D.T
