"""Kernels at sizes that need special handling on a GPU.

`make test-gpu` runs these tests on a GPU with random seeds; the kernels of the host must satisfy the same assertions.
"""

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
    """Function that copies an array to the host or device under test."""
    if request.param == "host":
        return np.asarray
    cp = pytest.importorskip("cupy")
    assert kernels.on_cuda(cp.zeros(1)), why_no_kernels()
    return cp.asarray


@pytest.fixture
def rng(request):
    """Generator with a random seed on a GPU, printed so that a failure can be reproduced, and with seed 0 otherwise."""
    seed = np.random.SeedSequence().entropy if request.node.get_closest_marker("gpu") else 0
    print(f"seed {seed}")
    return np.random.default_rng(seed)


def encode(put, X, D, coder, gram=True):
    """Codes, copied to the host, and the number of unfinished rows."""
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
@pytest.mark.parametrize(("min_support", "d", "K", "alpha"), [(32, 80, 160, 0.05), (128, 200, 300, 0.01)])
def test_lasso_supports_larger_than_shared_memory(put, min_support, d, K, alpha, dtype, gram, rng):
    X, D = rng.normal(size=(12, d)).astype(dtype), unit(rng.normal(size=(K, d))).astype(dtype)
    C, unfinished = encode(put, X, D, Lasso(alpha), gram)
    assert np.count_nonzero(C, axis=1).max() > min_support
    assert unfinished == 0
    check_lasso(X, D, C, alpha, False)


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lasso_without_penalty_is_least_squares(put, dtype, gram, rng):
    X, D = rng.normal(size=(50, 40)).astype(dtype), unit(rng.normal(size=(20, 40))).astype(dtype)
    C, unfinished = encode(put, X, D, Lasso(0.0), gram)
    assert unfinished == 0
    exact = np.linalg.lstsq(D.T.astype(float), X.T.astype(float))[0].T
    np.testing.assert_allclose(C, exact, atol=2e-5 if dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("make", [bumps, pairs])
@pytest.mark.parametrize("dtype", DTYPES)
def test_lasso_of_nearly_dependent_atoms(put, make, dtype, rng):
    """Rows whose support equations repeatedly fail are abandoned and counted.

    No code is worse than zeros, uncounted codes are close to those of float64, and results are deterministic whatever
    the order in which warps run.
    """
    (X, D), alpha = problem(make, 400, dtype, rng), 1e-3
    results = [encode(put, X, D, Lasso(alpha)) for _ in range(3)]
    for C, unfinished in results:
        np.testing.assert_array_equal(C, results[0][0])
        assert unfinished == results[0][1]
    X, D, C = (part.astype(float) for part in (X, D, results[0][0]))
    exact = sparse_encode(X, D, algorithm="lasso_cd", alpha=alpha, max_iter=100_000, device="cpu")

    def objective(C):
        return ((X - C @ D) ** 2).sum(axis=1) / 2 + alpha * abs(C).sum(axis=1)

    zeros = (X**2).sum(axis=1) / 2
    assert (objective(C) <= zeros * (1 + 1e-6)).all()
    is_close = objective(C) - objective(exact) <= (1e-5 if dtype == np.float32 else 1e-9) * zeros
    assert (~is_close).sum() <= results[0][1]  # all others are counted


@pytest.mark.parametrize("gram", [True, False])
def test_lasso_counts_abandoned_rows(put, gram, rng, monkeypatch):
    """With a tolerance below rounding errors no support satisfies its equations, and duplicate atoms are rejected.

    Results are deterministic, rows abandoned before all atoms have entered are counted, and no code is worse than 0.
    """
    monkeypatch.setitem(OPTIMALITY_TOL, 4, 1e-10)
    D = unit(rng.normal(size=(100, 64)))
    D = np.concatenate([D, D + 1e-7 * rng.normal(size=D.shape)]).astype(np.float32)
    X, alpha = rng.normal(size=(300, 64)).astype(np.float32), 0.2
    results = [encode(put, X, D, Lasso(alpha, max_iter=60), gram) for _ in range(3)]
    for C, unfinished in results:
        np.testing.assert_array_equal(C, results[0][0])
        assert unfinished == results[0][1]
    monkeypatch.undo()
    exact, _ = encode(np.asarray, X.astype(float), D.astype(float), Lasso(alpha))
    X, D, C = (part.astype(float) for part in (X, D, results[0][0]))

    def objective(C):
        return ((X - C @ D) ** 2).sum(axis=1) / 2 + alpha * abs(C).sum(axis=1)

    has_large_objective = objective(C) > 1.05 * objective(exact)
    assert has_large_objective.sum() <= results[0][1]
    assert (objective(C) <= (1 + 1e-6) * (X**2).sum(axis=1) / 2).all()


# ---- pursuits --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("coder", [OMP(80), ORMP(80), OMP(80, positive=True)], ids=["omp", "ormp", "nnomp"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_pursuits_with_many_atoms_per_row(put, coder, dtype, rng):
    X, D = problem(lambda rng: gaussian(rng, d=200, K=300), 20, dtype, rng)
    C, unfinished = encode(put, X, D, coder)
    assert np.count_nonzero(C, axis=1).max() > 64
    check(X, D, C, coder, unfinished)
    if dtype == np.float64 and isinstance(coder, OMP):
        np.testing.assert_allclose(C[0], naive.omp(X[0], D, 80, positive=coder.positive), atol=1e-8)


@pytest.mark.parametrize(
    "make_coder",
    [OMP, ORMP, lambda n, target: OMP(n, target, positive=True), MatchingPursuit],
    ids=["omp", "ormp", "nnomp", "matching_pursuit"],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_pursuits_of_wide_rows_to_target_residual(put, make_coder, dtype, rng):
    D = unit(rng.normal(size=(200, 640))).astype(dtype)
    C = rng.uniform(0.5, 1.5, size=(30, 200)) * (rng.uniform(size=(30, 200)) < 0.05)
    X = (C @ D + 0.02 * rng.normal(size=(30, 640))).astype(dtype)
    target = 1.5 * 0.02**2 * 640
    coder = make_coder(200, target)
    C, unfinished = encode(put, X, D, coder)
    check(X, D, C, coder, unfinished)
    assert unfinished == 0
    host, _ = encode(np.asarray, X.astype(float), D.astype(float), coder)
    same = (np.count_nonzero(C, axis=1) == np.count_nonzero(host, axis=1)).mean()
    assert same == 1 if dtype == np.float64 else same > 0.9  # a residual may equal the target up to rounding


# ---- all coders ------------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # raised by NumPy for NaN
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in CODERS if name != "lasso_lars"])
def test_zero_and_non_finite_rows_do_not_affect_other_rows(put, name, dtype, rng):
    """No kernel deadlocks, and the codes of other rows equal those of a batch without zero and non-finite rows."""
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
def test_codes_independent_of_memory_order_and_threads(put, name, rng):
    D, X = unit(rng.normal(size=(60, 24))), rng.normal(size=(500, 24))
    settings = {"algorithm": name, **({"alpha": 0.2} if name == "lasso_cd" else {"n_nonzero_coefs": 4})}
    rows = put(X)
    expected, codes = to_host(sparse_encode(rows, D, **settings)), {}
    fortran_ordered = array_device(rows).xp.asfortranarray(rows)
    assert fortran_ordered.flags.f_contiguous
    np.testing.assert_allclose(to_host(sparse_encode(fortran_ordered, D, **settings)), expected, atol=1e-9)

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


