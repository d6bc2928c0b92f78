"""Invalid input raises a clear error; unusual but valid input is accepted."""

import re

import ml_dtypes
import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import FastICA as SklearnFastICA

from gpuica import FastICA, Picard, fastica
from gpuica.rows.host import HostRows

from .problems import amari, mixture


def with_entry(value):
    X, _ = mixture(3000, 4)
    X[1234, 2] = value
    return X


def refuse(X, message, error=ValueError, **params):
    with pytest.raises(error, match=message):
        FastICA(random_state=0, **params).fit(X)


@pytest.mark.parametrize("whiten", ["unit-variance", False])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_nan_and_infinity_raise(dtype, whiten):
    refuse(with_entry(np.nan).astype(dtype), "Input X contains NaN", whiten=whiten)
    refuse(with_entry(np.inf).astype(dtype), "Input X contains infinity", whiten=whiten)
    ica = FastICA(random_state=0, whiten=whiten, tol=1).fit(mixture(3000, 4)[0])
    with pytest.raises(ValueError, match="Input X contains NaN"):
        ica.transform(with_entry(np.nan))


def test_half_precision_nan_and_infinity_raise():
    refuse(with_entry(np.nan).astype(np.float16), "NaN")
    refuse(with_entry(np.nan).astype(ml_dtypes.bfloat16), "NaN")
    refuse(with_entry(np.inf).astype(ml_dtypes.bfloat16), "NaN, infinity", whiten="arbitrary-variance")
    refuse(with_entry(np.nan).astype(ml_dtypes.bfloat16), "NaN or infinity", whiten=False)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.ones((5, 2)) * 1j, "Complex data not supported"),
        (np.array([["a", "b"], ["c", "d"]]), "could not convert string to float"),
        (np.ones(5), "Expected 2D array, got 1D array"),
        (np.ones((2, 3, 4)), "3"),
        (np.ones((0, 3)), "0 sample"),
        (np.ones((3, 0)), r"0 feature\(s\)"),
        (np.ones((1, 3)), "minimum of 2"),
        (np.ones((10, 3)), "X has no variance"),
        (np.ones((10, 3)).astype(ml_dtypes.bfloat16), "X has no variance"),
        (np.ones(5).astype(ml_dtypes.bfloat16), "Expected 2D array, got 1D array"),
        (np.ones((1, 3)).astype(ml_dtypes.bfloat16), "minimum of 2"),
    ],
)
def test_invalid_shapes_and_dtypes_raise(X, message):
    refuse(X, message)


def test_sparse_matrices_raise_with_toarray_hint():
    for kind in ("csr", "coo", "lil", "dok"):
        refuse(sparse.random(20, 4, density=0.5, format=kind), "dense data is required.*toarray", TypeError)


def test_overflowing_squares_raise():
    refuse(with_entry(1e200), "too large to be squared: clean or rescale")


@pytest.mark.parametrize("shape", [(3, 3), (5, 5), (4, 3), (4,)])
def test_w_init_of_wrong_shape_raises(shape):
    refuse(mixture(100, 4)[0], re.escape("w_init has invalid shape -- should be (4, 4)"), w_init=np.ones(shape))


def test_w_init_with_nan_raises():
    refuse(mixture(100, 4)[0], "w_init contains NaN", w_init=np.full((4, 4), np.nan))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"fun_args": {"alpha": 3}}, r"alpha must be in \[1,2\]"),
        ({"fun": "tan"}, "'fun' parameter"),
        ({"n_components": 0}, "'n_components' parameter"),
        ({"device": 3}, "'device' parameter"),
        ({"device": "gpu"}, "device must be 'auto', 'cpu', 'cuda' or 'cuda:N'"),
        ({"device": "cuda:one"}, "device must be"),
        ({"verbose": -1}, "'verbose' parameter"),
        ({"fun": lambda x: x}, "must return a tuple"),
        ({"fun": lambda x: (x[:1], x.mean(-1))}, "must return g"),
    ],
)
def test_invalid_parameters_raise(params, message):
    refuse(mixture(100, 4)[0], message, **params)


def test_wrong_number_of_features_after_fit_raises():
    ica = FastICA(random_state=0, n_components=2).fit(mixture(100, 4)[0])
    with pytest.raises(ValueError, match="X has 3 features, but FastICA is expecting 4"):
        ica.transform(np.ones((5, 3)))
    with pytest.raises(ValueError, match="X has 3 columns, but this FastICA has 2 components"):
        ica.inverse_transform(np.ones((5, 3)))


