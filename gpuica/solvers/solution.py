"""The result of an ICA solver."""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Solution:
    """The result of an ICA solver, for k components.

    W: (k, k) unmixing matrix of the whitened rows.
    n_iter: iterations; for deflation the largest of all components.
    delta: (k,) the change of each row in the last iteration, | |<new, old>| - 1 |.
    converged: whether enough components meet the solver's stopping rule; converged_components: (k,) which do.
    gradient: (k,) the largest entry of the relative gradient in each component's row, at the last pass.
    losses: the loss at each iteration, where the solver computes one.
    sampled: passes over samples of the rows, as a number of passes over all of them.
    z: (k,) as gradient, in standard errors; None where they are not known.
    excess: (k,) s κ / E g'(y), the distance of each source from Gaussian, where the solver computes it.
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
    excess: Any = None

    def reordered(self, order):
        """The same solution with its components in another order (k,)."""
        parts = {
            name: getattr(self, name) for name in ("W", "delta", "converged_components", "gradient", "z", "excess")
        }
        return replace(self, **{name: part[order] for name, part in parts.items() if part is not None})
