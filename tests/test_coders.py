"""Sparse coders: optimality conditions, reference loops, and array implementations against compiled kernels."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from gpuica import kernels
from gpuica.coders import OMP, ORMP, Fista, Lars, Lasso, MatchingPursuit, Threshold, TopK
from gpuica.coders.penalised import largest_eigenvalue
from gpuica.kernels import fallback
from gpuica.kernels.cpu import coding, lasso, lasso_products, screening
from gpuica.kernels.cpu.vectors import Searchable, search_mask

from . import fake_cupy, naive
from .coherent import bumps, problem

DTYPES = [np.float32, np.float64]
ROUNDING = {np.float32: 5e-6, np.float64: 1e-9}  # error of correlations relative to the largest of the row


def data(n, d, K, dtype=np.float64, seed=0):
    """Gaussian rows X of shape (n, d) and unit-norm atoms D of shape (K, d)."""
    rng = np.random.default_rng(seed)
    D = rng.normal(size=(K, d))
    return rng.normal(size=(n, d)).astype(dtype), (D / np.linalg.norm(D, axis=1, keepdims=True)).astype(dtype)


def scaled(D):
    return D * np.geomspace(0.01, 30, len(D), dtype=D.dtype)[:, None]


def some_zero(A):
    A[::3] = 0
    return A


def nearly_parallel(D, angle):
    return np.concatenate([D, D + np.array(angle, D.dtype) * np.roll(D, 1, axis=0)])


# name -> function of a dtype that returns X, D and alpha
LASSO = {
    "more atoms than features": lambda t: (*data(33, 16, 41, t), 0.2),
    "fewer atoms than features": lambda t: (*data(33, 30, 12, t), 0.2),
    "one atom": lambda t: (*data(9, 5, 1, t), 0.2),
    "one feature": lambda t: (*data(9, 1, 7, t), 0.2),
    "one row": lambda t: (*data(1, 16, 40, t), 0.2),
    "one row, one atom and one feature": lambda t: (*data(1, 1, 1, t), 0.2),
    "whole blocks of atoms": lambda t: (*data(20, 40, 128, t), 0.2),
    "large supports": lambda t: (*data(8, 90, 150, t), 0.01),
    "atoms of all norms": lambda t: (data(33, 16, 41, t)[0], scaled(data(33, 16, 41, t)[1]), 0.2),
    "zero atoms": lambda t: (data(33, 16, 41, t)[0], some_zero(data(33, 16, 41, t)[1]), 0.2),
    "only zero atoms": lambda t: (data(5, 4, 3, t)[0], np.zeros((3, 4), t), 0.2),
    "zero rows": lambda t: (some_zero(data(33, 16, 41, t)[0]), data(33, 16, 41, t)[1], 0.2),
    "duplicate atoms": lambda t: (data(33, 16, 20, t)[0], np.tile(data(33, 16, 20, t)[1], (3, 1)), 0.1),
    "opposite atoms": lambda t: (data(33, 16, 20, t)[0], np.kron([[1], [-1]], data(33, 16, 20, t)[1]).astype(t), 0.1),
    "parallel atoms": lambda t: (data(33, 16, 20, t)[0], nearly_parallel(data(33, 16, 20, t)[1], 1e-5), 0.1),
    "nearly parallel atoms": lambda t: (data(33, 16, 20, t)[0], nearly_parallel(data(33, 16, 20, t)[1], 3e-3), 0.1),
    "dependent atoms": lambda t: (*data(33, 6, 40, t), 1e-3),
    "many dependent atoms": lambda t: (*data(20, 3, 200, t), 1e-2),
}


def check_lasso(X, D, C, alpha, positive):
    """Check the optimality conditions of each row: |D_j r| <= alpha, and D_j r = alpha sign(c_j) where c_j is not 0."""
    rounding, exact = ROUNDING[X.dtype.type], [A.astype(float) for A in (X, D, C)]
    X, D, C = exact
    H = (X - C @ D) @ D.T
    slack = rounding * np.abs(X @ D.T).max(axis=1, keepdims=True) + 1e-300
    assert ((H if positive else np.abs(H)) <= alpha + slack).all()
    assert np.where(C != 0, np.abs(H - alpha * np.sign(C)) <= slack, True).all()
    assert not positive or (C >= 0).all()


def prepared(D, gram):
    """D Dᵀ; or None; or, for gram="float32", the `Screen` of a processor without products of integers."""
    if gram == "float32":
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(screening, "has_int8_products", lambda: False)
            return screening.screen(D)
    return D @ D.T if gram else None


def encode(X, D, coder, gram=True):
    C, unfinished = kernels.encode(X, D, prepared(D, gram), coder)
    assert C.shape == (len(X), len(D))
    assert C.dtype == X.dtype
    assert np.isfinite(C).all()
    return C, unfinished


FORMS = [True, False, "float32"]


@pytest.mark.parametrize("gram", FORMS)
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LASSO)
def test_lasso_is_optimal(name, dtype, positive, gram):
    X, D, alpha = LASSO[name](dtype)
    C, unfinished = encode(X, D, Lasso(alpha, positive), gram)
    assert unfinished == 0
    check_lasso(X, D, C, alpha, positive)


@pytest.mark.parametrize("gram", FORMS)
@pytest.mark.parametrize("positive", [False, True])
def test_lasso_matches_reference(positive, gram):
    X, D = data(20, 8, 24)
    C, _ = encode(X, D, Lasso(0.1, positive), gram)
    np.testing.assert_allclose(C, [naive.lasso(x, D, 0.1, positive) for x in X], atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 5),
    d=st.integers(1, 20),
    K=st.integers(1, 80),
    alpha=st.sampled_from([1e-3, 0.05, 0.5, 5.0]),
    dtype=st.sampled_from(DTYPES),
    positive=st.booleans(),
    whole=st.booleans(),
    gram=st.sampled_from(FORMS),
)
def test_lasso_is_optimal_for_any_shape(n, d, K, alpha, dtype, positive, whole, gram):
    X, D = data(n, d, K, seed=n + 10 * d + 300 * K)
    X, D = (np.round(X), np.round(2 * D)) if whole else (X, D)  # ties, duplicates and dependent atoms
    X, D = X.astype(dtype), D.astype(dtype)
    C, unfinished = encode(X, D, Lasso(alpha, positive), gram)
    assert unfinished == 0
    check_lasso(X, D, C, alpha, positive)


@pytest.mark.parametrize("gram", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_lasso_without_penalty_is_least_squares(dtype, gram):
    X, D = data(12, 30, 20, dtype)
    C, unfinished = encode(X, D, Lasso(0.0), gram)
    assert unfinished == 0
    np.testing.assert_allclose(C, np.linalg.lstsq(D.T, X.T)[0].T, atol=3e-5 if dtype == np.float32 else 1e-10)
    X, D = data(12, 9, 40, dtype)
    C, unfinished = encode(X, D, Lasso(0.0), gram)
    assert unfinished == 0
    np.testing.assert_allclose(C @ D, X, atol=2e-5 if dtype == np.float32 else 1e-9)


@njit
def reduce(correlations, row, value, index_bits):
    return lasso._reduce(correlations, row, value, index_bits)


@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("K", [1, 2, 5, 64, 255, 256, 257])
def test_reduce_returns_index_of_largest_remaining_correlation(K, dtype, positive, rng):
    integer, mask = np.dtype(f"i{np.dtype(dtype).itemsize}").type, search_mask(dtype, positive)
    index_bits = integer((1 << K.bit_length()) - 1)
    for _ in range(20):
        h, row = rng.normal(size=(2, K)).astype(dtype)
        h[rng.integers(K)] = 5 * rng.choice([-1, 1])
        remaining = h - dtype(0.3) * row
        index = reduce(Searchable(h, np.empty(0, integer), mask), row, 0.3, index_bits)
        np.testing.assert_allclose(h, remaining, rtol=1e-6, atol=1e-6)
        size = np.maximum(remaining, 0) if positive else abs(remaining)
        assert size[index] >= (1 - 1e-3) * size.max()


@pytest.mark.parametrize(("d", "K"), [(10, 15), (11, 7), (9, 8), (8, 6), (5, 3)])
def test_positive_lasso_without_penalty_is_nnls(d, K):
    X, D = data(200, d, K)
    C, _ = encode(X, D, Lasso(0.0, positive=True))
    np.testing.assert_allclose(C, [naive.scipy.optimize.nnls(D.T, x)[0] for x in X], atol=1e-9)


@pytest.mark.parametrize("positive", [False, True])
def test_lasso_with_a_large_penalty_is_zero(positive):
    X, D = data(12, 9, 40)
    assert not encode(X, D, Lasso(1.001 * np.abs(X @ D.T).max(), positive))[0].any()


@pytest.mark.parametrize("gram", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("capacity", [1, 3, 8, 40])
def test_lasso_supports_larger_than_initial_capacity(capacity, dtype, gram, monkeypatch):
    X, D, alpha = LASSO["large supports"](dtype)
    expected, _ = encode(X, D, Lasso(alpha))
    monkeypatch.setattr(lasso if gram is True else lasso_products, "INITIAL_ROOM", capacity)
    monkeypatch.setattr(lasso_products, "MAX_SUPPORT_BYTES", 8 * 3 * 80**2)  # three rows per batch at most
    C, unfinished = encode(X, D, Lasso(alpha), gram)
    assert (C != 0).sum(axis=1).min() > 40
    assert unfinished == 0
    np.testing.assert_allclose(C, expected, atol=1e-6 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("gram", FORMS)
def test_lasso_counts_unfinished_rows(gram, monkeypatch):
    X, D = data(12, 30, 190)
    X[:2] = 0  # converged before the first round
    _, n_unfinished = zip(*(encode(X, D, Lasso(0.05, max_iter=rounds), gram) for rounds in (0, 1, 100)), strict=True)
    assert n_unfinished == (10, 10, 0)
    monkeypatch.setattr(lasso, "INITIAL_ROOM", 2)
    monkeypatch.setattr(lasso_products, "INITIAL_ROOM", 2)
    assert encode(X, D, Lasso(0.05, max_iter=1), gram)[1] == 10


@pytest.mark.parametrize("positive", [False, True])
def test_only_ill_conditioned_rows_are_recoded_from_products(positive, monkeypatch):
    """Rows with nearly duplicate atoms are passed to `lasso_products`; rows with Gaussian atoms are not."""
    n_recoded = []
    original = lasso.lasso_products

    def counted(X, *rest, **options):
        n_recoded.append(len(X))
        return original(X, *rest, **options)

    monkeypatch.setattr(lasso, "lasso_products", counted)
    encode(*data(500, 60, 120), Lasso(0.5, positive))
    assert sum(n_recoded) == 0
    encode(*LASSO["parallel atoms"](np.float64)[:2], Lasso(0.1, positive))
    assert sum(n_recoded) > 0


@pytest.mark.parametrize("gram", FORMS[1:])
def test_lasso_independent_of_rows_per_product(gram, monkeypatch):
    X, D = data(50, 20, 60)
    expected, _ = encode(X, D, Lasso(0.1), gram)
    monkeypatch.setattr(lasso_products, "ROWS_PER_PRODUCT", {True: 7, False: 7})
    np.testing.assert_allclose(encode(X, D, Lasso(0.1), gram)[0], expected, atol=1e-12)


@pytest.mark.parametrize("gram", FORMS[1:])
@pytest.mark.parametrize("candidates", [1, 5, 200])
def test_lasso_is_optimal_for_any_number_of_candidates(candidates, gram, monkeypatch):
    X, D = data(20, 20, 60)
    monkeypatch.setattr(lasso_products, "N_CANDIDATES", candidates)
    C, unfinished = encode(X, D, Lasso(0.1), gram)
    assert unfinished == 0
    check_lasso(X, D, C, 0.1, positive=False)


@pytest.mark.parametrize("gram", FORMS)
@pytest.mark.parametrize("positive", [False, True])
def test_lasso_supports_equal_in_float32_and_float64(positive, gram):
    X, D = data(200, 20, 60)
    X, D = X.astype(np.float32), D.astype(np.float32)
    single, _ = encode(X, D, Lasso(0.1, positive), gram)
    double, _ = encode(X.astype(float), D.astype(float), Lasso(0.1, positive))
    assert ((single != 0) == (double != 0)).all()
    np.testing.assert_allclose(single, double, atol=2e-6)


EVERY = [
    Lasso(0.1),
    Lasso(0.1, positive=True),
    Fista(0.1),
    OMP(4),
    OMP(4, positive=True),
    OMP(9, target=2.0),
    ORMP(4),
    ORMP(9, target=2.0),
    Lars(4),
    MatchingPursuit(4),
    MatchingPursuit(4, gradient=True),
    Threshold(0.3),
    Threshold(0.3, positive=True),
    TopK(3),
    TopK(3, positive=True),
]


@pytest.mark.parametrize("coder", EVERY, ids=str)
def test_code_of_a_row_is_independent_of_the_batch(coder):
    X, D = data(30, 12, 40)
    together, _ = encode(X, D, coder)
    alone = np.concatenate([encode(X[i : i + 1], D, coder)[0] for i in range(len(X))])
    np.testing.assert_allclose(together, alone, atol=2e-3 if isinstance(coder, Fista) else 1e-12)


@pytest.mark.parametrize("coder", EVERY, ids=str)
def test_codes_are_independent_of_memory_layout(coder):
    X, D = data(30, 12, 40)
    expected, _ = encode(X, D, coder)
    frozen, wide = X.copy(), np.zeros((60, 24))
    frozen.flags.writeable = False
    wide[::2, ::2] = X
    for Y in (frozen, np.asfortranarray(X), wide[::2, ::2]):
        before = Y.copy()
        np.testing.assert_allclose(encode(Y, np.asfortranarray(D), coder)[0], expected, atol=1e-12)
        assert (before == Y).all()


@pytest.mark.parametrize("coder", EVERY, ids=str)
def test_zero_rows_and_zero_atoms_have_zero_codes(coder):
    X, D = data(7, 6, 9)
    X[2], D[::2] = 0, 0
    C, _ = encode(X, D, coder)
    assert not C[2].any()
    assert not C[:, ::2].any()
    assert not encode(X, np.zeros_like(D), coder)[0].any()


# ---- greedy coders ---------------------------------------------------------------------------------------------------
TOLERANCE = {np.float32: 2e-5, np.float64: 1e-11}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 12, 40), (20, 30, 9), (3, 1, 5), (5, 7, 1), (1, 16, 64)])
@pytest.mark.parametrize("n_nonzero", [1, 4, 100])
def test_omp_matches_reference(n_nonzero, shape, dtype):
    X, D = data(*shape, dtype, seed=1)
    C, _ = encode(X, scaled(D) if shape[2] == 64 else D, OMP(n_nonzero))
    expected = [naive.omp(*both, n_nonzero) for both in _in_float64(X, scaled(D) if shape[2] == 64 else D)]
    assert ((C != 0).sum(axis=1) <= min(n_nonzero, *D.shape)).all()
    if n_nonzero < 100:  # with more, reconstructions are exact whichever atoms are selected last
        np.testing.assert_allclose(C, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_allclose(C @ D if shape[2] < 64 else 0, expected @ D if shape[2] < 64 else 0, atol=1e-4)


def _in_float64(X, D):
    return [(x.astype(float), D.astype(float)) for x in X]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fraction", [0.5, 1e-2, 1e-5])
def test_omp_stops_at_target_residual(fraction, dtype):
    X, D = data(30, 20, 50, dtype)
    target = fraction * float((X * X).sum(axis=1).mean())
    C, _ = encode(X, D, OMP(20, target))
    for x, c in zip(X.astype(float), C, strict=True):
        left = [float(((x - naive.omp(x, D.astype(float), m) @ D) ** 2).sum()) for m in range(21)]
        assert np.count_nonzero(c) == next(m for m in range(21) if left[m] <= target or m == 20)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(20, 12, 40), (20, 30, 9), (3, 1, 5), (5, 7, 1)])
@pytest.mark.parametrize("n_nonzero", [1, 4, 100])
def test_ormp_matches_reference(n_nonzero, shape, dtype):
    X, D = data(*shape, dtype, seed=1)
    C, _ = encode(X, D, ORMP(n_nonzero))
    expected = [naive.ormp(*both, n_nonzero) for both in _in_float64(X, D)]
    if n_nonzero < 100:
        np.testing.assert_allclose(C, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_allclose(C @ D, expected @ D, atol=1e-4)


@pytest.mark.parametrize("fraction", [0.5, 1e-2])
def test_ormp_stops_at_target_residual(fraction):
    X, D = data(20, 12, 30, np.float64)
    target = fraction * float((X * X).sum(axis=1).mean())
    C, _ = encode(X, D, ORMP(12, target))
    for x, c in zip(X, C, strict=True):
        left = [float(((x - naive.ormp(x, D, m) @ D) ** 2).sum()) for m in range(13)]
        assert np.count_nonzero(c) == next(m for m in range(13) if left[m] <= target or m == 12)


@pytest.mark.parametrize("coder", [OMP(5), ORMP(5)])
def test_pursuit_stops_when_remaining_atoms_are_dependent(coder, rng):
    X, D = rng.normal(size=(9, 5)), np.tile(np.eye(5)[:3], (4, 1))
    C, _ = encode(X, D, coder)
    assert (np.count_nonzero(C, axis=1) == 3).all()
    np.testing.assert_allclose(C @ D, X * [1, 1, 1, 0, 0], atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_non_negative_omp_matches_reference(dtype):
    X, D = data(60, 20, 30, dtype, seed=2)
    for n_nonzero in (1, 3, 12):
        C, _ = encode(X, D, OMP(n_nonzero, positive=True))
        expected = [naive.omp(*both, n_nonzero, positive=True) for both in _in_float64(X, D)]
        np.testing.assert_allclose(C, expected, atol=TOLERANCE[dtype])
    assert (C >= 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gradient", [False, True])
def test_matching_pursuit_matches_reference(gradient, dtype):
    X, D = data(20, 12, 40, dtype)
    D = D if gradient else scaled(D)
    codes = [naive.matching_pursuit(*both, 15, gradient) for both in _in_float64(X, D)]
    left = []
    for steps in (1, 2, 7, 15):
        C, _ = encode(X, D, MatchingPursuit(steps, gradient=gradient))
        np.testing.assert_allclose(C, [c[steps - 1] for c in codes], rtol=1e-4, atol=TOLERANCE[dtype])
        left.append(((X - C @ D) ** 2).sum(axis=1))
    assert (np.diff(left, axis=0) < 0).all()


@pytest.mark.parametrize("gradient", [False, True])
def test_matching_pursuit_stops_at_target_residual(gradient):
    X, D = data(20, 12, 40)
    C, _ = encode(X, D, MatchingPursuit(40, 1.5, gradient))
    for x, c in zip(X, C, strict=True):
        codes = naive.matching_pursuit(x, D, 40, gradient)
        np.testing.assert_allclose(c, next(c for c in codes if ((x - c @ D) ** 2).sum() <= 1.5), atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(30, 12, 40), (30, 30, 9), (5, 7, 1), (3, 1, 5)])
@pytest.mark.parametrize("n_nonzero", [1, 5, 9])
def test_lars_active_correlations_are_equal_and_maximal(n_nonzero, shape, dtype):
    X, D = data(*shape, dtype)
    C, _ = encode(X, D, Lars(n_nonzero))
    H = (X.astype(float) - C.astype(float) @ D) @ D.T.astype(float)
    size = np.abs(X @ D.T).max(axis=1)
    assert (np.count_nonzero(C, axis=1) == min(n_nonzero, *D.shape)).all()
    for h, c, unit in zip(H, C, size, strict=True):
        np.testing.assert_allclose(np.abs(h[c != 0]), np.abs(h).max(), atol=ROUNDING[dtype] * unit)
    expected = [naive.lars(*both, min(n_nonzero, *D.shape)) for both in _in_float64(X, D)]
    np.testing.assert_allclose(C, expected, atol=20 * TOLERANCE[dtype])


def test_lars_with_all_atoms_is_least_squares():
    X, D = data(30, 30, 9)
    np.testing.assert_allclose(encode(X, D, Lars(9))[0], np.linalg.lstsq(D.T, X.T)[0].T, atol=1e-11)


def test_lars_skips_duplicate_atoms(rng):
    X, D = data(30, 12, 20)
    once, _ = encode(X, D, Lars(6))
    twice, _ = encode(X, np.repeat(D, 2, axis=0), Lars(6))
    np.testing.assert_allclose(twice.reshape(30, 20, 2).sum(axis=2), once, atol=1e-11)


@pytest.mark.parametrize("positive", [False, True])
def test_threshold_and_top_k_match_definition(positive):
    X, D = data(30, 12, 20)
    Q = X @ D.T
    size = np.maximum(Q, 0) if positive else np.abs(Q)
    np.testing.assert_allclose(encode(X, D, Threshold(0.3, positive))[0], np.sign(Q) * np.maximum(size - 0.3, 0))
    for k in (1, 4, 20, 50):
        C, _ = encode(X, D, TopK(k, positive))
        kept = (np.argsort(np.argsort(-size, axis=1), axis=1) < k) & (size > 0)
        np.testing.assert_allclose(C, np.where(kept, Q, 0))


# ---- array implementations -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("coder", EVERY, ids=str)
@pytest.mark.parametrize("K", [8, 40])
def test_array_implementation_matches_kernel(coder, K):
    """On the host without a Gram matrix, and on arrays that raise when combined with NumPy arrays, as CuPy's do."""
    X, D = data(25, 12, K)
    X[3] = 0
    compiled, expected = encode(X, D, coder)
    np.testing.assert_allclose(encode(X, D, coder, gram=False)[0], compiled, atol=1e-9)
    with fake_cupy.installed() as cupy:
        C, unfinished = kernels.encode(cupy.asarray(X), cupy.asarray(D), None, coder)
    assert unfinished == expected
    np.testing.assert_allclose(C.get(), compiled, atol=2e-3 if isinstance(coder, Lasso | Fista) else 1e-9)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("K", [5, 60])
