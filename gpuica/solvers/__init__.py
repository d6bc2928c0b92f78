"""Algorithms as plain functions of an oracle: one algorithm, one function; none of them sees rows or devices."""

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Solution:
    """What a solver found.

    W: (k, k) unmixing matrix, rows of unit norm, orthogonal.
    n_iter: iterations; for one-by-one solvers the largest of all components.
    movement: (k,) how far each row still moved in its last iteration, | |<new, old>| - 1 |.
    converged: whether every movement is below the tolerance.
    """

    W: Any
    n_iter: int
    movement: np.ndarray
    converged: bool
