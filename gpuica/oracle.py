"""Oracles of ICA solvers: means over the rows, computed from sums over chunks.  Solvers never see rows."""

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import sums
from .device import transfers
from .device.products import UNIT_ROUNDOFF, matmul_precision, threaded_product
from .exceptions import NotFiniteError

if TYPE_CHECKING:  # the contracts that mypy checks the oracles against, see the end of the file
    from .solvers import protocol

# Operations of a pass below which a device is given the next iteration before the outcome of the last one is read.  A
# wait leaves it idle for some 0.1 ms; an unneeded iteration costs a pass, once in some 20: 2 ms, at 50 TFLOP/s.
SHORT_PASS = 1e11


class MomentOracle:
    """A `protocol.WhiteningOracle` and `protocol.MedianOracle`: a center of the rows, and second moments about it.

    norm_uniformity: after `moments` or `centered`, about (E r)² / E r² of the rows' distances r from the center: 1
    where all are equal, near 0 where a few rows are very much farther than the rest.
    """

    norm_uniformity = 1.0

    def __init__(self, rows, center=None):
        """center: (d,), the point that moments are taken about; None for the mean."""
        self.rows, self.center, self.xp = rows, center, rows.xp
        self.n_rows, self.n_features, self.weight = rows.n_rows, rows.n_features, rows.weight

    def moments(self):
        """The center (d,) and the second moments about it (d, d, divided by n) of the rows.  One pass.

        Summed about `approximate_median`: sums of squares about 0 lose the digits that a large mean takes.
        """
        shift = self.approximate_median() if self.center is None else self.center
        total, scatter, norms = self.rows.sum(sums.moments_and_norms, shift)
        self._check_finite(total, self.xp.diagonal(scatter))
        self._compare_norms(norms, scatter.trace())
        drift, covariance = self._about_the_center(total, scatter)
        return shift + drift, covariance

    def projected_moments(self, mean, components):
        """Mean (k,) and second moments (k, k) of (x - mean) @ componentsᵀ, components (k, d), in float64.  One pass."""
        return self._about_the_center(*self.rows.sum(sums.projected_moments, mean, components))

    def centered(self):
        """The center (d,) in float64, and all rows minus it, times √w (n, d).  At most two passes; for few rows."""
        mean, rows = self.mean() if self.center is None else self.center, self.rows.to_memory()
        self._check_finite(mean)
        centered, weights = rows.map(sums.centered, mean), rows.weights
        norms = sums.norms(centered.astype(np.float64), 0.0, weights)
        if weights is not None:
            centered = centered * weights[:, None] ** 0.5
        self._compare_norms(norms, (centered.astype(np.float64) ** 2).sum())
        return mean, centered

    def mean(self):
        """The mean (d,) in float64.  One pass."""
        return self.rows.sum(sums.total)[0] / self.weight

    def approximate_median(self):
        """The median, feature by feature, (d,), of at least 32 of the first rows of positive weight.

        A row of enormous norm would dominate a mean.
        """
        first = self.xp.zeros((0, self.n_features))
        for head in self.rows.batches(64):
            if head.weight:
                head = head.to_memory()
                rows = head.map(sums.as_float64)
                first = self.xp.concatenate([first, rows if head.weights is None else rows[head.weights > 0]])
            if len(first) >= 32:
                break
        return self.xp.sort(first, axis=0)[len(first) // 2]

    def weiszfeld_sums(self, center):
        """E (x - c) / |x - c| (d,), E 1 / |x - c| (1,), and the fraction of the rows that are c (1,), for a point c.

        The first two are over the other rows.  One pass.
        """
        return tuple(total / self.weight for total in self.rows.sum(sums.weiszfeld_sums, center))

    def _about_the_center(self, total, scatter):
        """The center, relative to a point, and second moments about it, from Σ x and Σ x xᵀ relative to that point."""
        drift = total / self.weight if self.center is None else self.xp.zeros(len(total))
        return drift, scatter / self.weight - drift[:, None] * drift[None, :]

    def _compare_norms(self, norms, square):
        """Set `norm_uniformity` from Σ r, Σ r², Σ 1 of some rows (3,), and Σ r² of all."""
        r, some_square, some = (float(part) for part in norms)
        square = max(some_square * self.weight, float(square) * some)  # an enormous row can be among the some
        if square:
            self.norm_uniformity = r * r / some * self.weight / square

    def _check_finite(self, *totals):
        """NotFiniteError unless all totals are finite."""
        if not all(bool(self.xp.isfinite(total).all()) for total in totals):
            raise NotFiniteError(
                "Input X contains NaN, infinity, or values too large to be squared: clean or rescale it."
            )


class Likelihood(NamedTuple):
    """Means over the rows at one W: E G(y) (k,), E g(y) yᵀ (k, k), E g'(y) (k,), E g(y)² (k,).

    squares: the means of `sums.squares`, arrays (k, k), where they were requested.
    """

    loss: Any
    cross: Any
    slope: Any
    square: Any
    squares: tuple = ()


class Accepted:
    """The last iterate of a solver, on all rows or a sample, for a fit that is interrupted.

    iterate: (W, the number of iterates so far), None and 0 at first; of several starts, those of the first.
    """

    iterate: tuple[Any, int] = (None, 0)


class ContrastOracle:
    """Means of a contrast G over whitened rows z: all protocols of ICA solvers, for unmixing matrices W (k, d).

    n_rows: rows that a pass reads.  n_effective: the effective sample size of standard errors.  n_kish: Kish's.  They
    differ where rows have weights.  accepted: the `Accepted` of the solver.
    """

    def __init__(self, rows, contrast, *, white=True, accepted=None, precision="float32", sample_precision="float32"):
        """white: whether E z zᵀ = I.  accepted: that of the oracle whose rows these are a sample of.

        precision: of the products of float32 rows, see `products.products`.  sample_precision: that of samples.
        """
        self.rows, self.contrast, self.white = rows, contrast, white
        self.precision, self.sample_precision = precision, sample_precision
        self.accepted = Accepted() if accepted is None else accepted
        self._covariance = rows.xp.eye(rows.n_features) if white else None
        self.xp, self.n_rows, self.weight = rows.xp, rows.n_rows, rows.weight
        self.n_effective, self.n_kish, self.dtype = rows.n_effective, rows.n_kish, rows.dtype
        self.n_features = rows.n_features
        coarsest = max(float(np.finfo(rows.dtype).eps), UNIT_ROUNDOFF[precision])
        self.rounding = 32 * coarsest  # relative error of a mean loss, generously

    copy_to_host = staticmethod(transfers.copy_to_host)

    def accept(self, W):
        """Take note of an iterate W (k, k), or of the components W (m, k), m < k, that have been computed so far."""
        self.accepted.iterate = W, self.accepted.iterate[1] + 1

    @property
    def lookahead(self):
        """The number of iterations to enqueue on a device before waiting for the outcome of one."""
        return 1 if 4 * self.n_rows * self.rows.n_features**2 < SHORT_PASS else 0

    def fixed_point(self, W, squares=None):
        """E g(y) zᵀ (k, d), E g'(y) (k,) and E g(y)² (k,), with y = W z.  One pass.

        squares: None, or a kind of `sums.squares`, whose means are then a fourth item, a tuple.
        """
        if squares is None:
            return self._mean(sums.fixed_point, W)
        return _with_squares(self._mean(sums.fixed_point_and_squares, W, squares), 3)

    def likelihood(self, W, squares=None):
        """E G(y) (k,), E g(y) yᵀ (k, k), E g'(y) (k,) and E g(y)² (k,), with y = W z.  One pass.

        squares: None, or a kind of `sums.squares`, whose means are then included.
        """
        if squares is None:
            loss, cross, *rest = self._mean(sums.likelihood, W)
        else:
            loss, cross, *rest = _with_squares(self._mean(sums.likelihood_and_squares, W, squares), 4)
        return Likelihood(loss, threaded_product(cross, W.T), *rest)

    def curvature(self, W):
        """E g'(y_i) y_j² / E y_j² (k, k), with y = W z.  One pass.

        The ratio, because a batch can contain half or twice its share of a source that is 0 in most rows.
        """
        return self.curvature_batch([W])[0]

    def curvature_batch(self, Ws):
        """[curvature(W) for W in Ws].  One pass for each."""
        tiny = float(np.finfo(np.float64).tiny)
        means = [self._mean(sums.curvature, W) for W in Ws]
        return [curvature / self.xp.maximum(power, tiny) for curvature, power in means]

    def fixed_point_batch(self, Ws, squares=None):
        """[fixed_point(W) for W in Ws], in one pass.  squares: None, or for each W None or a kind."""
        if len(Ws) == 1:  # a stack is cut into products of STACK rows
            return [self.fixed_point(Ws[0], squares and squares[0])]
        return self._batch(sums.fixed_point, Ws, squares, 3)

    def likelihood_batch(self, Ws, squares=None):
        """[likelihood(W) for W in Ws], in one pass.  squares: None, or for each W None or a kind."""
        if len(Ws) == 1:
            return [self.likelihood(Ws[0], squares and squares[0])]
        means = self._batch(sums.likelihood, Ws, squares, 4)
        return [
            Likelihood(loss, threaded_product(cross, W.T), *rest)
            for W, (loss, cross, *rest) in zip(Ws, means, strict=True)
        ]

    def _batch(self, contribution, Ws, kinds, n_parts):
        """Means of a contribution at each W, by one pass, and the squares of those with a kind.

        n_parts: the number of arrays that the contribution returns.
        """
        ends = list(itertools.accumulate(map(len, Ws), initial=0))
        spans = list(itertools.pairwise(ends))
        requested = [(*span, kind) for span, kind in zip(spans, kinds or (), strict=False) if kind]
        W = self.xp.concatenate(Ws).astype(self.rows.dtype)
        if requested:
            totals = self._sum(sums.stacked_and_squares, W, contribution, self.contrast, requested)
        else:
            totals = self._sum(sums.stacked, W, contribution, self.contrast)
        means = [total / self.weight for total in totals]
        squares = iter(means[n_parts:])
        found = {first: tuple(itertools.islice(squares, sums.N_SQUARES[kind])) for first, _, kind in requested}
        return [(*(mean[a:b] for mean in means[:n_parts]), *([found[a]] if a in found else [])) for a, b in spans]

    def gaussian_loss(self):
        """E G(u) of a standard normal u, by Gauss-Hermite quadrature."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(100)
        return float((self.contrast.loss(nodes) * weights).sum() / weights.sum())

    def covariance(self):
        """E z zᵀ (d, d).  One pass the first time, unless the rows are known to be white."""
        if self._covariance is None:
            self._covariance = self.rows.sum(sums.moments, self.xp.zeros(self.rows.n_features))[1] / self.weight
        return self._covariance

    def power(self, W):
        """E y² (k,), with y = W z."""
        return ((W if self.white else W @ self.covariance()) * W).sum(axis=1)

    def known_power(self, W):
        """`power` without a pass: that of white rows where the covariance was not computed yet."""
        return self.power(W) if self._covariance is not None else (W * W).sum(axis=1)

    @property
    def n_passes(self):
        """The number of passes over the rows so far."""
        return self.rows.n_passes

    def sample(self, n, rng):
        """The oracle of n random rows, which are only nearly white."""
        return self._about(self.rows.sample(n, rng))

    def subspace(self, components):
        """The oracle of the rows components @ z, (m,), for components (m, d)."""
        return self._about(self.rows.projected(self.xp.zeros(self.n_features), components))

    def batches(self, size, rng):
        """Oracles of `size` rows at a time, all rows once, in random order."""
        return map(self._about, self.rows.batches(size, rng))

    def in_memory(self, n, rng):
        """An oracle whose batches take no pass each: this one, or one of at most n random rows in memory."""
        if not self.rows.random_access_is_costly:
            return self
        return self.sample(min(n, self.n_rows), rng)

    def cached_result(self, name, make, *key):
        """make(), a list of arrays; a fit that resumes from a checkpoint gets those of the earlier fit.

        key: what the arrays depend on, beside the rows.
        """
        return self.rows.cached_result(name, make, *key)

    def _about(self, rows):
        """The oracle of some of the rows."""
        return ContrastOracle(rows, self.contrast, white=False, accepted=self.accepted, precision=self.sample_precision)

    def _sum(self, contribution, *params):
        """Totals of a contribution over the rows, in this oracle's precision."""
        if self.precision == "float32":  # a context costs 2 µs, a pass over little data 30
            return self.rows.sum(contribution, *params)
        with matmul_precision(self.xp, self.precision):
            return self.rows.sum(contribution, *params)

    def _mean(self, contribution, W, *params):
        """Means of a contribution at W."""
        means = self._sum(contribution, self.xp.asarray(W, dtype=self.rows.dtype), self.contrast, *params)
        return tuple(total / self.weight for total in means)


def _with_squares(means, n_parts):
    """The first n_parts means, and the others as one tuple."""
    return *means[:n_parts], means[n_parts:]


if TYPE_CHECKING:

    def _contracts(oracle: ContrastOracle, moments: MomentOracle) -> None:
        """Assignments that mypy checks."""
        _fixed_point: protocol.FixedPointOracle = oracle
        _likelihood: protocol.LikelihoodOracle = oracle
        _sampled: protocol.SampledOracle = oracle
        _batched: protocol.BatchedOracle = oracle
        _whitening: protocol.WhiteningOracle = moments
        _median: protocol.MedianOracle = moments
