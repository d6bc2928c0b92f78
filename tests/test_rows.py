"""The contract of Rows: sums and maps do not depend on chunks, threads or memory order; two runs agree bit for bit."""

import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuica import device, sums
from gpuica.contrasts import LogCosh
from gpuica.device import CPU, Device
from gpuica.device.threads import host_threads
from gpuica.rows import host, open_rows, threaded
from gpuica.rows.base import ProjectedRows
from gpuica.rows.host import HostRows
from gpuica.rows.shared import SharedRows
from gpuica.rows.stream import StreamRows
from gpuica.rows.threaded import InOrderConsumer, RunningTotals, run_in_threads


def column_sum(chunk):
    return (chunk.sum(axis=0),)


def plus_one(chunk):
    return chunk + 1


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
    """A total for `reduce`: the sum of all rows (d,), and the longest two (2, d), the longest first."""

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


def test_each_hands_on_chunks_in_order_and_fold_adds_them_up(as_rows, rng):
    X = rng.normal(size=(1003, 5))
    rows, parts = as_rows(X), []
    rows.for_each(parts.append, itself)
    np.testing.assert_array_equal(np.concatenate(parts), X)
    total = rows.reduce(Longest, (5,), plus_one)
    np.testing.assert_allclose(total.total, (X + 1).sum(axis=0), rtol=1e-12)
    np.testing.assert_array_equal(total.longest, X[np.argsort(-((X + 1) ** 2).sum(axis=1))[:2]] + 1)
    assert rows.n_passes == 2


def test_rows_by_their_numbers(as_rows, rng):
    X = rng.normal(size=(1003, 5))
    rows, indices = as_rows(X), rng.integers(0, 1003, size=50)
    np.testing.assert_array_equal(rows.take(indices), X[indices])
    np.testing.assert_array_equal(rows.subset(indices).to_memory().map(itself), X[indices])
    np.testing.assert_array_equal(rows.to_memory().map(itself), X)
    assert len(rows.take(indices[:0])) == 0


def test_random_batches_are_the_same_wherever_rows_live(as_rows, rng):
    X = rng.normal(size=(1003, 5))
    rows, of_memory = as_rows(X), HostRows(X).batches(300, np.random.RandomState(3))
    if isinstance(rows, StreamRows):
        pytest.skip("streamed rows are drawn in short runs: see test_stream")
    for batch, expected in zip(rows.batches(300, np.random.RandomState(3)), of_memory, strict=True):
        np.testing.assert_array_equal(batch.to_memory().map(itself), expected.map(itself))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 300), d=st.integers(1, 9), chunk=st.integers(1, 310), k=st.integers(1, 4))
def test_any_chunking_gives_the_same_sums(n, d, chunk, k):
    rng = np.random.default_rng(n)
    X, W = rng.normal(size=(n, d)), rng.normal(size=(k, d))
    whole, cut = (HostRows(X, chunk_rows=rows).sum(sums.fixed_point, W, LogCosh()) for rows in (n, chunk))
    for one, many in zip(whole, cut, strict=True):
        np.testing.assert_allclose(many, one, rtol=1e-10, atol=1e-10)


