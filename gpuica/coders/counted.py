"""Coders that bound the number of atoms of a code: orthogonal pursuits, the largest correlations.

A pursuit ends early where the atom that would enter depends on those of the support, to the precision of the data, or
where the residual is rounding.  Rows of the first kind, and rows whose residual is above the target, are counted as
unfinished: their codes are valid, but have fewer atoms or a larger residual than requested.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .nonnegative import nonnegative
from .registry import register
from .support import DEPENDENCE_TOL, ROUNDING_TOL, Supports, write


@register
@dataclass(frozen=True)
class OMP:
    """Orthogonal matching pursuit: the atom of largest |D (x - c D)| enters, c = least squares on all that entered.

    Until n_nonzero atoms entered, or ‖x - c D‖² <= target.  Pati, Rezaiifar and Krishnaprasad, 1993.  positive: the
    largest correlation enters and least squares are over c >= 0 (Bruckstein, Elad and Zibulevsky, 2008).
    """

    n_nonzero: int
    target: float = 0.0
    positive: bool = False
    names: ClassVar[dict[str, dict]] = {"omp": {"positive": False}, "nnomp": {"positive": True}}
    by_gain: ClassVar[bool] = False
    unfinished: ClassVar[str] = (
        "ended early: the next atom depends on those already chosen, to the precision of the data, or the squared "
        "residual alpha was not reached. Request fewer atoms or a larger residual, or pass float64 data."
    )

    @property
    def kernel(self):
        """The name of the compiled form."""
        return "nonnegative" if self.positive else "orthogonal"

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and the number of unfinished rows."""
        return (nonnegative if self.positive else _orthogonal)(X, D, self, xp)

    def penalty(self, C):
        """0: the number of atoms is bounded, not penalised."""
        return 0.0


@register
@dataclass(frozen=True)
class ORMP:
    """Order-recursive matching pursuit: the atom enters that lowers ‖x - c D‖² most, c = least squares on all of them.

    Until n_nonzero atoms entered, or ‖x - c D‖² <= target.  Better codes than OMP's, at its cost.  Chen, Billings and
    Luo (as orthogonal least squares), 1989; Gharavi-Alkhansari and Huang, 1998.  It is what SPAMS calls OMP.
    """

    n_nonzero: int
    target: float = 0.0
    names: ClassVar[dict[str, dict]] = {"ormp": {}}
    kernel: ClassVar[str] = "orthogonal"
    by_gain: ClassVar[bool] = True
    unfinished: ClassVar[str] = OMP.unfinished
    penalty = OMP.penalty

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and the number of unfinished rows."""
        return _orthogonal(X, D, self, xp)


def _orthogonal(X, D, coder, xp):
    """Codes (n, K) of X (n, d) by OMP or ORMP, and the number of unfinished rows.  In float64.

    coder: n_nonzero, target, by_gain.
    """
    size, most = X.dtype.itemsize, min(coder.n_nonzero, *D.shape)
    dependence_tol, rounding_tol = DEPENDENCE_TOL[size], ROUNDING_TOL[size]
    C, unfinished = xp.zeros((len(X), len(D)), dtype=X.dtype), 0
    X, D = X.astype(np.float64), D.astype(np.float64)
    squares, H, R, rows = (D * D).sum(axis=1), X @ D.T, X, xp.arange(len(X))
    support, along, free = Supports(len(X), D, xp), xp.zeros((len(X), 0)), xp.ones(H.shape, dtype=bool)
    outside = squares + xp.zeros_like(H)  # squares of the atoms' parts outside the span of the support
    rounding, least = xp.zeros(len(X)), rounding_tol * abs(H).max(axis=1)
    for step in range(most + 1):
        independent = outside > dependence_tol * squares if coder.by_gain else squares > 0
        score = xp.where(free & independent, H * H / (xp.where(independent, outside, 1) if coder.by_gain else 1), 0)
        top, j = score.max(axis=1), score.argmax(axis=1)
        rounding = xp.maximum(rounding, rounding_tol**2 * top)
        done = ((R * R).sum(axis=1) <= coder.target) | (step == most)
        ends = done | (top <= rounding)
        short = ends & ~done & (free & ~independent & (abs(H) > least[:, None])).any(axis=1)
        coordinates, rest = support.measure(D[j])
        dependent = ~ends & ((rest * rest).sum(axis=1) <= dependence_tol * squares[j])
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


@register
@dataclass(frozen=True)
class TopK:
    """The n_nonzero largest |q|, q = x Dᵀ, and zeros; the largest q above zero if positive."""

    n_nonzero: int
    positive: bool = False
    names: ClassVar[dict[str, dict]] = {"topk": {}}
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
