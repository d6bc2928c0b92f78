"""A solver's questions, answered by sums over rows.  Solvers never see rows; answers are means, in float64."""

import itertools
import threading
from typing import Any, NamedTuple

import numpy as np

from . import sums
from .device import transfers
from .device.products import UNIT_ROUNDOFF, matmul_precision
from .exceptions import NotFiniteError

# Operations of a pass below which a device is given the next step before the last one's outcome is read.  A wait leaves
# it idle for some 0.1 ms; a step too many costs a pass, once in some 20 steps: 2 ms, at 50 TFLOP/s.
SHORT_PASS = 1e11


class MomentOracle:
    """Answers what whitening asks: a center of the rows, and their second moments about it.

    evenness: after `moments` or `centered`, about (E r)² / E r² of the rows' distances r from the center: 1 where all
    are equal, near 0 where a few rows are very much farther than the rest.
    """

    norm_uniformity = 1.0

    def __init__(self, rows, center=None):
        """center: (d,) where to take moments about; None: the mean."""
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
        """(d,) where most of the first rows that count are: their median, feature by feature.

        A mean would follow a row of enormous norm.
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
        """Where the rows draw a point c (d,): E (x - c) / |x - c| (d,), E 1 / |x - c|, and the share of rows on c
        itself, which the other two leave out.  One pass."""
        return tuple(total / self.weight for total in self.rows.sum(sums.weiszfeld_sums, center))

    def _about_the_center(self, total, scatter):
        """Mean and second moments about it, from sums about a point near; about the given center where there is one."""
        drift = total / self.weight if self.center is None else self.xp.zeros(len(total))
        return drift, scatter / self.weight - drift[:, None] * drift[None, :]

    def _compare_norms(self, norms, square):
        """Set `norm_uniformity` from Σ r, Σ r², Σ 1 of some rows (3,), and Σ r² of all."""
        r, some_square, some = (float(part) for part in norms)
        square = max(some_square * self.weight, float(square) * some)  # a giant among some rows counts for too many
        if square:
            self.norm_uniformity = r * r / some * self.weight / square

    def _check_finite(self, *totals):
        if not all(bool(self.xp.isfinite(total).all()) for total in totals):
            raise NotFiniteError(
                "Input X contains NaN, infinity, or values too large to be squared: clean or rescale it."
            )


class Likelihood(NamedTuple):
    """Means over the rows at one W: E G(y) (k,), E g(y) yᵀ (k, k), E g'(y) (k,), E g(y)² (k,).

    squares: the means of `sums.squares`, arrays (k, k), where they were asked for.
    """

    loss: Any
    cross: Any
    slope: Any
    square: Any
    squares: tuple = ()


class Accepted:
    """What a solver has come to, on all rows or a sample, for a fit that is interrupted.

    iterate: (W, how many were accepted until then), None and 0 at first; of several starts, the first one's.
    """

    iterate: tuple[Any, int] = (None, 0)


class ContrastOracle:
    """Answers what ICA asks about whitened rows z and a contrast G, at an unmixing matrix W (k, d).

    n_rows is what a pass reads, n_effective what a standard error divides by, n_kish how many rows of equal weight
    would tell as much: they differ where rows have weights.
    accepted: the `Accepted` of the solver.
    """

    def __init__(self, rows, contrast, *, white=True, accepted=None, precision="float32", sample_precision="float32"):
        """white: whether the rows' second moments E z zᵀ are 1.  accepted: that of the oracle that this is a sample of.

        precision: of the products of float32 rows, see `products.products`.  of_samples: that of samples' products.
        """
        self.rows, self.contrast, self.white = rows, contrast, white
        self.precision, self.sample_precision = precision, sample_precision
        self.accepted = Accepted() if accepted is None else accepted
        self._covariance = rows.xp.eye(rows.n_features) if white else None
        self._lock = threading.Lock()  # solvers in step ask from threads of their own
        self.xp, self.n_rows, self.weight = rows.xp, rows.n_rows, rows.weight
        self.n_effective, self.n_kish = rows.n_effective, rows.n_kish
        self.n_features = rows.n_features
        coarsest = max(float(np.finfo(rows.dtype).eps), UNIT_ROUNDOFF[precision])
        self.rounding = 32 * coarsest  # relative error of a mean loss, generously

    copy_to_host = staticmethod(transfers.copy_to_host)  # small arrays on their way to the host, see there

    def accept(self, W):
        """Note that a solver goes on from W (k, k), or that it has found the components W (m, k), m < k."""
        self.accepted.iterate = W, self.accepted.iterate[1] + 1

    def capture_context(self):
        """A function that gives a context manager, in which another thread works where this one does."""
        return transfers.capture_context(self.xp)

    @property
    def lookahead(self):
        """How many steps a solver should ask for before it reads the news of a step, where reading means to wait."""
        return 1 if 4 * self.n_rows * self.rows.n_features**2 < SHORT_PASS else 0

    def fixed_point(self, W, squares=None):
        """E g(y) zᵀ (k, d), E g'(y) (k,) and E g(y)² (k,), with y = W z.  One pass.

        squares: None, or a kind of `sums.squares`, whose means are then a fourth part, a tuple.
        """
        if squares is None:
            return self._mean(sums.fixed_point, W)
        return _with_squares(self._mean(sums.fixed_point_and_squares, W, squares), 3)

    def likelihood(self, W, squares=None):
        """E G(y) (k,), E g(y) yᵀ (k, k), E g'(y) (k,) and E g(y)² (k,), with y = W z.  One pass.

        squares: None, or a kind of `sums.squares`, whose means are to be there too.
        """
        if squares is None:
            loss, cross, *rest = self._mean(sums.likelihood, W)
        else:
            loss, cross, *rest = _with_squares(self._mean(sums.likelihood_and_squares, W, squares), 4)
        return Likelihood(loss, cross @ W.T, *rest)

    def curvature(self, W):
        """E g'(y_i) y_j² / E y_j² (k, k), with y = W z.  One pass.

        The ratio, because of a source that rests in most rows a batch may hold half or twice its share.
        """
        return self.curvature_batch([W])[0]

    def curvature_batch(self, Ws):
        """[curvature(W) for W in Ws].  A pass for each."""
        tiny = float(np.finfo(np.float64).tiny)
        means = [self._mean(sums.curvature, W) for W in Ws]
        return [curvature / self.xp.maximum(power, tiny) for curvature, power in means]

    def fixed_point_batch(self, Ws, squares=None):
        """[fixed_point(W) for W in Ws], in one pass.  squares: None, or for each W None or a kind."""
        return self._batch(sums.fixed_point, Ws, squares, 3)

    def likelihood_batch(self, Ws, squares=None):
        """[likelihood(W) for W in Ws], in one pass.  squares: None, or for each W None or a kind."""
        if len(Ws) == 1 and self.xp is not np:  # on a device, where to stack costs ten launches
            return [self.likelihood(Ws[0], squares and squares[0])]
        answers = self._batch(sums.likelihood, Ws, squares, 4)
        return [Likelihood(loss, cross @ W.T, *rest) for W, (loss, cross, *rest) in zip(Ws, answers, strict=True)]

    def _batch(self, contribution, Ws, kinds, n_parts):
        ends = list(itertools.accumulate(map(len, Ws), initial=0))
        spans = list(itertools.pairwise(ends))
        asked = [(*span, kind) for span, kind in zip(spans, kinds or (), strict=False) if kind]
        W = self.xp.concatenate(Ws).astype(self.rows.dtype)
        if asked:
            totals = self._sum(sums.stacked_and_squares, W, contribution, self.contrast, asked)
        else:
            totals = self._sum(sums.stacked, W, contribution, self.contrast)
        means = [total / self.weight for total in totals]
        squares = iter(means[n_parts:])
        found = {first: tuple(itertools.islice(squares, sums.N_SQUARES[kind])) for first, _, kind in asked}
        return [(*(mean[a:b] for mean in means[:n_parts]), *([found[a]] if a in found else [])) for a, b in spans]

    def gaussian_loss(self):
        """E G(u) of a standard normal u, by Gauss-Hermite quadrature."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(100)
        return float((self.contrast.loss(nodes) * weights).sum() / weights.sum())

    def covariance(self):
        """E z zᵀ (d, d).  One pass the first time, unless the rows are known to be white."""
        with self._lock:
            if self._covariance is None:
                self._covariance = self.rows.sum(sums.moments, self.xp.zeros(self.rows.n_features))[1] / self.weight
            return self._covariance

    def power(self, W):
        """E y² (k,), with y = W z."""
        return ((W if self.white else W @ self.covariance()) * W).sum(axis=1)

    def known_power(self, W):
        """`power` without a pass: that of white rows where the covariance was not asked for yet."""
        return self.power(W) if self._covariance is not None else (W * W).sum(axis=1)

    @property
    def n_passes(self):
        """How often the rows were read."""
        return self.rows.n_passes

    def sample(self, n, rng):
        """The same questions about n rows drawn at random, which are white only nearly."""
        return self._about(self.rows.sample(n, rng))

    def batches(self, size, rng):
        """The same questions about `size` rows at a time, once all of them in random order."""
        return map(self._about, self.rows.batches(size, rng))

    def in_memory(self, n, rng):
        """The same questions about rows whose batches cost no pass each: themselves, or at most n of them in memory."""
        if not self.rows.random_access_is_costly:
            return self
        return self.sample(min(n, self.n_rows), rng)

    def cached_result(self, name, make, *asked):
        """The arrays of make(), a list; a fit that goes on from a checkpoint is told those it made before.

        asked: what they depend on, beside the rows.
        """
        return self.rows.cached_result(name, make, *asked)

    def _about(self, rows):
        return ContrastOracle(rows, self.contrast, white=False, accepted=self.accepted, precision=self.sample_precision)

    def _sum(self, contribution, *params):
        if self.precision == "float32":  # a context costs 2 µs, a pass over little data 30
            return self.rows.sum(contribution, *params)
        with matmul_precision(self.xp, self.precision):
            return self.rows.sum(contribution, *params)

    def _mean(self, contribution, W, *params):
        means = self._sum(contribution, self.xp.asarray(W, dtype=self.rows.dtype), self.contrast, *params)
        return tuple(total / self.weight for total in means)


def _with_squares(means, n_parts):
    """The first n_parts, and the others as one tuple."""
    return *means[:n_parts], means[n_parts:]
