"""Approximate correlations and the bound of their error; codes that are computed with them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuica import kernels
from gpuica.coders import Lasso
from gpuica.kernels.cpu import lasso_products, screening

FORMS = ["integers", "float32"]
DTYPES = [np.float32, np.float64]


def screened(D, form):
    """The `Screen` of D by integers, where the processor has their products, or by float32."""
    with pytest.MonkeyPatch.context() as patch:
        if form == "float32":
            patch.setattr(screening, "has_int8_products", lambda: False)
        return screening.screen(D)


def approximate(D, R, form, positive=False):
    """(approximate correlations of the rows R, their error bounds, the largest of each panel, their values)."""
    screen = screened(D, form)
    out = screening.screened(screen, len(R), R.shape[1])
    screening.correlate(screen, R, np.arange(len(R)), positive, out)
    n, units = len(R), out.units[: len(R), None]
    values = out.values[:n, : len(D)].astype(float)
    return values * units, out.errors[:n], out.tops[:n], out.values[:n]


def rows(rng, n, d, spread, scale, dtype):
    """Rows whose features have scales that differ by 10^spread, of norms about `scale`; one of them is zero."""
    R = rng.normal(size=(n, d)) * 10.0 ** (spread * rng.uniform(-1, 1, size=d)) * scale
    R[n // 2] = 0
    return R.astype(dtype)


@settings(max_examples=150, deadline=None)
@given(
    n=st.integers(1, 9),
    d=st.integers(1, 70),
    K=st.integers(1, 200),
    spread=st.sampled_from([0, 1, 4]),
    scale=st.sampled_from([1e-18, 1.0, 1e12]),
    dtype=st.sampled_from(DTYPES),
    form=st.sampled_from(FORMS),
    positive=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_errors_of_correlations_are_within_their_bounds(n, d, K, spread, scale, dtype, form, positive, seed):
    rng = np.random.default_rng(seed)
    D, R = rows(rng, K, d, spread, 1 / scale, dtype), rows(rng, n, d, spread, scale, dtype)
    H, errors, tops, values = approximate(D, R, form, positive)
    exact = R.astype(float) @ D.astype(float).T
    assert (abs(H - exact) <= errors[:, None]).all()
    norms = np.linalg.norm(R.astype(float), axis=1) * np.linalg.norm(D.astype(float), axis=1).max()
    assert (errors <= 0.06 * np.sqrt(d) * norms).all()  # at most an entry of 1/127 for each feature, twice
    size = np.maximum(values, 0) if positive else abs(values)
    np.testing.assert_array_equal(tops, size.reshape(n, -1, 64).max(axis=2))


@pytest.mark.parametrize("which", ["atoms", "rows"])
def test_bound_holds_where_only_atoms_or_only_rows_are_rounded(which, rng):
    """The others are integers already; errors of one sign, so that they come close to the bound."""
    integers, half = np.full((64, 6), 127.0), np.full((5, 6), 20.498)
    half[:, 0] = 127
    D, R = (half, integers) if which == "atoms" else (integers, half)
    H, errors, _, _ = approximate(D, R, "integers")
    missed = abs(H - R @ D.T)
    assert (missed <= errors[:, None]).all()
    assert not screening.has_int8_products() or (missed > 0.8 * errors[:, None]).all()


@pytest.mark.parametrize("scale", [1e-180, 1e180])
@pytest.mark.parametrize("form", FORMS)
def test_rows_whose_squares_overflow_or_underflow(form, scale, rng):
    D, R = rng.normal(size=(100, 30)), rng.normal(size=(5, 30))
    H, errors, _, _ = approximate(D, R * scale, form)
    assert (abs(H - R @ D.T * scale) <= errors[:, None]).all()
    assert (errors <= 0.2 * scale * np.linalg.norm(R, axis=1) * np.linalg.norm(D, axis=1).max()).all()


def clusters(n, d, K, dtype):
    """Rows and unit atoms near ten directions, so that many correlations are close to the bound; a feature is large."""
    rng = np.random.default_rng(3)
    centers = rng.normal(size=(10, d))
    A = centers[rng.integers(10, size=n + K)] + 0.4 * rng.normal(size=(n + K, d))
    A[:, 0] *= 20
    A /= np.linalg.norm(A, axis=1, keepdims=True)
    return A[:n].astype(dtype), A[n:].astype(dtype)


def bounds(X, D, C, alpha, positive):
    """The objective of every row of codes C, and the lower bound of its dual, in units of ½‖x‖²."""
    X, D, C = (A.astype(float) for A in (X, D, C))
    R = X - C @ D
    H = R @ D.T
    scale = np.minimum(1, alpha / (H if positive else abs(H)).max(axis=1))
    loss, size = (R * R).sum(axis=1) / 2, (X * X).sum(axis=1) / 2
    return (loss + alpha * abs(C).sum(axis=1)) / size, (scale * (X * R).sum(axis=1) - scale**2 * loss) / size


@pytest.mark.parametrize("alpha", [0.2, 0.02, 0.002])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("form", FORMS)
def test_duality_gap_of_every_row(form, dtype, positive, alpha):
    X, D = clusters(150, 24, 1_500, dtype)
    coder = Lasso(alpha, positive)
    C, n_unfinished = kernels.encode(X, D, screened(D, form), coder)
    assert n_unfinished == 0
    objective, below = bounds(X, D, C, alpha, positive)
    assert (objective - below).max() <= (1e-9 if dtype == np.float64 else 2e-5)
    exact, _ = kernels.encode(X.astype(float), D.astype(float), screened(D.astype(float), form), coder)
    assert (objective - bounds(X, D, exact, alpha, positive)[0]).max() <= 1e-6


@pytest.mark.parametrize("form", FORMS)
def test_an_atom_that_the_error_hides_is_found(form):
    """Integers of 8 bits cannot distinguish two atoms: the one that exceeds alpha by less than the error enters."""
    D = np.array([[1, 0], [1, 1e-4]])
    D[1] /= np.linalg.norm(D[1])
    X = np.ones((1, 2))  # D_1 x exceeds D_0 x by 1e-4
    alpha = 1 + 5e-5
    C, _ = kernels.encode(X, D[:2], screened(D[:2], form), Lasso(alpha))
    assert C[0, 0] == 0
    assert C[0, 1] == pytest.approx(D[1] @ X[0] - alpha, rel=1e-9)


@pytest.mark.parametrize("room", [4, 64])
@pytest.mark.parametrize("form", FORMS)
def test_compressed_codes_are_the_dense_ones(form, room, monkeypatch):
    monkeypatch.setattr(lasso_products, "INITIAL_ROOM", room)
    X, D = clusters(700, 24, 300, np.float32)
    X[3] = 0
    screen, coder = screened(D, form), Lasso(0.02)
    C, _ = kernels.encode(X, D, screen, coder)
    (counts, indices, values), _ = kernels.encode_compressed(X, D, screen, coder)
    np.testing.assert_array_equal(counts, np.count_nonzero(C, axis=1))
    np.testing.assert_array_equal(indices, np.nonzero(C)[1])
    np.testing.assert_array_equal(values, C[C != 0])
    assert counts.max() > 4


def test_compressed_codes_of_unfinished_rows_are_no_worse_than_zeros():
    X, D = clusters(40, 24, 300, np.float64)
    coder = Lasso(1e-3, False, 1)
    C, n_dense = kernels.encode(X, D, screened(D, "integers"), coder)
    (_, indices, values), n_compressed = kernels.encode_compressed(X, D, screened(D, "integers"), coder)
    assert n_dense == n_compressed > 0
    np.testing.assert_array_equal(indices, np.nonzero(C)[1])
    np.testing.assert_array_equal(values, C[C != 0])
