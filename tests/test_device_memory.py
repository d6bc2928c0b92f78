"""Devices short of memory: limits of CuPy's memory pool, split blocks, and results larger than the device."""

import gc
import logging
from unittest.mock import Mock

import numpy as np
import pytest

from gpuica import FastICA, Picard, SparseCoder, device, shared, sums
from gpuica.device import Device, transfers
from gpuica.device.arrays import BFloat16
from gpuica.io.sources import Array
from gpuica.rows import device as rows_device
from gpuica.rows import open_rows, stream
from gpuica.rows.base import ProjectedRows
from gpuica.rows.device import DeviceRows

from .problems import mixture
from .ranks import ESTIMATORS, X0, on_ranks, rows_of

CUDA = Device("cuda", 0)
MB = 1 << 20


@pytest.fixture
def pool(cupy, monkeypatch):
    """CuPy's memory pool, without free blocks; its limit is removed after the test."""
    monkeypatch.setattr(device, "why_no_gpu", lambda: "")
    gc.collect()
    pool = cupy.get_default_memory_pool()
    pool.free_all_blocks()
    yield pool
    pool.set_limit(size=0)


def leave(pool, size):
    """Limit the pool to `size` bytes more than it holds."""
    pool.set_limit(size=pool.total_bytes() + size)


def test_budget_is_within_the_pool_limit(pool, cupy):
    before = CUDA.budget()
    leave(pool, 10 * MB)
    assert 4 * MB < CUDA.budget() <= 5 * MB < before
    held = cupy.empty(6 * MB, dtype=np.uint8)
    assert 1 * MB < CUDA.budget() <= 2 * MB
    assert not Device("cuda", 0, limit=1 << 40).fits(1 << 40)
    del held
    assert 4 * MB < CUDA.budget() <= 5 * MB  # unused memory is released first


def test_split_block_is_not_counted_as_free(pool, cupy):
    large = cupy.empty(40 * MB, dtype=np.uint8)
    del large
    small = cupy.empty(1000, dtype=np.uint8)  # of the same block
    assert pool.free_bytes() > 39 * MB
    pool.set_limit(size=pool.total_bytes() + 2 * MB)
    assert CUDA.budget() <= MB
    del small
    assert CUDA.budget() > 20 * MB


@pytest.mark.parametrize("learner", [FastICA, Picard])
def test_fit_within_the_pool_limit(pool, learner):
    X = mixture(100_000, 16, dtype=np.float32)[0]
    expected = learner(random_state=0, device="cuda").fit_transform(X)
    gc.collect()
    pool.free_all_blocks()
    leave(pool, int(2.8 * X.nbytes))
    np.testing.assert_allclose(learner(random_state=0, device="cuda").fit_transform(X), expected, atol=2e-2)


def test_rows_exceeding_device_memory_are_projected_in_each_pass(pool, cupy, rng, caplog):
    X, W = rng.normal(size=(40_000, 16)), rng.normal(size=(16, 16))
    rows = open_rows(X, dtype=X.dtype, device=CUDA, chunk_rows=1000)
    mean, components = cupy.asarray(X.mean(0)), cupy.asarray(W)
    leave(pool, 4 * MB)
    assert rows.device.fits(X.nbytes)  # such small arrays are stored without a check of the free memory
    with caplog.at_level(logging.WARNING, logger="gpuica"):
        projected = rows.projected(mean, components)
    assert isinstance(projected, ProjectedRows)
    assert caplog.text.count("cuda:0 has no room for a whitened copy of X") == 1
    (total,) = projected.sum(lambda chunk: ((chunk * chunk).sum(axis=0),))
    np.testing.assert_allclose(total.get(), (((X - X.mean(0)) @ W.T) ** 2).sum(axis=0), rtol=1e-9)
    pool.set_limit(size=0)
    again = rows.projected(mean, components)
    assert isinstance(again, DeviceRows)
    np.testing.assert_allclose(again.array.get(), (X - X.mean(0)) @ W.T, atol=1e-9)


@pytest.mark.parametrize("piece", [1 << 26, 10_000])
def test_results_larger_than_the_device(pool, piece, rng, monkeypatch):
    monkeypatch.setattr(transfers, "MAX_PIECE_BYTES", piece)
    X = mixture(40_000, 16)[0]
    fit = FastICA(random_state=0).fit(X[:5000])
    expected = fit.transform(X)
    D = rng.normal(size=(40, 16))
    coder = SparseCoder(D / np.linalg.norm(D, axis=1, keepdims=True), transform_algorithm="threshold", split_sign=True)
    codes = coder.transform(X)
    leave(pool, 4 * MB)
    for estimator in (fit, coder):
        estimator.set_params(device="cuda")
    found = fit.transform(X)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, expected, atol=1e-9)
    np.testing.assert_allclose(fit.inverse_transform(found), X, atol=1e-9)
    np.testing.assert_allclose(coder.transform(X), codes, atol=1e-9)
    np.testing.assert_allclose(coder.inverse_transform(codes), codes @ np.vstack([coder.dictionary, -coder.dictionary]))
    assert pool.total_bytes() <= pool.get_limit()


