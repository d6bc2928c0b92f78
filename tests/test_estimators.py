"""FastICA against scikit-learn's: the same iterates, results and estimator contract."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.decomposition import FastICA as SklearnFastICA
from sklearn.decomposition import fastica as sklearn_fastica
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from gpuica import Cube, FastICA, LogCosh, fastica
from gpuica.estimators import _fit

from .problems import amari, mixture, white

pd = pytest.importorskip("pandas")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore:.*numerical rank")  # the sample_weight check has fewer rows than features
@parametrize_with_checks([FastICA(), FastICA(algorithm="deflation", whiten_solver="eigh", fun="cube")])
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def cube(x):
    return x**3, (3 * x**2).mean(axis=-1)


def assert_attributes_close(ours, theirs, rtol):
    for name in ("components_", "mixing_", "_unmixing", "mean_", "whitening_"):
        if hasattr(theirs, name):
            expected = getattr(theirs, name)
            np.testing.assert_allclose(getattr(ours, name), expected, atol=rtol * np.abs(expected).max(), err_msg=name)
    assert ours.n_iter_ == theirs.n_iter_
    assert ours.n_features_in_ == theirs.n_features_in_


@pytest.mark.parametrize("whiten_solver", ["svd", "eigh"])
@pytest.mark.parametrize("whiten", ["unit-variance", "arbitrary-variance", False])
@pytest.mark.parametrize("fun", ["logcosh", "exp", "cube", cube])
@pytest.mark.parametrize("algorithm", ["parallel", "deflation"])
def test_results_match_scikit_learn(algorithm, fun, whiten, whiten_solver):
    X = mixture(3000, 6, d=8)[0] if whiten else white(3000, 6)
    X = X + np.random.default_rng(1).normal(size=X.shape) * 0.01 if whiten else X
    arguments = {
        "n_components": 6 if whiten else None,
        "algorithm": algorithm,
        "fun": fun,
        "whiten": whiten,
        "whiten_solver": whiten_solver,
        "random_state": 3,
    }
    ours, theirs = FastICA(**arguments), SklearnFastICA(**arguments)
    sources, expected = ours.fit_transform(X), theirs.fit_transform(X)
    assert_attributes_close(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(sources, expected, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(ours.transform(X), theirs.transform(X.copy()), atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(ours.inverse_transform(sources), theirs.inverse_transform(expected), atol=1e-5)


def test_results_match_scikit_learn_with_n_components_w_init_and_alpha(rng):
    X, _ = mixture(2000, 6)
    arguments = {"n_components": 4, "w_init": rng.normal(size=(4, 4)), "fun_args": {"alpha": 1.5}, "tol": 1e-8}
    ours, theirs = FastICA(**arguments).fit(X), SklearnFastICA(**arguments).fit(X)
    assert_attributes_close(ours, theirs, rtol=1e-6)


def test_function_returns_match_scikit_learn():
    X, _ = mixture(1000, 3)
    for options in ({}, {"whiten": False, "compute_sources": False}, {"return_X_mean": True, "return_n_iter": True}):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            ours, theirs = (f(X, random_state=0, **options) for f in (fastica, sklearn_fastica))
        assert len(ours) == len(theirs)
        for actual, expected in zip(ours, theirs, strict=True):
            if expected is None:
                assert actual is None
            else:
                np.testing.assert_allclose(actual, expected, rtol=1e-6, atol=1e-9)


def test_float32_is_as_accurate_as_float64():
    X, A = mixture(30_000, 16)
    double = FastICA(random_state=0).fit(X)
    single = FastICA(random_state=0).fit(X.astype(np.float32))
    assert single.components_.dtype == single.mixing_.dtype == single.mean_.dtype == np.float32
    assert single.n_iter_ == double.n_iter_
    np.testing.assert_allclose(single.components_, double.components_, atol=2e-5 * np.abs(double.components_).max())
    assert amari(single.components_ @ A) < 1.001 * amari(double.components_ @ A)


@pytest.mark.parametrize("algorithm", ["parallel", "deflation"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_known_mixtures_are_separated(dtype, algorithm):
    X, A = mixture(20_000, 10, dtype=dtype)
    ica = FastICA(random_state=0, algorithm=algorithm).fit(X)
    assert ica.converged_
    assert (ica.delta_ < ica.tol).all()
    assert amari(ica.components_ @ A) < 0.01


def test_contrast_objects_are_accepted():
    X, _ = mixture(2000, 3)
    for contrast, name, arguments in ((LogCosh(1.5), "logcosh", {"alpha": 1.5}), (Cube(), "cube", None)):
        ours = FastICA(fun=contrast, random_state=0).fit(X)
        same = FastICA(fun=name, fun_args=arguments, random_state=0).fit(X)
        np.testing.assert_array_equal(ours.components_, same.components_)


def test_sources_have_unit_variance():
    X, _ = mixture(5000, 5, dtype=np.float32)
    for sources in (FastICA(random_state=0).fit_transform(X), FastICA(random_state=0).fit(X).transform(X)):
        np.testing.assert_allclose(sources.std(0), 1, atol=1e-5)
        np.testing.assert_allclose(sources.mean(0), 0, atol=1e-5)


def test_fit_transform_without_whitening_does_not_overwrite_input():
    Z = white(2000, 4)
    before = Z.copy()
    FastICA(whiten=False, random_state=0).fit_transform(Z)
    np.testing.assert_array_equal(Z, before)


@pytest.mark.parametrize("method", ["fit", "fit_transform", "transform", "inverse_transform"])
def test_input_is_not_modified(method):
    X, _ = mixture(1000, 3)
    ica = FastICA(random_state=0).fit(X)
    before = X.copy()
    getattr(ica, method)(X)
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("algorithm", ["parallel", "deflation"])
def test_convergence_warning_reports_progress_and_remedies(algorithm, rng):
    X = rng.normal(size=(500, 6))
    with pytest.warns(ConvergenceWarning, match=r"did not converge.*After 3 iterations . of 6 .*delta_.*try algorithm"):
        ica = FastICA(max_iter=3, tol=1e-9, random_state=0, algorithm=algorithm).fit(X)
    assert not ica.converged_
    assert (ica.delta_ >= ica.tol).any()
    assert ica.delta_.shape == (6,)


def test_verbose_prints_progress(capsys):
    X, _ = mixture(1000, 3)
    FastICA(random_state=0, verbose=2).fit(X)
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith(f"[FastICA] all 1000 rows, iteration {len(lines)}: 3 of 3 components converged")
    FastICA(random_state=0).fit(X)
    assert capsys.readouterr().out == ""


def test_dataframes_feature_names_and_set_output():
    X, _ = mixture(500, 3)
    frame = pd.DataFrame(X, columns=list("abc"))
    ica = FastICA(random_state=0).set_output(transform="pandas").fit(frame)
    assert list(ica.feature_names_in_) == list("abc")
    out = ica.transform(frame)
    assert list(out.columns) == ["fastica0", "fastica1", "fastica2"]
    with pytest.raises(ValueError, match="feature names"):
        ica.transform(frame.rename(columns={"a": "z"}))


def test_pipeline_clone_and_pickle():
    X, _ = mixture(1000, 3)
    pipeline = make_pipeline(StandardScaler(), FastICA(random_state=0, device="cpu", verbose=0)).fit(X)
    restored = pickle.loads(pickle.dumps(pipeline))
    np.testing.assert_array_equal(restored.transform(X), pipeline.transform(X))
    copy = clone(pipeline[-1])
    assert copy.get_params() == pipeline[-1].get_params()
    assert isinstance(copy, SklearnFastICA)


def test_results_are_reproducible():
    X, _ = mixture(60_000, 24, dtype=np.float32)
    one, two = (FastICA(random_state=0).fit(X) for _ in range(2))
    np.testing.assert_array_equal(one.components_, two.components_)


def test_renamed_attributes_warn(rng):
    X = rng.laplace(size=(200, 3))
    ica = FastICA(random_state=0).fit(X)
    with pytest.warns(FutureWarning, match="movement_ is deprecated: use delta_"):
        np.testing.assert_array_equal(ica.movement_, ica.delta_)
    with pytest.warns(FutureWarning, match="at_rest_ is deprecated: use converged_components_"):
        np.testing.assert_array_equal(ica.at_rest_, ica.converged_components_)
    assert not hasattr(FastICA(), "movement_")


def test_random_starts_are_rounded_to_the_dtype_of_x():
    """As in scikit-learn, so that float32 data start from the same point."""
    drawn = np.random.RandomState(0).normal(size=(3, 3))
    for dtype in (np.float32, np.float64):
        start = _fit._start(None, 3, np.dtype(dtype), np.random.RandomState(0))
        np.testing.assert_array_equal(start, drawn.astype(dtype))
        assert start.dtype == np.float64
