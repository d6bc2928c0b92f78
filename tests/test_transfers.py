"""Host-device transfers: uploads in chunks, asynchronous copies to the host, smaller chunks if memory is short."""

import itertools
import logging
import threading
from contextlib import closing

import numpy as np
import pytest

from gpuica import FastICA, device, sums
from gpuica.contrasts import LogCosh
from gpuica.device import Device, transfers
from gpuica.io.sources import Array
from gpuica.rows import open_rows
from gpuica.rows.base import project_chunk, round_projection
from gpuica.rows.device import default_chunk_rows

from . import fake_cupy, naive
from .problems import mixture

CUDA = Device("cuda", 0)


@pytest.mark.parametrize("kind", ["rows", "columns", "strided", "int16", "large"])
def test_uploaded_chunks_equal_their_sources(cupy, kind, rng, monkeypatch):
    monkeypatch.setattr(transfers, "MIN_THREADED_COPY_BYTES", 1000 if kind == "large" else 1 << 22)
    X = rng.normal(size=(400, 6)).astype(np.float32)
    X = {"columns": np.asfortranarray(X), "strided": np.repeat(X, 2, 1)[:, ::2], "int16": (9 * X).astype("i2")}.get(
        kind, X
    )
    cuts = [0, 3, 13, 14, 90, 380, 400]  # the buffers must grow
    parts = [X[a:b] for a, b in itertools.pairwise(cuts)]
    n_uploaded = 0
    for part, on_device in zip(parts, transfers.upload_chunks(parts, CUDA), strict=True):
        assert isinstance(on_device, cupy.ndarray)
        assert (on_device.dtype, on_device.shape) == (part.dtype, part.shape)
        np.testing.assert_array_equal(on_device.get(), part)
        n_uploaded += 1
    assert n_uploaded == len(parts)


def test_buffers_are_reused_only_after_their_copy_and_use(cupy, rng):
    if not hasattr(cupy.ndarray, "_wait"):
        pytest.skip("only the fake device keeps a log")
    fake_cupy.log.clear()
    parts = list(rng.normal(size=(8, 5, 2)))
    with closing(transfers.upload_chunks(parts, CUDA)) as uploads:
        for number, _ in enumerate(uploads):
            fake_cupy.log.append(("use", number))
    log = fake_cupy.log
    uses = [position for position, entry in enumerate(log) if entry[0] == "use"]
    for number in range(transfers.N_PINNED_BUFFERS, len(parts)):
        before = log[uses[number - 1] : uses[number]]  # logged between the previous use and this one
        first = (
            log[uses[number - transfers.N_PINNED_BUFFERS - 1] + 1 : uses[number - transfers.N_PINNED_BUFFERS]]
            if number > 3
            else log[:5]
        )
        copied = [entry[1] for entry in first if entry[0] == "record"]
        # the host waits before it overwrites the buffer
        assert next(entry[1] for entry in before if entry[0] == "synchronize") in copied
        used = log[uses[number - transfers.N_DEVICE_BUFFERS] + 1]
        assert used[0] == "record"
        assert ("wait", used[1]) in before  # the upload stream waits before it overwrites device memory


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("piece", [1, 100, 1000])
def test_chunks_are_uploaded_in_pieces(cupy, piece, order, rng, monkeypatch):
    """The fake device reads page-locked memory as late as possible."""
    monkeypatch.setattr(transfers, "MAX_PIECE_BYTES", piece)
    X = np.asarray(rng.normal(size=(90, 6)), order=order)
    uploaded = [on_device.copy() for on_device in transfers.upload_chunks([X[:40], X[40:41], X[41:]], CUDA)]
    np.testing.assert_array_equal(np.concatenate([part.get() for part in uploaded]), X)


@pytest.mark.parametrize("limit", [1, 1 << 22])
def test_download(cupy, limit, rng, monkeypatch):
    monkeypatch.setattr(transfers, "MIN_THREADED_COPY_BYTES", limit)
    for array in (rng.normal(size=(40, 5)), rng.normal(size=(40, 5)).T, rng.normal(size=7), rng.normal(size=(2, 3, 4))):
        found = transfers.download(cupy.asarray(array))
        assert isinstance(found, np.ndarray)
        np.testing.assert_array_equal(found, array)
        assert transfers.download(array) is array


