"""Coders that bound the number of atoms of a code: orthogonal pursuits, the largest correlations.

A pursuit ends early where the atom that would enter depends on those that did, to the precision of the data, or where
what is left is rounding.  Rows of the first kind, and rows whose residual is still above the target that was asked for,
are counted: their codes are good, but not what was asked for.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .nonnegative import nonnegative
from .support import FLOOR, NOISE, Supports, write


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
    unfinished: ClassVar[str] = (
        "ended early: the atom that was next depends on those chosen, to the precision of the data, or the residual "
        "that alpha asks for was not reached. Ask for fewer atoms or a larger residual, or compute in float64."
    )

    @property
    def kernel(self):
        """The name of the compiled form."""
        return "nonnegative" if self.positive else "orthogonal"

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and how many rows were not finished."""
        return (nonnegative if self.positive else _orthogonal)(X, D, self, xp)

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
    unfinished: ClassVar[str] = OMP.unfinished
    penalty = OMP.penalty

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and how many rows were not finished."""
        return _orthogonal(X, D, self, xp)


def _orthogonal(X, D, coder, xp):
    """Codes (n, K) of X (n, d) by OMP or ORMP, and how many rows were not finished.  In float64.

    coder: n_nonzero, target, by_gain.
    """
    floor, noise, most = FLOOR[X.dtype.itemsize], NOISE[X.dtype.itemsize], min(coder.n_nonzero, *D.shape)
    C, unfinished = xp.zeros((len(X), len(D)), dtype=X.dtype), 0
    X, D = X.astype(np.float64), D.astype(np.float64)
    squares, H, R, rows = (D * D).sum(axis=1), X @ D.T, X, xp.arange(len(X))
    support, along, free = Supports(len(X), D, xp), xp.zeros((len(X), 0)), xp.ones(H.shape, dtype=bool)
    outside = squares + xp.zeros_like(H)  # squares of the atoms' parts outside the span of the support
    rounding, least = xp.zeros(len(X)), noise * abs(H).max(axis=1)
    for step in range(most + 1):
        independent = outside > floor * squares if coder.by_gain else squares > 0
        score = xp.where(free & independent, H * H / (xp.where(independent, outside, 1) if coder.by_gain else 1), 0)
        top, j = score.max(axis=1), score.argmax(axis=1)
        rounding = xp.maximum(rounding, noise**2 * top)
        done = ((R * R).sum(axis=1) <= coder.target) | (step == most)
        ends = done | (top <= rounding)
        short = ends & ~done & (free & ~independent & (abs(H) > least[:, None])).any(axis=1)
        coordinates, rest = support.measure(D[j])
        dependent = ~ends & ((rest * rest).sum(axis=1) <= floor * squares[j])
        ends, short = ends | dependent, short | dependent
        if bool(ends.any()):
            unfinished += write(C, rows[ends], X[ends], support.of(ends), along[ends], short[ends], coder.target, xp)
            on = ~ends
            X, H, R, rows, along, free, outside = (A[on] for A in (X, H, R, rows, along, free, outside))
            rounding, least, j, coordinates, rest = (A[on] for A in (rounding, least, j, coordinates, rest))
            support = support.of(on)
        if not len(rows):
            break
        new = support.enter(j, coordinates, rest)
        part = (new * R).sum(axis=1, keepdims=True)
        R, along = R - part * new, xp.concatenate([along, (new * X).sum(axis=1, keepdims=True)], axis=1)
        free[xp.arange(len(rows)), j] = False
        if coder.by_gain:
            images = new @ D.T
            H, outside = H - part * images, outside - images * images
        else:
            H = R @ D.T
    return C, unfinished


@dataclass(frozen=True)
class TopK:
    """The n_nonzero largest |q|, q = x Dᵀ, and zeros; the largest q above zero if positive."""

    n_nonzero: int
    positive: bool = False
    kernel: ClassVar[None] = None
    unfinished: ClassVar[str] = ""
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
