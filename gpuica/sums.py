"""The contribution of one chunk of rows to each sum that an oracle needs.

Every function takes a chunk, (n_chunk, k) in the working dtype, and parameters in that dtype, and returns a tuple of
arrays that add up over chunks.  Σ is Σ w over the rows where they have `weights` w (n_chunk,).  Top-level functions, so
that they can be sent to workers.
"""

import numpy as np

from . import kernels
from .device import array_device, to_host
from .device.products import product


def identified(name):
    """Decorator that sets the identifier of a sum in checkpoints, which is independent of the function's name."""

    def mark(function):
        function.identifier = name
        return function

    return mark


N_SQUARES = {"rotation": 2, "matrix": 3}  # arrays of each kind of `squares`
STACK = 256  # rows of a stack of unmixing matrices that are processed at once: their scores stay in the cache


@identified("stacked")
def stacked(Z, W, contribution, contrast, weights=None):
    """contribution(Z, W, contrast, weights) for W (m, d) of any height, STACK rows of W at a time."""
    parts = [contribution(Z, W[i : i + STACK], contrast, weights) for i in range(0, len(W), STACK)]
    xp = array_device(Z).xp
    return tuple(xp.concatenate(part) for part in zip(*parts, strict=True))


@identified("fixed_point")
def fixed_point(Z, W, contrast, weights=None):
    """Σ g(y) zᵀ (k, d), Σ g'(y) (k,) and Σ g(y)² (k,), with y = W z.  Z: (n, d), W: (k, d)."""
    Y = product(Z, W.T, shared_operand=True)
    slope, square = kernels.score(Y, contrast, weights)
    return product(Y.T, Z), slope, square


@identified("likelihood")
def likelihood(Z, W, contrast, weights=None):
    """Σ G(y) (k,), Σ g(y) zᵀ (k, d), Σ g'(y) (k,) and Σ g(y)² (k,), with y = W z.  Z: (n, d), W: (k, d)."""
    with np.errstate(invalid="ignore", over="ignore"):  # a line search can try too long a step
        Y = product(Z, W.T, shared_operand=True)
        loss, slope, square = kernels.score_and_loss(Y, contrast, weights)
        return loss, product(Y.T, Z), slope, square


def squares(Z, W, contrast, kind, weights=None):
    """The sums from which variances of the entries of a relative gradient are computed, each (k, k), with y = W z.

    kind "rotation": Σ g(y_i)² y_j² and Σ g(y_i) y_i g(y_j) y_j.  "matrix": Σ g(y_i)² y_j², Σ g(y_i) y_i y_j² and
    Σ y_i² y_j².  Z: (n, d), W: (k, d).
    """
    Y = product(Z, W.T, shared_operand=True)
    g = Y.copy()
    kernels.score(g, contrast)
    return _squares(Y, g, kind, weights)


def _squares(Y, g, kind, weights):
    """`squares` of sources Y and g(Y), (n, k), which are overwritten."""
    middle = g * Y
    g *= g
    Y *= Y
    w = None if weights is None else weights[:, None].astype(Y.dtype, copy=False)
    if w is not None:
        g *= w
    if kind == "rotation":  # without weights a product of an array with itself, half the work
        return g.T @ Y, middle.T @ (middle if w is None else w * middle)
    power = Y if w is None else w * Y
    return g.T @ Y, middle.T @ power, Y.T @ power


def _unweighted(scores, weights):
    """g from w g (n, k), in place; 0 where w = 0."""
    if weights is not None:
        scores /= (weights + (weights == 0)).astype(scores.dtype, copy=False)[:, None]
    return scores


@identified("fixed_point_and_squares")
def fixed_point_and_squares(Z, W, contrast, kind, weights=None):
    """`fixed_point` and `squares` of the chunk."""
    Y = product(Z, W.T, shared_operand=True)
    g = Y.copy()
    slope, square = kernels.score(g, contrast, weights)
    cross = product(g.T, Z)
    return cross, slope, square, *_squares(Y, _unweighted(g, weights), kind, weights)


@identified("likelihood_and_squares")
def likelihood_and_squares(Z, W, contrast, kind, weights=None):
    """`likelihood` and `squares` of the chunk."""
    with np.errstate(invalid="ignore", over="ignore"):  # as in `likelihood`
        Y = product(Z, W.T, shared_operand=True)
        g = Y.copy()
        loss, slope, square = kernels.score_and_loss(g, contrast, weights)
        cross = product(g.T, Z)
        return loss, cross, slope, square, *_squares(Y, _unweighted(g, weights), kind, weights)


@identified("stacked_and_squares")
def stacked_and_squares(Z, W, contribution, contrast, requested, weights=None):
    """`stacked`, and the `squares` of some of the matrices in W.  requested: (first row, end, kind) of each."""
    parts = stacked(Z, W, contribution, contrast, weights)
    for first, end, kind in requested:
        parts += squares(Z, W[first:end], contrast, kind, weights)
    return parts


