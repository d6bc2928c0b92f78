"""The contracts between solvers and oracles: what each family of solvers needs to know about the rows.

A solver sees the rows x of the data, or the whitened rows z, through means over them.  E is the mean, weighted where
rows have weights; d features, k components, K atoms; y = W z are the sources at an unmixing matrix W (m, d), m <= k.
Arrays are float64, of the library `xp` (NumPy or CuPy), on the device that the solver works on.

`gpuica.oracle` and `gpuica.code_oracle` compute these means by passes over the rows; any object with the attributes of
a protocol serves as well, such as one on a small array in memory.
"""

from collections.abc import Iterator
from typing import Any, Protocol


class Oracle(Protocol):
    """What all solvers use."""

    @property
    def xp(self) -> Any:
        """The array library of the arguments and results: numpy or cupy."""

    @property
    def n_rows(self) -> int:
        """The number of rows that a pass reads."""


class HostCopy(Protocol):
    """Arrays on their way to the host."""

    @property
    def pending(self) -> bool:
        """Whether `read` would wait for a device."""

    def read(self) -> Any:
        """The arrays, as NumPy arrays."""


class LikelihoodMeans(Protocol):
    """Means over the rows at one W (k, d), for a contrast G with derivatives g and g'."""

    @property
    def loss(self) -> Any:
        """E G(y), (k,)."""

    @property
    def cross(self) -> Any:
        """E g(y) yᵀ, (k, k)."""

    @property
    def slope(self) -> Any:
        """E g'(y), (k,)."""

    @property
    def square(self) -> Any:
        """E g(y)², (k,)."""

    @property
    def squares(self) -> tuple:
        """Second moments (k, k) of the kind that was requested, else ().

        "rotation": E g(y_i)² y_j² and E g(y_i) y_i g(y_j) y_j.  "matrix": E g(y_i)² y_j², E g(y_i) y_i y_j² and
        E y_i² y_j².
        """


class ICAOracle(Oracle, Protocol):
    """What the solvers of ICA share.  The rows z have mean 0; where `white`, E z zᵀ = I."""

    @property
    def white(self) -> bool:
        """Whether E z zᵀ = I on these rows: not on samples of white rows."""

    @property
    def n_effective(self) -> float:
        """The effective sample size: standard errors are sqrt(Var / n_effective)."""

    def power(self, W) -> Any:
        """E y², (k,).  It may take a pass."""

    def known_power(self, W) -> Any:
        """`power` without a pass: that of white rows, Σ_j W_ij², where the covariance is not known."""

    def accept(self, W) -> None:
        """Take note of an iterate W, the result of the fit should it be interrupted."""


class FixedPointOracle(ICAOracle, Protocol):
    """For `fastica.parallel` and `fastica.deflation`."""

    def fixed_point(self, W, squares=None) -> Any:
        """E g(y) zᵀ (k, d), E g'(y) (k,), E g(y)² (k,), and `LikelihoodMeans.squares` where a kind is requested."""

    @property
    def lookahead(self) -> int:
        """The number of iterations to enqueue on a device before waiting for the outcome of one."""

    def copy_to_host(self, *arrays) -> HostCopy:
        """Small arrays, on their way to the host."""


class LikelihoodOracle(ICAOracle, Protocol):
    """For `picard.picard` and `online.online_step`."""

    def likelihood(self, W, squares=None) -> LikelihoodMeans:
        """The means at W, with second moments of the kind `squares`, or without."""

    def covariance(self) -> Any:
        """E z zᵀ, (d, d).  Only without ortho."""

    @property
    def rounding(self) -> float:
        """A bound for the relative rounding error of a mean loss."""


class BatchOracle(Protocol):
    """Several W at once, for `multistart.solve_all`, and for a batch of rows of `stochastic.stochastic_picard`."""

    @property
    def n_rows(self) -> int:
        """The number of rows that a pass reads."""

    @property
    def n_effective(self) -> float:
        """The effective sample size."""

    @property
    def weight(self) -> float:
        """The sum of the weights of the rows, which is n_rows without weights."""

    @property
    def n_passes(self) -> float:
        """The number of passes over the rows so far."""

    def fixed_point_batch(self, Ws, squares=None) -> Any:
        """[fixed_point(W) for W in Ws], by one pass.  squares: None, or for each W None or a kind."""

    def likelihood_batch(self, Ws, squares=None) -> Any:
        """[likelihood(W) for W in Ws], by one pass.  squares: None, or for each W None or a kind."""

    def curvature_batch(self, Ws) -> Any:
        """E g'(y_i) y_j² / E y_j², (k, k), for each W."""


