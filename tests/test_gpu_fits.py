"""Fits, codes and metrics on a GPU in special cases: little memory, streams, threads, files, and arrays of all kinds.

Tests that the fake CuPy supports run on it, too; `make test-gpu` runs all of them on a GPU.
"""

import threading

import numpy as np
import pytest

from gpuica import FastICA, MiniBatchDictionaryLearning, Picard, SparseCoder, device, metrics, shards, sparse_encode
from gpuica.device import Device
from gpuica.rows import device as rows_device

from .problems import amari, mixture

CUDA = Device("cuda", 0)


@pytest.fixture
def cp():
    return pytest.importorskip("cupy")


@pytest.fixture
def rng(request):
    """Generator with a random seed on a GPU, printed so that a failure can be reproduced, and with seed 0 otherwise."""
    seed = np.random.SeedSequence().entropy if request.node.get_closest_marker("gpu") else 0
    print(f"seed {seed}")
    return np.random.default_rng(seed)


@pytest.fixture
def memory_pool(cp):
    """CuPy's memory pool, emptied before and after the test; a limit set by the test is removed."""
    pool = cp.get_default_memory_pool()
    pool.free_all_blocks()
    device.log_once.cache_clear()
    yield pool
    pool.set_limit(size=0)
    pool.free_all_blocks()


def close(found, expected, fraction):
    """Assert equality up to a fraction of the largest absolute entry."""
    np.testing.assert_allclose(found, expected, atol=fraction * np.abs(expected).max())


# ---- several starts, threads, layouts --------------------------------------------------------------------------------
@pytest.mark.parametrize("learner", [FastICA, Picard])
def test_fit_runs_matches_cpu(cupy, learner):
    """With twelve runs, pending copies of small arrays reuse page-locked blocks."""
    X = mixture(3000, 4)[0]
    settings = {"random_state": 0, "max_iter": 100, "tol": 1e-6}
    host, covariance = learner(**settings).fit_runs(X, 12)
    on_device, covariance_device = learner(**settings).fit_runs(cupy.asarray(X), 12)
    np.testing.assert_allclose(covariance_device, covariance, rtol=1e-9)
    assert len(on_device) == 12
    for one, other in zip(on_device, host, strict=True):
        close(one, other, 1e-6)


@pytest.mark.parametrize("learner", [FastICA, Picard])
def test_best_of_twelve_starts_matches_cpu(cupy, learner):
    X = mixture(3000, 4)[0]
    host, on_device = (learner(random_state=0, n_init=12, tol=1e-6).fit(rows) for rows in (X, cupy.asarray(X)))
    close(on_device.components_, host.components_, 1e-6)
    assert on_device.n_iter_ == host.n_iter_


