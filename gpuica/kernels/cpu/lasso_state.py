"""The data of `lasso_products`: settings, scratch, and the state of rows between rounds."""

from typing import Any, NamedTuple


class Settings(NamedTuple):
    """Numbers that all rows share."""

    alpha: float
    positive: bool
    max_iter: int
    optimality: float
    dependence: float


class Buffers(NamedTuple):
    """Scratch for one row: candidates (N_CANDIDATES,), their correlations, and x - c D (d,) in float64."""

    candidates: Any
    near: Any
    residual: Any


class Problem(NamedTuple):
    """A batch of rows X (n, d) and what is needed to code it, see `lasso_products`."""

    X: Any
    D: Any
    screen: Any
    settings: Settings
    memory: Any
    buffers: Buffers
    take_rounds: Any


class RowStates(NamedTuple):
    """The state of n rows between rounds: arrays whose first axis is the row.

    residuals : (n, d), in the dtype of X.
    status, n_rounds, sizes : (n,); result of the last round, number of rounds, atoms of the support.
    roundings, dependence : (n,); of the correlations; the share of an atom outside the span at which it is dependent.
    lists, atoms, inverses : (n, ...); the supports.
    """

    residuals: Any
    status: Any
    n_rounds: Any
    roundings: Any
    dependence: Any
    sizes: Any
    lists: Any
    atoms: Any
    inverses: Any


class Round(NamedTuple):
    """What a round of a row depends on besides its support: the rounding of its correlations, and so on."""

    rounding: float
    dependence: float
    previous: int
    is_last: bool
    may_refactor: bool