@pytest.mark.parametrize("large", [True, False])
def test_array_of_one_chunk_is_uploaded_by_upload_chunks_if_large(cupy, large, rng, monkeypatch):
    X, parts = rng.normal(size=(50, 4)), []

    def recorded(chunks, device, send=transfers.upload_chunks):
        return send((parts.append(part) or part for part in chunks), device)

    monkeypatch.setattr("gpuica.rows.device.MIN_THREADED_COPY_BYTES", X.nbytes - large)
    monkeypatch.setattr("gpuica.rows.device.upload_chunks", recorded)
    rows = open_rows(X, dtype=X.dtype, device=CUDA)
    np.testing.assert_allclose(rows.sum(sums.total)[0].get(), X.sum(axis=0), rtol=1e-12)
    assert len(parts) == large


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i2"])
@pytest.mark.parametrize("chunk_rows", [70, 500])
def test_big_endian_input(cupy, chunk_rows, dtype, rng):
    X = (9 * rng.normal(size=(500, 4))).astype(dtype)
    rows = open_rows(X, dtype=np.dtype(float), device=CUDA, chunk_rows=chunk_rows)
    np.testing.assert_allclose(rows.sum(sums.total)[0].get(), X.sum(axis=0, dtype=float), rtol=1e-9)


@pytest.mark.parametrize("piece", [1, 100, 1 << 26])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_download_writer(cupy, dtype, piece, rng, monkeypatch):
    monkeypatch.setattr(transfers, "MAX_PIECE_BYTES", piece)
    monkeypatch.setattr(transfers, "MIN_THREADED_COPY_BYTES", 200)
    X = rng.normal(size=(300, 3))
    writer = transfers.DownloadWriter(X.shape, np.dtype(dtype), CUDA)
    for a, b in itertools.pairwise([0, 1, 50, 51, 200, 300]):
        part = cupy.asarray(X[a:b]) if a % 2 else cupy.asarray(X[a:b].T.copy()).T
        writer.write(part)
        part *= 0  # the result of a chunk is overwritten by the result of the next
    writer.close()
    np.testing.assert_array_equal(writer.array, X.astype(dtype))


def test_page_locked_memory_is_reused_by_the_next_pass(cupy, rng, monkeypatch):
    allocated, allocate = [], cupy.cuda.alloc_pinned_memory
    monkeypatch.setattr(cupy.cuda, "alloc_pinned_memory", lambda size: allocated.append(size) or allocate(size))
    for size in (100, 120, 101):
        for _ in transfers.upload_chunks(rng.normal(size=(5, size, 8)), CUDA):
            pass
    assert allocated == [8192] * 3 * transfers.N_PINNED_BUFFERS  # CuPy keeps freed blocks by their size


@pytest.mark.parametrize("source", [lambda X: X, Array], ids=["array", "stream"])
def test_threads_end_when_a_pass_fails(cupy, source, rng, monkeypatch):
    """Also while the exception, and with it the frames of its traceback, is still referenced."""
    monkeypatch.setattr(transfers, "MIN_THREADED_COPY_BYTES", 1)
    rows = open_rows(source(rng.normal(size=(500, 4))), dtype=np.dtype(float), device=CUDA, chunk_rows=70)

    def fails(chunk):
        raise ZeroDivisionError

    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError) as error:
        rows.sum(fails)
    assert set(threading.enumerate()) == before
    assert error.value.__traceback__


@pytest.mark.parametrize("weighted", [False, True])
def test_sums_of_a_host_array_on_the_device(cupy, weighted, rng):
    X, W = rng.normal(size=(500, 4)), rng.normal(size=(3, 4))
    w = rng.integers(0, 3, size=500).astype(float) if weighted else None
    rows = open_rows(X, dtype=X.dtype, device=CUDA, chunk_rows=70, weights=w)
    on_device = rows.sum(sums.fixed_point, cupy.asarray(W), LogCosh())
    repeated = X if w is None else np.repeat(X, w.astype(int), axis=0)
    for found, expected in zip(on_device, naive.fixed_point(repeated, W, "logcosh"), strict=True):
        np.testing.assert_allclose(found.get(), expected, rtol=1e-9, atol=1e-9)
    projection = round_projection(X.mean(0), W, X.dtype)
    np.testing.assert_allclose(
        rows.map(project_chunk, tuple(map(cupy.asarray, projection))).get(), (X - X.mean(0)) @ W.T
    )


class Tight:
    """A contribution or function that runs out of memory on chunks of more than `room` rows."""

    def __init__(self, cupy, room, function):
        self.error, self.room, self.function, self.seen = cupy.cuda.memory.OutOfMemoryError, room, function, []

    def __call__(self, chunk, *params, **weights):
        if len(chunk) > self.room:
            raise self.error(1, 2) if self.error.__module__.startswith("cupy") else self.error
        self.seen.append(len(chunk))
        return self.function(chunk, *params, **weights)


