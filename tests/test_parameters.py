"""Parameters of a wrong type, range or shape raise ValueError: in `fit`, after `set_params`, in methods that need no
fit, and in functions."""

import numpy as np
import pytest
from sklearn import config_context
from sklearn.utils._param_validation import InvalidParameterError

from gpuica import (
    DictionaryLearning,
    FastICA,
    MiniBatchDictionaryLearning,
    Picard,
    SparseCoder,
    dict_learning,
    dict_learning_online,
    fastica,
    picard,
    sparse_encode,
)

from .problems import mixture

X = mixture(200, 4)[0]
D = np.random.default_rng(0).normal(size=(6, 4))
WRONG_CODER = [
    {"transform_algorithm": "lasso-cd"},
    {"transform_n_nonzero_coefs": 0},
    {"transform_n_nonzero_coefs": -3},
    {"transform_alpha": -1},
    {"transform_max_iter": -1},
    {"split_sign": "no"},
    {"sparse_output": 3},
    {"memory_limit": 0},
]


# ---- methods that require no fit, and parameters set after fit -------------------------------------------------------
@pytest.mark.parametrize("method", ["transform", "fit_transform", "inverse_transform"])
@pytest.mark.parametrize("wrong", WRONG_CODER, ids=str)
def test_sparse_coder_validates_parameters_without_fit(wrong, method):
    [name] = wrong
    rows = np.ones((5, 6)) if method == "inverse_transform" else X
    with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of SparseCoder"):
        getattr(SparseCoder(D, **wrong), method)(rows)


@pytest.mark.parametrize(
    ("estimator", "wrong"),
    [
        *((FastICA(random_state=0), wrong) for wrong in ({"tol": -1}, {"device": 3}, {"whiten": "yes"}, {"n_init": 0})),
        *((Picard(random_state=0), wrong) for wrong in ({"m": 0}, {"growth": 0.5}, {"fun": "tan"})),
        *((kind(3, max_iter=2), wrong) for kind in (DictionaryLearning, MiniBatchDictionaryLearning)
          for wrong in (*WRONG_CODER, {"alpha": -1}, {"dead_atoms": "bury"}, {"init": "dta"})),
        *((SparseCoder(D), wrong) for wrong in WRONG_CODER),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_parameters_set_after_fit_are_validated(estimator, wrong):
    codes = estimator.fit(X).transform(X)
    before = {name: estimator.get_params()[name] for name in wrong}
    estimator.set_params(**wrong)
    calls = {"transform": X, "inverse_transform": codes, "score": X, "partial_fit": X}
    for name, rows in calls.items():
        if hasattr(estimator, name):
            with pytest.raises(InvalidParameterError, match=f"The '{next(iter(wrong))}' parameter"):
                getattr(estimator, name)(rows)
    estimator.set_params(**before).transform(X)


def test_skip_parameter_validation_of_config_context():
    coder = SparseCoder(D, n_jobs="all")
    with config_context(skip_parameter_validation=True):
        assert coder.transform(X).shape == (200, 6)
    with pytest.raises(InvalidParameterError):
        coder.transform(X)


def test_partial_fit_validates_on_every_call():
    for estimator in (FastICA(random_state=0), MiniBatchDictionaryLearning(3)):
        estimator.partial_fit(X)
        with pytest.raises(InvalidParameterError, match="'random_state' parameter"):
            estimator.set_params(random_state="zero").partial_fit(X)


def test_transform_subtracts_the_mean_of_the_fit():
    ica = FastICA(random_state=0).fit(X)
    expected = ica.transform(X)
    np.testing.assert_array_equal(ica.set_params(whiten=False).transform(X), expected)
    np.testing.assert_allclose(ica.inverse_transform(expected), X, atol=1e-9)
    again = FastICA(random_state=0).fit(X).set_params(whiten=False, tol=2.0).fit(X)
    assert not hasattr(again, "mean_")
    assert not hasattr(again, "whitening_")
    np.testing.assert_allclose(again.set_params(whiten="unit-variance").transform(X), X @ again.components_.T)


# ---- functions -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"algorithm": "lasso-cd"}, "The 'algorithm' parameter of sparse_encode"),
        ({"n_nonzero_coefs": 0}, "The 'n_nonzero_coefs' parameter of sparse_encode"),
        ({"alpha": -1}, "The 'alpha' parameter of sparse_encode"),
        ({"max_iter": -1}, "The 'max_iter' parameter of sparse_encode"),
        ({"positive": "no"}, "The 'positive' parameter of sparse_encode"),
        ({"verbose": -2}, "The 'verbose' parameter of sparse_encode"),
        ({"device": None}, "The 'device' parameter of sparse_encode"),
        ({"dictionary": 3}, "The 'dictionary' parameter of sparse_encode"),
        ({"dictionary": D * 1j}, "Complex data not supported"),
        ({"dictionary": D * np.nan}, "Input dictionary contains NaN"),
    ],
)
def test_sparse_encode_invalid_parameters_raise(wrong, message):
    with pytest.raises(ValueError, match=message):
        sparse_encode(X, **{"dictionary": D, **wrong})