def test_fista_stops_at_duality_gap(K, positive, dtype):
    X, D = data(25, 12, K, dtype)
    tol = 1e-5 if dtype == np.float64 else 0.0  # in float32 the duality gap is not reliably above rounding errors
    C, unfinished = encode(X, D, Fista(0.1, positive, 5000, tol=tol))
    exact, _ = encode(X.astype(float), D.astype(float), Lasso(0.1, positive))
    cost, best = ((((X - B @ D) ** 2).sum(axis=1) / 2 + 0.1 * np.abs(B).sum(axis=1)) for B in (C.astype(float), exact))
    assert unfinished == 0
    assert (cost - best <= 2e-5 * (X * X).sum(axis=1) / 2).all()
    assert encode(X, D, Fista(0.1, positive, 1))[1] > 0


@pytest.mark.parametrize("m", [1, 3, 40])
def test_largest_eigenvalue_is_bounded_from_above(m, rng):
    A = rng.normal(size=(m, 2 * m))
    for S in (A @ A.T, np.outer(A[0], A[0]), np.eye(m) * 1e4):
        exact = np.linalg.eigvalsh(S)[-1]
        for dtype in DTYPES:
            assert exact <= largest_eigenvalue(S.astype(dtype), np) <= 1.05 * exact


def test_array_implementation_is_independent_of_batch_size(monkeypatch):
    X, D = data(100, 12, 40)
    whole, _ = encode(X, D, OMP(4), gram=False)
    monkeypatch.setattr(fallback, "MAX_BATCH_NUMBERS", 17 * 4 * 12)
    np.testing.assert_allclose(encode(X, D, OMP(4), gram=False)[0], whole, atol=1e-12)


