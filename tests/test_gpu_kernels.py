"""Kernels at the sizes where they take another way: on the device where there is one, by `make test-gpu`, with fresh
inputs; the same on the host, whose kernels must hold to the same."""

import threading

import numpy as np
import pytest
from scipy.sparse import csr_array

from gpuica import kernels, sparse_encode
from gpuica.coders import CODERS, OMP, ORMP, Lasso, MatchingPursuit, as_coder
from gpuica.contrasts import LogCosh
from gpuica.device import array_device, to_host, why_no_kernels
from gpuica.kernels.tolerances import OPTIMALITY_TOL
from gpuica.solvers.atoms import block_descent

from . import naive, sanitize
from .coherent import bumps, check, gaussian, pairs, problem
from .test_coders import LASSO, check_lasso

DTYPES = [np.float32, np.float64]


@pytest.fixture(params=["host", pytest.param("device", marks=pytest.mark.gpu)])
def put(request):
    """Brings an array to where the kernels are tested."""
    if request.param == "host":
        return np.asarray
    cp = pytest.importorskip("cupy")
    assert kernels.on_cuda(cp.zeros(1)), why_no_kernels()
    return cp.asarray


@pytest.fixture
def rng(request):
    """Fresh on a device; a failure shows the seed."""
    seed = np.random.SeedSequence().entropy if request.node.get_closest_marker("gpu") else 0
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def encode(put, X, D, coder, gram=True):
    """Codes on the host, and how many rows were not finished."""
    X, D = put(X), put(D)
    C, unfinished = kernels.encode(X, D, D @ D.T if gram else None, coder)
    assert array_device(C) == array_device(X)
    assert C.dtype == X.dtype
    return to_host(C), unfinished


def unit(D):
    return D / np.linalg.norm(D, axis=1, keepdims=True)


