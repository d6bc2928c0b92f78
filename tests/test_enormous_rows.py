"""A few rows of enormous norm: a robust center, a warning with remedies, and finite results."""

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from gpuica import FastICA, Picard
from gpuica.oracle import MomentOracle
from gpuica.rows.host import HostRows
from gpuica.solvers.median import geometric_median

from .problems import amari, mixture


def median_of(X, weights=None, **options):
    return geometric_median(MomentOracle(HostRows(X, weights=weights)), **options)


# ---- the geometric median --------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 60), d=st.integers(1, 4), seed=st.integers(0, 99), lattice=st.booleans())
def test_zero_is_a_subgradient_at_the_median(n, d, seed, lattice):
    """0 is a subgradient of Σ w |x - m|: the sum of unit vectors to the rows is at most the weight of the rows at m."""
    rng = np.random.default_rng(seed)
    X = rng.integers(-2, 3, size=(n, d)).astype(float) if lattice else rng.normal(size=(n, d))
    w = rng.exponential(size=n)
    m = median_of(X, w, tol=1e-9, max_iter=20_000)
    D = X - m
    r = np.linalg.norm(D, axis=1)
    on_m = r < 1e-5  # the iterates only approach a median that is a row
    pull = np.linalg.norm((w[~on_m] / r[~on_m]) @ D[~on_m])
    assert pull <= w[on_m].sum() + 1e-3 * w.sum()


def test_geometric_median_of_one_feature_is_the_median(rng):
    x = rng.exponential(size=(1001, 1))
    assert median_of(x, tol=1e-9, max_iter=2000)[0] == pytest.approx(np.median(x), abs=1e-3)


def test_dominant_row_is_the_median(rng):
    """Weiszfeld's step divides by 0 at a row; Vardi and Zhang's does not, and leaves a row that is not the median."""
    X = rng.normal(size=(50, 3))
    w = np.where(np.arange(50) == 7, 100.0, 1.0)
    np.testing.assert_allclose(median_of(X, w, tol=1e-9, max_iter=5000), X[7], atol=1e-6)
    start = np.array([[0.0, 0.0], [4.0, 1.0], [4.0, -1.0], [4.0, 0.0], [-12.0, 0.0]])  # their mean is the first row
    # by hand: the pull in excess of the weight of the first row
    excess, inverse_distances = 8 / 17**0.5 - 1, 2 / 17**0.5 + 1 / 4 + 1 / 12
    np.testing.assert_allclose(median_of(start, max_iter=1), [excess / inverse_distances, 0], atol=1e-12)
    np.testing.assert_allclose(median_of(start, max_iter=500), [4 - 3**-0.5, 0], atol=1e-3)


def test_median_of_identical_rows():
    np.testing.assert_array_equal(median_of(np.full((10, 3), 7.0)), 7.0)


def test_enormous_rows_do_not_change_the_median(rng):
    X = rng.normal(size=(10_000, 5)) + 3
    expected_median = median_of(X)
    X[:50] *= 1e6
    passes = HostRows(X)
    robust_median = geometric_median(MomentOracle(passes))
    assert np.linalg.norm(X.mean(0) - 3) > 1e3
    assert np.linalg.norm(robust_median - expected_median) < 0.03  # 50 pulls of length 1 among 10,000
    assert passes.n_passes < 25


@pytest.mark.parametrize("whiten", ["unit-variance", "arbitrary-variance"])
@pytest.mark.parametrize("whiten_solver", ["svd", "eigh"])
@pytest.mark.parametrize("shape", [(4000, 5), (12, 20)])
@pytest.mark.parametrize("estimator", [FastICA, Picard])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:.*numerical rank")
def test_center_median(estimator, shape, whiten_solver, whiten, rng):
    X = rng.exponential(size=shape) ** 2 @ rng.normal(size=(shape[1], shape[1]))
    ica = estimator(random_state=0, center="median", whiten=whiten, whiten_solver=whiten_solver, max_iter=50)
    Y = ica.fit_transform(X)
    np.testing.assert_allclose(ica.mean_, median_of(X), rtol=1e-9)
    assert np.linalg.norm(ica.mean_ - X.mean(0)) > 0.1
    np.testing.assert_allclose(ica.transform(X), Y, atol=1e-8)
    np.testing.assert_allclose(Y, (X - ica.mean_) @ ica.components_.T, atol=1e-8)
    np.testing.assert_allclose(ica.inverse_transform(Y), X, atol=1e-6)
    power = 1 if whiten == "unit-variance" else 1 / len(X)
    np.testing.assert_allclose(Y.T @ Y / len(X), power * np.eye(Y.shape[1]), atol=1e-6)  # about the median