@pytest.mark.parametrize(
    ("function", "wrong", "message"),
    [
        (fastica, {"tol": -1}, "'tol' parameter"),
        (fastica, {"compute_sources": "yes"}, "'compute_sources' parameter of fastica"),
        (fastica, {"w_init": np.ones((4, 4))}, "w_init is singular"),
        (picard, {"whiten": "yes"}, "'whiten' parameter of picard"),
        (picard, {"ortho": 2}, "'ortho' parameter of picard"),
        (picard, {"verbose": "loud"}, "'verbose' parameter of picard"),
        (picard, {"max_iter": 0}, "'max_iter' parameter"),
        (picard, {"fun": "tan"}, "'fun' parameter"),
        (picard, {"w_init": np.zeros((4, 4))}, "w_init is singular"),
        (dict_learning, {"alpha": -1}, "'alpha' parameter"),
        (dict_learning, {"alpha": 1, "method": "omp"}, "'method' parameter of dict_learning"),
        (dict_learning, {"alpha": 1, "method_max_iter": -1}, "'method_max_iter' parameter of dict_learning"),
        (dict_learning_online, {"batch_size": 0}, "'batch_size' parameter"),
        (dict_learning_online, {"method_max_iter": -1}, "'method_max_iter' parameter of dict_learning_online"),
    ],
)
def test_functions_invalid_parameters_raise(function, wrong, message):
    rows = {"X": X.T} if function is picard else {"X": X}
    count = {"n_components": 3} if function in (dict_learning, dict_learning_online) else {}
    with pytest.raises(ValueError, match=message):
        function(**rows, **count, **wrong)


@pytest.mark.parametrize("rows", [np.ones(5), np.ones((2, 3, 4)), 3.0, [[1, 2], [3]], "rows"], ids=str)
def test_picard_input_other_than_matrix_raises(rows):
    with pytest.raises(ValueError, match=r"."):
        picard(rows)


def test_picard_accepts_lists():
    K, W, Y = picard(X.T.tolist(), random_state=0)
    expected = picard(X.T, random_state=0)
    for found, right in zip((K, W, Y), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-6, atol=1e-9)


# ---- starting points -------------------------------------------------------------------------------------------------
SOLVERS = {
    "parallel": FastICA,
    "deflation": lambda **params: FastICA(algorithm="deflation", **params),
    "picard": lambda **params: FastICA(algorithm="picard", **params),
    "Picard": Picard,
    "Picard ortho=False": lambda **params: Picard(ortho=False, **params),
}
INVALID_STARTS = {
    "all ones": (np.ones((4, 4)), "w_init is singular"),
    "all zeros": (np.zeros((4, 4)), "w_init is singular"),
    "nearly singular": (np.eye(4) + np.diag([0, 0, 0, -1 + 1e-17]), "w_init is singular"),
    "wrong shape": (np.eye(3), r"w_init has invalid shape -- should be \(4, 4\)"),
    "1-D": (np.ones(4), r"w_init has invalid shape"),
    "nan": (np.where(np.eye(4), 1, np.nan), "w_init contains NaN"),
    "inf": (np.where(np.eye(4), np.inf, 0), "w_init contains NaN or infinity"),
    "complex": (np.eye(4) * 1j, "w_init must hold real numbers, got dtype complex128"),
    "strings": (np.full((4, 4), "one"), "w_init must be an array of real numbers"),
    "too large": (np.eye(4) * 1e200, "w_init has singular values beyond"),
    "too small": (np.eye(4) * 1e-200, "w_init has singular values beyond"),
}


@pytest.mark.parametrize("whiten", ["unit-variance", False])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("start", INVALID_STARTS)
def test_invalid_w_init_raises(start, solver, whiten):
    w_init, message = INVALID_STARTS[start]
    with pytest.raises(ValueError, match=message):
        SOLVERS[solver](w_init=w_init, whiten=whiten).fit(X)


@pytest.mark.parametrize("solver", SOLVERS)
def test_invertible_w_init_of_any_scale_is_accepted(solver):
    ica = SOLVERS[solver](w_init=np.eye(4)[::-1] * 1e-6, max_iter=500).fit(X)
    assert np.isfinite(ica.components_).all()
    assert np.linalg.matrix_rank(ica.components_) == 4


# ---- initial atoms and codes -----------------------------------------------------------------------------------------
C = np.zeros((200, 3))
INVALID_ATOMS = {
    "wrong n_features": (np.ones((3, 5)), "has shape"),
    "too few atoms": (np.ones((2, 4)), "has shape"),
    "1-D": (np.ones(4), "has shape"),
    "scalar": (np.array(3.0), "has shape"),
    "nan": (np.full((3, 4), np.nan), "contains NaN or infinity"),
    "complex": (np.ones((3, 4)) * 1j, "must hold real numbers"),
    "strings": (np.full((3, 4), "one"), "must be an array of real numbers"),
}


