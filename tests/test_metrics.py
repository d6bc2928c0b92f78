"""Quality metrics, on cases whose value is known."""

import numpy as np
import pytest
from scipy import sparse, stats
from sklearn.metrics import r2_score

from gpuica import FastICA, metrics, shards
from gpuica.metrics import (
    _data,
    amari_distance,
    coherence,
    dead_atoms,
    dense_atoms,
    excess_kurtosis,
    explained_variance,
    firing_frequencies,
    fvu,
    l0,
    l1,
    log_likelihood,
    matched_correlation,
    mcc,
    mmcs,
    mutual_information_reduction,
    negentropy,
    relative_gradient,
)
from gpuica.metrics.ica import GAUSSIAN_LOGCOSH

from . import fake_cupy
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


def test_kurtosis_and_negentropy_of_known_distributions(rng):
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
    assert others[0] == pytest.approx((exact - GAUSSIAN_LOGCOSH) ** 2, rel=0.1)


def test_gaussian_logcosh_constant():
    assert stats.norm.expect(logcosh) == pytest.approx(GAUSSIAN_LOGCOSH, abs=1e-9)


def test_relative_gradient_is_small_at_a_solution_only():
    X, _ = mixture(20_000, 5)
    assert relative_gradient(FastICA(random_state=0, tol=1e-14).fit_transform(X) * 7 + 3) < 1e-6
    assert relative_gradient(FastICA(random_state=0, max_iter=200, tol=1.0).fit_transform(X)) > 1e-2


def test_log_likelihood_is_highest_at_true_unmixing_and_includes_scale(rng):
    X, A = mixture(5000, 3)
    true = np.linalg.inv(A)
    rotated = np.linalg.qr(rng.normal(size=(3, 3)))[0] @ true
    assert log_likelihood(X, true, X.mean(0)) > log_likelihood(X, rotated, X.mean(0))
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


def test_excess_kurtosis_of_memory_mapped_data(tmp_path, rng):
    S = rng.laplace(size=(30_000, 40)).astype(np.float32)
    np.save(tmp_path / "s.npy", S)
    mapped = np.load(tmp_path / "s.npy", mmap_mode="r")
    np.testing.assert_allclose(excess_kurtosis(mapped), stats.kurtosis(S.astype(float)), rtol=1e-9)
    with pytest.raises(ValueError, match="Expected a 2D array"):
        excess_kurtosis(S[:, 0])


@pytest.fixture(params=["whole", "chunks"])
def chunked(request, monkeypatch):
    """Process all rows at once, and in chunks of a few rows."""
    if request.param == "chunks":
        monkeypatch.setattr(_data, "CHUNK_ELEMENTS", 37)


CODES = np.array([[0, 2, 0, -1], [0, 0, 0, 1], [0, -3, 0, 0], [0, 0, 0, 4], [0, 0, 0.5, -1]])


@pytest.mark.parametrize("kind", [np.array, sparse.csr_matrix, sparse.coo_array, np.float32])
def test_code_statistics_match_values_by_hand(chunked, kind):
    C = kind(CODES)
    assert l0(C) == pytest.approx(7 / 5)
    assert l1(C) == pytest.approx(12.5 / 5)
    np.testing.assert_allclose(firing_frequencies(C), [0, 0.4, 0.2, 0.8])
    np.testing.assert_array_equal(dead_atoms(C), [0])
    np.testing.assert_array_equal(dead_atoms(C, 0.2), [0, 2])
    np.testing.assert_array_equal(dense_atoms(C, 0.4), [3])


def test_stored_zeros_are_not_counted():
    C = sparse.csr_matrix(CODES)
    C.data[0] = 0
    assert l0(C) == pytest.approx(6 / 5)


@pytest.mark.parametrize("kind", [np.array, sparse.csr_matrix, np.float32])
def test_explained_variance(chunked, kind, rng):
    C = rng.laplace(size=(60, 5)) * (rng.random((60, 5)) < 0.5)
    D = rng.normal(size=(5, 3))
    X = C @ D + 0.3 * rng.normal(size=(60, 3)) + [0, 1, -2]
    expected = r2_score(X, C @ D, multioutput="variance_weighted")
    assert explained_variance(X, kind(C), D) == pytest.approx(expected, abs=1e-6)
    assert fvu(X, kind(C), D) == pytest.approx(1 - expected, abs=1e-6)
    assert fvu(C @ D, C, D) == pytest.approx(0, abs=1e-12)
    # the reconstruction is the mean of X
    assert fvu(X + 1e6, np.ones((60, 1)), X.mean(0, keepdims=True) + 1e6) == pytest.approx(1)
    drifting = np.arange(3000.0)[:, None]
    assert fvu(drifting, np.zeros((3000, 1)), [[1.0]]) == pytest.approx((drifting**2).sum() / (3000 * drifting.var()))
    with pytest.raises(ValueError, match=r"do not fit together: \(60, 3\), \(60, 4\), \(5, 3\)"):
        fvu(X, C[:, 1:], D)
    with pytest.raises(ValueError, match="no variance"):
        fvu(np.ones((60, 3)), C, D)


def test_coherence(chunked, rng):
    D = rng.normal(size=(20, 6))
    cosines = np.abs(np.corrcoef(np.hstack([D, -D])))  # of mean 0: correlation is the cosine
    assert coherence(D) == pytest.approx((cosines - np.eye(20)).max())
    for pair in ([0, 1], [3, 17], [18, 19]):
        E = np.eye(20)
        E[pair[1]] = -0.6 * E[pair[0]] + 0.8 * E[pair[1]]
        assert coherence(7 * E) == pytest.approx(0.6)
    assert coherence(np.eye(3)) == 0
    assert coherence(D[:1]) == 0
    assert coherence(np.vstack([np.eye(3), np.zeros((2, 3))])) == 0


