"""Pursuits with nearly dependent atoms: no code is worse than zeros, and codes that miss the requested accuracy are
counted and reported."""

import warnings

import numpy as np
import pytest
from scipy.optimize import nnls
from sklearn.exceptions import ConvergenceWarning

from gpuica import DictionaryLearning, MiniBatchDictionaryLearning, SparseCoder, kernels, sparse_encode
from gpuica.coders import OMP, ORMP, Fista, Lars, Lasso, MatchingPursuit

from . import fake_cupy
from .coherent import DICTIONARIES, check, problem, pursuits, to_target

DTYPES = [np.float32, np.float64]


def encode(X, D, coder, gram=True):
    return kernels.encode(X, D, D @ D.T if gram else None, coder)


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", DICTIONARIES)
def test_residual_is_no_larger_than_row(name, dtype, gram, rng):
    X, D = problem(DICTIONARIES[name], 60, dtype, rng)
    for coder in (*pursuits(5), *pursuits(min(D.shape)), *to_target(1e-3, len(D))):
        C, unfinished = encode(X, D, coder, gram)
        check(X, D, C, coder, unfinished)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["bumps", "pairs", "low_rank"])
def test_kernels_and_array_implementations_select_same_atoms(name, dtype, rng):
    X, D = problem(DICTIONARIES[name], 100, dtype, rng)
    for coder in (OMP(12), ORMP(12), OMP(12, positive=True), Lars(12), OMP(len(D), 1e-3), ORMP(len(D), 1e-3)):
        compiled, n_compiled = encode(X, D, coder)
        array, n_array = encode(X, D, coder, gram=False)
        if isinstance(coder, ORMP) and name == "low_rank":  # all atoms reduce the last dimension equally well
            residuals = [((X - C.astype(float) @ D) ** 2).sum(axis=1) for C in (compiled, array)]
            np.testing.assert_allclose(*residuals, atol=1e-5 * (X * X).sum(axis=1).max())
        else:
            assert ((compiled != 0) == (array != 0)).all(axis=1).mean() >= 0.96  # ties
        assert abs(n_compiled - n_array) <= 2


def test_ormp_of_gaussian_bumps():
    """The scores of order-recursive pursuit are divided by squares that rounding may make 0."""
    r = np.random.RandomState(0)
    centres, widths = r.uniform(0, 40, (100, 1)), r.uniform(1, 6, (100, 1))
    D = np.exp(-0.5 * ((np.arange(40) - centres) / widths) ** 2)
    D /= np.linalg.norm(D, axis=1)[:, None]
    X = (r.rand(4000, 100) * (r.rand(4000, 100) < 0.05)) @ D + 0.01 * r.randn(4000, 40)
    X, D = X[:600].astype(np.float32), D.astype(np.float32)
    check(X, D, sparse_encode(X, D, algorithm="ormp", n_nonzero_coefs=20), ORMP(20), 0)
    with pytest.warns(ConvergenceWarning, match=r"codes of \d+ of 600 rows ended early.*alpha") as caught:
        C = sparse_encode(X, D, algorithm="ormp", alpha=1e-3)
    assert len(caught) == 1
    check(X, D, C, ORMP(100, 1e-3), int(str(caught[0].message).split()[3]))


def test_atom_is_not_selected_twice():
    r = np.random.RandomState(456)
    d, K = r.randint(2, 12), r.randint(2, 30)
    r.randint(1, 14)
    X, D = r.randn(40, d), r.randn(K, d)
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    for gram in (True, False):
        C, _ = encode(X, D, OMP(min(d, K), positive=True), gram)
        check(X, D, C, OMP(min(d, K), positive=True), 0)
        support = C[28] != 0
        assert ((X[28] - C[28] @ D) ** 2).sum() <= nnls(D[support].T, X[28])[1] ** 2 * (1 + 1e-9)


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("coder", [OMP(2), ORMP(2)], ids=str)
def test_pursuit_stopped_by_dependent_atom_counts_row_as_unfinished(coder, dtype, gram):
    """The atoms differ by less than rounding errors, and the residual of the first row is along their difference."""
    near = 3e-4 if dtype == np.float32 else 3e-7
    D = np.array([[1, 0], [1, near]], dtype)
    X = np.array([[1, 1], [1, 0], [0, 0]], dtype)
    C, unfinished = encode(X, D, coder, gram)
    assert unfinished == 1
    assert (np.count_nonzero(C, axis=1) == [1, 1, 0]).all()


@pytest.mark.parametrize("gram", [True, False])
def test_ill_conditioned_supports_are_truncated(gram):
    """Each atom passes the test of linear independence, yet coefficients grow beyond the precision of float32."""
    m, cosine, sine = 10, np.sqrt(1 - 4e-6), 2e-3
    R = np.eye(m)
    for i in range(1, m):  # atom i is nearly parallel to atom i - 1
        R[i] = cosine * R[i - 1] + sine * np.eye(m)[i]
    X = np.random.default_rng(0).normal(size=(50, m)).astype(np.float32)
    D = R.astype(np.float32)
    for coder in pursuits(m):
        C, unfinished = encode(X, D, coder, gram)
        check(X, D, C, coder, unfinished)


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("coder", to_target(0.5, 9), ids=str)
def test_rows_that_miss_target_are_counted_as_unfinished(coder, gram):
    D, X = np.eye(9, 12), np.zeros((4, 12))
    X[:, -1] = [0.1, 0.7, 0.71, 2]  # orthogonal to all atoms
    X[:, 0] = 3
    C, unfinished = encode(X, D, coder, gram)
    assert unfinished == 2
    np.testing.assert_allclose(C[:, 0], 3)


