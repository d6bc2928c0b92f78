"""Algorithms as plain functions of an oracle: one algorithm, one function; none of them sees rows or devices."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    W: (k, k) unmixing matrix, rows of unit norm, orthogonal.
    n_iter: iterations; for one-by-one solvers the largest of all components.
    movement: (k,) how far each row still moved in its last iteration, | |<new, old>| - 1 |.
    converged: whether the solver's own rule is met by every component; at_rest: (k,) by which.
    gradient: (k,) the largest entry of the relative gradient in each component's row, at the last pass.
    losses: the loss at each pass, where the solver computes one.
    sampled: passes over samples of the rows, as a number of passes over all of them.
    z: (k,) the same entry in standard errors; None where the solver does not know them.
    """

    W: Any
    n_iter: int
    delta: Any
    converged: bool
    converged_components: Any
    gradient: Any
    losses: tuple[float, ...] = ()
    sampled: float = 0.0
    z: Any = None

    def reordered(self, order):
        """The same with its components in another order (k,)."""
        parts = {name: getattr(self, name) for name in ("W", "delta", "converged_components", "gradient", "z")}
        return replace(self, **{name: part[order] for name, part in parts.items() if part is not None})
