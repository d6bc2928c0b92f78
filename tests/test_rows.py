"""The contract of Rows: sums and maps do not depend on chunks, threads or memory order; two runs agree bit for bit."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuica import device, shards, sums
from gpuica.contrasts import LogCosh
from gpuica.device import CPU, Device, threads
from gpuica.device.threads import host_threads, run_in_threads
from gpuica.rows import host, open_rows
from gpuica.rows.base import ProjectedRows
from gpuica.rows.host import HostRows
from gpuica.rows.shared import SharedRows
from gpuica.rows.stream import StreamRows
from gpuica.rows.threaded import InOrderConsumer, RunningTotals


def column_sum(chunk):
    return (chunk.sum(axis=0),)


def plus_one(chunk):
    return chunk + 1


@pytest.mark.parametrize("storage", ["array", "file"])
def test_a_subset_keeps_its_weights(storage, rng, tmp_path):
    X, weights = rng.normal(size=(50, 3)), rng.random(50)
    source = X
    if storage == "file":
        np.save(tmp_path / "rows.npy", X)
        source = shards(tmp_path / "rows.npy")
    rows = open_rows(source, dtype=np.float64, device=CPU, chunk_rows=20, weights=weights)
    subset = rows.subset([41, 7, 7])
    np.testing.assert_array_equal(subset.weights, weights[[41, 7, 7]])
    np.testing.assert_allclose(subset.weight, weights[[41, 7, 7]].sum())


def test_sum_and_map(as_rows, rng):
    X = rng.normal(size=(1003, 5))
    rows = as_rows(X)
    assert (rows.n_rows, rows.n_features, rows.dtype, rows.xp) == (1003, 5, np.float64, np)
    np.testing.assert_allclose(rows.sum(column_sum)[0], X.sum(0), rtol=1e-12)
    np.testing.assert_array_equal(rows.map(plus_one), X + 1)
    out = np.empty_like(X)
    assert rows.map(plus_one, out=out) is out
    np.testing.assert_array_equal(out, X + 1)
    assert rows.n_passes == 3


class Longest:
    """Accumulator for `reduce`: the sum of all rows (d,), and the two rows of largest norm (2, d), largest first."""

    def __init__(self, n_features):
        self.total, self.longest = np.zeros(n_features), np.zeros((0, n_features))

    def add(self, chunk):
        self.merge((chunk.sum(axis=0),), (chunk,))

    added = property(lambda self: (self.total,))
    kept = property(lambda self: (self.longest,))

    def merge(self, added, kept):
        self.total += added[0]
        both = np.concatenate([self.longest, kept[0]])
        self.longest = both[np.argsort(-(both**2).sum(axis=1), kind="stable")[:2]]


def itself(chunk):
    return chunk


def test_for_each_preserves_order_and_reduce_accumulates(as_rows, rng):
    X = rng.normal(size=(1003, 5))
    rows, parts = as_rows(X), []
    rows.for_each(parts.append, itself)
    np.testing.assert_array_equal(np.concatenate(parts), X)
    total = rows.reduce(Longest, (5,), plus_one)
    np.testing.assert_allclose(total.total, (X + 1).sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(total.longest, X[np.argsort(-((X + 1) ** 2).sum(axis=1))[:2]] + 1)
    assert rows.n_passes == 2


def test_take_and_subset_by_index(as_rows, rng):
    X = rng.normal(size=(1003, 5))
    rows, indices = as_rows(X), rng.integers(0, 1003, size=50)
    np.testing.assert_array_equal(rows.take(indices), X[indices])
    np.testing.assert_array_equal(rows.subset(indices).to_memory().map(itself), X[indices])
    np.testing.assert_array_equal(rows.to_memory().map(itself), X)
    assert len(rows.take(indices[:0])) == 0


def test_random_batches_do_not_depend_on_storage(as_rows, rng):
    X = rng.normal(size=(1003, 5))
    rows, in_memory = as_rows(X), HostRows(X).batches(300, np.random.RandomState(3))
    if isinstance(rows, StreamRows):
        pytest.skip("streamed rows are drawn in short runs: see test_stream")
    for batch, expected in zip(rows.batches(300, np.random.RandomState(3)), in_memory, strict=True):
        np.testing.assert_array_equal(batch.to_memory().map(itself), expected.map(itself))


@pytest.mark.parametrize("weighted", [False, True])
def test_batches_in_memory_have_equal_chunks_that_are_copied_when_read(weighted, rng):
    X, w = rng.normal(size=(5003, 3)), rng.integers(0, 3, size=5003).astype(float)
    rows, seen = HostRows(X, chunk_rows=300, weights=w if weighted else None), []

    def seen_and_sum(chunk, weights=None):
        seen.append(len(chunk))
        return chunk.sum(axis=0) if weights is None else weights @ chunk, np.array(1.0)

    batch = next(rows.batches(3000, np.random.RandomState(0)))
    order = np.sort(np.random.RandomState(0).permutation(5003)[:3000])
    X[order[0]] += 1  # seen, because the rows are not copied yet
    total, n_chunks = batch.sum(seen_and_sum)
    np.testing.assert_allclose(total, (w[order] if weighted else np.ones(3000)) @ X[order], rtol=1e-10)
    assert n_chunks == 16
    assert max(seen) - min(seen) <= 16
    np.testing.assert_array_equal(batch.take(np.array([5, 7])), X[order[[5, 7]]])


def test_sample_is_copied_at_once(rng):
    X = rng.normal(size=(5003, 3))
    sample = HostRows(X).sample(3000, np.random.RandomState(0))
    before = sample.map(itself)
    X += 1
    np.testing.assert_array_equal(sample.map(itself), before)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 300), d=st.integers(1, 9), chunk=st.integers(1, 310), k=st.integers(1, 4))
def test_sums_do_not_depend_on_chunk_size(n, d, chunk, k):
    rng = np.random.default_rng(n)
    X, W = rng.normal(size=(n, d)), rng.normal(size=(k, d))
    whole, cut = (HostRows(X, chunk_rows=rows).sum(sums.fixed_point, W, LogCosh()) for rows in (n, chunk))
    for one, many in zip(whole, cut, strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-10, atol=1e-10)


def test_sums_do_not_depend_on_number_of_threads(rng, monkeypatch):
    X, W = rng.normal(size=(20_000, 40)).astype(np.float32), rng.normal(size=(40, 40)).astype(np.float32)
    results = []
    for n_threads in (1, 2, 5):
        monkeypatch.setattr(threads, "host_threads", lambda n=n_threads: n)
        monkeypatch.setattr(host, "MIN_WORK_FOR_THREADS", 0)
        results.append(HostRows(X, chunk_rows=500).sum(sums.fixed_point, W, LogCosh()))
    for other in results[1:]:
        for expected, found in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(expected, found)


def test_partial_sums_are_added_in_chunk_order():
    parts = [np.array([x]) for x in (1.0, 1e16, -1e16, 3.0)]  # 1 + 1e16 - 1e16 + 3 = 3; another order gives 4
    for arrival in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [3, 0, 2, 1]):
        totals = RunningTotals()
        order = InOrderConsumer(totals.add)
        for i in arrival:
            order.add(i, (parts[i],))
        assert totals.sums[0] == 3.0


def test_for_each_accepts_the_chunk_as_result(as_rows, rng):
    X, parts = rng.normal(size=(1003, 5)), []
    as_rows(X).for_each(parts.append, np.asarray)
    np.testing.assert_array_equal(np.concatenate(parts), X)


def test_totals_are_float64_for_float32_rows():
    X = np.full((1 << 20, 1), 0.1, dtype=np.float32)
    total = HostRows(X).sum(column_sum)[0]
    assert total.dtype == np.float64
    assert abs(total[0] / (len(X) * float(X[0, 0])) - 1) < 1e-6


@pytest.mark.parametrize("stored", [True, False])
def test_projected_rows(as_rows, rng, monkeypatch, stored):
    X = rng.normal(size=(501, 6)) + 100
    K, W = rng.normal(size=(4, 6)), rng.normal(size=(3, 4))
    if not stored:
        monkeypatch.setattr(device, "ALWAYS_FITS_BYTES", 0)
        monkeypatch.setattr(type(CPU), "budget", lambda self: 0)
    rows = as_rows(X).projected(X.mean(0), K)
    Z = (X - X.mean(0)) @ K.T
    assert isinstance(rows, ProjectedRows) != (stored or isinstance(rows, SharedRows))
    assert (rows.n_rows, rows.n_features) == Z.shape
    np.testing.assert_allclose(rows.map(plus_one), Z + 1, rtol=1e-12, atol=1e-12)
    for found, expected in zip(
        rows.sum(sums.fixed_point, W, LogCosh()), sums.fixed_point(Z, W, LogCosh()), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    batches = list(rows.batches(200))
    assert [batch.n_rows for batch in batches] == [200, 200, 101]
    np.testing.assert_allclose(np.concatenate([b.map(plus_one) for b in batches]), Z + 1, rtol=1e-12, atol=1e-12)


def test_float32_projection_is_accurate_with_large_mean(rng):
    X = (rng.normal(size=(2000, 3)) + 1e4).astype(np.float32)
    mean = X.mean(0, dtype=np.float64)
    Z = HostRows(X).projected(mean, np.eye(3)).map(plus_one) - 1
    np.testing.assert_allclose(Z, X.astype(np.float64) - mean, atol=1e-6)


def test_batches_contain_every_row_once(rng):
    X = np.arange(103.0)[:, None]
    for order in (None, np.random.RandomState(0)):
        batches = [batch.map(plus_one) - 1 for batch in HostRows(X).batches(10, order)]
        assert [len(batch) for batch in batches] == [10] * 10 + [3]
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)[:, 0]), X[:, 0])


@pytest.mark.parametrize("kind", ["fortran", "strided", "reversed", "read-only", "memmap"])
def test_memory_layouts_are_not_copied(kind, rng, tmp_path):
    X = rng.normal(size=(600, 8))
    if kind == "fortran":
        array = np.asfortranarray(X)
    elif kind == "strided":
        array = np.repeat(np.repeat(X, 3, axis=0), 2, axis=1)[::3, ::2]
    elif kind == "reversed":
        array = X[::-1, ::-1].copy()[::-1, ::-1]
    elif kind == "read-only":
        array = X.copy()
        array.setflags(write=False)
    else:
        np.save(tmp_path / "x.npy", X)
        array = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = HostRows(array, chunk_rows=70)
    assert rows.array is array
    W = rng.normal(size=(8, 8))
    expected = sums.fixed_point(X, W, LogCosh())
    for found, right in zip(rows.sum(sums.fixed_point, W, LogCosh()), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float16])
def test_other_dtypes_are_converted_chunk_by_chunk(dtype, rng):
    X = rng.integers(0, 100, size=(500, 3)).astype(dtype)
    rows = open_rows(X, dtype=np.dtype(np.float32), device=CPU, chunk_rows=100)
    assert rows.map(plus_one).dtype == np.float32
    np.testing.assert_allclose(rows.sum(column_sum)[0], X.astype(float).sum(0))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_a_thread_stops_the_others_and_is_raised(error, monkeypatch):
    monkeypatch.setattr(threads, "host_threads", lambda: 4)
    done, before = [], threading.active_count()

    def work(i):
        if i == 20:
            raise error("stop")
        done.append(i)

    with pytest.raises(error, match="stop"):
        run_in_threads(10_000, work)
    assert len(done) < 10_000
    assert threading.active_count() <= before


def test_error_terminates_waiting_threads(monkeypatch):
    monkeypatch.setattr(threads, "host_threads", lambda: 3)
    monkeypatch.setattr(host, "MIN_WORK_FOR_THREADS", 0)
    before = host_threads()

    def fail_on_first_chunk(chunk):  # the other threads wait for the first partial sum
        if chunk[0, 0] == 0:
            time.sleep(0.2)
            raise ValueError("first")
        return (chunk,)

    with pytest.raises(ValueError, match="first"):
        HostRows(np.arange(1000.0)[:, None], chunk_rows=1).sum(fail_on_first_chunk)
    assert host_threads() == before


def test_batch_order_on_device_is_random_and_reproducible(cupy, rng):
    n = 6000
    rows = open_rows(cupy.asarray(np.arange(n, dtype=float)[:, None]), dtype=np.dtype(float), device=Device("cuda", 0))

    def order(seed):
        batches = rows.batches(500, np.random.RandomState(seed))
        return np.array([batch.map(lambda chunk: chunk).get().ravel() for batch in batches])

    first = order(0)
    np.testing.assert_array_equal(first, order(0))
    assert (np.diff(first) > 0).all()  # within a batch in memory order
    np.testing.assert_array_equal(np.sort(first.ravel()), np.arange(n))
    orders = np.array([order(seed) for seed in range(100)])
    # the rows of the first half per batch, and the neighbours within a batch, are as frequent as in random permutations
    n_first_half = (orders < n / 2).sum(axis=2)
    variance = 500 * 0.25 * (n - 500) / (n - 1)
    assert abs(n_first_half.mean() - 250) < 1
    assert abs(n_first_half.var() / variance - 1) < 0.25
    n_neighbours = (np.diff(orders, axis=2) == 1).sum(axis=(1, 2))
    assert abs(n_neighbours.mean() / 499 - 1) < 0.05
    batch_indices = np.empty((100, n))
    for batch_of_row, one in zip(batch_indices, orders, strict=True):
        batch_of_row[one.astype(int).ravel()] = np.repeat(np.arange(12), 500)
    correlation = np.corrcoef(batch_indices)[np.triu_indices(100, 1)]  # of pairs of orders
    assert abs(correlation).max() < 5 / np.sqrt(n)
    assert abs(correlation.std() * np.sqrt(n) - 1) < 0.1
