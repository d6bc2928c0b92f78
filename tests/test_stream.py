"""Out-of-core rows: results equal those of rows in memory, for every kind of storage."""

import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning

from gpuica import DictionaryLearning, FastICA, MiniBatchDictionaryLearning, Picard, SparseCoder, shards, spool, sums
from gpuica.device import CPU, Device, memory_size
from gpuica.input import as_source, check_input
from gpuica.io.iterables import IterableSource
from gpuica.io.raw import RawMatrix
from gpuica.io.safetensors import write_tensors
from gpuica.io.sources import Concatenated, SelectedRows
from gpuica.oracle import ContrastOracle
from gpuica.rows import open_rows, stream
from gpuica.rows.stream import StreamRows

from .conftest import Again
from .problems import amari, mixture


@pytest.fixture
def X():
    return mixture(3000, 4, dtype=np.float32)[0]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr(stream, "SHUFFLE_WINDOW_BYTES", 1 << 13)


def is_bfloat16(X):
    """X rounded to bfloat16: (the values as float32, the bits as uint16)."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rounded = X.astype(ml_dtypes.bfloat16)
    return rounded.astype(np.float32), rounded.view(np.uint16)


def as_npy(X, folder):
    np.save(folder / "all.npy", X)
    return folder / "all.npy"


def as_npy_of_columns(X, folder):
    np.save(folder / "columns.npy", np.asfortranarray(X))
    return str(folder / "columns.npy")


def as_glob(X, folder):
    for i, part in enumerate(np.array_split(X, 3)):
        np.save(folder / f"part-{i}.npy", part)
    return str(folder / "part-*.npy")


def as_safetensors(X, folder):
    write_tensors(folder / "x.safetensors", {"other": X[0], "acts": X}, {})
    return [folder / "x.safetensors"]


def as_named_tensor(X, folder):
    write_tensors(folder / "two.safetensors", {"first": X[:, ::-1], "second": X}, {})
    return shards(folder / "two.safetensors", tensor="second")


def as_list_of_arrays(X, folder):
    return [X[:1000], X[1000:1001], X[1001:]]


def as_memmap(X, folder):
    np.save(folder / "all.npy", np.vstack([X[:7], X]))
    return np.load(folder / "all.npy", mmap_mode="r")[7:]


def as_iterable(X, folder):
    return Again(np.array_split(X, 7))


def as_one_buffer(X, folder):
    """An iterable that yields every chunk in the same buffer."""

    class Reused:
        def __iter__(self):
            buffer = np.empty((300, X.shape[1]), X.dtype)
            for start in range(0, len(X), 300):
                buffer[:] = X[start : start + 300]
                yield buffer

    return Reused()


def as_loader(X, folder):
    """An iterable of (rows, labels), as data loaders yield them."""
    return Again([(part, np.ones(len(part))) for part in np.array_split(X, 7)])


def as_spooled(X, folder):
    return spool((part for part in np.array_split(X, 7)), folder / "spooled")


def as_zarr(X, folder):
    zarr = pytest.importorskip("zarr")
    array = zarr.open(folder / "x.zarr", mode="w", shape=X.shape, chunks=(700, 2), dtype=X.dtype)
    array[:] = X
    return array


def as_hdf5(X, folder):
    h5py = pytest.importorskip("h5py")
    with h5py.File(folder / "x.h5", "w") as file:
        file["acts"] = X
    return shards(folder / "x.h5", tensor="acts")


def as_arrow(X, folder):
    pyarrow = pytest.importorskip("pyarrow")
    values = pyarrow.array(np.ascontiguousarray(X).ravel())
    lists = pyarrow.FixedSizeListArray.from_arrays(values, X.shape[1])
    return pyarrow.table({"acts": pyarrow.chunked_array([lists[:1000], lists[1000:]])})


FORMS = [value for name, value in sorted(globals().items()) if name.startswith("as_") and name != "as_source"]


@pytest.mark.parametrize("limit", [None, 1000])
@pytest.mark.parametrize("form", FORMS)
def test_fit_equals_in_memory_fit(form, limit, X, tmp_path, small_blocks):
    """With a limit of 1000 bytes nothing is cached, and rows are whitened again in every pass."""
    expected = FastICA(random_state=0).fit(X)
    ica = FastICA(random_state=0, memory_limit=limit).fit(form(X, tmp_path))
    np.testing.assert_allclose(ica.components_, expected.components_, rtol=1e-4, atol=1e-6)
    assert ica.n_passes_ == expected.n_passes_ - (limit is not None)  # the projection then needs no separate pass
    assert ica.n_features_in_ == 4


def test_large_memmap_is_read_from_file(X, tmp_path):
    mapped = as_memmap(X, tmp_path)
    assert isinstance(check_input(FastICA(), mapped, reset=True).array, np.ndarray)
    source = check_input(FastICA(memory_limit=1000), mapped, reset=True).array
    assert isinstance(source, RawMatrix)
    np.testing.assert_array_equal(source[:], X)
    private = np.load(tmp_path / "all.npy", mmap_mode="c")  # copy-on-write: changes are not in the file
    private[0] = 7
    assert isinstance(check_input(FastICA(memory_limit=1000), private, reset=True).array, np.ndarray)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [FastICA, Picard])
def test_fit_does_not_depend_on_chunk_and_block_size(kind, dtype, tmp_path, monkeypatch):
    X = mixture(5000, 6)[0].astype(dtype)
    expected = kind(random_state=0, tol=1e-6, growth=None).fit(X).components_
    for chunk in (1, 7, 64, 100, 999, 2500, 5000):
        monkeypatch.setattr("gpuica.rows.host.default_chunk_rows", lambda *given, rows=chunk: rows)
        monkeypatch.setattr(stream, "BLOCK_BYTES", 3 * chunk * 6 * X.itemsize)
        fits = [kind(random_state=0, tol=1e-6, growth=None, memory_limit=100) for _ in range(2)]
        one, two = (fit.fit(as_glob(X, tmp_path)).components_ for fit in fits)
        np.testing.assert_array_equal(one, two)
        within = (1e-10 if dtype == np.float64 else 1e-6) * abs(expected).max()
        np.testing.assert_allclose(one, expected, rtol=0, atol=within)


@pytest.mark.parametrize("form", FORMS)
def test_read_returns_stored_rows(form, X, tmp_path):
    source = as_source(form(X, tmp_path))
    if source is None:  # small memory maps are ordinary arrays
        return
    assert source.shape == X.shape
    np.testing.assert_array_equal(source[:], X)
    np.testing.assert_array_equal(source[990:1010], X[990:1010])
    chosen = np.array([2999, 0, 1000, 999, 1001, 5, 4, 6])
    np.testing.assert_array_equal(source[chosen], X[chosen])
    np.testing.assert_array_equal(source.read_rows(np.array([], dtype=int)), X[:0])
    np.testing.assert_array_equal(source[7:7], X[:0])
    np.testing.assert_array_equal(source[np.arange(0, 3000, 3)], X[::3])  # many short runs


@pytest.mark.parametrize("cut", [1, 5])
def test_fit_of_bfloat16_safetensors(cut, X, tmp_path, small_blocks):
    rounded, bits = is_bfloat16(X)
    for i, part in enumerate(np.array_split(bits, cut)):
        write_tensors(tmp_path / f"{i}.safetensors", {"acts": part}, {}, is_bfloat16=True)
    expected = FastICA(random_state=0).fit(rounded)
    ica = FastICA(random_state=0, memory_limit=1000).fit(tmp_path)
    np.testing.assert_allclose(ica.components_, expected.components_, rtol=1e-4, atol=1e-6)
    assert ica.components_.dtype == np.float32
    ica.transform(sorted(tmp_path.iterdir()), out=tmp_path / "s.npy")
    np.testing.assert_allclose(np.load(tmp_path / "s.npy"), expected.transform(rounded), atol=1e-4)


def test_bfloat16_in_npy(X, tmp_path):
    """bfloat16 as NumPy saves arrays of ml_dtypes; tests/test_files.py covers other dtypes of two bytes."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rounded, bits = is_bfloat16(X)
    np.save(tmp_path / "x.npy", bits.view(ml_dtypes.bfloat16))
    np.testing.assert_array_equal(shards(tmp_path / "x.npy")[:], rounded)


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=6),
    indices=st.lists(st.integers(0, 10**6), max_size=40),
    data=st.data(),
)
def test_concatenated_and_selected_rows_of_any_size(sizes, indices, data):
    sizes[0] += 1
    X = np.arange(3.0 * sum(sizes)).reshape(-1, 3)
    parts = np.split(X, np.cumsum(sizes)[:-1])
    indices = np.array(indices, dtype=int) % len(X)
    start = data.draw(st.integers(0, len(X)))
    stop = data.draw(st.integers(start, len(X)))
    for source in (as_source(parts), IterableSource(Again(parts), lambda part: (part, False))):
        np.testing.assert_array_equal(source[start:stop], X[start:stop])
        np.testing.assert_array_equal(source[indices], X[indices])
        chosen = SelectedRows(source, np.unique(indices))
        np.testing.assert_array_equal(chosen[:], X[np.unique(indices)])