@pytest.mark.parametrize("atoms", INVALID_ATOMS)
def test_invalid_initial_atoms_raise(atoms):
    D, message = INVALID_ATOMS[atoms]
    fits = {
        "dict_init": [
            lambda: DictionaryLearning(3, dict_init=D, code_init=C).fit(X),
            lambda: MiniBatchDictionaryLearning(3, dict_init=D).fit(X),
            lambda: MiniBatchDictionaryLearning(3, dict_init=D).partial_fit(X),
            lambda: dict_learning(X, 3, alpha=1, dict_init=D, code_init=C),
            lambda: dict_learning_online(X, 3, dict_init=D),
        ],
        "init": [lambda: DictionaryLearning(3, init=D).fit(X), lambda: MiniBatchDictionaryLearning(3, init=D).fit(X)],
    }
    for name, calls in fits.items():
        for call in calls:
            with pytest.raises(ValueError, match=f"{name} {message}"):
                call()


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (C[:9], "code_init has shape"),
        (C[0], "code_init has shape"),
        (C * np.nan, "contains NaN"),
        (C * 1j, "real numbers"),
    ],
)
def test_invalid_initial_codes_raise(codes, message):
    with pytest.raises(ValueError, match=message):
        DictionaryLearning(3, dict_init=D, code_init=codes).fit(X)


def test_initial_atoms_that_overflow_float32_raise():
    with pytest.raises(ValueError, match="init contains values too large for float32"):
        DictionaryLearning(6, init=D * 1e300).fit(X.astype(np.float32))


# ---- values beyond the range of a dtype ------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero) encountered")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1e36), (float, 1e200)])
@pytest.mark.parametrize("kind", [DictionaryLearning, MiniBatchDictionaryLearning])
def test_overflow_raises_and_keeps_the_statistics(kind, dtype, scale):
    rows = (X * scale).astype(dtype)
    for options in ({}, {"init": "data", "fit_algorithm": "topk"}, {"init": D[:3]}):
        with pytest.raises(ValueError, match=r"too large to be squared|so large that products of"):
            kind(3, max_iter=2, random_state=0, **options).fit(rows)
    model = MiniBatchDictionaryLearning(3, random_state=0).partial_fit(X.astype(dtype))
    A = model._A.copy()
    with pytest.raises(ValueError, match="too large"):
        model.partial_fit(rows * rows.dtype.type(10))
    np.testing.assert_array_equal(model._A, A)


@pytest.mark.parametrize("kind", [FastICA, Picard])
def test_variance_too_small_for_float32_raises(kind):
    rows = (np.random.default_rng(0).laplace(size=(50, 3)) * 1e-42).astype(np.float32)
    with pytest.raises(ValueError, match=r"variance of X is too small to whiten X in float32.*precision='float64'"):
        kind().fit(rows)
    assert np.isfinite(kind(precision="float64", random_state=0).fit(rows).components_).all()


def test_singular_unmixing_matrix_raises():
    with pytest.raises(ValueError, match="singular unmixing matrix: X must be white"):
        FastICA(whiten=False, random_state=0).fit(np.random.default_rng(0).laplace(size=(50, 5)) + 1e12)


def test_too_many_atoms_raise():
    of_codes = 8 * (8 + 1) * X.shape[1]  # of 8 rows for each atom, and of the atom; in GB for 10^9 atoms
    for kind, size in ((DictionaryLearning, r"8e\+09"), (MiniBatchDictionaryLearning, str(of_codes))):
        with pytest.raises(ValueError, match=rf"n_components=1000000000 atoms .* take {size} GB"):
            kind(10**9).fit(X)


def test_small_numpy_integers_do_not_overflow():
    expected = FastICA(3, random_state=0).fit(X).components_
    np.testing.assert_array_equal(FastICA(np.int8(3), random_state=0).fit(X).components_, expected)
    np.testing.assert_array_equal(FastICA(3, growth=np.int8(2), random_state=0).fit(X).components_, expected)
    MiniBatchDictionaryLearning(np.int8(3), batch_size=np.int8(100), max_iter=2).fit(X)
    assert sparse_encode(X, D, algorithm="lasso_cd", max_iter=2**70).shape == (200, 6)


@pytest.mark.parametrize("n_init", [10**12, 2**70])
@pytest.mark.parametrize("estimator", [FastICA, Picard])
def test_starting_points_that_exceed_the_memory_raise(estimator, n_init):
    with pytest.raises(ValueError, match=r"starting points take .*B, more than the memory of cpu: lower n_init"):
        estimator(n_init=n_init).fit(mixture(100, 3)[0])
