"""partial_fit: nearly as accurate as a fit of all rows so far."""

import pickle

import numpy as np
import pytest

from gpuica import FastICA, Picard
from gpuica.solvers.online import RunningMoments

from .problems import amari


def batches(n, size, A, seed=0, tails=None):
    """Yield n batches (size, d) of mixed Laplace and uniform sources.

    With tails, Student's t with that many degrees of freedom replaces Laplace.
    """
    rng, k = np.random.default_rng(seed), A.shape[1]
    for _ in range(n):
        S = np.where(np.arange(k) % 2, rng.laplace(size=(size, k)) / 2**0.5, rng.uniform(-(3**0.5), 3**0.5, (size, k)))
        if tails:
            S[:, 1::2] = rng.standard_t(tails, size=(size, k // 2))
        yield S @ A.T + 3


@pytest.fixture
def A(rng):
    return rng.normal(size=(8, 8))


def fit_batches(model, parts):
    for part in parts:
        model.partial_fit(part)
    return model


@pytest.mark.parametrize("size", [500, 4000])
@pytest.mark.parametrize(
    "model", [FastICA(random_state=0), Picard(random_state=0), FastICA(fun="cube", random_state=0)]
)
def test_error_is_close_to_that_of_a_full_fit(model, size, A):
    """The theoretical ratio of the errors is sqrt(4/3): see `solvers.online`."""
    errors = []
    for seed in range(6):
        parts = list(batches(24, size, A, seed))
        full = model.fit(np.concatenate(parts)).components_
        errors.append([amari(components @ A) for components in (fit_batches(model, parts).components_, full)])
    online, best = np.mean(errors, axis=0)
    assert online < 1.35 * best
    assert online < 0.5 * amari(model.fit(parts[0]).components_ @ A)  # far better than a fit of the first batch


def test_whitening_equals_that_of_all_rows(A, rng):
    parts = [rng.laplace(size=(n, 8)) @ A.T + i for i, n in enumerate((300, 1, 7, 50, 300))]  # the mean drifts
    ica, X = fit_batches(FastICA(random_state=0, tol=1), parts), np.concatenate(parts)
    np.testing.assert_allclose(ica.mean_, X.mean(0), rtol=1e-12)
    np.testing.assert_allclose(np.cov(X.T, bias=True), ica._online_state.moments.covariance, rtol=1e-10)
    K = ica.whitening_
    np.testing.assert_allclose(K @ np.cov(X.T, bias=True) @ K.T * len(X), np.eye(8), atol=1e-9)
    np.testing.assert_allclose(ica.transform(X).std(0), 1, rtol=1e-9)
    np.testing.assert_allclose(ica.inverse_transform(ica.transform(X)), X, rtol=1e-6)
    assert (ica.n_samples_seen_, ica.n_steps_) == (658, 5)


def test_whitening_is_refreshed_when_rows_have_doubled(rng):
    """Only 3 of 6 directions are kept, and the first batch does not determine which."""
    deviations = np.array([5.0, 4.0, 3.0, 1.0, 1.0, 1.0])
    first = rng.laplace(size=(100, 6)) * deviations[::-1]
    ica = FastICA(3, random_state=0, tol=1).partial_fit(first)
    for _ in range(40):
        ica.partial_fit(rng.laplace(size=(1000, 6)) * deviations)
    assert abs(ica.components_[:, 3:]).max() < 0.05 * abs(ica.components_[:, :3]).max()


def test_heavy_tails_and_enormous_rows(A):
    for tails in (1.5, 2.2):
        ica = fit_batches(FastICA(random_state=0), batches(20, 1000, A, tails=tails))
        assert amari(ica.components_ @ A) < 0.05
    parts = list(batches(30, 1000, A))
    ica = fit_batches(FastICA(random_state=0), parts[:15])
    parts[15][0] *= 1e4  # whitening changes, but the rotation must not exceed that of a usual batch
    ica.partial_fit(parts[15])
    assert ica.delta_.max() < 0.03
    assert np.isfinite(ica.components_).all()


def test_components_converge_when_steps_are_below_their_standard_errors(A):
    ica = Picard(random_state=0)
    fractions = [ica.partial_fit(part).converged_components_.mean() for part in batches(40, 1000, A)]
    assert max(fractions[1:4]) < 0.7  # steps of about half the standard error
    assert fractions[-1] == 1
    assert ica.converged_
    assert ica.gradient_norm_ < 0.02


def test_weights_equal_repeated_rows(A, rng):
    parts = list(batches(6, 400, A))
    w = [rng.integers(0, 3, size=400) for _ in parts]
    ica, other = FastICA(random_state=0, tol=1), FastICA(random_state=0, tol=1)
    for part, weights in zip(parts, w, strict=True):
        ica.partial_fit(part, sample_weight=weights)
        other.partial_fit(np.repeat(part, weights, axis=0))
    assert ica.n_samples_seen_ == other.n_samples_seen_ == sum(map(np.sum, w))
    np.testing.assert_allclose(ica.whitening_, other.whitening_, atol=1e-9)


def test_pickle_resumes_bitwise_identically(A):
    parts = list(batches(6, 500, A))
    full = fit_batches(Picard(random_state=0), parts)
    resumed = pickle.loads(pickle.dumps(fit_batches(Picard(random_state=0), parts[:3])))
    np.testing.assert_array_equal(fit_batches(resumed, parts[3:]).components_, full.components_)


def test_device_results_match_host(cupy, A):
    parts = list(batches(5, 500, A))
    host, device = FastICA(random_state=0), FastICA(random_state=0)
    for part in parts:
        host.partial_fit(part)
        device.partial_fit(cupy.asarray(part))
    assert device.device_ == "cuda:0"
    np.testing.assert_allclose(device.components_, host.components_, atol=1e-7 * abs(host.components_).max())
    assert b"cupy" not in pickle.dumps(device)


def test_fit_resets_partial_fit(A):
    parts = list(batches(3, 500, A))
    ica = fit_batches(FastICA(random_state=0), parts)
    ica.fit(parts[0])
    assert not hasattr(ica, "_online_state")
    refitted = fit_batches(FastICA(random_state=0), parts)
    np.testing.assert_array_equal(fit_batches(ica, parts).components_, refitted.components_)


def test_invalid_batch_leaves_state_unchanged(A):
    parts = list(batches(3, 500, A))
    ica = fit_batches(FastICA(random_state=0), parts)
    before = pickle.dumps(ica)
    for invalid, message in (
        (parts[0][:, :5], "X has 5 features, but FastICA is expecting 8"),
        (np.where(np.eye(500, 8), np.nan, parts[0]), "NaN"),
        (parts[0][:0], "0 sample"),
    ):
        with pytest.raises(ValueError, match=message):
            ica.partial_fit(invalid)
        assert pickle.dumps(ica) == before


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (FastICA(whiten=False), "whiten=False"),
        (FastICA(center="median"), "center='median'"),
        (FastICA(fun=lambda x: (x**3, (3 * x**2).mean(-1))), "a contrast with a known G"),
    ],
)
def test_unsupported_parameters_raise(model, message, A):
    with pytest.raises(ValueError, match=message):
        model.partial_fit(next(batches(1, 500, A)))


def test_partial_fit_requires_ortho():
    assert not hasattr(Picard(ortho=False), "partial_fit")
    with pytest.raises(AttributeError, match="has no attribute 'partial_fit'"):
        Picard(ortho=False).partial_fit(np.eye(4))


def test_running_moments_match_full_moments(rng):
    X = rng.normal(size=(60, 3)) @ rng.normal(size=(3, 3)) + 7
    first = X[:10]
    K = np.linalg.cholesky(np.linalg.inv(np.cov(first.T, bias=True))).T
    moments = RunningMoments(10, first.mean(0), np.cov(first.T, bias=True), K, 10)
    for part in np.split(X[10:], [1, 2, 20]):
        moments = moments.with_batch(len(part), part.mean(0), np.atleast_2d(np.cov(part.T, bias=True)))
    np.testing.assert_allclose(moments.covariance, np.cov(X.T, bias=True), rtol=1e-12)
    np.testing.assert_allclose(moments.whitening @ moments.covariance @ moments.whitening.T, np.eye(3), atol=1e-10)
    np.testing.assert_allclose(moments.whitening @ moments.unwhitening, np.eye(3), atol=1e-10)