def test_fits_in_two_threads_match_sequential_fits(cupy):
    """Each thread has its own CuPy handles, buffers and stream, so concurrent fits do not interfere."""
    problems = [cupy.asarray(mixture(n, 5, seed=n)[0]) for n in (4000, 5000)]
    expected = [FastICA(random_state=0).fit(X).components_ for X in problems]
    found = {}

    def work(i):
        found[i] = [FastICA(random_state=0).fit(problems[i]).components_ for _ in range(5)]

    threads = [threading.Thread(target=work, args=[i]) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        for components in found[i]:
            np.testing.assert_array_equal(components, expected[i])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fortran_ordered_rows_match_c_ordered_rows(cupy, dtype):
    X = mixture(5000, 6, dtype=dtype)[0]
    expected, on_device = FastICA(random_state=0).fit(X), cupy.asarray(np.ascontiguousarray(X.T)).T
    assert on_device.flags.f_contiguous
    fit = FastICA(random_state=0).fit(on_device)
    close(fit.components_, expected.components_, 2e-3 if dtype == np.float32 else 1e-7)
    np.testing.assert_allclose(fit.transform(on_device).get(), fit.transform(X), atol=1e-4)


@pytest.mark.parametrize("kind", [">f4", ">f8", ">i4"])
@pytest.mark.parametrize("in_chunks", [False, True])
def test_big_endian_rows_match_native_rows(cupy, kind, in_chunks, monkeypatch):
    if in_chunks:
        monkeypatch.setattr(rows_device, "MAX_CHUNK_ELEMENTS", 1 << 13)
    X = (mixture(3000, 8)[0] * 1000).astype(kind)
    native = X.astype(X.dtype.newbyteorder("="))
    expected = FastICA(random_state=0, device="cuda").fit(native)
    fit = FastICA(random_state=0, device="cuda").fit(X)
    fraction = 1e-3 if kind == ">f4" else 1e-9  # non-native rows may be converted to float64
    close(fit.components_, expected.components_, fraction)
    close(fit.transform(X[:50]), expected.transform(native[:50]), fraction)


# ---- arrays of the device as parameters and in metrics ---------------------------------------------------------------
@pytest.mark.gpu
def test_dictionaries_and_initial_values_on_device(cp, rng):
    X, D = rng.normal(size=(300, 12)), rng.normal(size=(20, 12))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    settings = {"algorithm": "omp", "n_nonzero_coefs": 3}
    expected, on_device = sparse_encode(X, D, device="cpu", **settings), cp.asarray(D)
    for rows in (X, cp.asarray(X)):
        codes = sparse_encode(rows, on_device, **settings)
        assert type(codes) is type(rows)
        np.testing.assert_allclose(codes if rows is X else codes.get(), expected, atol=1e-9)
    coder = SparseCoder(on_device, transform_n_nonzero_coefs=3)
    np.testing.assert_allclose(coder.fit(cp.asarray(X)).transform(cp.asarray(X)).get(), expected, atol=1e-9)
    options = {"alpha": 0.3, "fit_algorithm": "omp", "transform_n_nonzero_coefs": 3, "max_iter": 1, "random_state": 0}
    first, second = (MiniBatchDictionaryLearning(20, dict_init=start, **options).fit(X) for start in (D, on_device))
    np.testing.assert_array_equal(first.components_, second.components_)
    start = rng.normal(size=(12, 12))
    first, second = (FastICA(w_init=w, max_iter=3, tol=1).fit(cp.asarray(X)) for w in (start, cp.asarray(start)))
    np.testing.assert_array_equal(first.components_, second.components_)


METRICS = {
    "amari_distance": lambda S, W, C, D: (W, D[: len(W), : len(W)]),
    "matched_correlation": lambda S, W, C, D: (S, S @ W),
    "relative_gradient": lambda S, W, C, D: (S,),
    "negentropy": lambda S, W, C, D: (S,),
    "excess_kurtosis": lambda S, W, C, D: (S,),
    "log_likelihood": lambda S, W, C, D: (S, W),
    "mutual_information_reduction": lambda S, W, C, D: (S, W),
    "l0": lambda S, W, C, D: (C,),
    "l1": lambda S, W, C, D: (C,),
    "firing_frequencies": lambda S, W, C, D: (C,),
    "dead_atoms": lambda S, W, C, D: (C,),
    "dense_atoms": lambda S, W, C, D: (C,),
    "explained_variance": lambda S, W, C, D: (C @ D, 0.9 * C, D),
    "fvu": lambda S, W, C, D: (C @ D, 0.9 * C, D),
    "coherence": lambda S, W, C, D: (D,),
    "mmcs": lambda S, W, C, D: (D, D[::-1] + 0.1),
    "mcc": lambda S, W, C, D: (D, D[::-1] + 0.1),
}


@pytest.mark.gpu
@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_device_arrays_match_host(cp, name, rng):
    S, W, D = rng.laplace(size=(2000, 4)), rng.normal(size=(4, 4)), rng.normal(size=(9, 6))
    C = rng.normal(size=(300, 9)) * (rng.uniform(size=(300, 9)) < 0.3)
    C[:, 5] = 0
    given, metric = METRICS[name](S, W, C, D), getattr(metrics, name)
    expected, found = metric(*given), metric(*map(cp.asarray, given))
    for one, other in zip(np.atleast_1d(expected), np.atleast_1d(found), strict=True):
        assert not isinstance(other, cp.ndarray)
        np.testing.assert_allclose(other, one, rtol=1e-6, atol=1e-9)


# ---- bfloat16 --------------------------------------------------------------------------------------------------------
@pytest.mark.gpu
def test_bfloat16_tensors_stay_on_the_device(cp, rng):
    torch = pytest.importorskip("torch")
    X = torch.from_numpy(mixture(50_000, 8)[0]).to("cuda", torch.bfloat16)
    X_float32 = X.float()
    for learner in (FastICA(random_state=0), Picard(random_state=0)):
        assert learner.fit(X).device_ == "cuda:0"
        components = learner.components_
        close(components, learner.fit(X_float32).components_, 1e-3)
    D = rng.normal(size=(20, 8))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    codes = sparse_encode(X[:500], D, algorithm="omp", n_nonzero_coefs=3)
    assert codes.is_cuda
    exact = sparse_encode(X_float32[:500].double().cpu().numpy(), D, algorithm="omp", n_nonzero_coefs=3)
    assert np.isclose(codes.double().cpu().numpy(), exact, rtol=2e-2, atol=2e-2).all(axis=1).mean() > 0.98


@pytest.mark.gpu
def test_bfloat16_cupy_arrays(cp):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    X = cp.asarray(mixture(50_000, 8, dtype=np.float32)[0])
    try:
        rounded = X.astype(ml_dtypes.bfloat16)
    except (TypeError, ValueError) as error:
        pytest.skip(f"this CuPy has no bfloat16: {error}")
    fit, expected = FastICA(random_state=0).fit(rounded), FastICA(random_state=0).fit(rounded.astype(np.float32))
    assert fit.device_ == "cuda:0"
    close(fit.components_, expected.components_, 1e-3)


# ---- little memory ---------------------------------------------------------------------------------------------------
@pytest.mark.gpu
def test_second_fit_of_rows_of_nearly_half_the_memory(cp, memory_pool):
    """Blocks that the first fit left in the pool, whole or split, must be available to the second."""
    X, A = mixture(1_000_000, 32, dtype=np.float32)
    on_device = cp.asarray(X)
    memory_pool.free_all_blocks()
    memory_pool.set_limit(size=int(on_device.nbytes / 0.45))
    for _ in range(2):
        fit = FastICA(random_state=0, tol=1e-3).fit(on_device)
        assert amari(fit.components_ @ A) < 0.01


@pytest.mark.gpu
def test_fit_respects_memory_pool_limit(cp, memory_pool):
    """With a limit of half the size of the rows, every pass transfers them from the host."""
    X, A = mixture(1_000_000, 32, dtype=np.float32)
    memory_pool.set_limit(size=X.nbytes // 2)
    assert CUDA.budget() <= X.nbytes // 4
    fit = FastICA(random_state=0, tol=1e-3, device="cuda").fit(X)
    assert amari(fit.components_ @ A) < 0.01
    assert memory_pool.total_bytes() <= X.nbytes // 2


@pytest.mark.parametrize("limit", ["20kB", "2MB"])
def test_transform_larger_than_memory_limit(cupy, limit, rng):
    """The result is transferred to the host in chunks."""
    X = mixture(60_000, 8)[0]
    fit = FastICA(random_state=0, device="cuda", tol=1e-3, memory_limit=limit).fit(X)
    centered = X - fit.mean_
    found = fit.transform(X)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, centered @ fit.components_.T, atol=1e-7)
    np.testing.assert_allclose(fit.inverse_transform(found), X, atol=1e-7)


# ---- streams and files -----------------------------------------------------------------------------------------------
@pytest.mark.gpu
@pytest.mark.parametrize("source", ["array", "files"])
def test_host_rows_on_stream_of_caller(cp, source, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_device, "MAX_CHUNK_ELEMENTS", 1 << 20)  # several chunks
    X, parts = mixture(400_000, 16, dtype=np.float32)[0], 3
    for i, part in enumerate(np.array_split(X, parts)):
        np.save(tmp_path / f"{i}.npy", part)
    settings = {"random_state": 0, "device": "cuda", "memory_limit": "8MB", "tol": 1e-3}

    def rows():
        return X if source == "array" else shards(tmp_path)

    expected = FastICA(**settings).fit(rows())
    for _ in range(3):
        with cp.cuda.Stream(non_blocking=True):
            fit = FastICA(**settings).fit(rows())
            sources = fit.transform(X[:1000])
        np.testing.assert_array_equal(fit.components_, expected.components_)
        np.testing.assert_array_equal(sources, expected.transform(X[:1000]))


@pytest.mark.parametrize("learner", [FastICA, Picard])
def test_resumed_fit_on_device_equals_uninterrupted_fit(cupy, learner, tmp_path):
    """A fit that is interrupted and resumed equals, bit for bit, one that is not interrupted."""
    X = cupy.asarray(mixture(30_000, 6)[0])
    settings = {"random_state": 0, "growth": None, "tol": 1e-7}
    expected = learner(**settings).fit(X)
    with pytest.warns(match="did not converge"):
        learner(max_iter=3, checkpoint=tmp_path, **settings).fit(X)
    fit = learner(checkpoint=tmp_path, **settings).fit(X)
    assert fit.n_iter_ == expected.n_iter_ > 3
    np.testing.assert_array_equal(fit.components_, expected.components_)