def test_threads_do_not_change_a_bit(rng, monkeypatch):
    X, W = rng.normal(size=(20_000, 40)).astype(np.float32), rng.normal(size=(40, 40)).astype(np.float32)
    answers = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(threaded, "host_threads", lambda threads=threads: threads)
        monkeypatch.setattr(host, "MIN_WORK_FOR_THREADS", 0)
        answers.append(HostRows(X, chunk_rows=500).sum(sums.fixed_point, W, LogCosh()))
    for other in answers[1:]:
        for mine, theirs in zip(answers[0], other, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def test_parts_are_added_in_their_order_whoever_comes_first():
    parts = [np.array([x]) for x in (1.0, 1e16, -1e16, 3.0)]  # 1 + 1e16 - 1e16 + 3 = 3; another order gives 4
    for arrival in ([0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [3, 0, 2, 1]):
        totals = RunningTotals()
        order = InOrderConsumer(totals.add)
        for i in arrival:
            order.add(i, (parts[i],))
        assert totals.sums[0] == 3.0


def test_what_each_chunk_gave_may_be_the_chunk_itself(as_rows, rng):
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


def test_projection_in_float32_keeps_the_digits_that_a_large_mean_would_take(rng):
    X = (rng.normal(size=(2000, 3)) + 1e4).astype(np.float32)
    mean = X.mean(0, dtype=np.float64)
    Z = HostRows(X).projected(mean, np.eye(3)).map(plus_one) - 1
    np.testing.assert_allclose(Z, X.astype(np.float64) - mean, atol=1e-6)


def test_batches_visit_every_row_once(rng):
    X = np.arange(103.0)[:, None]
    for order in (None, np.random.RandomState(0)):
        batches = [batch.map(plus_one) - 1 for batch in HostRows(X).batches(10, order)]
        assert [len(batch) for batch in batches] == [10] * 10 + [3]
        np.testing.assert_array_equal(np.sort(np.concatenate(batches)[:, 0]), X[:, 0])


@pytest.mark.parametrize("kind", ["fortran", "strided", "reversed", "read-only", "memmap"])
def test_any_memory_order_without_a_copy_of_the_whole(kind, rng, tmp_path):
    X = rng.normal(size=(600, 8))
    if kind == "fortran":
        given_ = np.asfortranarray(X)
    elif kind == "strided":
        given_ = np.repeat(np.repeat(X, 3, axis=0), 2, axis=1)[::3, ::2]
    elif kind == "reversed":
        given_ = X[::-1, ::-1].copy()[::-1, ::-1]
    elif kind == "read-only":
        given_ = X.copy()
        given_.setflags(write=False)
    else:
        np.save(tmp_path / "x.npy", X)
        given_ = np.load(tmp_path / "x.npy", mmap_mode="r")
    rows = HostRows(given_, chunk_rows=70)
    assert rows.array is given_
    W = rng.normal(size=(8, 8))
    expected = sums.fixed_point(X, W, LogCosh())
    for found, right in zip(rows.sum(sums.fixed_point, W, LogCosh()), expected, strict=True):
        np.testing.assert_allclose(found, right, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float16])
def test_other_dtypes_are_converted_by_chunks(dtype, rng):
    X = rng.integers(0, 100, size=(500, 3)).astype(dtype)
    rows = open_rows(X, dtype=np.dtype(np.float32), device=CPU, chunk_rows=100)
    assert rows.map(plus_one).dtype == np.float32
    np.testing.assert_allclose(rows.sum(column_sum)[0], X.astype(float).sum(0))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_in_a_thread_stops_the_others_and_is_raised(error, monkeypatch):
    monkeypatch.setattr(threaded, "host_threads", lambda: 4)
    done, before = [], threading.active_count()

    def work(i):
        if i == 20:
            raise error("stop")
        done.append(i)

    with pytest.raises(error, match="stop"):
        run_in_threads(10_000, work)
    assert len(done) < 10_000
    assert threading.active_count() <= before


def test_an_error_does_not_leave_a_waiting_thread_behind(monkeypatch):
    monkeypatch.setattr(threaded, "host_threads", lambda: 3)
    monkeypatch.setattr(host, "MIN_WORK_FOR_THREADS", 0)
    before = host_threads()

    def breaks_first(chunk):  # everybody else waits for the first part
        if chunk[0, 0] == 0:
            time.sleep(0.2)
            raise ValueError("first")
        return (chunk,)

    with pytest.raises(ValueError, match="first"):
        HostRows(np.arange(1000.0)[:, None], chunk_rows=1).sum(breaks_first)
    assert host_threads() == before


def test_the_order_of_batches_on_a_device_is_random_and_comes_again(cupy, rng):
    n = 6000
    rows = open_rows(cupy.asarray(np.arange(n, dtype=float)[:, None]), dtype=np.dtype(float), device=Device("cuda", 0))

    def order(seed):
        batches = rows.batches(500, np.random.RandomState(seed))
        return np.array([batch.map(lambda chunk: chunk).get().ravel() for batch in batches])

    first = order(0)
    np.testing.assert_array_equal(first, order(0))
    assert (np.diff(first) > 0).all()  # within a batch in the order of memory
    np.testing.assert_array_equal(np.sort(first.ravel()), np.arange(n))
    orders = np.array([order(seed) for seed in range(100)])
    # the share of the first half in the batches of 500, the mean number, and neighbours in one batch, as of chance
    share = (orders < n / 2).sum(axis=2)
    variance = 500 * 0.25 * (n - 500) / (n - 1)
    assert abs(share.mean() - 250) < 1
    assert abs(share.var() / variance - 1) < 0.25
    together = (np.diff(orders, axis=2) == 1).sum(axis=(1, 2))
    assert abs(together.mean() / 499 - 1) < 0.05
    places = np.empty((100, n))
    for place, one in zip(places, orders, strict=True):
        place[one.astype(int).ravel()] = np.repeat(np.arange(12), 500)
    correlation = np.corrcoef(places)[np.triu_indices(100, 1)]  # of two orders
    assert abs(correlation).max() < 5 / np.sqrt(n)
    assert abs(correlation.std() * np.sqrt(n) - 1) < 0.1