@pytest.mark.parametrize("form", [as_glob, as_iterable])
def test_growing_samples_are_drawn_from_all_rows(form, tmp_path, small_blocks, monkeypatch):
    """Rows are sorted, as activations ordered by document: a sample of the first rows has other components."""
    X, A = mixture(50_000, 3, dtype=np.float32)
    X = X[np.argsort(X[:, 0])]
    sizes = []
    original = StreamRows.sample

    def recording_sample(self, n, rng):
        rows = original(self, n, rng)
        sizes.append((rows.n_rows, rows.map(lambda chunk: chunk[:, 0]).mean()))
        return rows

    # the curvature estimate draws its own samples
    monkeypatch.setattr(ContrastOracle, "curvature_batch", lambda self, Ws: [np.ones((len(W), len(W))) for W in Ws])
    monkeypatch.setattr(StreamRows, "sample", recording_sample)
    ica = Picard(random_state=0, memory_limit=3000).fit(form(X, tmp_path))
    assert [n for n, _ in sizes] == [10_000, 20_000]
    for n, mean in sizes:  # tolerance for the sampling error of rows drawn in short runs
        assert abs(mean - X[:, 0].mean()) < 20 * X[:, 0].std() / n**0.5
    assert ica.converged_
    assert amari(ica.components_ @ A) < 0.02