# ---- the lasso -------------------------------------------------------------------------------------------------------
@pytest.mark.gpu
@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LASSO)
def test_lasso_is_optimal(name, dtype, positive, gram):
    cp = pytest.importorskip("cupy")
    X, D, alpha = LASSO[name](dtype)
    C, unfinished = encode(cp.asarray, X, D, Lasso(alpha, positive), gram)
    assert unfinished == 0
    check_lasso(X, D, C, alpha, positive)


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("least", "d", "K", "alpha"), [(32, 80, 160, 0.05), (128, 200, 300, 0.01)])
def test_lasso_of_supports_that_outgrow_shared_memory(put, least, d, K, alpha, dtype, gram, rng):
    X, D = rng.normal(size=(12, d)).astype(dtype), unit(rng.normal(size=(K, d))).astype(dtype)
    C, unfinished = encode(put, X, D, Lasso(alpha), gram)
    assert np.count_nonzero(C, axis=1).max() > least
    assert unfinished == 0
    check_lasso(X, D, C, alpha, False)


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lasso_without_a_penalty_is_least_squares(put, dtype, gram, rng):
    X, D = rng.normal(size=(50, 40)).astype(dtype), unit(rng.normal(size=(20, 40))).astype(dtype)
    C, unfinished = encode(put, X, D, Lasso(0.0), gram)
    assert unfinished == 0
    exact = np.linalg.lstsq(D.T.astype(float), X.T.astype(float))[0].T
    np.testing.assert_allclose(C, exact, atol=2e-5 if dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("make", [bumps, pairs])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lasso_of_atoms_that_nearly_depend_on_each_other(put, make, dtype, rng):
    """Rows whose support misses its equations again and again are given up at last; no code is worse than zeros or much
    worse than that of float64, and the same bits come again, whichever warp is late."""
    (X, D), alpha = problem(make, 400, dtype, rng), 1e-3
    answers = [encode(put, X, D, Lasso(alpha)) for _ in range(3)]
    for C, unfinished in answers:
        np.testing.assert_array_equal(C, answers[0][0])
        assert unfinished == answers[0][1]
    X, D, C = (part.astype(float) for part in (X, D, answers[0][0]))
    exact = sparse_encode(X, D, algorithm="lasso_cd", alpha=alpha, max_iter=100_000, device="cpu")

    def worth(C):
        return ((X - C @ D) ** 2).sum(axis=1) / 2 + alpha * abs(C).sum(axis=1)

    zeros = (X**2).sum(axis=1) / 2
    assert (worth(C) <= zeros * (1 + 1e-6)).all()
    close = worth(C) - worth(exact) <= (1e-5 if dtype == np.float32 else 1e-9) * zeros
    assert (~close).sum() <= answers[0][1]  # those that are not are counted


@pytest.mark.parametrize("gram", [True, False])
def test_lasso_of_rows_that_miss_their_equations_until_they_are_given_up(put, gram, rng, monkeypatch):
    """A tolerance below rounding makes every row miss them, and atoms that there are twice are rejected in each round:
    the same bits come again, rows that were given up before all atoms had entered are counted, and none is worse than
    zeros."""
    monkeypatch.setitem(OPTIMALITY_TOL, 4, 1e-10)
    D = unit(rng.normal(size=(100, 64)))
    D = np.concatenate([D, D + 1e-7 * rng.normal(size=D.shape)]).astype(np.float32)
    X, alpha = rng.normal(size=(300, 64)).astype(np.float32), 0.2
    answers = [encode(put, X, D, Lasso(alpha, max_iter=60), gram) for _ in range(3)]
    for C, unfinished in answers:
        np.testing.assert_array_equal(C, answers[0][0])
        assert unfinished == answers[0][1]
    monkeypatch.undo()
    exact, _ = encode(np.asarray, X.astype(float), D.astype(float), Lasso(alpha))
    X, D, C = (part.astype(float) for part in (X, D, answers[0][0]))

    def worth(C):
        return ((X - C @ D) ** 2).sum(axis=1) / 2 + alpha * abs(C).sum(axis=1)

    given_up = worth(C) > 1.05 * worth(exact)
    assert given_up.sum() <= answers[0][1]
    assert (worth(C) <= (1 + 1e-6) * (X**2).sum(axis=1) / 2).all()


# ---- pursuits --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("coder", [OMP(80), ORMP(80), OMP(80, positive=True)], ids=["omp", "ormp", "nnomp"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pursuits_of_many_atoms(put, coder, dtype, rng):
    X, D = problem(lambda rng: gaussian(rng, d=200, K=300), 20, dtype, rng)
    C, unfinished = encode(put, X, D, coder)
    assert np.count_nonzero(C, axis=1).max() > 64
    check(X, D, C, coder, unfinished)
    if dtype == np.float64 and isinstance(coder, OMP):
        np.testing.assert_allclose(C[0], naive.omp(X[0], D, 80, positive=coder.positive), atol=1e-8)


@pytest.mark.parametrize(
    "kind",
    [OMP, ORMP, lambda n, target: OMP(n, target, positive=True), MatchingPursuit],
    ids=["omp", "ormp", "nnomp", "matching_pursuit"],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pursuits_to_a_residual_of_wide_rows(put, kind, dtype, rng):
    D = unit(rng.normal(size=(200, 640))).astype(dtype)
    C = rng.uniform(0.5, 1.5, size=(30, 200)) * (rng.uniform(size=(30, 200)) < 0.05)
    X = (C @ D + 0.02 * rng.normal(size=(30, 640))).astype(dtype)
    target = 1.5 * 0.02**2 * 640
    coder = kind(200, target)
    C, unfinished = encode(put, X, D, coder)
    check(X, D, C, coder, unfinished)
    assert unfinished == 0
    host, _ = encode(np.asarray, X.astype(float), D.astype(float), coder)
    same = (np.count_nonzero(C, axis=1) == np.count_nonzero(host, axis=1)).mean()
    assert same == 1 if dtype == np.float64 else same > 0.9  # a residual may meet the target within rounding


# ---- all coders ------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NaN, by NumPy
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in CODERS if name != "lasso_lars"])
def test_zero_rows_and_rows_that_are_not_finite(put, name, dtype, rng):
    """They hold up nobody: no kernel waits for ever, and other rows have the codes that they have alone."""
    D = unit(rng.normal(size=(70, 48))).astype(dtype)
    X = rng.normal(size=(64, 48)).astype(dtype)
    bad = np.isin(np.arange(64), (0, 17, 31, 40, 63))
    X[[0, 31]], X[17, 5], X[40, :], X[63, 47] = 0, np.nan, np.inf, -np.inf
    by_penalty = name in ("lasso_cd", "fista", "threshold")
    coder = as_coder(
        name, D.shape, alpha=0.3 if by_penalty else None, n_nonzero=None if by_penalty else 5, max_iter=300
    )
    with np.errstate(all="ignore"):
        C, _ = encode(put, X, D, coder)
    alone, _ = encode(put, X[~bad], D, coder)
    np.testing.assert_allclose(C[~bad], alone, atol=2e-3 if dtype == np.float32 else 1e-9)
    assert not C[[0, 31]].any()