class BatchedOracle(Oracle, Protocol):
    """For `stochastic.stochastic_picard`."""

    @property
    def n_kish(self) -> float:
        """Kish's effective number of rows, (Σ w)² / Σ w²."""

    @property
    def dtype(self) -> Any:
        """The floating-point type of the rows."""

    def in_memory(self, n, rng) -> "BatchedOracle":
        """An oracle of the same rows, or of at most n random ones, from which batches are drawn without a pass."""

    def batches(self, size, rng) -> Iterator[BatchOracle]:
        """Oracles of `size` rows at a time, all rows once, in random order; the last can have fewer."""

    def accept(self, W) -> None:
        """Take note of an iterate W."""


class SampledOracle(BatchedOracle, BatchOracle, Protocol):
    """For `growth.run`, beside what its solver needs."""

    def sample(self, n, rng) -> "SampledOracle":
        """An oracle of n random rows, which are only nearly white."""

    def subspace(self, components) -> "SampledOracle":
        """The oracle of the rows components @ z, for orthonormal components (m, d)."""

    def gaussian_loss(self) -> float:
        """E G(u) of a standard normal u."""

    def cached_result(self, name, make, *key) -> list:
        """make(), a list of arrays, or its result from a checkpoint.  key: what it depends on, beside the rows."""


class WhiteningOracle(Oracle, Protocol):
    """For `whitening.by_svd` and `whitening.by_eigh`.  The center is the mean, or another point."""

    @property
    def n_features(self) -> int:
        """d."""

    @property
    def weight(self) -> float:
        """The sum of the weights of the rows, which is n_rows without weights."""

    def moments(self) -> Any:
        """The center m (d,), and E (x - m)(x - m)ᵀ (d, d)."""

    def projected_moments(self, mean, components) -> Any:
        """Mean (k,) and second moments (k, k) of components (x - mean), for components (k, d)."""

    def centered(self) -> Any:
        """The center m (d,), and √w (x - m) of all rows, (n, d).  For few rows."""


class MedianOracle(Protocol):
    """For `median.geometric_median`."""

    @property
    def xp(self) -> Any:
        """The array library: numpy or cupy."""

    def mean(self) -> Any:
        """E x, (d,)."""

    def weiszfeld_sums(self, center) -> Any:
        """E (x - c) / |x - c| (d,), E 1 / |x - c| (1,), and the fraction of the rows that are c (1,).

        The first two are over the other rows.
        """


class CodeMoments(Protocol):
    """Sums over rows x (d,) and their codes c (K,) by a dictionary D (K, d).  A and B can be overwritten."""

    @property
    def A(self) -> Any:
        """Σ c cᵀ, (K, K)."""

    @property
    def B(self) -> Any:
        """Σ c xᵀ, (K, d)."""

    @property
    def costs(self) -> Any:
        """Σ ½‖x - c D‖² + penalty(c), (1,)."""

    @property
    def worst(self) -> Any:
        """The rows (m, d) that D reconstructs worst, worst first."""

    @property
    def n_unfinished(self) -> int:
        """The number of rows whose coder did not converge."""

    def cost_at(self, new, old) -> float:
        """Σ ½‖x - c new‖² + penalty(c), for codes c by the dictionary `old`."""


class CodedBatch(Protocol):
    """Rows x (d,) and their codes c (K,) by a dictionary D (K, d), on the host.  Arrays can be overwritten."""

    @property
    def residuals(self) -> Any:
        """x - c D, (n, d)."""

    @property
    def codes(self) -> tuple:
        """The non-zeros of each row (n,), their columns and values (n_nonzero,), row after row."""

    @property
    def costs(self) -> Any:
        """Σ ½‖x - c D‖² + penalty(c), (1,)."""

    @property
    def worst(self) -> Any:
        """The rows (m, d) that D reconstructs worst, worst first."""

    @property
    def n_unfinished(self) -> int:
        """The number of rows whose coder did not converge."""


class DictionaryOracle(Oracle, Protocol):
    """For `dictionary.alternate` and, one for each batch, `dictionary.online`."""

    def moments(self, D, n_worst=0) -> CodeMoments:
        """The sums over all rows and their codes by D (K, d), with the n_worst rows that D reconstructs worst."""

    def coded(self, D, n_worst=0) -> CodedBatch:
        """All rows and their codes by D (K, d), with the n_worst rows that D reconstructs worst, on the host."""

    def row(self, index) -> Any:
        """One row (d,)."""
