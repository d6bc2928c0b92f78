"""The atoms that pursuits choose for many rows at once, in float64: orthonormal bases of their spans, least squares.

Everything is measured on the data, not on the Gram matrix, which loses half of the digits.  That makes these functions
the reference: rows whose atoms come close to the span of each other are recomputed with them.
"""

import numpy as np

# All by the bytes of a number of the data.
# Share of an atom's square outside the span of others at which the atom depends on them.
DEPENDENCE_TOL = {4: 1e-6, 8: 1e-12}
# Share of a row's largest correlation at which the remaining correlations are rounding.
ROUNDING_TOL = {4: 1e-6, 8: 1e-14}
EPS = {4: 2.0**-23, 8: 2.0**-52}
# By how much ‖x - c D‖² of the code as it is stored may exceed that of the exact code, in units of ‖x‖².
RESIDUAL_TOL = {4: 1e-6, 8: 1e-12}


class Supports:
    """m atoms for each of n rows, in the order they entered, and an orthonormal basis of their span.

    chosen (n, m): which atoms.  basis (n, m, d).  triangle (n, m, m), lower: atom i is Σ_k triangle_ik basis_k.
    """

    def __init__(self, n, D, xp):
        self.D, self.xp = D, xp
        self.chosen, self.basis = xp.zeros((n, 0), dtype=int), xp.zeros((n, 0, D.shape[1]))
        self.triangle = xp.zeros((n, 0, 0))

    @property
    def size(self):
        """m."""
        return self.chosen.shape[1]

    def measure(self, atoms):
        """Atoms (n, d), one a row, as coordinates in the basis (n, m) and a rest orthogonal to it (n, d).

        Gram-Schmidt, twice: the rest is orthogonal to rounding (Giraud, Langou and Rozložník, 2005).
        """
        rest, coordinates = atoms, self.xp.zeros(self.chosen.shape)
        for _ in range(2 if self.size else 0):
            parts = (self.basis @ rest[:, :, None])[:, :, 0]
            rest, coordinates = rest - _combined(parts, self.basis), coordinates + parts
        return coordinates, rest

    def enter(self, j, coordinates, rest):
        """Atoms j (n,), as `measure` found them.  Returns the new directions of the bases (n, d)."""
        xp, (n, m) = self.xp, self.chosen.shape
        length = xp.sqrt((rest * rest).sum(axis=1, keepdims=True))
        new = rest / length
        triangle = xp.zeros((n, m + 1, m + 1))
        triangle[:, :m, :m] = self.triangle
        triangle[:, m, :m], triangle[:, m, m] = coordinates, length[:, 0]
        self.chosen = xp.concatenate([self.chosen, j[:, None]], axis=1)
        self.basis, self.triangle = xp.concatenate([self.basis, new[:, None]], axis=1), triangle
        return new

    def of(self, rows, size=None):
        """The supports of some rows, or the first `size` atoms of each."""
        part, size = Supports(0, self.D, self.xp), self.size if size is None else size
        part.chosen, part.basis = self.chosen[rows, :size], self.basis[rows, :size]
        part.triangle = self.triangle[rows, :size, :size]
        return part

    def coefficients(self, along):
        """c (n, m) of the vectors whose inner products with the basis are along (n, m): Σ c_i atom_i."""
        if not self.size:
            return along
        return self.xp.linalg.solve(self.triangle.transpose(0, 2, 1), along[:, :, None])[:, :, 0]

    def dual(self, b):
        """The vectors in the spans whose inner products with the atoms are b (n, m), as coordinates in the basis."""
        return self.xp.linalg.solve(self.triangle, b[:, :, None])[:, :, 0]

    def image(self, c):
        """Σ c_i atom_i (n, d)."""
        return _combined(c, self.D[self.chosen]) if self.size else self.xp.zeros((len(c), self.D.shape[1]))


def _combined(c, vectors):
    """Σ c_i vectors_i (n, d) for c (n, m), vectors (n, m, d)."""
    return (c[:, None, :] @ vectors)[:, 0]


def missed(square, size, target, eps, xp=np):
    """Whether rows of ‖x‖² = size whose ‖x - c D‖² is `square` are further from the target than rounding; (n,)."""
    return (xp.sqrt(square) > target**0.5 + 4 * eps * xp.sqrt(size)) & (target > 0)


def write(C, rows, X, support, along, short, target, xp):
    """Codes C[rows] become least squares on their supports; returns how many of them are unfinished.

    along (n, m): inner products of X (n, d) with the basis.  short (n,): whether the pursuit of a row ended early.
    The code is evaluated as it is stored, in the dtype of C.  Where its residual exceeds that of the exact one, because
    the coefficients are too large for that dtype, or exceeds the row, the last atom is left out, and the next.
    """
    eps, excess, unfinished = EPS[C.dtype.itemsize], RESIDUAL_TOL[C.dtype.itemsize], 0
    while len(rows):
        size = (X * X).sum(axis=1)
        c = support.coefficients(along).astype(C.dtype)
        R = X - support.image(c.astype(np.float64))
        square = (R * R).sum(axis=1)
        exact = size - (along * along).sum(axis=1)
        good = square <= xp.minimum(exact + excess * size, size * (1 + 1e-14))
        if not support.size:
            good, square = xp.ones_like(short), size
        C[rows[good][:, None], support.chosen[good]] = c[good]
        unfinished += int((good & (short | missed(square, size, target, eps, xp))).sum())
        m = max(support.size - 1, 0)
        rows, X, along, support = rows[~good], X[~good], along[~good, :m], support.of(~good, m)
        short = xp.ones(len(rows), dtype=bool)
    return unfinished
