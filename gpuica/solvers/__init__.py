"""Algorithms as functions of an oracle (`protocol`): they see small matrices, never rows or devices."""

from . import fastica, picard
from .multistart import Solver
from .solution import Solution

__all__ = ["SOLVERS", "Solution", "Solver"]

# (oracle, W (k, k), *, max_iter, tol, fraction, final, report) -> Solution, for `FastICA`'s parameter algorithm
SOLVERS: dict[str, Solver] = {
    "parallel": fastica.parallel,
    "deflation": fastica.deflation,
    "picard": picard.picard,
}
