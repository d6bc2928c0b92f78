"""bfloat16 arrays on a device or transferred to it: processed on the device in chunks of float32."""

import logging

import numpy as np
import pytest

from gpuica import FastICA, Picard, SparseCoder, metrics, sparse_encode, spool
from gpuica.device import CPU, Device, array_device, arrays, choose_device
from gpuica.rows import open_rows

from .problems import mixture

CUDA = Device("cuda", 0)


def bits_of(X):
    """X truncated to bfloat16: (bits as uint16, the numbers that they represent as float32)."""
    bits = (np.ascontiguousarray(X, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return bits, (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.fixture
def as_bfloat16(cupy):
    """A function from a NumPy array to (CuPy array of ml_dtypes.bfloat16, the float32 numbers that it holds)."""
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16

    def convert(X):
        bits, numbers = bits_of(X)
        return cupy.asarray(bits).view(bfloat16), numbers

    return convert


@pytest.fixture
def X():
    return mixture(2000, 4, dtype=np.float32)[0]


@pytest.mark.parametrize("learner", [FastICA, Picard])
def test_fit_on_device(as_bfloat16, cupy, learner, X):
    on_device, numbers = as_bfloat16(X)
    host, fit = learner(random_state=0).fit(numbers), learner(random_state=0)
    sources = fit.fit_transform(on_device)
    assert fit.device_ == "cuda:0"
    assert isinstance(sources, cupy.ndarray)
    assert sources.dtype == fit.components_.dtype == np.float32
    np.testing.assert_allclose(fit.components_, host.components_, atol=1e-3 * np.abs(host.components_).max())
    np.testing.assert_allclose(fit.transform(on_device).get(), host.transform(numbers), atol=1e-2)


def test_chunks_are_decoded_on_device(as_bfloat16, cupy, X):
    on_device, numbers = as_bfloat16(X)
    array, back = arrays.unwrap(on_device)
    assert array_device(array) == CUDA == choose_device("auto", array, work=0)
    rows = open_rows(array, dtype=array.dtype, device=CUDA, chunk_rows=300)
    sizes = []

    def total(chunk):
        assert isinstance(chunk, cupy.ndarray)
        sizes.append((len(chunk), chunk.dtype))
        return (chunk.sum(axis=0, dtype=np.float64),)

    np.testing.assert_allclose(rows.sum(total)[0].get(), numbers.sum(axis=0, dtype=np.float64), rtol=1e-9, atol=1e-6)
    assert sizes == [(300, np.float32)] * 6 + [(200, np.float32)]
    np.testing.assert_array_equal(rows.take(np.array([3, 1])).get(), numbers[[3, 1]])
    assert isinstance(back(np.ones(3)), cupy.ndarray)


def test_host_bits_are_transferred_undecoded(cupy, X, monkeypatch):
    from gpuica.rows import device as rows_device

    bits, numbers = bits_of(X)
    dtypes = []

    def recording_upload(parts, device):
        for part in parts:
            dtypes.append(part.dtype)
            yield device.put(part)

    monkeypatch.setattr(rows_device, "upload_chunks", recording_upload)
    rows = open_rows(arrays.BFloat16(bits), dtype=np.dtype(np.float32), device=CUDA, chunk_rows=300)
    (total,) = rows.sum(lambda chunk: (chunk.sum(axis=0, dtype=np.float64),))
    np.testing.assert_allclose(total.get(), numbers.sum(axis=0, dtype=np.float64), rtol=1e-9, atol=1e-6)
    assert set(dtypes) == {np.dtype(np.uint16)}


def test_host_batches_are_decoded_on_device(cupy, X, monkeypatch):
    from gpuica.rows import chunked

    bits, numbers = bits_of(X)
    kinds, decode = [], chunked.bfloat16_to_float32
    monkeypatch.setattr(chunked, "bfloat16_to_float32", lambda part: kinds.append(type(part)) or decode(part))
    rows = open_rows(arrays.BFloat16(bits), dtype=np.dtype(np.float32), device=CUDA, chunk_rows=300)
    np.testing.assert_array_equal(rows.take(np.array([5, 2])).get(), numbers[[5, 2]])
    order = np.random.RandomState(0).permutation(2000)
    for batches, starts in (
        (rows.batches(500, np.random.RandomState(0)), range(0, 2000, 500)),
        (rows.epochs(500), range(0, 1000, 500)),
    ):
        for start, batch in zip(starts, batches, strict=False):
            wanted = np.sort(order[start : start + 500]) if len(starts) == 4 else np.arange(start, start + 500)
            np.testing.assert_array_equal(batch.map(lambda chunk: chunk).get(), numbers[wanted])
    assert set(kinds) == {cupy.ndarray}


def test_nan_on_device_raises(as_bfloat16, X):
    X[7, 1] = np.nan
    on_device, _ = as_bfloat16(X)
    for whiten in ("unit-variance", False):
        with pytest.raises(ValueError, match="NaN"):
            FastICA(whiten=whiten).fit(on_device)


def test_sparse_encode_and_sparse_coder(as_bfloat16, cupy, X, rng):
    on_device, numbers = as_bfloat16(X)
    D, atoms = as_bfloat16(rng.normal(size=(6, 4)))
    expected = sparse_encode(numbers, atoms, algorithm="omp", n_nonzero_coefs=2)
    found = sparse_encode(on_device, D, algorithm="omp", n_nonzero_coefs=2)
    assert isinstance(found, cupy.ndarray)
    np.testing.assert_allclose(found.get(), expected, atol=1e-3)
    np.testing.assert_allclose(SparseCoder(D, transform_n_nonzero_coefs=2).transform(numbers), expected, atol=1e-6)


def test_spool_of_device_chunks(as_bfloat16, X, tmp_path):
    on_device, numbers = as_bfloat16(X)
    rows = spool((on_device[i : i + 700] for i in range(0, 2000, 700)), tmp_path / "rows")
    np.testing.assert_array_equal(rows[:], numbers)


def test_metrics(as_bfloat16, rng):
    on_device, numbers = as_bfloat16(rng.laplace(size=(300, 3)))
    np.testing.assert_allclose(metrics.excess_kurtosis(on_device), metrics.excess_kurtosis(numbers), rtol=1e-6)
    found, expected = (metrics.amari_distance(part[:3], np.eye(3)) for part in (on_device, numbers))
    assert found == expected


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_fit_of_numpy_bfloat16(cupy, device, X, caplog):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    bits, numbers = bits_of(X)
    with caplog.at_level(logging.WARNING, logger="gpuica"):
        fit = FastICA(random_state=0, device=device).fit(bits.view(bfloat16))
    assert fit.device_ == str(CPU if device == "cpu" else CUDA)
    expected = FastICA(random_state=0).fit(numbers).components_
    np.testing.assert_allclose(fit.components_, expected, atol=1e-3 * np.abs(expected).max())


@pytest.mark.torch
@pytest.mark.gpu
def test_fit_of_torch_bfloat16():
    torch = pytest.importorskip("torch")
    X = torch.from_numpy(mixture(20_000, 4)[0]).cuda().to(torch.bfloat16)
    fit, expected = FastICA(random_state=0), FastICA(random_state=0).fit(X.float())
    sources = fit.fit_transform(X)
    assert fit.device_ == "cuda:0"
    assert sources.device == X.device
    np.testing.assert_allclose(fit.components_, expected.components_, atol=1e-3 * np.abs(expected.components_).max())
