"""What a sparse coder provides, and which parameters it is constructed from."""

from typing import Any, ClassVar, Protocol


class Coder(Protocol):
    """A sparse coder: a row x gets a code c with x ≈ c D, for n rows X (n, d) and K atoms D (K, d).

    A coder is a frozen dataclass whose docstring is its formula.  Its fields are the parameters that apply to it, among

    - alpha: the penalty or threshold,
    - positive: whether c >= 0,
    - max_iter: rounds (or steps) of the solver,
    - n_nonzero: atoms of a code, at most,
    - target: the squared residual ‖x - c D‖² at which a row is finished,

    and others that are fixed by its name.
    """

    # The names that users give it, and for each the fields that the name fixes: {"nnomp": {"positive": True}}.
    names: ClassVar[dict[str, dict[str, Any]]]
    # What a warning says of unfinished rows after "The codes of 3 of 9 rows"; "" where all rows are always finished.
    unfinished: ClassVar[str]

    @property
    def kernel(self) -> str | None:
        """The name of the compiled form, a key of `KERNELS` in `kernels.cpu.coding` and `kernels.cuda.coding`; None
        for none."""

    def encode(self, X: Any, D: Any, xp: Any) -> tuple[Any, int]:
        """The definition, in array code: codes (n, K) of X in the dtype of X, and the number of unfinished rows.

        xp: numpy or cupy.
        """

    def penalty(self, C: Any) -> float:
        """What the objective of dictionary learning adds to ½‖X - C D‖² for codes C (n, K)."""