def test_small_directions_about_the_median(rng):
    X = rng.exponential(size=(5000, 3)) * [1, 1e-4, 1e-9] @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    Y = Picard(random_state=0, center="median").fit_transform(X)
    np.testing.assert_allclose(Y.T @ Y / 5000, np.eye(3), atol=1e-4)


def test_median_adds_passes_and_mean_none():
    X, _ = mixture(3000, 4)
    for center in ("mean", "median"):
        ica = FastICA(random_state=0, center=center).fit(X)
        assert (ica.n_passes_ == 2 + ica.n_iter_) == (center == "mean")
        assert ica.n_passes_ < 2 + ica.n_iter_ + 25


def test_invalid_center_raises():
    X, _ = mixture(100, 3)
    for estimator in (FastICA, Picard):
        with pytest.raises(ValueError, match="center='median' needs whitening: with whiten=False nothing is centered"):
            estimator(center="median", whiten=False).fit(X)
        with pytest.raises(ValueError, match="'center' parameter"):
            estimator(center="mode").fit(X)
    for value, message in (
        (np.nan, "Input X contains NaN"),
        (np.inf, "Input X contains infinity"),
        (1e200, "too large"),
    ):
        X[50, 1] = value
        with pytest.raises(ValueError, match=message):
            FastICA(center="median").fit(X)


# ---- the warning -----------------------------------------------------------------------------------------------------
def sparse_source(n, k, rng):
    """k sources, of which one is active in a row of a thousand."""
    S = rng.normal(size=(n, k))
    S[:, 0] = np.where(rng.random(n) < 1e-3, S[:, 0] * 31, 0)
    return S


def patches(rng):
    """8 x 8 patches of images of random edges, whose contrast varies widely."""
    steps = rng.normal(size=(200, 1, 1)) * (rng.random(size=(200, 64, 64)) < 0.02) * rng.normal(size=(200, 64, 64))
    images = steps.cumsum(axis=1).cumsum(axis=2)
    X = np.lib.stride_tricks.sliding_window_view(images, (8, 8), axis=(1, 2))[:, ::8, ::8].reshape(-1, 64)
    return X - X.mean(axis=1, keepdims=True)


ORDINARY = {
    "digits": lambda rng: load_digits().data,
    "patches": patches,
    "mixture": lambda rng: mixture(20_000, 6)[0],
    "far from 0": lambda rng: mixture(5000, 6, mean=1e4)[0],
    "one Laplace feature": lambda rng: rng.laplace(size=(20_000, 1)),
    "heavy tails": lambda rng: rng.standard_t(3, size=(20_000, 4)) @ rng.normal(size=(4, 4)),
    "log-normal norms": lambda rng: rng.normal(size=(20_000, 8)) * np.exp(rng.normal(size=(20_000, 1))),
    "one sparse source": lambda rng: sparse_source(20_000, 6, rng) @ rng.normal(size=(6, 6)),
    "half of the rows zero": lambda rng: rng.normal(size=(20_000, 6)) * (np.arange(20_000)[:, None] % 2),
    "small first rows": lambda rng: rng.normal(size=(20_000, 6)) * np.where(np.arange(20_000) < 4000, 0.01, 1)[:, None],
    "few rows": lambda rng: rng.laplace(size=(60, 5)),
    "fewer rows than features": lambda rng: rng.laplace(size=(60, 100)),
}


def enormous(n, d, which, factor):
    """Normal rows, of which some are scaled by factor."""
    X = np.random.default_rng(0).normal(size=(n, d)) + 1
    X[which] *= factor
    return X


ENORMOUS = {
    "one row": (20_000, 32, 12_345, 1e6),
    "the first row": (200_000, 4, 0, 1e6),
    "a sampled row": (8192, 4, 129 * 7, 1e6),
    "one of few rows": (300, 5, 123, 1e6),
    "one of fewer rows than features": (60, 100, 33, 1e3),
    "one in a thousand": (20_000, 32, slice(500, None, 1000), 1000),
    "the first token of every text": (32_768, 32, slice(None, None, 128), 100),
    "a block": (20_000, 32, slice(70, 100), 1e4),
}


