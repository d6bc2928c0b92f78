"""Options beyond scikit-learn's: row normalization, stop_percentile, component order, few rows and precision."""

import logging
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.preprocessing import normalize

from gpuica import FastICA, Picard

from .problems import mixture

ESTIMATORS = [FastICA(random_state=0), Picard(random_state=0)]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_normalize_rows_matches_scikit_learn_normalize(estimator, dtype):
    X = (mixture(3000, 5)[0] * np.exp(np.random.default_rng(0).normal(size=(3000, 1)) * 3)).astype(dtype)
    X[7] = 0
    ours = estimator.set_params(normalize_rows=True)
    sources = ours.fit_transform(X)
    reference = estimator.__class__(random_state=0)
    expected = reference.fit_transform(normalize(X))
    tolerance = 1e-9 if dtype is np.float64 else 1e-3
    np.testing.assert_allclose(
        ours.components_, reference.components_, atol=tolerance * np.abs(reference.components_).max()
    )
    np.testing.assert_allclose(sources, expected, atol=10 * tolerance)
    np.testing.assert_allclose(ours.transform(X), expected, atol=10 * tolerance)
    estimator.set_params(normalize_rows=False)


def test_normalize_rows_does_not_overflow():
    X = mixture(500, 3)[0].astype(np.float32)
    small = FastICA(random_state=0, normalize_rows=True).fit(X)
    large = FastICA(random_state=0, normalize_rows=True).fit(X * np.float32(1e30))
    np.testing.assert_allclose(large.components_, small.components_, rtol=1e-3)


@pytest.mark.parametrize("estimator", [FastICA, Picard])
def test_stop_percentile(estimator):
    rng = np.random.default_rng(0)
    # the 4 Gaussian directions converge late, if at all
    X = np.hstack([rng.laplace(size=(4000, 16)), rng.normal(size=(4000, 4))])
    options = {"random_state": 0, "max_iter": 60, "tol": 1e-5}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        full = estimator(**options).fit(X)
    partial = estimator(**options, stop_percentile=70).fit(X)
    assert partial.converged_
    assert partial.n_iter_ <= full.n_iter_
    assert partial.converged_components_.mean() >= 0.7
    if estimator is FastICA:  # Picard's components converge together
        assert partial.n_iter_ < full.n_iter_
        assert partial.converged_components_.mean() < 1


@pytest.mark.parametrize("whiten", ["unit-variance", "arbitrary-variance"])
@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_sort(estimator, whiten):
    X, _ = mixture(5000, 6)
    plain = estimator.set_params(whiten=whiten, sort=None).fit(X)
    columns = {tuple(np.round(np.abs(row), 6)) for row in plain.components_}
    by_objective = estimator.set_params(sort="objective").fit(X)
    assert {tuple(np.round(np.abs(row), 6)) for row in by_objective.components_} == columns
    Y = by_objective.transform(X)
    Y = Y / Y.std(0)
    assert (np.diff(np.abs(np.log(np.cosh(Y)).mean(0) - 0.374567)) <= 1e-6).all()
    by_variance = estimator.set_params(sort="variance").fit(X)
    pairs = zip(by_variance.transform(X).T, by_variance.mixing_.T, strict=True)
    parts = [np.outer(source, pattern).var(0).sum() for source, pattern in pairs]
    assert (np.diff(parts) <= 1e-9 * parts[0]).all()
    np.testing.assert_allclose(sum(parts), X.var(0).sum(), rtol=1e-6)
    estimator.set_params(sort=None, whiten="unit-variance")


def test_sources_are_sorted_as_components():
    X, _ = mixture(2000, 4)
    ica = FastICA(random_state=0, sort="variance")
    np.testing.assert_allclose(ica.fit_transform(X), ica.transform(X), atol=1e-9)


def test_few_rows_warn(caplog):
    X = np.random.default_rng(0).laplace(size=(50, 10))
    with caplog.at_level(logging.WARNING, logger="gpuica"):
        FastICA(random_state=0, tol=1).fit(X)
    assert "50 rows are few for 10 components" in caplog.text
    caplog.clear()
    FastICA(random_state=0, tol=1).fit(np.random.default_rng(0).laplace(size=(500, 10)))
    assert not caplog.text


def test_incompatible_parameters_raise():
    X, _ = mixture(100, 3)
    with pytest.raises(ValueError, match="stop_percentile= need"):
        FastICA(algorithm="deflation", stop_percentile=90).fit(X)
    with pytest.raises(ValueError, match="sort='objective' needs a contrast with a known G"):
        FastICA(sort="objective", fun=lambda x: (x**3, (3 * x**2).mean(-1))).fit(X)
    for params in ({"stop_percentile": 0}, {"sort": "size"}, {"normalize_rows": "yes"}):
        with pytest.raises(ValueError, match="parameter"):
            FastICA(**params).fit(X)


@pytest.mark.parametrize("kind", [FastICA, Picard])
@pytest.mark.parametrize("given", [np.float32, np.float64])
def test_precision_sets_dtype(kind, given):
    X = mixture(3000, 4)[0].astype(given)
    dtypes = {None: given, "float32": np.float32, "tf32": np.float32, "bf16": np.float32, "float64": np.float64}
    for precision, dtype in dtypes.items():
        ica = kind(random_state=0, precision=precision).fit(X)
        assert ica.components_.dtype == dtype
        reference = kind(random_state=0).fit(X.astype(dtype))
        np.testing.assert_array_equal(ica.components_, reference.components_)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_reduced_precision_is_used_for_samples_only(monkeypatch, precision):
    """A CPU does not round products; the requested precision is recorded nevertheless."""
    requested = []

    @contextmanager
    def products(xp, mode):
        requested.append(mode)
        yield

    monkeypatch.setattr("gpuica.oracle.matmul_precision", products)
    X, _ = mixture(50_000, 3, dtype=np.float32)
    ica = Picard(random_state=0, growth=2, precision=precision).fit(X)
    assert set(requested) == {precision}
    assert len(requested) < ica.n_iter_ + 10
    requested.clear()
    Picard(random_state=0, growth=None, precision=precision).fit(X)
    assert not requested