# ---- rank ------------------------------------------------------------------------------------------------------------
X4, _ = mixture(2000, 4)
RANK_4 = {
    "constant column": np.hstack([X4, np.full((2000, 1), 7.0)]),
    "zero column first": np.hstack([np.zeros((2000, 1)), X4]),
    "duplicated columns": np.hstack([X4, X4]),
    "low rank": X4 @ np.random.default_rng(0).normal(size=(4, 9)),
}


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("solver", ["svd", "eigh"])
@pytest.mark.parametrize("case", RANK_4)
def test_rank_deficient_data_keep_their_rank_and_warn(case, solver, dtype):
    X = RANK_4[case].astype(dtype)
    with pytest.warns(UserWarning, match="numerical rank 4 .* 4 components are kept"):
        ica = FastICA(random_state=0, whiten_solver=solver).fit(X)
    assert ica.components_.shape == (4, X.shape[1])
    assert np.isfinite(ica.components_).all()
    sources = ica.transform(X)
    same = FastICA(random_state=0).fit_transform(X4)
    assert amari(np.corrcoef(sources.T, same.T)[:4, 4:]) < 0.01
    np.testing.assert_allclose(ica.inverse_transform(sources), X, atol=1e-3 * np.abs(X).max())


def test_no_warning_when_n_components_equals_rank():
    FastICA(random_state=0, n_components=4).fit(RANK_4["constant column"])


def test_fewer_rows_than_features():
    X = np.random.default_rng(0).laplace(size=(6, 40))
    with pytest.warns(UserWarning, match="numerical rank 5 "):
        ica = FastICA(random_state=0, tol=1).fit(X)
    assert ica.components_.shape == (5, 40)
    with pytest.warns(UserWarning, match="too large: it will be set to 6"), pytest.warns(UserWarning, match="rank 5"):
        FastICA(random_state=0, n_components=9, tol=1).fit(X)


def test_whiten_false_ignores_n_components_and_warns():
    X, _ = mixture(200, 3)
    with pytest.warns(UserWarning, match="Ignoring n_components with whiten=False"):
        assert FastICA(2, whiten=False, tol=1).fit(X).components_.shape == (3, 3)


# Rounding to float32 near 1e6 adds noise of standard deviation 2**-4 / sqrt(12) = 0.018 (Bennett 1948).
@pytest.mark.parametrize("limit", [None, 1000])
@pytest.mark.parametrize("solver", ["svd", "eigh"])
@pytest.mark.parametrize("estimator", [FastICA, Picard])
def test_components_are_recovered_far_from_zero(estimator, solver, limit):
    """The smallest standard deviation, 0.12, is seven times the rounding noise: all components are recovered."""
    X, A = mixture(20_000, 8, mean=0)
    rounded = (0.3 * X + 1e6).astype(np.float32)
    reference = estimator(random_state=0).fit(rounded.astype(np.float64))
    ica = estimator(random_state=0, whiten_solver=solver, memory_limit=limit).fit(rounded)
    assert ica.components_.shape == (8, 8)
    distance = amari(ica.components_.astype(float) @ A)
    assert distance < 0.01
    assert abs(distance - amari(reference.components_ @ A)) < 1e-3
    sources = ica.fit_transform(rounded)
    np.testing.assert_allclose(sources.mean(axis=0, dtype=np.float64), 0, atol=1e-4)
    np.testing.assert_allclose(sources.std(axis=0, dtype=np.float64), 1, atol=1e-3)


@pytest.mark.parametrize("shape", [(20_000, 9), (8, 12)])
@pytest.mark.parametrize("mean", [1e3, 1e6, -3e7])
@pytest.mark.parametrize("solver", ["svd", "eigh"])
def test_rounding_noise_of_a_large_mean_does_not_increase_rank(solver, mean, shape):
    """Data of rank 4, rounded to float32: the remaining directions contain only rounding noise."""
    n, d = shape
    X, _ = mixture(n, 4, d=d, mean=0)
    quantum = float(np.spacing(np.float32(abs(mean))))
    X = (X * 1e3 * quantum + mean).astype(np.float32)
    with pytest.warns(UserWarning, match="numerical rank 4 .* 4 components are kept"):
        FastICA(random_state=0, whiten_solver=solver, tol=1).fit(X)


@pytest.mark.parametrize("estimator", [FastICA, Picard])
def test_transform_equals_fit_transform_far_from_zero(estimator):
    X = (mixture(8000, 4, mean=0)[0] + 1e6).astype(np.float32)
    ica = estimator(random_state=0)
    sources = ica.fit_transform(X)
    np.testing.assert_allclose(ica.transform(X), sources, atol=2e-3)
    np.testing.assert_allclose(sources.mean(0, dtype=float), 0, atol=1e-3)


def test_partial_fit_far_from_zero(rng):
    X, A = mixture(20_000, 4, mean=0)
    ica = Picard(random_state=0)
    for part in np.array_split((0.3 * X + 1e6).astype(np.float32), 4):
        ica.partial_fit(part)
    assert ica.components_.shape == (4, 4)
    assert amari(ica.components_.astype(float) @ A) < 0.05