@pytest.mark.parametrize("scale", [1e-18, 1e18])
@pytest.mark.parametrize("coder", [OMP(3), ORMP(3), OMP(3, positive=True), MatchingPursuit(3)], ids=str)
def test_rows_whose_squares_overflow_or_underflow_float32(coder, scale, rng):
    X, D = problem(DICTIONARIES["gaussian"], 30, np.float32, rng)
    expected, _ = encode(X, D, coder)
    C, _ = encode(X * np.float32(scale), D, coder)
    np.testing.assert_allclose(C / np.float32(scale), expected, atol=1e-5)


@pytest.mark.parametrize("coder", [Lasso(0.05, max_iter=1), Fista(0.05, max_iter=7), Fista(0.05, max_iter=3)], ids=str)
@pytest.mark.parametrize("name", DICTIONARIES)
def test_cost_of_penalised_codes_is_no_larger_than_that_of_zeros(name, coder, rng):
    X, D = problem(DICTIONARIES[name], 60, np.float64, rng)
    for gram in (True, False):
        C, _ = encode(X, D, coder, gram)
        cost = ((X - C @ D) ** 2).sum(axis=1) / 2 + coder.alpha * np.abs(C).sum(axis=1)
        assert (cost <= (X * X).sum(axis=1) / 2 * (1 + 1e-12)).all()


@pytest.mark.parametrize("name", ["bumps", "low_rank"])
def test_array_implementations_on_device_match_host(name, rng):
    X, D = problem(DICTIONARIES[name], 40, np.float32, rng)
    for coder in (*pursuits(12), *to_target(1e-3, len(D))):
        expected, n_unfinished = encode(X, D, coder, gram=False)
        with fake_cupy.installed() as cupy:
            C, unfinished = kernels.encode(cupy.asarray(X), cupy.asarray(D), None, coder)
        np.testing.assert_allclose(C.get(), expected, atol=1e-5)
        assert unfinished == n_unfinished


# ---- warnings --------------------------------------------------------------------------------------------------------
def hopeless(n=30):
    """Rows and a dictionary for which no pursuit attains a squared residual of 0.1."""
    X = np.zeros((n, 5))
    X[:, :2] = 1
    return X, np.eye(1, 5)


@pytest.mark.parametrize("output", ["dense", "sparse", "out"])
@pytest.mark.parametrize("name", ["omp", "ormp", "nnomp", "matching_pursuit", "gradient_pursuit"])
def test_missed_target_warns_once(name, output, tmp_path):
    X, D = hopeless()
    coder = SparseCoder(D, transform_algorithm=name, transform_alpha=0.1, sparse_output=output == "sparse")
    with pytest.warns(ConvergenceWarning, match="codes of 30 of 30 rows ended early") as caught:
        coder.transform(X, **({"out": tmp_path / "codes.npy"} if output == "out" else {}))
    assert len(caught) == 1


def test_lazy_codes_warn_when_computed():
    da = pytest.importorskip("dask.array")
    X, D = hopeless()
    for settings in ({"algorithm": "omp", "alpha": 0.1}, {"algorithm": "lasso_cd", "alpha": 1e-3, "max_iter": 0}):
        lazy = sparse_encode(da.from_array(X, chunks=(10, -1)), D, **settings)
        with pytest.warns(ConvergenceWarning, match="codes of 10 of the 10 rows of a chunk") as caught:
            C = lazy.compute(scheduler="threads")
        assert len(caught) == 1
        assert C.shape == (30, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sparse_encode(da.from_array(X, chunks=(10, -1)), D, algorithm="omp", n_nonzero_coefs=1).compute()


def test_partial_fit_with_pursuit_warns_of_unfinished_codes(rng):
    X = rng.normal(size=(40, 6))
    start = np.eye(3, 6)
    start[1] = start[0] + 3e-8 * start[2]
    start[2] = start[0] - 3e-8 * start[2]
    learner = MiniBatchDictionaryLearning(
        3, fit_algorithm="omp", transform_n_nonzero_coefs=3, dict_init=start, dead_atoms="keep"
    )
    with pytest.warns(ConvergenceWarning, match=r"codes of \d+ of 40 rows ended early"):
        learner.partial_fit(X)


@pytest.mark.parametrize("update", ["block_descent", "least_squares", "approximate_ksvd"])
@pytest.mark.parametrize("learner", [DictionaryLearning, MiniBatchDictionaryLearning])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_positive_dict_keeps_all_atoms_non_negative(learner, update, rng):
    X = rng.normal(size=(60, 6))
    for init in ("svd", "data"):
        settings = {"positive_dict": True, "init": init, "dead_atoms": "keep", "update": update, "random_state": 0}
        model = learner(8, alpha=2.0, max_iter=3, fit_algorithm="cd", **settings).fit(X)
        assert (model.components_ >= 0).all()