@identified("curvature")
def curvature(Z, W, contrast, weights=None):
    """Σ g'(y_i) y_j² (k, k) and Σ y_j² (k,), with y = W z.  Z: (n, d), W: (k, d)."""
    Y = Z @ W.T
    slope = contrast.at(Y, array_device(Z).xp)[1]
    Y *= Y
    if weights is not None:
        Y *= weights[:, None].astype(Y.dtype, copy=False)
    return slope.T @ Y, kernels.column_sums(Y)


@identified("moments")
def moments(X, shift, weights=None):
    """Σ (x - shift) (d,) and Σ (x - shift)(x - shift)ᵀ (d, d), in float64 whatever the dtype of X.

    Products are in float64: otherwise their rounding would hide small directions that the data resolve.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity propagate to the totals, which are checked
        D = X.astype(np.float64)
        D -= shift
        return _first_and_second(D, weights)


@identified("projected_moments")
def projected_moments(X, mean, components, weights=None):
    """Σ z (k,) and Σ z zᵀ (k, k) of z = components (x - mean), in float64.  components: (k, d)."""
    return _first_and_second((X.astype(np.float64, copy=False) - mean) @ components.T, weights)


def _first_and_second(D, weights):
    """Σ d and Σ d dᵀ over the rows d of D, which is overwritten."""
    if weights is None:
        return kernels.column_sums(D), D.T @ D
    root = weights.astype(np.float64) ** 0.5  # on both sides: BLAS halves the work of a product Dᵀ D
    D *= root[:, None]
    return kernels.column_sums(D, root), D.T @ D


@identified("moments_and_norms")
def moments_and_norms(X, shift, weights=None):
    """`moments` and `norms` of the chunk."""
    return *moments(X, shift, weights), norms(X, shift, weights)


def norms(X, shift, weights=None):
    """Σ r, Σ r² and Σ 1 (3,) of r = |x - shift| over some 64 rows of positive weight, in float64.

    A cheap estimate of the typical norm of a row; rare rows of enormous norm contribute to the trace of the second
    moments, which are over all rows.  The step is odd, because sequences of tokens have even lengths.
    """
    xp = array_device(X).xp
    if weights is None:
        some = slice(None, None, _odd_step(len(X)))
    else:
        some = xp.nonzero(weights)[0]
        some = some[:: _odd_step(len(some))]
        weights = weights[some]
    with np.errstate(invalid="ignore", over="ignore"):
        D = X[some] - shift
        square = (D * D).sum(axis=1, keepdims=True)
        powers = xp.concatenate([square**0.5, square, xp.ones_like(square)], axis=1)
        return kernels.column_sums(powers, weights)


def _odd_step(n):
    """The step at which n rows have some 64 samples, an odd number."""
    return 1 + 2 * (n // 128)


@identified("total")
def total(X, weights=None):
    """Σ x (d,), in float64."""
    return (kernels.column_sums(X.astype(np.float64, copy=False), weights),)


@identified("pull")
def weiszfeld_sums(X, center, weights=None):
    """Σ (x - c) / r (d,), Σ 1 / r (1,) over rows with r = |x - c| > 0; Σ 1 (1,) over those with r = 0; in float64."""
    with np.errstate(invalid="ignore", over="ignore"):
        D = X.astype(np.float64) - center
        r = (D * D).sum(axis=1) ** 0.5
        w = array_device(X).xp.ones_like(r) if weights is None else weights.astype(np.float64)
        at_c = r == 0
        inverse = ~at_c * w / (r + at_c)
        return inverse @ D, inverse.sum(keepdims=True), (w * at_c).sum(keepdims=True)


def centered(X, mean):
    """x - mean, (n, d), in the dtype of X.  For `Rows.map`; it is not a sum."""
    return (X - mean).astype(X.dtype, copy=False)


def as_float64(X):
    """The chunk in float64.  For `Rows.map`."""
    return X.astype(np.float64, copy=False)


def prepared(D, coder):
    """What a coder computes once from a dictionary D (K, d), such as D Dᵀ (K, K), for the functions below."""
    return kernels.prepare(D, coder)


def codes(X, D, prepared, coder, unfinished):
    """Codes (n, K) of X (n, d) by a coder.  For `Rows.map`.  unfinished: an `Unfinished` or an object like it."""
    C, left = kernels.encode(X, D, prepared, coder)
    unfinished.add(left, len(X))
    return C


class Unfinished:
    """Counts the rows whose coder did not converge.  Several threads can add chunks at the same time."""

    def __init__(self):
        self.counts = []

    def add(self, n_unfinished, n_rows):
        """Add one chunk of n_rows rows."""
        self.counts.append(n_unfinished)

    @property
    def count(self):
        """The number of rows so far."""
        return sum(self.counts)


def sparse_codes(X, D, prepared, coder):
    """Codes on the host, (non-zeros of each row (n,), columns, values), and the number of rows not converged."""
    if kernels.has_kernels(X):
        C, left = kernels.encode_compressed(X, D, prepared, coder)
        return tuple(map(to_host, C)), left
    C, left = kernels.encode(X, D, prepared, coder)
    return kernels.compress(to_host(C)), left


def dense_codes(X, D, prepared, coder):
    """Codes (n, K), and the number of rows whose coder did not converge."""
    return kernels.encode(X, D, prepared, coder)


def coded(X, D, prepared, coder):
    """X, the penalty of its codes, the codes, and the number of rows whose coder did not converge.

    Codes are in the form that `add_code_moments` takes: compressed, or dense on a device without kernels.
    """
    if kernels.has_kernels(X):
        C, left = kernels.encode_compressed(X, D, prepared, coder)
        return X, coder.penalty(C[-1]), C, left
    C, left = kernels.encode(X, D, prepared, coder)
    return X, coder.penalty(C), C, left


def add_code_moments(X, D, C, A, B):
    """Add Σ c cᵀ to A (K, K) and Σ c xᵀ to B (K, d); return ‖x - c D‖² of every row, (n,).  C: codes of `coded`."""
    if isinstance(C, tuple):
        counts, indices, values = C
        return kernels.add_code_moments(X, D, counts, indices, values, A, B)
    A += C.T @ C
    B += C.T @ X
    R = X - C @ D
    return (R * R).sum(axis=1)


def subtract_codes(R, D, counts, indices, values):
    """R -= C D for compressed codes C, on the host; returns the squared norms of the rows of R (n,)."""
    return kernels.subtract_codes(R, D, counts, indices, values)


class CodedRows:
    """Collects rows x and their codes by a dictionary D (K, d), from the results of `coded` on the host.

    added: Σ penalty(c) (1,) and the number of unfinished rows (1,).  kept: the rows (n, d), and their codes: non-zeros
    of each row (n,), columns and values (n_nonzero,).
    """

    def __init__(self, D):
        self.penalties, self.n_unfinished = np.zeros(1), np.zeros(1)
        empty = np.zeros((0, D.shape[1]), D.dtype), np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, D.dtype)
        self.parts: list[tuple] = [empty]

    def add(self, part):
        """Add a chunk, the result of `coded`."""
        X, penalty, codes, n_unfinished = part
        self.merge((penalty, n_unfinished), (X, *codes))

    @property
    def added(self):
        """Sums over the rows."""
        return self.penalties, self.n_unfinished

    @property
    def kept(self):
        """Arrays of all rows."""
        return tuple(np.concatenate(arrays) for arrays in zip(*self.parts, strict=True))

    def merge(self, added, kept):
        """Add later rows: their `added` and `kept`."""
        self.penalties += added[0]
        self.n_unfinished += added[1]
        self.parts.append(kept)


class CodeTotals:
    """Accumulates sums over rows x and their codes c by a dictionary D (K, d), from the results of `coded`.

    A: Σ c cᵀ (K, K).  B: Σ c xᵀ (K, d).  costs: Σ ½‖x - c D‖² + penalty(c), (1,).  n_unfinished: the number of rows
    whose coder did not converge.  worst: the rows (m, d), m at most n_worst, that D reconstructs worst, worst first.
    """

    def __init__(self, D, n_worst):
        self.xp = array_device(D).xp
        self.D, self.n_worst = D, n_worst
        self.A, self.B = self.xp.zeros((len(D), len(D))), self.xp.zeros(D.shape)
        self.costs, self.n_unfinished = self.xp.zeros(1), 0
        self.worst, self.squares = self.xp.zeros((0, D.shape[1]), dtype=D.dtype), self.xp.zeros(0)

    def add(self, part):
        """Add a chunk, the result of `coded`."""
        X, penalty, C, n_unfinished = part
        squares = add_code_moments(X, self.D, C, self.A, self.B)
        self.costs += squares.sum(dtype=np.float64) / 2 + penalty
        self.n_unfinished += n_unfinished
        self._keep(X, squares)

    @property
    def added(self):
        """The sums: A, B, costs (1,) and n_unfinished (1,)."""
        return self.A, self.B, self.costs, self.xp.zeros(1) + self.n_unfinished

    @property
    def kept(self):
        """The worst rows (m, d) and their squared residuals (m,), if n_worst; else ()."""
        return (self.worst, self.squares) if self.n_worst else ()

    def merge(self, added, kept):
        """Add the totals of later rows: their `added` and `kept`."""
        A, B, costs, n_unfinished = added
        self.A += A
        self.B += B
        self.costs += costs
        self.n_unfinished += int(n_unfinished[0])
        if kept:
            self._keep(*kept)

    def _keep(self, X, squares):
        """Merge rows (n, d) and their squared residuals (n,) into the worst rows."""
        if not self.n_worst:
            return
        first = self.xp.argsort(-squares)[: self.n_worst]
        X = self.xp.concatenate([self.worst, X[first]])
        squares = self.xp.concatenate([self.squares, squares[first].astype(np.float64)])
        first = self.xp.argsort(-squares)[: self.n_worst]
        self.worst, self.squares = X[first], squares[first]