@pytest.mark.parametrize("host", [True, False])
def test_out_of_memory_halves_the_chunks_and_is_logged_once(cupy, host, rng, caplog):
    X, w = rng.normal(size=(500, 4)), rng.integers(0, 3, size=500).astype(float)
    rows = open_rows(X if host else cupy.asarray(X), dtype=X.dtype, device=CUDA, chunk_rows=200, weights=w)
    tight = Tight(cupy, 60, sums.total)
    with caplog.at_level(logging.WARNING, logger="gpuica"):
        (total,) = rows.sum(tight)
        assert tight.seen == [50] * 10
        tight.seen.clear()
        (again,) = rows.sum(tight)
    np.testing.assert_allclose(total.get(), w @ X, rtol=1e-12)
    np.testing.assert_array_equal(total.get(), again.get())
    assert tight.seen == [50] * 10
    assert len([r for r in caplog.records if "ran out of memory" in r.message]) == 1


def test_out_of_memory_in_place(cupy, rng):
    X = rng.normal(size=(500, 4))
    on_device = cupy.asarray(X)
    rows = open_rows(on_device, dtype=X.dtype, device=CUDA, chunk_rows=200)
    out = rows.map(Tight(cupy, 90, lambda chunk: 2 * chunk), out=on_device)
    assert out is on_device
    np.testing.assert_array_equal(out.get(), 2 * X)


def test_out_of_memory_for_one_row_raises(cupy, rng):
    rows = open_rows(rng.normal(size=(9, 2)), dtype=np.dtype(float), device=CUDA, chunk_rows=4)
    with pytest.raises(MemoryError, match=r"memory of cuda:0 is too small for the work on one row"):
        rows.sum(Tight(cupy, 0, sums.total))


def test_fit_of_a_host_array_on_the_device(cupy, monkeypatch):
    monkeypatch.setattr(device, "why_no_gpu", lambda: "")
    monkeypatch.setattr("gpuica.rows.device.MAX_CHUNK_ELEMENTS", 3000)
    X = mixture(3000, 4)[0]
    host, on_device = FastICA(random_state=0).fit(X), FastICA(random_state=0, device="cuda").fit(X)
    assert on_device.device_ == "cuda:0"
    np.testing.assert_allclose(on_device.components_, host.components_, atol=1e-7 * np.abs(host.components_).max())


def test_host_copy_contains_the_values_at_the_time_of_the_copy(cupy, rng):
    X = cupy.asarray(rng.normal(size=5))
    host_copy = transfers.copy_to_host(X, X.sum(), X > 0)
    before = X.get()
    X *= 0
    values, total, positive = host_copy.read()
    assert host_copy.pending
    np.testing.assert_array_equal(values, before)
    np.testing.assert_allclose(total, before.sum())
    np.testing.assert_array_equal(positive, before > 0)
    assert not transfers.copy_to_host(before).pending


@pytest.mark.parametrize("n_unread", [1, 3])
def test_unread_copy_does_not_write_to_reused_memory(cupy, n_unread, rng):
    X = cupy.asarray(rng.normal(size=5))
    for _ in range(n_unread):
        transfers.copy_to_host(X)  # discarded immediately, as after the last iteration of a fit
    blocks = [transfers.pinned_empty(cupy.cuda, 5, float) for _ in range(n_unread)]
    for block in blocks:
        block[:] = 7
    X.sum().get()  # synchronizes with the device
    for block in blocks:
        np.testing.assert_array_equal(block, 7)


def test_buffers_of_completed_copies_are_released(cupy, rng):
    X = cupy.asarray(rng.normal(size=5))
    for _ in range(5):
        transfers.copy_to_host(X)
    X.sum().get()
    transfers.copy_to_host(X)
    assert len(transfers._copies) == 1


def test_other_thread_uses_the_captured_device_and_stream(cupy):
    seen = []

    def work(captured_context):
        with captured_context():
            seen.append((cupy.cuda.runtime.getDevice(), cupy.cuda.get_current_stream().ptr))

    with cupy.cuda.Stream(non_blocking=True) as stream:
        thread = threading.Thread(target=work, args=(transfers.capture_context(cupy),))
        thread.start()
        thread.join()
    assert seen == [(0, stream.ptr)]


def test_default_chunks_fit_the_cache_or_amortize_their_launches(cupy):
    if not hasattr(cupy.ndarray, "_wait"):
        pytest.skip("sizes of the fake device")
    for k in (1, 4, 64, 512, 4096):
        rows = default_chunk_rows(k, CUDA)
        in_cache = 4 * rows * k <= (50 << 20) / 4
        assert in_cache or 4 * rows * k * k <= 7e10  # operations
        assert rows * k <= 1 << 26
    assert default_chunk_rows(512, Device("cuda", 0, limit=1 << 20)) == 16
    assert default_chunk_rows(1 << 30, CUDA) == 1