@pytest.mark.parametrize("estimator", [FastICA, Picard])
@pytest.mark.parametrize("scale", [3e-39, 1e-42, 1e-44])
def test_variance_too_small_for_float32_raises(scale, estimator):
    X, A = mixture(3000, 4)
    with pytest.raises(ValueError, match=r"variance of X is too small to whiten X in float32.*rescale X"):
        estimator(random_state=0).fit((X * scale).astype(np.float32))
    wide = (X * scale).astype(np.float32).astype(np.float64)  # the remedies given in the message
    assert amari(estimator(random_state=0).fit(wide).components_ * scale @ A) < 0.05
    again = (wide * (1 / scale)).astype(np.float32)
    assert amari(estimator(random_state=0).fit(again).components_.astype(float) @ A) < 0.05


def test_underflowing_squares_raise():
    refuse(mixture(100, 4)[0] * 1e-170, "below 1e-154.*multiply X by a constant")


# ---- unusual but valid input -----------------------------------------------------------------------------------------
X0, A0 = mixture(4000, 5)
BEST = SklearnFastICA(random_state=0).fit(X0)


@pytest.mark.parametrize("scale", [1e-20, 1e-6, 1e6, 1e20])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_huge_and_tiny_scales(dtype, scale):
    ica = FastICA(random_state=0).fit((X0 * scale).astype(dtype))
    assert amari(ica.components_.astype(float) @ A0) < 1.01 * amari(BEST.components_ @ A0)
    np.testing.assert_allclose(ica.mixing_ / scale, BEST.mixing_, atol=1e-3 * np.abs(BEST.mixing_).max())


@pytest.mark.parametrize("kind", ["fortran", "strided", "read-only", "memmap", "list"])
def test_memory_layouts(kind, tmp_path):
    if kind == "fortran":
        X = np.asfortranarray(X0)
    elif kind == "strided":
        X = np.repeat(np.repeat(X0, 2, axis=0), 2, axis=1)[::2, ::2]
    elif kind == "read-only":
        X = X0.copy()
        X.setflags(write=False)
    elif kind == "memmap":
        np.save(tmp_path / "x.npy", X0)
        X = np.load(tmp_path / "x.npy", mmap_mode="r")
    else:
        X = X0.tolist()
    ica = FastICA(random_state=0)
    sources = ica.fit_transform(X)
    np.testing.assert_allclose(ica.components_, BEST.components_, atol=1e-6 * np.abs(BEST.components_).max())
    np.testing.assert_allclose(ica.transform(X), sources, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.int16, np.int64, np.uint8, bool])
def test_integers_and_booleans_are_accepted(dtype):
    X = (X0 * 20 + 100).clip(0, 255).astype(dtype) if dtype is not bool else X0 > 3
    ours = FastICA(random_state=0, tol=1e-3).fit(X)
    theirs = SklearnFastICA(random_state=0, tol=1e-3).fit(X)
    np.testing.assert_allclose(ours.components_, theirs.components_, atol=1e-6 * np.abs(theirs.components_).max())
    assert ours.components_.dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    half = X0.astype(dtype)
    single = half.astype(np.float32)
    ours, same = FastICA(random_state=0), FastICA(random_state=0)
    sources, expected = ours.fit_transform(half), same.fit_transform(single)
    assert sources.dtype == ours.components_.dtype == np.float32
    np.testing.assert_array_equal(ours.components_, same.components_)
    np.testing.assert_array_equal(sources, expected)
    np.testing.assert_array_equal(ours.transform(half), same.transform(single))


def test_x_is_not_copied(monkeypatch):
    opened = []
    original = HostRows.__init__

    def recording_init(self, array, **options):
        opened.append(array)
        original(self, array, **options)

    monkeypatch.setattr(HostRows, "__init__", recording_init)
    for X in (X0, np.asfortranarray(X0), X0[::2, ::2], X0.astype(np.float16), X0.astype(np.int32)):
        opened.clear()
        FastICA(random_state=0, tol=1).fit(X)
        assert any(array is X or np.shares_memory(array, X) for array in opened)
        assert sum(array.shape == X.shape and not np.shares_memory(array, X) for array in opened) <= 1  # whitened


def test_two_rows_and_one_feature():
    with pytest.warns(UserWarning, match="numerical rank 1 "):
        assert FastICA(random_state=0).fit([[0.0, 1.0], [1.0, 0.0]]).components_.shape == (1, 2)
    sources = fastica(np.array([[1.0], [2.0], [4.0]]), random_state=0)[2]
    np.testing.assert_allclose(sources.std(), 1)