# ---- code moments and dictionary atoms -------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("K", [4096, 5000])
def test_code_moments_with_one_atom_used_by_every_row(put, K, dtype, rng):
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
    rounded = dtype == np.float32 and isinstance(A, np.ndarray)  # products of two codes, on the host
    sparse = csr_array(C)
    np.testing.assert_allclose(to_host(A), (sparse.T @ sparse).toarray(), rtol=1e-12, atol=1e-5 if rounded else 1e-12)
    np.testing.assert_allclose(to_host(B), sparse.T @ X, rtol=1e-12, atol=1e-5 if rounded else 1e-12)
    np.testing.assert_allclose(to_host(squares), ((X - C @ D) ** 2).sum(axis=1), rtol=1e-6 if rounded else 1e-12)


@pytest.mark.parametrize("norm", ["ball", "unit"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_block_descent_with_several_blocks_matches_reference(put, dtype, positive, norm, rng):
    K, d, n = 300, 50, 2000
    C = rng.laplace(size=(n, K)) * (rng.uniform(size=(n, K)) < 0.05)
    C[:, [3, 130]] = 0  # unused atoms
    D = unit(np.abs(rng.normal(size=(K, d))) if positive else rng.normal(size=(K, d)))
    A, B = C.T @ C, C.T @ (C @ rng.normal(size=(K, d)) / 4)
    arrays = [part.astype(dtype) for part in (D, A, B)]
    on_device = [put(part) for part in arrays]
    found, unused = block_descent(*on_device, positive=positive, norm=norm, xp=array_device(on_device[0]).xp)
    expected = naive.block_descent(*arrays, positive=positive, norm=norm)
    np.testing.assert_allclose(to_host(found), expected, atol=2e-4 if dtype == np.float32 else 1e-10)
    np.testing.assert_array_equal(np.flatnonzero(to_host(unused)), [3, 130])


@pytest.mark.parametrize("family", sanitize.FAMILIES)
def test_sanitizer_launches_succeed(put, family, rng):
    sanitize.FAMILIES[family](array_device(put(np.zeros(1))).xp, rng)


# ---- the sweep -------------------------------------------------------------------------------------------------------
@pytest.mark.gpu
def test_sweep_over_more_than_2_31_entries():
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
