"""What one chunk of rows contributes to each sum that a solver asks for.

Every function takes a chunk, (n_chunk, k) in the working dtype, and parameters in that dtype, and returns a tuple of
arrays that add up over chunks.  Σ is Σ w over the rows where they have weights w (n_chunk,), `weights`.  Top-level
functions, so that they can be sent to workers.
"""

import numpy as np

from . import kernels
from .device import array_device, to_host
from .device.products import product


def identified(name):
    """Give a sum the name that checkpoints know it by, which stays when the function is renamed."""

    def mark(function):
        function.identifier = name
        return function

    return mark


N_SQUARES = {"rotation": 2, "matrix": 3}  # arrays of each kind of `squares`
STACK = 256  # rows of a stack of unmixing matrices that are worked on at once: their scores stay in the cache


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
    with np.errstate(invalid="ignore", over="ignore"):  # a line search may ask too far out, and sees it in the sums
        Y = product(Z, W.T, shared_operand=True)
        loss, slope, square = kernels.score_and_loss(Y, contrast, weights)
        return loss, product(Y.T, Z), slope, square


def squares(Z, W, contrast, kind, weights=None):
    """What the variances of the entries of a relative gradient are made of, each (k, k), with y = W z.

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
def stacked_and_squares(Z, W, contribution, contrast, asked, weights=None):
    """`stacked`, and the `squares` of some of the matrices stacked in W.  asked: (first row, end, kind) of each."""
    parts = stacked(Z, W, contribution, contrast, weights)
    for first, end, kind in asked:
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

    Products in float64: their error, not the data's, would else decide which small directions exist.
    """
    with np.errstate(invalid="ignore", over="ignore"):  # NaN and infinity show in the totals, where they are refused
        D = X.astype(np.float64)
        D -= shift
        return _first_and_second(D, weights)


@identified("projected_moments")
def projected_moments(X, mean, components, weights=None):
    """Σ z (k,) and Σ z zᵀ (k, k) of z = components (x - mean), in float64.  components: (k, d)."""
    return _first_and_second((X.astype(np.float64, copy=False) - mean) @ components.T, weights)