def test_atom_recovery_metrics(chunked, rng):
    D = np.linalg.qr(rng.normal(size=(30, 30)))[0]
    mixed = -3 * D[rng.permutation(30)]
    assert mcc(D, mixed) == pytest.approx(1)
    assert mmcs(D, mixed) == pytest.approx(1)
    E = D[:20].copy()
    assert mcc(D, E) == pytest.approx(1)  # all atoms of the smaller dictionary are matched
    assert mmcs(E, D) == pytest.approx(1)
    assert mmcs(D, E) == pytest.approx(20 / 30)
    E[:] = D[0]  # a repeated atom: a one-to-one matching uses its best match once
    assert mmcs(E, D) == pytest.approx(1)
    assert mcc(D, E) == pytest.approx(1 / 20)
    rotated = 0.8 * D[:2] + 0.6 * D[2:4]
    assert mcc(D[:2], rotated) == pytest.approx(0.8)
    assert mmcs(D, rotated) == pytest.approx((2 * 0.8 + 2 * 0.6) / 30)


def test_metrics_of_device_arrays(chunked, rng):
    C = rng.laplace(size=(40, 5)) * (rng.random((40, 5)) < 0.5)
    D, X = rng.normal(size=(5, 3)), rng.normal(size=(40, 3))
    with fake_cupy.installed() as cupy:
        device_x, device_c, device_d = (cupy.asarray(part) for part in (X, C, D))
        assert fvu(device_x, device_c, device_d) == pytest.approx(fvu(X, C, D))
        assert fvu(device_x, sparse.csr_matrix(C), D) == pytest.approx(fvu(X, C, D))
        assert fvu(X, device_c, device_d) == pytest.approx(fvu(X, C, D))
        assert (l0(device_c), l1(device_c)) == pytest.approx((l0(C), l1(C)))
        np.testing.assert_allclose(firing_frequencies(device_c), firing_frequencies(C))
        assert coherence(device_d) == pytest.approx(coherence(D))
        assert mmcs(device_d, D[1:]) == pytest.approx(mmcs(D, D[1:]))
        assert mcc(device_d, D[1:]) == pytest.approx(mcc(D, D[1:]))


# ---- out-of-core data ------------------------------------------------------------------------------------------------
def stored(kind, folder, **arrays):
    """Store the arrays as files, or wrap them as Dask arrays."""
    if kind == "dask":
        da = pytest.importorskip("dask.array")
        return [da.from_array(X, chunks=(500 + 200 * i, -(-X.shape[1] // 2))) for i, X in enumerate(arrays.values())]
    for name, X in arrays.items():
        np.save(folder / f"{name}.npy", X)
    paths = [folder / f"{name}.npy" for name in arrays]
    return [shards(path) for path in paths] if kind == "shards" else paths


@pytest.mark.parametrize("kind", ["path", "shards", pytest.param("dask", marks=pytest.mark.dask)])
def test_metrics_of_out_of_core_data(kind, tmp_path, rng):
    X, D = rng.laplace(size=(3000, 6)) + 2, rng.normal(size=(9, 6))
    C = rng.normal(size=(3000, 9)) * (rng.random((3000, 9)) < 0.3)
    x, c = stored(kind, tmp_path, x=X, c=C)
    expected_fvu = ((X - C @ D) ** 2).sum() / ((X - X.mean(axis=0)) ** 2).sum()
    assert metrics.fvu(x, c, D) == pytest.approx(expected_fvu, rel=1e-10)
    assert metrics.fvu(x, sparse.csr_array(C), D) == pytest.approx(expected_fvu, rel=1e-10)
    assert metrics.l1(c) == pytest.approx(abs(C).sum() / 3000)
    np.testing.assert_allclose(metrics.firing_frequencies(c), (C != 0).mean(axis=0))
    kurtosis = stats.kurtosis(X)
    np.testing.assert_allclose(metrics.excess_kurtosis(x), kurtosis, rtol=1e-8)
    assert metrics.matched_correlation(x, c)[0] == pytest.approx(metrics.matched_correlation(X, C)[0])
    W = rng.normal(size=(6, 6))
    assert metrics.mutual_information_reduction(x, W) == pytest.approx(metrics.mutual_information_reduction(X, W))


def test_mutual_information_by_chunks_matches_whole_columns(rng):
    """The reference is the definition, by NumPy's histograms of whole columns."""

    def entropy(x):
        counts, edges = np.histogram(x, 20)
        fraction = counts[counts > 0] / len(x)
        return -(fraction * np.log(fraction)).sum() + np.log(edges[1] - edges[0]) + (len(fraction) - 1) / (2 * len(x))

    X, W = rng.laplace(size=(30_000, 3)), rng.normal(size=(3, 3))
    sizes = []

    class Rows:
        shape, dtype, ndim = X.shape, X.dtype, 2

        def __getitem__(self, rows):
            sizes.append(len(X[rows]))
            return X[rows]

    expected = sum(map(entropy, X.T)) - sum(map(entropy, (X @ W.T).T)) + np.linalg.slogdet(W)[1]
    assert metrics.mutual_information_reduction(Rows(), W, bins=20) == pytest.approx(expected, abs=1e-4)
    assert max(sizes) < 10_000
