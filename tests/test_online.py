"""partial_fit: nearly as good as a fit of all rows so far."""

import pickle

import numpy as np
import pytest

from gpuica import FastICA, Picard
from gpuica.solvers.online import RunningMoments

from .problems import amari


def batches(n, size, A, seed=0, tails=None):
    """n batches (size, d): Laplace and uniform sources, mixed; tails: degrees of freedom of Student's for Laplace's."""
    rng, k = np.random.default_rng(seed), A.shape[1]
    for _ in range(n):
        S = np.where(np.arange(k) % 2, rng.laplace(size=(size, k)) / 2**0.5, rng.uniform(-(3**0.5), 3**0.5, (size, k)))
        if tails:
            S[:, 1::2] = rng.standard_t(tails, size=(size, k // 2))
        yield S @ A.T + 3


@pytest.fixture
def A(rng):
    return rng.normal(size=(8, 8))


def followed(model, parts):
    for part in parts:
        model.partial_fit(part)
    return model


@pytest.mark.parametrize("size", [500, 4000])
@pytest.mark.parametrize(
    "model", [FastICA(random_state=0), Picard(random_state=0), FastICA(fun="cube", random_state=0)]
)
def test_the_error_is_nearly_that_of_a_fit_of_all_rows(model, size, A):
    """Theory says sqrt(4/3) of its error: see `solvers.online`."""
    errors = []
    for seed in range(6):
        parts = list(batches(24, size, A, seed))
        whole = model.fit(np.concatenate(parts)).components_
        errors.append([amari(found @ A) for found in (followed(model, parts).components_, whole)])
    found, best = np.mean(errors, axis=0)
    assert found < 1.35 * best
    assert found < 0.5 * amari(model.fit(parts[0]).components_ @ A)  # and far better than the fit of the first batch


def test_whitening_is_that_of_all_rows(A, rng):
    parts = [rng.laplace(size=(n, 8)) @ A.T + i for i, n in enumerate((300, 1, 7, 50, 300))]  # the mean wanders
    ica, X = followed(FastICA(random_state=0, tol=1), parts), np.concatenate(parts)
    np.testing.assert_allclose(ica.mean_, X.mean(0), rtol=1e-12)
    np.testing.assert_allclose(np.cov(X.T, bias=True), ica._online_state.moments.covariance, rtol=1e-10)
    K = ica.whitening_
    np.testing.assert_allclose(K @ np.cov(X.T, bias=True) @ K.T * len(X), np.eye(8), atol=1e-9)
    np.testing.assert_allclose(ica.transform(X).std(0), 1, rtol=1e-9)
    np.testing.assert_allclose(ica.inverse_transform(ica.transform(X)), X, rtol=1e-6)
    assert (ica.n_samples_seen_, ica.n_steps_) == (658, 5)


def test_whitening_is_refreshed_when_the_rows_have_doubled(rng):
    """Only the first 3 of 6 directions are kept: which ones, the first batch cannot know."""
    deviations = np.array([5.0, 4.0, 3.0, 1.0, 1.0, 1.0])
    first = rng.laplace(size=(100, 6)) * deviations[::-1]
    ica = FastICA(3, random_state=0, tol=1).partial_fit(first)
    for _ in range(40):
        ica.partial_fit(rng.laplace(size=(1000, 6)) * deviations)
    assert abs(ica.components_[:, 3:]).max() < 0.05 * abs(ica.components_[:, :3]).max()


def test_heavy_tails_and_enormous_rows(A):
    for tails in (1.5, 2.2):
        ica = followed(FastICA(random_state=0), batches(20, 1000, A, tails=tails))
        assert amari(ica.components_ @ A) < 0.05
    parts = list(batches(30, 1000, A))
    ica = followed(FastICA(random_state=0), parts[:15])
    parts[15][0] *= 1e4  # whitening follows it, but it must not turn anything by more than a batch may
    ica.partial_fit(parts[15])
    assert ica.delta_.max() < 0.03
    assert np.isfinite(ica.components_).all()


def test_components_converge_when_steps_are_below_their_standard_errors(A):
    ica = Picard(random_state=0)
    fractions = [ica.partial_fit(part).converged_components_.mean() for part in batches(40, 1000, A)]
    assert max(fractions[1:4]) < 0.7  # steps of half or so of the standard error
    assert fractions[-1] == 1
    assert ica.converged_
    assert ica.gradient_norm_ < 0.02


def test_weights_count_rows(A, rng):
    parts = list(batches(6, 400, A))
    w = [rng.integers(0, 3, size=400) for _ in parts]
    ica, other = FastICA(random_state=0, tol=1), FastICA(random_state=0, tol=1)
    for part, weights in zip(parts, w, strict=True):
        ica.partial_fit(part, sample_weight=weights)
        other.partial_fit(np.repeat(part, weights, axis=0))
    assert ica.n_samples_seen_ == other.n_samples_seen_ == sum(map(np.sum, w))
    np.testing.assert_allclose(ica.whitening_, other.whitening_, atol=1e-9)


def test_a_pickle_resumes_to_the_same_bits(A):
    parts = list(batches(6, 500, A))
    whole = followed(Picard(random_state=0), parts)
    half = pickle.loads(pickle.dumps(followed(Picard(random_state=0), parts[:3])))
    np.testing.assert_array_equal(followed(half, parts[3:]).components_, whole.components_)


def test_on_the_device(cupy, A):
    parts = list(batches(5, 500, A))
    host, there = FastICA(random_state=0), FastICA(random_state=0)
    for part in parts:
        host.partial_fit(part)
        there.partial_fit(cupy.asarray(part))
    assert there.device_ == "cuda:0"
    np.testing.assert_allclose(there.components_, host.components_, atol=1e-7 * abs(host.components_).max())
    assert b"cupy" not in pickle.dumps(there)


def test_fit_resets_partial_fit(A):
    parts = list(batches(3, 500, A))
    ica = followed(FastICA(random_state=0), parts)
    ica.fit(parts[0])
    assert not hasattr(ica, "_online_state")
    again = followed(FastICA(random_state=0), parts)
    np.testing.assert_array_equal(followed(ica, parts).components_, again.components_)


def test_a_bad_batch_loses_nothing(A):
    parts = list(batches(3, 500, A))
    ica = followed(FastICA(random_state=0), parts)
    before = pickle.dumps(ica)
    for bad, sentence in (
        (parts[0][:, :5], "X has 5 features, but FastICA is expecting 8"),
        (np.where(np.eye(500, 8), np.nan, parts[0]), "NaN"),
        (parts[0][:0], "0 sample"),
    ):
        with pytest.raises(ValueError, match=sentence):
            ica.partial_fit(bad)
        assert pickle.dumps(ica) == before


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (FastICA(whiten=False), "whiten=False"),
        (FastICA(center="median"), "center='median'"),
        (FastICA(fun=lambda x: (x**3, (3 * x**2).mean(-1))), "a contrast with a known G"),
    ],
)
def test_unsupported_parameters(model, sentence, A):
    with pytest.raises(ValueError, match=sentence):
        model.partial_fit(next(batches(1, 500, A)))


def test_partial_fit_needs_ortho():
    assert not hasattr(Picard(ortho=False), "partial_fit")
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'"):
        Picard(ortho=False).partial_fit(np.eye(4))


def test_moments_of_batches_of_any_size(rng):
    X = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3)) + 7
    first = X[:10]
    K = np.linalg.cholesky(np.linalg.inv(np.cov(first.T, bias=True))).T
    seen = RunningMoments(10, first.mean(0), np.cov(first.T, bias=True), K, 10)
    for part in np.split(X[10:], [1, 2, 20]):
        seen = seen.with_batch(len(part), part.mean(0), np.atleast_2d(np.cov(part.T, bias=True)))
    np.testing.assert_allclose(seen.covariance, np.cov(X.T, bias=True), rtol=1e-12)
    np.testing.assert_allclose(seen.whitening @ seen.covariance @ seen.whitening.T, np.eye(3), atol=1e-10)
    np.testing.assert_allclose(seen.whitening @ seen.unwhitening, np.eye(3), atol=1e-10)