@pytest.mark.parametrize("name", ["lasso_cd", "omp", "nnomp", "matching_pursuit"])
def test_rows_in_columns_first_order_and_in_two_threads(put, name, rng):
    D, X = unit(rng.normal(size=(60, 24))), rng.normal(size=(500, 24))
    settings = {"algorithm": name, **({"alpha": 0.2} if name == "lasso_cd" else {"n_nonzero_coefs": 4})}
    rows = put(X)
    expected, codes = to_host(sparse_encode(rows, D, **settings)), {}
    columns_first = array_device(rows).xp.asfortranarray(rows)
    assert columns_first.flags.f_contiguous
    np.testing.assert_allclose(to_host(sparse_encode(columns_first, D, **settings)), expected, atol=1e-9)

    def work(i):
        codes[i] = [to_host(sparse_encode(rows[i::2], D, **settings)) for _ in range(3)]

    threads = [threading.Thread(target=work, args=[i]) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        for found in codes[i]:
            np.testing.assert_allclose(found, expected[i::2], atol=1e-9)


# ---- what dictionary learning sums, and its atoms --------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("K", [4096, 5000])
def test_moments_of_many_atoms_of_which_one_is_in_every_row(put, K, dtype, rng):
    n, d = 300, 20
    X, D, C = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(K, d)).astype(dtype), np.zeros((n, K), dtype)
    for row in C:
        row[rng.integers(K, size=12)] = rng.normal(size=12)
    C[:, K - 2] = rng.normal(size=n)
    A, B = put(np.zeros((K, K))), put(np.zeros((K, d)))
    compressed = kernels.compress(put(C))
    np.testing.assert_array_equal(to_host(compressed[0]), np.count_nonzero(C, axis=1))
    np.testing.assert_array_equal(to_host(compressed[1]), np.nonzero(C)[1])
    np.testing.assert_array_equal(to_host(compressed[2]), C[C != 0])
    squares = kernels.add_code_moments(put(X), put(D), *compressed, A, B)
    X, D, C = (part.astype(float) for part in (X, D, C))
    single = dtype == np.float32 and isinstance(A, np.ndarray)  # products of two codes are rounded on the host
    sparse = csr_array(C)
    np.testing.assert_allclose(to_host(A), (sparse.T @ sparse).toarray(), rtol=1e-12, atol=1e-5 if single else 1e-12)
    np.testing.assert_allclose(to_host(B), sparse.T @ X, rtol=1e-12, atol=1e-5 if single else 1e-12)
    np.testing.assert_allclose(to_host(squares), ((X - C @ D) ** 2).sum(axis=1), rtol=1e-6 if single else 1e-12)


@pytest.mark.parametrize("norm", ["ball", "unit"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_atoms_of_several_blocks(put, dtype, positive, norm, rng):
    K, d, n = 300, 50, 2000
    C = rng.laplace(size=(n, K)) * (rng.uniform(size=(n, K)) < 0.05)
    C[:, [3, 130]] = 0  # not used
    D = unit(np.abs(rng.normal(size=(K, d))) if positive else rng.normal(size=(K, d)))
    A, B = C.T @ C, C.T @ (C @ rng.normal(size=(K, d)) / 4)
    arrays = [part.astype(dtype) for part in (D, A, B)]
    there = [put(part) for part in arrays]
    found, unused = block_descent(*there, positive=positive, norm=norm, xp=array_device(there[0]).xp)
    expected = naive.block_descent(*arrays, positive=positive, norm=norm)
    np.testing.assert_allclose(to_host(found), expected, atol=2e-4 if dtype == np.float32 else 1e-10)
    np.testing.assert_array_equal(np.flatnonzero(to_host(unused)), [3, 130])


@pytest.mark.parametrize("family", sanitize.FAMILIES)
def test_launches_for_the_sanitizer(put, family, rng):
    sanitize.FAMILIES[family](array_device(put(np.zeros(1))).xp, rng)


# ---- the sweep -------------------------------------------------------------------------------------------------------
@pytest.mark.gpu
def test_a_sweep_over_more_numbers_than_int32_counts():
    cp = pytest.importorskip("cupy")
    k, n = 512, (1 << 31) // 512 + 1000
    if cp.cuda.runtime.memGetInfo()[0] < 4 * n * k + (2 << 30):
        pytest.skip("needs 11 GB of free GPU memory")
    Y = cp.zeros((n, k), dtype=np.float32)
    last = cp.asarray(np.random.default_rng().normal(size=(700, k)).astype(np.float32))
    Y[-700:] = last
    slope, square = (part.get() for part in kernels.score(Y, LogCosh()))
    g = np.tanh(last.get().astype(float))
    np.testing.assert_allclose(slope, n - 700 + (1 - g * g).sum(axis=0), rtol=1e-6)
    np.testing.assert_allclose(square, (g * g).sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(Y[-700:].get(), g, atol=1e-6)
    assert not bool(Y[:-700].any())