def warns_of_large_norms(caplog, X, estimator=FastICA, sample_weight=None, **params):
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="gpuica"):
        estimator(random_state=0, n_components=2 if X.shape[1] > 1 else 1, tol=1.0, **params).fit(
            X, sample_weight=sample_weight
        )
    return "a few rows of very large norm carry most of the variance" in caplog.text


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", ORDINARY)
def test_no_warning_for_ordinary_data(case, dtype, caplog, rng):
    assert not warns_of_large_norms(caplog, ORDINARY[case](rng).astype(dtype))


@pytest.mark.parametrize("estimator", [FastICA, Picard])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", ENORMOUS)
def test_warning_suggests_remedies(case, dtype, estimator, caplog):
    X = enormous(*ENORMOUS[case]).astype(dtype)
    assert warns_of_large_norms(caplog, X, estimator)
    for remedy in ("normalize_rows=True", "sample_weight", "center='median'"):
        assert remedy in caplog.text
    assert warns_of_large_norms(caplog, X, estimator, center="median")


def test_warning_with_few_rows_of_positive_weight(caplog, rng):
    for seed in range(10):
        X, w = mixture(8000, 4, seed=seed)[0], rng.random(8000) < 0.01
        assert not warns_of_large_norms(caplog, X, sample_weight=w)
        X[w.argmax()] *= 1e6
        assert warns_of_large_norms(caplog, X, sample_weight=w)


@pytest.mark.parametrize("which", [0, 937 * 7, 937 * 7 + 1])
def test_norms_of_large_chunks(which):
    """64 of 60,000 rows are sampled; an enormous one among them must be detected."""
    X = enormous(60_000, 3, which, 1e6)
    oracle = MomentOracle(HostRows(X, chunk_rows=60_000))
    oracle.moments()
    assert oracle.norm_uniformity < 0.02


def test_remedies_silence_the_warning(caplog):
    X = enormous(20_000, 8, slice(500, None, 1000), 1000)
    assert not warns_of_large_norms(caplog, X, normalize_rows=True)
    weights = np.where(np.linalg.norm(X, axis=1) > 100, 0, 1)
    assert not warns_of_large_norms(caplog, X, sample_weight=weights)
    assert warns_of_large_norms(
        caplog, enormous(20_000, 8, 77, 100), sample_weight=np.where(np.arange(20_000) == 77, 1e4, 1)
    )


# ---- finite results --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("fun", ["logcosh", "exp", "cube"])
@pytest.mark.parametrize("estimator", [FastICA(), FastICA(algorithm="deflation"), Picard(), Picard(ortho=False)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("which", "factor"), [(17, 1e6), (slice(None, None, 1000), 1000)])
@pytest.mark.parametrize("center", ["mean", "median"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore:.*numerical rank")
def test_enormous_rows_give_finite_results(center, which, factor, dtype, estimator, fun):
    X = mixture(20_000, 5)[0]
    X[which] *= factor
    name = {"logcosh": "tanh"}.get(fun, fun) if isinstance(estimator, Picard) else fun
    ica = type(estimator)(
        **{**estimator.get_params(), "fun": name, "random_state": 0, "max_iter": 60, "center": center}
    )
    Y = ica.fit_transform(X.astype(dtype))
    for value in (Y, ica.components_, ica.mixing_, ica.mean_, ica.whitening_, ica.gradient_norm_, ica.losses_):
        assert np.isfinite(value).all()


def test_few_rows_whose_squares_overflow_float32(rng):
    X = (rng.laplace(size=(10, 30)) * 1e25).astype(np.float32)
    assert np.isfinite(FastICA(n_components=3, random_state=0, tol=1.0).fit_transform(X)).all()


def test_enormous_rows_of_zero_weight_are_ignored():
    X, A = mixture(20_000, 4)
    weights = np.arange(20_000) % 100 != 0
    X[~weights] *= 1e8
    assert amari(Picard(random_state=0).fit(X, sample_weight=weights).components_ @ A) < 0.02
    single = Picard(random_state=0).fit(X.astype(np.float32), sample_weight=weights)
    assert amari(single.components_ @ A) < 0.02