def test_sample_weight_of_streamed_rows(X, tmp_path, small_blocks, rng):
    w = rng.integers(0, 3, size=len(X))
    expected = FastICA(random_state=0).fit(X, sample_weight=w)
    for limit in (None, 1000):
        ica = FastICA(random_state=0, memory_limit=limit).fit(as_glob(X, tmp_path), sample_weight=w)
        np.testing.assert_allclose(ica.components_, expected.components_, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("arguments", [{"normalize_rows": True}, {"center": "median"}, {"algorithm": "deflation"}])
def test_fit_options_of_streamed_rows(arguments, X, tmp_path, small_blocks):
    expected = FastICA(random_state=0, **arguments).fit(X)
    ica = FastICA(random_state=0, memory_limit=1000, **arguments).fit(as_glob(X, tmp_path))
    np.testing.assert_allclose(ica.components_, expected.components_, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("form", [as_glob, as_iterable])
def test_dictionary_learning_of_streamed_rows(form, X, tmp_path, small_blocks):
    arguments = {
        "n_components": 6,
        "alpha": 1.0,
        "max_iter": 4,
        "init": "data",
        "fit_algorithm": "cd",
        "random_state": 0,
    }
    with pytest.warns(ConvergenceWarning):
        expected = DictionaryLearning(**arguments).fit(X)
    with pytest.warns(ConvergenceWarning):
        found = DictionaryLearning(**arguments, memory_limit=1000).fit(form(X, tmp_path))
    np.testing.assert_allclose(found.components_, expected.components_, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found.error_, expected.error_, rtol=1e-4)
    np.testing.assert_allclose(found.score(form(X, tmp_path)), expected.score(X), rtol=1e-4)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("form", [as_glob, as_iterable])
def test_mini_batches_of_streamed_rows_reach_in_memory_cost(form, shuffle, X, tmp_path, small_blocks):
    arguments = {
        "n_components": 6,
        "alpha": 1.0,
        "max_iter": 3,
        "fit_algorithm": "cd",
        "batch_size": 100,
        "init": "data",
        "random_state": 0,
    }
    arguments |= {"shuffle": shuffle, "tol": 0.0, "max_no_improvement": None}
    expected = MiniBatchDictionaryLearning(**arguments).fit(X)
    found = MiniBatchDictionaryLearning(**arguments).fit(form(X, tmp_path))
    assert found.n_steps_ == expected.n_steps_ == 90
    assert found.score(X) > 1.05 * expected.score(X)  # scores are negative
    if not shuffle:
        np.testing.assert_allclose(found.components_, expected.components_, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", [as_glob, as_iterable])
def test_epochs_contain_every_row_once_in_new_order(form, X, tmp_path, small_blocks):
    rows = open_rows(as_source(form(X, tmp_path)), dtype=np.float32, device=CPU)
    batches = rows.epochs(70, np.random.RandomState(0))
    first, second = ([next(batches).map(np.asarray) for _ in range(43)] for _ in range(2))
    for one in (first, second):
        epoch = np.concatenate(one)
        assert not np.array_equal(epoch, X)
        np.testing.assert_array_equal(epoch[np.lexsort(epoch.T)], X[np.lexsort(X.T)])
    assert not np.array_equal(np.concatenate(first), np.concatenate(second))
    later = rows.epochs(70, np.random.RandomState(0), skip=47)
    np.testing.assert_array_equal(next(later).map(np.asarray), second[4])


# ---- written results -------------------------------------------------------------------------------------------------
def test_transform_writes_npy_file(X, tmp_path, small_blocks, capsys):
    ica = FastICA(random_state=0, verbose=1).fit(X)
    path = ica.transform(as_glob(X, tmp_path), out=tmp_path / "sources.npy")
    assert path == tmp_path / "sources.npy"
    np.testing.assert_array_equal(np.load(path), ica.transform(X))
    assert "3000 of 3000 rows written" in capsys.readouterr().out
    back = ica.inverse_transform(path, out=tmp_path / "back.npy")
    np.testing.assert_allclose(np.load(back), X, atol=1e-4)


def test_transform_writes_into_array(X, tmp_path, small_blocks):
    ica, out = FastICA(random_state=0).fit(X), np.empty((3000, 4), np.float32)
    assert ica.transform(as_glob(X, tmp_path), out=out) is out
    np.testing.assert_array_equal(out, ica.transform(X))
    with pytest.raises(ValueError, match=r"out has shape \(3000, 4\), but the result has \(10, 4\)"):
        ica.transform(X[:10], out=out)


def test_transform_writes_into_zarr_and_hdf5(X, tmp_path, small_blocks):
    ica = FastICA(random_state=0).fit(X)
    zarr, h5py = pytest.importorskip("zarr"), pytest.importorskip("h5py")
    array = zarr.open(tmp_path / "s.zarr", mode="w", shape=(3000, 4), chunks=(700, 4), dtype="float32")
    ica.transform(as_npy(X, tmp_path), out=array)
    np.testing.assert_array_equal(array[:], ica.transform(X))
    with h5py.File(tmp_path / "s.h5", "w") as file:
        ica.transform(as_npy(X, tmp_path), out=file.create_dataset("s", (3000, 4), "f4"))
        np.testing.assert_array_equal(file["s"][:], ica.transform(X))
    with pytest.raises(ValueError, match=r"must end in \.npy, or be an array"):
        ica.transform(X, out=tmp_path / "s.csv")


@pytest.mark.parametrize("sparse", [True, False])
def test_sparse_coder_writes_files(sparse, X, tmp_path, small_blocks, monkeypatch):
    from scipy.sparse import load_npz, vstack

    monkeypatch.setattr("gpuica.io.writers.CODES_FILE_BYTES", 20_000)
    D = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    coder = SparseCoder(D, transform_algorithm="lasso_cd", transform_alpha=2.0, sparse_output=sparse)
    expected = coder.transform(X)
    if not sparse:
        assert coder.transform(as_glob(X, tmp_path), out=str(tmp_path / "c.npy")) == str(tmp_path / "c.npy")
        np.testing.assert_array_equal(np.load(tmp_path / "c.npy"), expected)
        return
    paths = coder.transform(as_glob(X, tmp_path), out=tmp_path / "codes")
    assert len(paths) > 1
    assert sorted((tmp_path / "codes").iterdir()) == paths
    found = vstack([load_npz(path) for path in paths])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found.toarray(), expected.toarray())
    with pytest.raises(FileExistsError, match="holds codes already"):
        coder.transform(X, out=tmp_path / "codes")


def test_result_larger_than_memory_raises_with_out_hint(X, tmp_path):
    ica = FastICA(random_state=0).fit(X).set_params(memory_limit="10kB")
    with pytest.raises(MemoryError, match=r"3000 x 4.*out='result.npy'"):
        ica.transform(as_npy(X, tmp_path))
    with pytest.raises(MemoryError, match="out="):
        SparseCoder(np.eye(4), memory_limit=1000).transform(as_npy(X, tmp_path))


def test_full_disk_leaves_no_file(X, tmp_path, monkeypatch):
    import os

    def raise_no_space(*arguments):
        raise OSError(28, "No space left on device")

    ica = FastICA(random_state=0).fit(X)
    monkeypatch.setattr(os, "posix_fallocate", raise_no_space)
    with pytest.raises(OSError, match=r"s\.npy could not be written \(No space left on device\)"):
        ica.transform(X, out=tmp_path / "s.npy")
    assert list(tmp_path.iterdir()) == []


def test_error_while_writing_leaves_no_file(X, tmp_path):
    ica = FastICA(random_state=0).fit(X)
    X = X.copy()
    X[2500, 1] = np.nan
    path = as_npy(X, tmp_path)
    with pytest.raises(ValueError, match=r"NaN or infinity, first in row 2500 of .*all\.npy"):
        ica.transform(path, out=tmp_path / "s.npy")
    assert [entry.name for entry in tmp_path.iterdir()] == ["all.npy"]


def test_spool_to_several_files(X, tmp_path, monkeypatch):
    monkeypatch.setattr("gpuica.io.files.SPOOL_FILE_BYTES", 10_000)
    source = spool(iter(np.array_split(X, 20)), tmp_path / "s")
    assert isinstance(source, Concatenated)
    np.testing.assert_array_equal(source[:], X)
    with pytest.raises(FileExistsError, match="files already: spool to an empty directory"):
        spool([X], tmp_path / "s")

    def broken():
        yield X
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        spool(broken(), tmp_path / "t")
    assert not list((tmp_path / "t").iterdir())
    with pytest.raises(ValueError, match=r"a chunk of 2 float32 after chunks of 4 float32"):
        spool([X, X[:, :2]], tmp_path / "u")


# ---- invalid input ---------------------------------------------------------------------------------------------------
def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


def test_invalid_npy_files_raise(X, tmp_path):
    good = as_npy(X, tmp_path)
    for path, message in {
        "nothing.npy": "nothing.npy does not exist",
        "no-*.npy": "no file matches",
        "table.csv": "files of kind '.csv' cannot be read",
    }.items():
        if path == "table.csv":
            (tmp_path / path).write_text("1,2")
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            FastICA().fit([good, tmp_path / path])
    (tmp_path / "short.npy").write_bytes(good.read_bytes()[:-8])
    (tmp_path / "header.npy").write_bytes(good.read_bytes()[:40])
    (tmp_path / "noise.npy").write_bytes(b"not an array at all")
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    np.save(tmp_path / "deep.npy", np.ones((3, 4, 5)))
    np.save(tmp_path / "wide.npy", X[:, :3])
    np.save(tmp_path / "double.npy", X.astype(np.float64))
    np.save(tmp_path / "complex.npy", X * 1j)
    for name, message in {
        "short": r"short\.npy is truncated: its header promises 3000 rows of 4 float32",
        "header": r"header\.npy is not a \.npy file, or its header is damaged",
        "noise": r"noise\.npy is not a \.npy file",
        "empty": r"empty\.npy is not a \.npy file",
        "objects": r"objects\.npy must hold real numbers, got dtype object",
        "deep": r"deep\.npy has shape \(3, 4, 5\).*reshape it, X\.reshape\(-1, X\.shape\[-1\]\)",
        "wide": r"differ in features: row 0 of .*all\.npy has 4, row 0 of .*wide\.npy has 3",
        "double": r"differ in dtype: .*all\.npy has float32, .*double\.npy has float64",
        "complex": r"complex\.npy must hold real numbers",
    }.items():
        with pytest.raises(ValueError, match=message):
            FastICA().fit([good, tmp_path / f"{name}.npy"])


def test_invalid_safetensors_files_raise(X, tmp_path):
    write_tensors(tmp_path / "good.safetensors", {"acts": X}, {})
    data = (tmp_path / "good.safetensors").read_bytes()
    (tmp_path / "short.safetensors").write_bytes(data[:-4])
    (tmp_path / "noise.safetensors").write_bytes(b"\xff" * 100)
    (tmp_path / "tiny.safetensors").write_bytes(b"abc")
    (tmp_path / "shape.safetensors").write_bytes(data.replace(b"[3000, 4]", b"[2999, 4]"))
    (tmp_path / "kind.safetensors").write_bytes(data.replace(b'"F32"', b'"F8A"'))
    write_tensors(tmp_path / "two.safetensors", {"a": X, "b": X}, {})
    for name, message in {
        "short": "truncated",
        "noise": r"noise\.safetensors is not a safetensors file",
        "tiny": "is not a safetensors file",
        "shape": "the size of tensor 'acts' is not that of its shape",
        "kind": r"kind\.safetensors .*tensor 'acts' has dtype 'F8A', which the format does not have",
        "two": r"several matrices: name one with gpuica\.shards.*'a' \(3000, 4\), 'b' \(3000, 4\)",
    }.items():
        with pytest.raises(ValueError, match=message):
            FastICA().fit(tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"has no tensor 'c': it holds 'a' \(3000, 4\), 'b'"):
        shards(tmp_path / "two.safetensors", tensor="c")


def test_empty_shard_is_skipped_and_logged(X, tmp_path, caplog):
    np.save(tmp_path / "0.npy", X[:0])
    np.save(tmp_path / "1.npy", X)
    assert shards(tmp_path).shape == X.shape
    assert "0.npy has no rows: it is skipped" in caplog.text


def test_file_truncated_after_opening_raises(X, tmp_path, small_blocks):
    source = shards(as_npy(X, tmp_path))
    truncate(tmp_path / "all.npy", 20_000)
    with pytest.raises(ValueError, match=r"all\.npy is truncated"):
        FastICA().fit(source)


@pytest.mark.parametrize("whiten", ["unit-variance", False])
def test_non_finite_value_raises_with_file_and_row(whiten, X, tmp_path, small_blocks):
    X = X.copy()
    X[2600, 2] = np.inf
    with pytest.raises(ValueError, match=r"first in row 600 of .*part-2\.npy"):
        FastICA(whiten=whiten).fit(as_glob(X, tmp_path))
    with pytest.raises(ValueError, match=r"first in row 600 of .*part-2\.npy"):
        MiniBatchDictionaryLearning(3).fit(as_glob(X, tmp_path))
    with pytest.raises(ValueError, match=r"first in row 2600"):
        FastICA(whiten=whiten).fit(as_iterable(X, tmp_path))


def test_generators_and_inconsistent_iterables_raise(X):
    with pytest.raises(TypeError, match=r"X is a generator.*gpuica.spool"):
        FastICA().fit(part for part in [X])

    class Shrinking:
        n = 3000

        def __iter__(self):
            yield X[: self.n]
            self.n -= self.change

    for change, message in ((10, "fewer than the 3000 rows"), (0, None)):
        data = Shrinking()
        data.change = change
        if message:
            with pytest.raises(ValueError, match=message):
                FastICA(random_state=0).fit(data)
        else:
            FastICA(random_state=0).fit(data)
    growing = IterableSource(Again([X]), lambda part: (part, False))
    growing.iterable = Again([X, X[:1]])
    with pytest.raises(ValueError, match="more than the 3000 rows"):
        FastICA(random_state=0).fit(growing)
    with pytest.raises(ValueError, match="yielded no chunk"):
        FastICA().fit(Again([]))
    with pytest.raises(ValueError, match="all chunks must be alike"):
        FastICA().fit(Again([X, X[:, :2]]))
    with pytest.raises(ValueError, match="something else than arrays"):
        FastICA().fit(Again([1, 2, 3]))


def test_reader_error_is_raised(X, small_blocks):
    class Broken:
        rounds = 0

        def __iter__(self):
            self.rounds += 1
            yield X[:1500]
            if self.rounds > 2:
                raise OSError("the disk is gone")
            yield X[1500:]

    with pytest.raises(OSError, match="the disk is gone"):
        FastICA(memory_limit=1000).fit(Broken())


@pytest.mark.parametrize(
    ("limit", "size"),
    [
        (None, None),
        (7, 7),
        ("2GB", 2e9),
        ("1.5 mb", 1.5e6),
        ("3 KiB", 3000),
        ("1e9", 1e9),
        (2.5e9, 2.5e9),
        ("1PB", 1e15),
    ],
)
def test_memory_size(limit, size):
    assert memory_size(limit) == size


@pytest.mark.parametrize("limit", ["", "much", "0", "-1GB", "1e", "1.2.3", "9" * 400 + "GB", "inf", "1e400"])
def test_invalid_memory_limit_raises(limit):
    with pytest.raises(ValueError, match="memory_limit must be"):
        FastICA(memory_limit=limit).fit(np.eye(5))


# ---- on a device -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("limit", [None, 1000, 60_000])
@pytest.mark.parametrize("form", [as_glob, as_iterable, as_list_of_arrays, "bfloat16"])
def test_fit_of_streamed_rows_on_device(cupy, form, limit, X, tmp_path, small_blocks):
    """The memory limits allow all, none and some of the blocks to be cached on the device."""
    rows = X
    if form == "bfloat16":
        rows, bits = is_bfloat16(X)
        write_tensors(tmp_path / "x.safetensors", {"acts": bits}, {}, is_bfloat16=True)
        source = tmp_path / "x.safetensors"
    else:
        source = form(X, tmp_path)
    expected = FastICA(random_state=0).fit(rows)
    ica = FastICA(random_state=0, device="cuda", memory_limit=limit).fit(source)
    assert ica.device_ == "cuda:0"
    np.testing.assert_allclose(ica.components_, expected.components_, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(ica.transform(rows), expected.transform(rows), atol=1e-3)
    model = MiniBatchDictionaryLearning(
        5, alpha=1.0, max_iter=1, batch_size=500, init="data", fit_algorithm="cd", random_state=0, device="cuda"
    ).fit(source)
    assert model.device_ == "cuda:0"
    assert np.isfinite(model.score(rows))


@pytest.mark.parametrize("threads", [1, 3, 8])
def test_threads_read_blocks_for_device(cupy, threads, X, tmp_path, small_blocks, monkeypatch):
    readers, read = set(), RawMatrix.read

    def recording_read(self, start, stop, buffer=None):
        readers.add(threading.get_ident())
        time.sleep(0.001)  # prevents one thread from reading all parts
        return read(self, start, stop, buffer)

    monkeypatch.setattr(RawMatrix, "read", recording_read)
    monkeypatch.setattr(stream, "host_threads", lambda: threads)
    source, device = shards(as_glob(X, tmp_path)), Device("cuda", 0, limit=1000)
    rows = open_rows(source, dtype=X.dtype, device=device, chunk_rows=70)
    found = rows.sum(sums.total)[0].get()
    assert len(readers) == threads
    np.testing.assert_allclose(found, X.sum(axis=0, dtype=float), rtol=1e-5, atol=1e-4)
    (tmp_path / "part-1.npy").write_bytes((tmp_path / "part-1.npy").read_bytes()[:-100])
    with pytest.raises(ValueError, match="truncated"):
        rows.sum(sums.total)


def test_blocks_are_cached_when_rereading_is_costly(X, tmp_path, small_blocks):
    def total(chunk):
        return (chunk.sum(axis=0, dtype=np.float64),)

    def opened(limit):
        device = replace(CPU, limit=limit)
        return open_rows(as_source(as_iterable(X, tmp_path)), dtype=np.float32, device=device, chunk_rows=100)

    expected = X.sum(axis=0, dtype=np.float64)
    rows, some = opened(4 * X.nbytes), opened(2 * X.nbytes)
    for _ in range(3):
        for each in (rows, some):
            np.testing.assert_allclose(each.sum(total)[0], expected)
    assert sum(block.nbytes for block in rows.cached_blocks.values()) == X.nbytes
    assert 0 < sum(block.nbytes for block in some.cached_blocks.values()) <= X.nbytes // 2
    rows.array.iterable = None  # any further read would raise
    np.testing.assert_allclose(rows.sum(total)[0], expected)


@pytest.mark.parametrize(("module", "name"), [("zarr", "x.zarr"), ("h5py", "x.h5")])
def test_missing_library_raises_import_error(module, name, tmp_path, monkeypatch):
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"needs {module}: pip install {module}"):
        shards([tmp_path / name], tensor="acts")


def test_batch_reader_thread_terminates(X, tmp_path, small_blocks):
    """The thread terminates even while the endless generator is referenced but not advanced."""
    before = set(threading.enumerate())
    rows = open_rows(as_source(as_glob(X, tmp_path)), dtype=np.float32, device=CPU, chunk_rows=100)
    batches = rows.epochs(50, np.random.RandomState(0))
    batch_sizes = [next(batches).n_rows for _ in range(3)]
    end = time.monotonic() + 5
    while set(threading.enumerate()) != before and time.monotonic() < end:
        time.sleep(0.01)
    assert set(threading.enumerate()) == before
    assert batch_sizes == [50] * 3
    assert next(batches).n_rows == 50