@pytest.mark.parametrize(
    ("coder", "n_atoms", "expected"),
    [
        (Lasso(), 1024, True),
        (Lasso(), 4096, False),  # slower with it
        (OMP(3), 4096, True),
        (OMP(3), 20_000, False),  # too large for memory
        (TopK(3), 64, False),  # not used by the coder
    ],
    ids=str,
)
def test_gram_pays(coder, n_atoms, expected):
    assert coding.gram_pays(np.empty((n_atoms, 64), np.float32), coder) == expected


# ---- sums over codes -------------------------------------------------------------------------------------------------
@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 9), d=st.integers(1, 9), K=st.integers(1, 9), dtype=st.sampled_from(DTYPES))
def test_compressed_codes_and_moments_match_dense_codes(n, d, K, dtype):
    rng = np.random.default_rng(n + 10 * d + 100 * K)
    X, D, C = (rng.normal(size=shape).astype(dtype) for shape in ((n, d), (K, d), (n, K)))
    C[rng.random(C.shape) < 0.6] = 0
    counts, columns, values = kernels.compress(C)
    np.testing.assert_array_equal(counts, np.count_nonzero(C, axis=1))
    np.testing.assert_array_equal(columns, np.nonzero(C)[1])
    np.testing.assert_array_equal(values, C[C != 0])
    assert values.dtype == dtype
    A, B = np.ones((K, K)), np.ones((K, d))  # the moments are added to these
    X.flags.writeable = False
    squares = kernels.add_code_moments(X, D, counts, columns, values, A, B)
    X, D, C = X.astype(float), D.astype(float), C.astype(float)
    tolerance = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(A, 1 + C.T @ C, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(B, 1 + C.T @ X, rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(squares, ((X - C @ D) ** 2).sum(axis=1), rtol=tolerance, atol=tolerance)


def test_lasso_stopped_early_is_no_worse_than_zeros():
    """With one round and no Gram matrix, the step of some rows overshoots when atoms are close to each other."""
    for seed in range(30):
        X, D = problem(bumps, 200, np.float64, np.random.default_rng(seed))
        coder = Lasso(1e-4 * float(np.abs(X @ D.T).max()), False, 1)
        C, n_unfinished = kernels.encode(X, D, None, coder)
        cost = ((X - C @ D) ** 2).sum(1) / 2 + coder.alpha * np.abs(C).sum(1)
        assert n_unfinished
        assert (cost <= (X**2).sum(1) / 2 * (1 + 1e-12)).all()
