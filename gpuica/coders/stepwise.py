"""Coders whose coefficients change in every step: least angle regression, matching and gradient pursuit.

In float64, with the residual of the data, for the reasons given in `support`.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from .counted import OMP
from .registry import register
from .support import DEPENDENCE_TOL, EPS, RESIDUAL_TOL, ROUNDING_TOL, Supports, missed


@register
@dataclass(frozen=True)
class Lars:
    """Least angle regression up to n_nonzero atoms: along the path to least squares, their correlations stay equal in
    absolute value, and the largest.  Efron, Hastie, Johnstone and Tibshirani, 2004.
    """

    n_nonzero: int
    names: ClassVar[dict[str, dict]] = {"lars": {}}
    kernel: ClassVar[str] = "lars"
    unfinished: ClassVar[str] = OMP.unfinished
    penalty = OMP.penalty

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and the number of unfinished rows."""
        size, most = X.dtype.itemsize, min(self.n_nonzero, *D.shape)
        C, unfinished = xp.zeros((len(X), len(D)), dtype=X.dtype), 0
        X, D = X.astype(np.float64), D.astype(np.float64)
        rows, R, H, squares = xp.arange(len(X)), X, X @ D.T, (D * D).sum(axis=1)
        support, inside, values = Supports(len(X), D, xp), xp.zeros(H.shape, dtype=bool), xp.zeros((len(X), 0))
        top, enters = abs(H).max(axis=1), abs(H).argmax(axis=1)
        least = ROUNDING_TOL[size] * top
        for _ in range(most):
            on = top > least
            coordinates, rest = support.measure(D[enters])
            dependent = on & ((rest * rest).sum(axis=1) <= DEPENDENCE_TOL[size] * squares[enters])
            unfinished += int((dependent & (top > 100 * least)).sum())  # else it would enter at the end of the path
            on = on & ~dependent
            rows, X, R, H, inside, values = (A[on] for A in (rows, X, R, H, inside, values))
            top, least, enters, coordinates, rest = (A[on] for A in (top, least, enters, coordinates, rest))
            if not len(rows):
                break
            support = support.of(on)
            support.enter(enters, coordinates, rest)
            inside[xp.arange(len(rows)), enters] = True
            values = xp.concatenate([values, xp.zeros((len(rows), 1))], axis=1)
            signs = xp.sign(H[xp.arange(len(rows))[:, None], support.chosen])
            along = support.dual(signs)  # all correlations inside fall alike, at rate 1
            image = (along[:, None, :] @ support.basis)[:, 0]
            falls = image @ D.T
            reach_above = _decrease_until_equal(top, H, falls, inside, xp)
            reach = xp.minimum(reach_above, _decrease_until_equal(top, -H, -falls, inside, xp))
            enters, step = reach.argmin(axis=1), xp.maximum(xp.minimum(reach.min(axis=1), top), 0)
            moved = values + step[:, None] * support.coefficients(along)
            left = X - support.image(moved.astype(C.dtype).astype(np.float64))
            square, before = (left * left).sum(axis=1), (R * R).sum(axis=1)
            exact = ((R - step[:, None] * image) ** 2).sum(axis=1)
            good = square <= xp.minimum(exact + RESIDUAL_TOL[size] * (X * X).sum(axis=1), before * (1 + 1e-14))
            unfinished += int((~good).sum())
            C[rows[good][:, None], support.chosen[good]] = moved[good].astype(C.dtype)
            rows, X, R, H, inside, values, support = (
                *(A[good] for A in (rows, X, R - step[:, None] * image, H, inside, moved)),
                support.of(good),
            )
            top, least, enters = (top - step)[good], least[good], enters[good]
            H = R @ D.T
        return C, unfinished


def _decrease_until_equal(top, H, falls, inside, xp):
    """By how much top (n,) decreases, at rate 1, until it equals each of H (n, K), which decreases at the rate `falls`;
    infinity if it never does."""
    never = inside | (falls >= 1 - float(np.finfo(falls.dtype).eps) ** 0.75)  # duplicates of atoms of the support
    return xp.where(never, np.inf, (top[:, None] - H) / xp.where(never, 1, 1 - falls))


@register
@dataclass(frozen=True)
class MatchingPursuit:
    """n_nonzero times: c_j += D_j r / ‖D_j‖² for the atom of largest |D_j r|, r = x - c D.  Mallat and Zhang, 1993.

    gradient: all chosen coefficients change along their gradient, by the best step (Blumensath and Davies, 2008).
    """

    n_nonzero: int
    target: float = 0.0
    gradient: bool = False
    names: ClassVar[dict[str, dict]] = {
        "matching_pursuit": {"gradient": False},
        "gradient_pursuit": {"gradient": True},
    }
    kernel: ClassVar[str] = "matching_pursuit"
    unfinished: ClassVar[str] = OMP.unfinished
    penalty = OMP.penalty

    def encode(self, X, D, xp=np):
        """Codes (n, K) of X (n, d), and the number of unfinished rows."""
        dtype, X, D = X.dtype, X.astype(np.float64), D.astype(np.float64)
        rows, R, H = xp.arange(len(X)), X, X @ D.T
        C, chosen = xp.zeros_like(H), xp.zeros(H.shape, dtype=bool)
        least = ROUNDING_TOL[dtype.itemsize] * abs(H).max(axis=1)
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
            # the best step along the image, with the residual of the data: rounding of the direction cannot increase it
            along, square = (image * R).sum(axis=1), (image * image).sum(axis=1)
            step = xp.where(going, along / xp.where(square > 0, square, 1), 0)[:, None]
            C, R = C + step * direction, R - step * image
            H = R @ D.T
        return no_worse(C.astype(dtype), X, D, self.target, xp)


def no_worse(C, X, D, target, xp):
    """Codes C (n, K) of X, or zeros where rounding made them worse than zeros; and the number of unfinished rows, which
    are these and the ones that miss the target.  X, D: in float64."""
    R, size = X - C.astype(np.float64) @ D, (X * X).sum(axis=1)
    square = (R * R).sum(axis=1)
    worse = square > size
    C = xp.where(worse[:, None], xp.zeros_like(C), C)
    short = (square > size * (1 + RESIDUAL_TOL[C.dtype.itemsize])) | missed(
        xp.where(worse, size, square), size, target, EPS[C.dtype.itemsize], xp
    )
    return C, int(short.sum())