def _first_and_second(D, weights):
    """Σ d and Σ d dᵀ of the rows of D, which is overwritten."""
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
    """Σ r, Σ r² and Σ 1 (3,) of r = |x - shift| over some 64 rows that count, in float64.

    They tell how long a row usually is, for next to nothing; what is rare among rows shows in the trace of the second
    moments, which see every row.  An odd step, because sequences of tokens have even lengths.
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
    return 1 + 2 * (n // 128)


@identified("total")
def total(X, weights=None):
    """Σ x (d,), in float64."""
    return (kernels.column_sums(X.astype(np.float64, copy=False), weights),)


@identified("pull")
def weiszfeld_sums(X, center, weights=None):
    """Σ (x - c) / r (d,), Σ 1 / r (1,) over rows with r = |x - c| > 0, and Σ 1 (1,) over rows on c; in float64."""
    with np.errstate(invalid="ignore", over="ignore"):
        D = X.astype(np.float64) - center
        r = (D * D).sum(axis=1) ** 0.5
        w = array_device(X).xp.ones_like(r) if weights is None else weights.astype(np.float64)
        here = r == 0
        nearness = ~here * w / (r + here)
        return nearness @ D, nearness.sum(keepdims=True), (w * here).sum(keepdims=True)


def centered(X, mean):
    """x - mean, (n, d), in the dtype of X.  To be mapped over rows, not added up."""
    return (X - mean).astype(X.dtype, copy=False)


def as_float64(X):
    """The chunk in float64.  To be mapped over rows."""
    return X.astype(np.float64, copy=False)


def gram(D, coder):
    """D Dᵀ (K, K) of a dictionary D (K, d), or None where a coder does better without it or has no use for it."""
    return kernels.gram(D, coder)


def codes(X, D, gram, coder, unfinished):
    """Codes (n, K) of X (n, d) by a coder.  To be mapped over rows.  unfinished: an `Unfinished`, or the like of it."""
    C, left = kernels.encode(X, D, gram, coder)
    unfinished.add(left, len(X))
    return C


class Unfinished:
    """Counts the rows whose codes are not finished; chunks of several threads may be added at a time."""

    def __init__(self):
        self.counts = []

    def add(self, n_unfinished, n_rows):
        """Take the counts of one chunk."""
        self.counts.append(n_unfinished)

    @property
    def count(self):
        """How many there are."""
        return sum(self.counts)


def sparse_codes(X, D, gram, coder):
    """(non-zeros a row (n,), their columns, their values) of codes on the host; and how many rows are not finished."""
    C, left = kernels.encode(X, D, gram, coder)
    return tuple(to_host(part) for part in kernels.compress(C if kernels.has_kernels(C) else to_host(C))), left


def dense_codes(X, D, gram, coder):
    """Codes (n, K), and how many rows are not finished."""
    return kernels.encode(X, D, gram, coder)


def coded(X, D, gram, coder):
    """X; its penalty; its codes as `add_code_moments` takes them, compressed, or dense on a device without kernels; and
    how many rows are not finished."""
    C, left = kernels.encode(X, D, gram, coder)
    return X, coder.penalty(C), kernels.compress(C) if kernels.has_kernels(C) else C, left


def add_code_moments(X, D, C, A, B):
    """Add Σ c cᵀ to A (K, K) and Σ c xᵀ to B (K, d); return ‖x - c D‖² of every row, (n,).  C: of `coded`."""
    if isinstance(C, tuple):
        counts, indices, values = C
        return kernels.add_code_moments(X, D, counts, indices, values, A, B)
    A += C.T @ C
    B += C.T @ X
    R = X - C @ D
    return (R * R).sum(axis=1)


class CodeTotals:
    """Sums over rows x and their codes c from a dictionary D (K, d), from parts that `coded` gives.

    A: Σ c cᵀ (K, K).  B: Σ c xᵀ (K, d).  costs: Σ ½‖x - c D‖² + penalty(c), (1,).  n_unfinished: rows whose code is not
    the coder's solution yet.  worst: rows (m, d), m at most n_worst, that D serves worst, the worst first.
    """

    def __init__(self, D, n_worst):
        self.xp = array_device(D).xp
        self.D, self.n_worst = D, n_worst
        self.A, self.B = self.xp.zeros((len(D), len(D))), self.xp.zeros(D.shape)
        self.costs, self.n_unfinished = self.xp.zeros(1), 0
        self.worst, self.squares = self.xp.zeros((0, D.shape[1]), dtype=D.dtype), self.xp.zeros(0)

    def add(self, part):
        """The rows of a chunk, as `coded` gives them."""
        X, penalty, C, n_unfinished = part
        squares = add_code_moments(X, self.D, C, self.A, self.B)
        self.costs += squares.sum(dtype=np.float64) / 2 + penalty
        self.n_unfinished += n_unfinished
        self._keep(X, squares)

    @property
    def added(self):
        """What adds up: A, B, costs (1,) and n_unfinished (1,)."""
        return self.A, self.B, self.costs, self.xp.zeros(1) + self.n_unfinished

    @property
    def kept(self):
        """The worst rows (m, d) and their squared distances (m,), where some are asked for."""
        return (self.worst, self.squares) if self.n_worst else ()

    def merge(self, added, kept):
        """Take in the totals of other rows, that come after these."""
        A, B, costs, n_unfinished = added
        self.A += A
        self.B += B
        self.costs += costs
        self.n_unfinished += int(n_unfinished[0])
        if kept:
            self._keep(*kept)

    def _keep(self, X, squares):
        if not self.n_worst:
            return
        first = self.xp.argsort(-squares)[: self.n_worst]
        X = self.xp.concatenate([self.worst, X[first]])
        squares = self.xp.concatenate([self.squares, squares[first].astype(np.float64)])
        first = self.xp.argsort(-squares)[: self.n_worst]
        self.worst, self.squares = X[first], squares[first]
