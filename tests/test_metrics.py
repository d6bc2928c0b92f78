"""Measures of quality, against cases whose value is known."""

import numpy as np
import pytest
from scipy import stats

from gpuica import FastICA, metrics
from gpuica.metrics import (
    amari_distance,
    excess_kurtosis,
    log_likelihood,
    matched_correlation,
    mutual_information_reduction,
    negentropy,
    relative_gradient,
)

from .problems import mixture


def logcosh(u):
    return np.logaddexp(u, -u) - np.log(2)


def test_amari_distance(rng):
    A = rng.normal(size=(6, 4))
    inverse = np.linalg.pinv(A)
    assert amari_distance(inverse, A) == pytest.approx(0, abs=1e-12)
    assert amari_distance(inverse[[2, 0, 3, 1]] * [[3], [-1], [0.1], [7]], A) == pytest.approx(0, abs=1e-12)
    assert amari_distance(np.ones((3, 3)), np.eye(3)) == pytest.approx(1)
    assert amari_distance([[2.0]], [[3.0]]) == 0
    e = 0.1  # by hand: each row and column sums to 1 + e over its largest
    assert amari_distance([[1, e], [e, 1]], np.eye(2)) == pytest.approx(4 * e / 4)
    with pytest.raises(ValueError, match="must be square"):
        amari_distance(np.eye(3)[:2], np.eye(3))
    with pytest.raises(ValueError, match="zeros"):
        amari_distance(np.diag([1, 0]), np.eye(2))


def test_matched_correlation(rng):
    S = rng.laplace(size=(5000, 4)) + 100
    order = [2, 0, 3, 1]
    values, columns = matched_correlation(S, -S[:, order] * [1, 2, 3, 4])
    np.testing.assert_allclose(values, 1, atol=1e-9)
    np.testing.assert_array_equal(np.array(order)[columns], np.arange(4))
    noisy = S[:, :2] + rng.normal(size=(5000, 2)) * S.std(0)[:2]
    np.testing.assert_allclose(matched_correlation(S, noisy)[0], 0.5**0.5, atol=0.05)
    with pytest.raises(ValueError, match="same rows"):
        matched_correlation(S, S[1:])


def test_gaussian_laplace_and_uniform_columns(rng):
    n = 200_000
    S = np.stack([rng.normal(size=n), rng.laplace(size=n), rng.uniform(size=n)], axis=1) * [5, 1e-3, 1e3] + [
        1,
        50,
        -1e6,
    ]
    np.testing.assert_allclose(excess_kurtosis(S), [0, 3, -1.2], atol=0.15)
    gaussian, *others = negentropy(S)
    assert gaussian < 1e-5
    assert min(others) > 1e-4
    exact = stats.laplace(scale=0.5**0.5).expect(logcosh)
    assert others[0] == pytest.approx((exact - metrics.GAUSSIAN_LOGCOSH) ** 2, rel=0.1)


def test_the_constant_is_a_gaussians():
    assert stats.norm.expect(logcosh) == pytest.approx(metrics.GAUSSIAN_LOGCOSH, abs=1e-9)


def test_relative_gradient_is_small_at_a_solution_only():
    X, _ = mixture(20_000, 5)
    assert relative_gradient(FastICA(random_state=0, tol=1e-14).fit_transform(X) * 7 + 3) < 1e-6
    assert relative_gradient(FastICA(random_state=0, max_iter=200, tol=1.0).fit_transform(X)) > 1e-2


def test_log_likelihood_prefers_the_truth_and_knows_scale(rng):
    X, A = mixture(5000, 3)
    true = np.linalg.inv(A)
    turned = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ true
    assert log_likelihood(X, true, X.mean(0)) > log_likelihood(X, turned, X.mean(0))
    x = rng.laplace(size=(1000, 1))
    by_hand = np.log(2) - np.log(np.cosh(2 * (x - 1))).mean()
    assert log_likelihood(x, [[2.0]], 1.0) == pytest.approx(by_hand)
    with pytest.raises(ValueError, match="as many components as features"):
        log_likelihood(X, true[:2])


def test_mutual_information_reduction_of_a_known_gaussian_pair(rng):
    """For a Gaussian pair of correlation r, whitening removes -log(1 - r²) / 2 nats."""
    r = 0.8
    X = rng.normal(size=(400_000, 2)) @ np.linalg.cholesky([[1, r], [r, 1]]).T
    whitening = np.linalg.inv(np.linalg.cholesky([[1, r], [r, 1]]))
    assert mutual_information_reduction(X, whitening) == pytest.approx(-np.log(1 - r * r) / 2, abs=0.01)
    assert mutual_information_reduction(X, np.diag([3.0, 0.2])) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match=r"components must be \(2, 2\)"):
        mutual_information_reduction(X, whitening[:1])


def test_chunked_and_memory_mapped(tmp_path, rng):
    S = rng.laplace(size=(30_000, 40)).astype(np.float32)
    np.save(tmp_path / "s.npy", S)
    mapped = np.load(tmp_path / "s.npy", mmap_mode="r")
    np.testing.assert_allclose(excess_kurtosis(mapped), stats.kurtosis(S.astype(float)), rtol=1e-9)
    with pytest.raises(ValueError, match="Expected a 2D array"):
        excess_kurtosis(S[:, 0])