def test_result_exceeding_device_memory_raises_without_out(pool, cupy, rng):
    X = mixture(40_000, 16)[0]
    fit = FastICA(random_state=0).fit(X[:5000])
    coder = SparseCoder(np.eye(16), transform_algorithm="threshold", transform_alpha=0.1)
    on_device, out = cupy.asarray(X), np.empty_like(X)
    gc.collect()
    pool.free_all_blocks()
    leave(pool, 2 * MB)
    for estimator in (fit, coder):
        with pytest.raises(MemoryError, match=r"the result, 40000 x 16, takes 5.1 MB.* transform\(X, out="):
            estimator.transform(on_device)
        estimator.transform(on_device, out=out)
        np.testing.assert_allclose(out, estimator.transform(X), atol=1e-9)


def test_cached_blocks_of_a_stream_respect_the_pool_limit(pool, rng, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_BYTES", 640_000)
    X = rng.normal(size=(100_000, 8))
    leave(pool, 5 * MB)
    rows = open_rows(Array(X, slow=True), dtype=X.dtype, device=CUDA, chunk_rows=1000)
    for _ in range(2):
        (total,) = rows.sum(lambda chunk: (chunk.sum(axis=0),))
        np.testing.assert_allclose(total.get(), X.sum(axis=0), atol=1e-8)
    assert 0 < len(rows.cached_blocks) < 10


# ---- no rows ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("on_device", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_sums_of_no_rows(cupy, on_device, weighted):
    X = np.empty((0, 3))
    rows = open_rows(
        cupy.asarray(X) if on_device else X, dtype=X.dtype, device=CUDA, weights=np.empty(0) if weighted else None
    )

    def total(chunk, weights=None):
        assert isinstance(chunk, cupy.ndarray)
        assert (weights is not None) == weighted
        return chunk.sum(axis=0), chunk.T @ chunk

    mean, square = rows.sum(total)
    np.testing.assert_array_equal(mean.get(), np.zeros(3))
    np.testing.assert_array_equal(square.get(), np.zeros((3, 3)))
    assert rows.map(lambda chunk: chunk[:, :2] * 2).shape == (0, 2)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("name", ["FastICA", "deflation", "median", "Picard", "DictionaryLearning", "MiniBatch"])
@pytest.mark.parametrize("on_device", [True, False])
def test_rank_without_rows(pool, cupy, name, on_device):
    expected = ESTIMATORS[name]().fit(X0)

    def work(comm):
        X = X0[rows_of(comm)]
        model = ESTIMATORS[name]().set_params(device="cuda")
        return model.fit(shared(cupy.asarray(X) if on_device else X, comm))

    for model in on_ranks(3, work):
        assert model.device_ == "cuda:0"
        atol = 1e-2 if name in ("DictionaryLearning", "MiniBatch") else 1e-5
        np.testing.assert_allclose(model.components_, expected.components_, atol=atol)


@pytest.mark.parametrize("kind", ["float32", "int16, columns first", "big-endian", "bfloat16"])
@pytest.mark.parametrize("fits", [True, False])
def test_host_rows_are_uploaded_once_if_they_fit(pool, cupy, kind, fits, rng, monkeypatch):
    X = rng.normal(size=(700, 6)).astype(np.float32)
    stored = {
        "float32": X,
        "int16, columns first": np.asfortranarray((100 * X).astype(np.int16)),
        "big-endian": X.astype(">f4"),
        "bfloat16": BFloat16((X.view(np.uint32) >> 16).astype(np.uint16)),
    }[kind]
    upload_chunks = Mock(wraps=transfers.upload_chunks)
    monkeypatch.setattr(rows_device, "upload_chunks", upload_chunks)
    target = Device("cuda", 0, limit=None if fits else 1000)
    rows = open_rows(stored, dtype=np.dtype(np.float32), device=target, chunk_rows=100).upload()
    totals = [rows.sum(sums.total)[0].get() for _ in range(3)]
    assert upload_chunks.call_count == (1 if fits else 3)
    assert rows.n_passes == 3
    expected = np.asarray(stored[:] if kind == "bfloat16" else stored).astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(totals, [expected] * 3, rtol=1e-5, atol=1e-3)


def test_upload_exceeding_an_outdated_budget_is_not_an_error(pool, cupy, monkeypatch):
    X = np.ones((70_000, 16), dtype=np.float32)
    monkeypatch.setattr(Device, "budget", lambda self: 1 << 40)
    leave(pool, 2 * MB)
    rows = open_rows(X, dtype=X.dtype, device=CUDA, chunk_rows=1000).upload()
    np.testing.assert_array_equal(rows.sum(sums.total)[0].get(), 70_000)
