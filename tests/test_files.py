"""Damaged, malicious and changing files and iterables: rejected as by the formats' own libraries, with clear errors."""

import json
import os
import threading
import tracemalloc

import numpy as np
import pytest

import gpuica
from gpuica import DictionaryLearning, FastICA, MiniBatchDictionaryLearning, Picard, limited, shards, spool
from gpuica.input import as_source, check_input
from gpuica.io import iterables
from gpuica.io.raw import SLAB_BYTES, RawColumns
from gpuica.io.safetensors import write_tensors
from gpuica.rows import stream

from .conftest import Again
from .problems import mixture


@pytest.fixture
def X():
    return mixture(3000, 4, dtype=np.float32)[0]


def refuse(path, message, error=ValueError, **arguments):
    """Check that opening the file raises `error` with a short, matching message that contains the path."""
    with pytest.raises(error, match=message) as caught:
        shards(path, **arguments)
    assert os.fspath(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


def within_seconds(function):
    """Run a function in a thread and fail if it does not return within 10 seconds."""
    thread = threading.Thread(target=function, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive(), "it hangs"


# ---- .npy ------------------------------------------------------------------------------------------------------------
def npy(path, header, data=b"\0" * 4096, version=1):
    text = header.encode()
    path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(2 * version, "little") + text + data)
    return path


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ([("re", "i1"), ("im", "i1")], "must hold real numbers"),
        ([("a", "<f2")], "must hold real numbers"),
        ([("a", "<f4"), ("b", "<f4")], "must hold real numbers"),
        ("V2", "items of 2 bytes without a type.*bfloat16"),
        ("V4", "must hold real numbers"),
        ("S2", "must hold real numbers"),
        ("M8[s]", "must hold real numbers"),
        ("c8", "must hold real numbers"),
    ],
)
def test_npy_non_numeric_dtype_raises(dtype, message, tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 4), dtype))
    refuse(tmp_path / "x.npy", message)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (-30, 4)}", r"shape \(-30, 4\)"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (True, 4)}", r"shape \(True, 4\)"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (30.0, 4)}", "shape is not valid"),
        ("{'descr': '<f4', 'fortran_order': 0, 'shape': (30, 4)}", "fortran_order"),
        ("{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (3, 4)}", "must hold real numbers"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (30, 4)", "damaged"),  # NumPy: tokenize.TokenError
        ("{'descr': '<q9', 'fortran_order': False, 'shape': (30, 4)}", "damaged"),
        ("(" * 5000, "damaged"),
        ("-" * 9000 + "1", "damaged"),
        ("{'descr': '<f4', 'fortran_order': False, 'shape': (10**30, 4)}", "damaged"),
        (f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({10**30}, 4)}}", "truncated"),
        (f"{{'descr': '<f4', 'fortran_order': False, 'shape': (30, {10**30})}}", "features cannot be worked on"),
    ],
)
def test_npy_invalid_header_raises(header, message, tmp_path):
    refuse(npy(tmp_path / "x.npy", header), message)


def test_npy_negative_n_samples_in_one_file_raises(X, tmp_path):
    np.save(tmp_path / "0.npy", X)
    npy(tmp_path / "1.npy", "{'descr': '<f4', 'fortran_order': False, 'shape': (-30, 4)}")
    with pytest.raises(ValueError, match=r"1\.npy.*-30"):
        shards(tmp_path)


def test_npy_format_versions(X, tmp_path):
    header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3000, 4)}"
    for version in (1, 2):
        np.testing.assert_array_equal(shards(npy(tmp_path / "x.npy", header, X.tobytes(), version))[:], X)
    refuse(npy(tmp_path / "x.npy", header, X.tobytes(), 3), "version")


def test_declared_header_length_is_not_allocated(tmp_path):
    """Short files that declare headers of 4 GiB (.npy) and 2**60 bytes (safetensors) do not cause such allocations."""
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 100)
    (tmp_path / "x.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{" * 100)
    tracemalloc.start()
    try:
        refuse(tmp_path / "x.npy", "damaged")
        refuse(tmp_path / "x.safetensors", "a header of")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors", "x.h5", "x.zarr/.zarray"])
def test_named_pipe_raises_without_blocking(name, tmp_path):
    if name.endswith("h5"):
        pytest.importorskip("h5py")
    if name.startswith("x.zarr"):
        pytest.importorskip("zarr")
        (tmp_path / "x.zarr").mkdir()
    os.mkfifo(tmp_path / name)
    within_seconds(lambda: refuse(tmp_path / name.partition("/")[0], "is a pipe, not a regular file"))


def test_device_file_raises_without_blocking(tmp_path):
    os.symlink("/dev/zero", tmp_path / "x.npy")
    within_seconds(lambda: refuse(tmp_path / "x.npy", "is a device"))


# ---- .npy in Fortran order -------------------------------------------------------------------------------------------
def test_fortran_order_read_is_bounded_in_memory(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    X = np.asfortranarray(rng.laplace(size=(200_000, 12)).astype(np.float32))
    np.save(tmp_path / "x.npy", X)
    monkeypatch.setattr(np, "memmap", None)  # no memory map is created
    source = shards(tmp_path / "x.npy")
    assert isinstance(source, RawColumns)
    indices = np.unique(rng.integers(0, len(X), 3000))
    buffer = np.empty((5000, 12), np.float32)
    tracemalloc.start()
    try:
        for start in (0, 77_777, 195_000):
            found = source.read(start, start + 5000, buffer)
            assert np.shares_memory(found, buffer)
            np.testing.assert_array_equal(found, X[start : start + 5000])
        np.testing.assert_array_equal(source.read_rows(indices), X[indices])
        assert tracemalloc.get_traced_memory()[1] < 2 * SLAB_BYTES + 2 * 3000 * 48 + 5000 * 48
    finally:
        tracemalloc.stop()


def test_fortran_order_scattered_rows_read_only_required_bytes(tmp_path, monkeypatch):
    X = np.asfortranarray(np.arange(1_000_000.0).reshape(-1, 2))
    np.save(tmp_path / "x.npy", X)
    source, read = shards(tmp_path / "x.npy"), []
    original = RawColumns._fill
    monkeypatch.setattr(
        RawColumns, "_fill", lambda self, file, place, out: (read.append(out.nbytes), original(self, file, place, out))
    )
    runs = np.arange(0, 500_000, 50_000)[:, None] + np.arange(16)
    np.testing.assert_array_equal(source.read_rows(runs.ravel()), X[runs.ravel()])
    assert sum(read) == 2 * runs.size * 8
    read.clear()
    np.testing.assert_array_equal(
        source.read_rows(np.arange(0, 500_000, 1000)), X[::1000]
    )  # gaps of 8 KB are read with the rows
    assert len(read) <= 2 * (4_000_000 // SLAB_BYTES + 1)
    assert max(read) <= SLAB_BYTES


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<f2", "i1", "?"])
@pytest.mark.parametrize("shape", [(1, 5), (5, 1), (7, 3), (1000, 40)])
def test_fortran_order_shapes_and_dtypes(shape, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr("gpuica.io.raw.SLAB_BYTES", 512)
    monkeypatch.setattr("gpuica.io.raw.MAX_GAP_BYTES", 16)
    rng = np.random.default_rng(0)
    X = np.asfortranarray(rng.integers(0, 100, shape).astype(dtype))
    np.save(tmp_path / "x.npy", X)
    source = shards(tmp_path / "x.npy")
    np.testing.assert_array_equal(source[:], X)
    np.testing.assert_array_equal(source[3:5], X[3:5])
    for n in (0, 1, 3, 200):
        indices = rng.integers(0, len(X), n)
        np.testing.assert_array_equal(source[indices], X[indices])


def test_fortran_order_memmap_is_read_from_file(X, tmp_path):
    np.save(tmp_path / "x.npy", np.asfortranarray(X))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    source = check_input(FastICA(memory_limit=1000), mapped[:, 1:3], reset=True).array
    assert isinstance(source, RawColumns)
    np.testing.assert_array_equal(source[:], X[:, 1:3])


# ---- .safetensors ----------------------------------------------------------------------------------------------------
def tensor(dtype="F32", shape=(3, 4), offsets=(0, 48), **more):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


def safetensors(path, header, size=48):
    text = (header if isinstance(header, str) else json.dumps(header)).encode("utf-8", "surrogatepass")
    data = (b"\x01\x02\x03\x04" * size)[: max(0, size)]
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


GOOD = json.dumps(tensor())
FINE = {  # name -> (header, bytes of data)
    "one tensor": ({"a": tensor()}, 48),
    "metadata": ({"__metadata__": {"x": "y"}, "a": tensor()}, 48),
    "null metadata": ({"__metadata__": None, "a": tensor()}, 48),
    "extra field": ({"a": tensor(more=[-1.5, None])}, 48),
    "not in offset order": ({"b": tensor(shape=(12,), offsets=(48, 96)), "a": tensor()}, 96),
    "empty tensor": ({"a": tensor(), "b": tensor(shape=(0, 3, 1), offsets=(48, 48))}, 48),
    "scalar": ({"a": tensor(), "b": tensor(shape=(), offsets=(48, 52))}, 52),
    "4-bit dtype": ({"a": tensor(), "b": tensor("F4", (8,), (48, 52))}, 52),
    "trailing spaces": (json.dumps({"a": tensor()}) + "   ", 48),
}
DAMAGED = {
    "negative offset": ({"a": tensor(offsets=(-48, 0))}, 0),
    "negative zero offset": ('{"a": ' + GOOD.replace("[0, 48]", "[-0, 48]") + "}", 48),
    "float shape": ({"a": tensor(shape=(3.0, 4))}, 48),
    "string shape": ({"a": tensor(shape=("3", 4))}, 48),
    "boolean shape": ({"a": tensor(shape=(True, 12))}, 48),
    "negative shape": ({"a": tensor(shape=(-3, -4))}, 48),
    "overflowing shape": ({"a": tensor(shape=(1 << 62, 4, 0), offsets=(0, 0))}, 0),
    "null shape": ('{"a": ' + GOOD.replace("[3, 4]", "null") + "}", 48),
    "gap between tensors": ({"a": tensor(), "b": tensor(offsets=(52, 100))}, 100),
    "gap before first tensor": ({"a": tensor(offsets=(4, 52))}, 52),
    "overlapping tensors": ({"a": tensor(), "b": tensor(offsets=(44, 92))}, 92),
    "reversed offsets": ({"a": tensor(offsets=(48, 0))}, 48),
    "offsets inconsistent with shape": ({"a": tensor(offsets=(0, 44))}, 44),
    "three offsets": ({"a": tensor(offsets=(0, 48, 48))}, 48),
    "excess data": ({"a": tensor()}, 52),
    "truncated data": ({"a": tensor()}, 44),
    "missing data": ({"a": tensor()}, 0),
    "unknown dtype": ({"a": tensor("F33")}, 48),
    "null dtype": ({"a": tensor(None)}, 48),
    "duplicate field": ('{"a": ' + GOOD[:-1] + ', "dtype": "F32"}}', 48),
    "missing field": ({"a": {"dtype": "F32", "shape": [3, 4]}}, 48),
    "numeric metadata": ({"__metadata__": {"x": 1}, "a": tensor()}, 48),
    "duplicate metadata": ('{"__metadata__": {}, "__metadata__": {}, "a": ' + GOOD + "}", 48),
    "NaN literal": ('{"a": ' + GOOD[:-1] + ', "x": NaN}}', 48),
    "lone surrogate escape": ('{"a\\ud800": ' + GOOD + "}", 48),
    "invalid UTF-8": ('{"a\ud800": ' + GOOD + "}", 48),
    "byte order mark": ("\ufeff" + json.dumps({"a": tensor()}), 48),
    "list as header": ("[]", 0),
    "trailing comma": ('{"a": ' + GOOD + ",}", 48),
    "trailing characters": (json.dumps({"a": tensor()}) + "x", 48),
    "deeply nested": ('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", 48),
}
STRICTER = {  # forbidden by the specification, but accepted by the reference parser
    "duplicate name": ('{"a": ' + GOOD + ', "a": ' + GOOD + "}", 48),
    "leading space": (" " + json.dumps({"a": tensor()}), 48),
    "list instead of object": ('{"a": ["F32", [3, 4], [0, 48]]}', 48),
}


@pytest.mark.parametrize("case", FINE | DAMAGED | STRICTER)
def test_safetensors_header_validation(case, tmp_path):
    path = safetensors(tmp_path / "x.safetensors", *(FINE | DAMAGED | STRICTER)[case])
    if case in FINE:
        expected = np.frombuffer(path.read_bytes()[-FINE[case][1] :][:48], "<f4").reshape(3, 4)
        np.testing.assert_array_equal(shards(path, tensor="a")[:], expected)
    else:
        refuse(path, "damaged|truncated")


@pytest.mark.parametrize("case", FINE | DAMAGED | STRICTER)
def test_safetensors_header_validation_equals_reference(case, tmp_path):
    reference = pytest.importorskip("safetensors")
    path = safetensors(tmp_path / "x.safetensors", *(FINE | DAMAGED | STRICTER)[case])
    if case in DAMAGED:
        with pytest.raises(reference.SafetensorError):
            reference.safe_open(path, "numpy")
    else:
        with reference.safe_open(path, "numpy") as file:
            assert file.get_slice("a").get_shape() == [3, 4]


def test_safetensors_without_matrix_raises_with_tensor_shapes(tmp_path):
    acts = np.zeros((2, 3, 4), np.float32)
    write_tensors(tmp_path / "x.safetensors", {"acts": acts}, {})
    refuse(
        tmp_path / "x.safetensors",
        r"no matrix \(n_samples, n_features\), but 'acts' \(2, 3, 4\): .* X\.reshape\(-1, X\.shape\[-1\]\)",
    )
    refuse(tmp_path / "x.safetensors", r"acts.*has shape \(2, 3, 4\).*reshape it", tensor="acts")
    write_tensors(tmp_path / "y.safetensors", {f"layer {i}": acts[0] for i in range(100)}, {})
    refuse(tmp_path / "y.safetensors", r"'layer 0' \(3, 4\).*\.\.\.")
    write_tensors(tmp_path / "z.safetensors", {}, {})
    refuse(tmp_path / "z.safetensors", "holds no array of numbers at all")


@pytest.mark.parametrize(
    "kind", ["array", "bfloat16", "iterable", "list", "dask", pytest.param("torch", marks=pytest.mark.torch)]
)
def test_3d_input_raises_with_reshape_hint(kind):
    X = np.zeros((2, 3, 4), np.float32)
    if kind == "bfloat16":
        X = X.astype(pytest.importorskip("ml_dtypes").bfloat16)
    elif kind == "dask":
        X = pytest.importorskip("dask.array").from_array(X)
    elif kind == "torch":
        X = pytest.importorskip("torch").zeros((2, 3, 4))
    else:
        X = {"array": X, "iterable": Again([X]), "list": [X, X]}[kind]
    with pytest.raises(ValueError, match=r"\(2, 3, 4\).*[Rr]eshape it, X\.reshape\(-1, X\.shape\[-1\]\)"):
        FastICA().fit(X)


# ---- files that change during a fit ----------------------------------------------------------------------------------
def later(path):
    """Advance the modification time by 1 s, because two writes can share one timestamp of the file system."""
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


def rewrite(path, X):
    with open(path, "r+b") as file:
        file.seek(-X.nbytes, os.SEEK_END)
        file.write(b"\0" * 16)
    later(path)


def replace(path, X):
    np.save(path.with_name("other.npy"), X[::-1])
    status = path.stat()
    os.utime(path.with_name("other.npy"), ns=(status.st_atime_ns, status.st_mtime_ns))
    os.replace(path.with_name("other.npy"), path)


def truncate(path, X):
    os.truncate(path, 20_000)


def remove(path, X):
    path.unlink()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (rewrite, r"x\.npy was written to while it was in use"),
        (replace, r"x\.npy was replaced by another file while it was in use"),
        (truncate, r"x\.npy is truncated"),
        (remove, r"x\.npy does not exist"),
    ],
)
def test_file_changed_during_fit_raises(change, message, order, X, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "BLOCK_BYTES", 1 << 12)
    monkeypatch.setattr("gpuica.rows.host.default_chunk_rows", lambda *given: 100)
    path = tmp_path / "x.npy"
    np.save(path, np.asarray(X, order=order))
    original, passes = stream.HostStreamRows._each_chunk, []

    def change_on_fourth_pass(self, *arguments):
        passes.append(1)
        if len(passes) == 4:
            change(path, X)
        original(self, *arguments)

    monkeypatch.setattr(stream.HostStreamRows, "_each_chunk", change_on_fourth_pass)
    monkeypatch.setattr(RawColumns, "slow", False)  # no block is cached
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        FastICA(random_state=0, memory_limit=1000).fit(path)
    assert len(passes) == 4


# ---- zarr ------------------------------------------------------------------------------------------------------------
def zarray(path, version=2, **changes):
    """Write the metadata of an array without stored chunks: all its values are the fill value."""
    path.mkdir(parents=True, exist_ok=True)
    if version == 2:
        meta = {"zarr_format": 2, "shape": [10, 2], "chunks": [5, 2], "dtype": "<f4", "compressor": None}
        meta |= {"filters": None, "fill_value": 7, "order": "C"}
    else:
        grid = {"name": "regular", "configuration": {"chunk_shape": [5, 2]}}
        keys = {"name": "default", "configuration": {"separator": "/"}}
        meta = {"zarr_format": 3, "node_type": "array", "shape": [10, 2], "data_type": "float32", "chunk_grid": grid}
        meta |= {"chunk_key_encoding": keys, "fill_value": 7.0, "attributes": {}}
        meta |= {"codecs": [{"name": "bytes", "configuration": {"endian": "little"}}]}
    (path / (".zarray" if version == 2 else "zarr.json")).write_text(json.dumps(meta | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compressor": {"id": "pickle", "protocol": 5}}, "codec 'pickle', which is not known to give numbers"),
        ({"filters": [{"id": "pickle"}]}, "codec 'pickle'"),
        ({"filters": {"id": "pickle"}}, "codec 'pickle'"),
        ({"filters": [{"id": "json2"}], "dtype": "|O"}, r"must hold real numbers, got dtype '\|O'"),
        ({"filters": [{"id": "vlen-utf8"}]}, "codec 'vlen-utf8'"),
        ({"filters": [{"id": "msgpack2"}]}, "codec 'msgpack2'"),
        ({"filters": [{"id": "astype", "encode_dtype": "O", "decode_dtype": "<f4"}]}, "encode_dtype 'O'"),
        ({"compressor": {"id": "pickle", "name": "zlib"}}, "codec 'pickle'"),
        ({"compressor": "zlib2"}, "codec 'zlib2'"),
        ({"compressor": 7}, "codec None"),
        ({"dtype": [["a", "<f2"]]}, "must hold real numbers"),
        ({"dtype": "<c8"}, "must hold real numbers"),
        ({"shape": [10, -2]}, "its shape and that of its chunks"),
        ({"shape": [10.0, 2]}, "its shape and that of its chunks"),
        ({"chunks": [5]}, "its shape and that of its chunks"),
        ({"chunks": [1 << 40, 1 << 40]}, "more than half of the free memory"),
        ({"shape": [10, 2, 2], "chunks": [5, 2, 2]}, r"has shape \(10, 2, 2\).*reshape it"),
        ({"zarr_format": 3}, "another zarr_format"),
    ],
)
def test_zarr_v2_invalid_metadata_raises(changes, message, tmp_path):
    pytest.importorskip("zarr")
    np.testing.assert_array_equal(shards(zarray(tmp_path / "fine.zarr"))[:], np.full((10, 2), 7, np.float32))
    refuse(zarray(tmp_path / "x.zarr", **changes), message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codecs": [{"name": "vlen-bytes"}]}, "codec 'vlen-bytes'"),
        ({"codecs": ["numcodecs.pickle"]}, r"codec 'numcodecs\.pickle'"),
        ({"codecs": [{"name": "sharding_indexed", "configuration": {"codecs": [{"name": "pickle"}]}}]}, "'pickle'"),
        ({"codecs": [{"name": "pickle", "id": "zlib"}]}, "codec 'pickle'"),
        ({"codecs": [{"name": "bytes", "configuration": 7}, {"name": "x", "configuration": 7}]}, "codec 'x'"),
        ({"codecs": None}, "codecs are not a list"),
        ({"chunk_grid": {"name": "regular", "configuration": 7}}, "its shape and that of its chunks"),
        ({"data_type": "string"}, "must hold real numbers, got dtype 'string'"),
        ({"data_type": {"name": "struct"}}, "must hold real numbers"),
        ({"storage_transformers": [{"name": "x"}]}, "storage transformers"),
        ({"zarr_format": 2}, "another zarr_format"),
        ({"chunk_grid": "regular"}, "its shape and that of its chunks"),
    ],
)
def test_zarr_v3_invalid_metadata_raises(changes, message, tmp_path):
    zarr = pytest.importorskip("zarr")
    if zarr.__version__ < "3":
        refuse(zarray(tmp_path / "x.zarr", 3), "format 3")
        return
    np.testing.assert_array_equal(shards(zarray(tmp_path / "fine.zarr", 3))[:], np.full((10, 2), 7, np.float32))
    refuse(zarray(tmp_path / "x.zarr", 3, **changes), message)


def test_zarr_supported_codecs(X, tmp_path):
    zarr, numcodecs = pytest.importorskip("zarr"), pytest.importorskip("numcodecs")
    new = zarr.__version__ >= "3"
    codecs = (numcodecs.Blosc(), numcodecs.Zstd(), numcodecs.Zlib(), numcodecs.GZip(), numcodecs.LZ4(), None)
    for i, codec in enumerate(codecs):
        options = {"zarr_format": 2} if new else {}
        array = zarr.open(str(tmp_path / f"{i}.zarr"), mode="w", shape=X.shape, dtype="f4", compressor=codec, **options)
        array[:] = X
        np.testing.assert_array_equal(shards(tmp_path / f"{i}.zarr")[:], X)
    if zarr.__version__ >= "3.1":  # zarr 3.0 can fail to read checksums that it wrote
        zarr.create_array(tmp_path / "s.zarr", data=X, chunks=(100, 4), shards=(1000, 4))
        np.testing.assert_array_equal(shards(tmp_path / "s.zarr")[:], X)


def test_zarr_group_requires_name_unless_one_matrix(tmp_path):
    pytest.importorskip("zarr")
    zarray(tmp_path / "x.zarr" / "a")
    zarray(tmp_path / "x.zarr" / "deep" / "b", shape=[10, 2, 3], chunks=[5, 2, 3])
    assert shards(tmp_path / "x.zarr").shape == (10, 2)  # the only matrix
    zarray(tmp_path / "x.zarr" / "c")
    refuse(tmp_path / "x.zarr", r"several matrices.*'a' \(10, 2\), 'c' \(10, 2\), 'deep/b' \(10, 2, 3\)")
    assert shards(tmp_path / "x.zarr", tensor="c").shape == (10, 2)
    zarray(tmp_path / "y.zarr")
    for name in ("../y.zarr", str(tmp_path / "y.zarr"), "d"):
        refuse(tmp_path / "x.zarr", "has no tensor", tensor=name)
    (tmp_path / "z.zarr").mkdir()
    refuse(tmp_path / "z.zarr", "holds no array")


def test_zarr_consolidated_metadata_are_ignored(tmp_path):
    """The array's own metadata, which are validated, take precedence over the consolidated metadata of its group."""
    zarr = pytest.importorskip("zarr")
    if zarr.__version__ < "3":
        pytest.skip("format 3")
    own = json.loads((zarray(tmp_path / "x.zarr" / "a", 3) / "zarr.json").read_text())
    entry = own | {"fill_value": 13.0}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    group["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": {"a": entry}}
    (tmp_path / "x.zarr" / "zarr.json").write_text(json.dumps(group))
    np.testing.assert_array_equal(shards(tmp_path / "x.zarr", tensor="a")[:], np.full((10, 2), 7, np.float32))


def test_open_zarr_array_with_pickle_codec_raises(X):
    class Pickle:
        codec_id = "pickle"

    class Stored:
        __module__ = "zarr.core"
        dtype, shape, ndim, compressor, filters = X.dtype, X.shape, 2, Pickle(), None

        def __getitem__(self, rows):
            raise AssertionError("it is read")

    with pytest.raises(ValueError, match="codec 'pickle'"):
        FastICA().fit(Stored())
    Stored.compressor, Stored.filters = None, [Pickle()]
    with pytest.raises(ValueError, match="codec 'pickle'"):
        FastICA().fit(Stored())


# ---- HDF5 ------------------------------------------------------------------------------------------------------------
def test_hdf5_external_links_and_storage_raise(X, tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "secret").write_bytes(X.tobytes())
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["acts"] = X
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["acts"], file["group/deep"] = X, X + 1
        file["soft"] = h5py.SoftLink("/group/deep")
        file["group/soft"] = h5py.SoftLink("deep")
        file["external link"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/acts")
        file["to a link"] = h5py.SoftLink("/external link")
        file["in circles"] = h5py.SoftLink("/in circles")
        file["nowhere"] = h5py.SoftLink("/no/where")
        file.create_dataset("external", X.shape, "f4", external=[(str(tmp_path / "secret"), 0, X.nbytes)])
        layout = h5py.VirtualLayout(X.shape, "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "acts", X.shape)
        file.create_virtual_dataset("virtual", layout)
    for name, expected in {"acts": X, "soft": X + 1, "group/soft": X + 1, "/group/deep": X + 1}.items():
        np.testing.assert_array_equal(shards(tmp_path / "x.h5", tensor=name)[:], expected)
    for name in ("external", "virtual"):
        refuse(tmp_path / "x.h5", f"'{name}' is stored in other files", tensor=name)
    for name in ("external link", "to a link", "in circles"):
        refuse(tmp_path / "x.h5", f"'{name}' is a link to another file", tensor=name)
    for name in ("nowhere", "group/none", "group", "../x", "acts/0"):
        refuse(tmp_path / "x.h5", "has no tensor", tensor=name)
    refuse(tmp_path / "x.h5", r"several matrices.*'acts' \(3000, 4\)")


def test_hdf5_damaged_file_or_invalid_dataset_raises(X, tmp_path):
    h5py = pytest.importorskip("h5py")
    (tmp_path / "noise.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\xff" * 100)
    refuse(tmp_path / "noise.h5", "is not an HDF5 file, or damaged")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["acts"], file["cube"] = X, np.zeros((2, 3, 4))
        file["text"], file["empty"] = "some", h5py.Empty("f4")
    np.testing.assert_array_equal(shards(tmp_path / "x.h5")[:], X)
    refuse(tmp_path / "x.h5", r"has shape \(2, 3, 4\).*reshape it", tensor="cube")
    refuse(tmp_path / "x.h5", "must hold real numbers|has shape", tensor="text")
    refuse(tmp_path / "x.h5", "has no tensor", tensor="empty")


# ---- Arrow -----------------------------------------------------------------------------------------------------------
def test_arrow_invalid_columns_raise():
    pa = pytest.importorskip("pyarrow")
    fixed = pa.list_(pa.float64(), 2)
    cases = {
        "a list of 3 after lists of 2 in row 1": pa.array([[1, 2], [3, 4, 5], [6]]),  # 6 numbers, as 3 lists of 2
        "a list of 3 after lists of 1 in row 2": pa.chunked_array([[[1.0], [2.0]], [[3.0, 4.0, 5.0]]]),
        r"no list \(null\) in row 1": pa.array([[1.0, 2.0], None, [3.0, 4.0]], type=fixed),
        r"a missing number \(null\) in row 1": pa.array([[1.0, 2.0], [3.0, None]]),
        "lists of list<": pa.array([[[1, 2], [3, 4]]]),
        "values of type int64": pa.array([1, 2]),
        "must hold real numbers": pa.array([["a", "b"]]),
    }
    for message, column in cases.items():
        for X in (column, pa.table({"acts": column})):
            with pytest.raises(ValueError, match=message):
                as_source(X)[:]


# ---- iterables -------------------------------------------------------------------------------------------------------
class Endless:
    """Endless iterable with identical passes; raises KeyboardInterrupt after `stop` chunks."""

    def __init__(self, stop=None):
        self.stop = stop

    def __iter__(self):
        rng = np.random.default_rng(0)
        n = 0
        while n != self.stop:
            yield rng.laplace(size=(300, 4))
            n += 1
        raise KeyboardInterrupt


def test_endless_iterable_is_logged_and_can_be_limited(caplog, monkeypatch, tmp_path):
    monkeypatch.setattr(iterables, "FIRST_MESSAGE_SECONDS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        FastICA().fit(Endless(5))
    assert "X: 300 rows counted" in caplog.text
    assert "gpuica.limited(X, n_rows)" in caplog.text
    expected = np.concatenate([part for part, _ in zip(Endless(), range(4))])[:1000]
    X = limited(Endless(), 1000)
    ica = FastICA(random_state=0).fit(X)
    np.testing.assert_allclose(ica.components_, FastICA(random_state=0).fit(expected).components_, rtol=1e-6)
    np.testing.assert_array_equal(as_source(X)[:], expected)
    np.testing.assert_array_equal(spool(limited(iter(Endless()), 1000), tmp_path / "s")[:], expected)
    with pytest.raises(TypeError, match="X is a generator"):
        FastICA().fit(limited(iter(Endless()), 1000))


def test_limited_finite_iterables_and_invalid_arguments(X):
    assert as_source(limited(Again([X]), 10**6)).shape == X.shape
    for chunk in ((X, "labels"), {"rows": X, "labels": 1}, [X, "labels"]):
        np.testing.assert_array_equal(as_source(limited(Again([chunk, chunk]), 3007))[:], np.vstack([X, X[:7]]))
    for n_rows in (0, -1, 1.5, "7", True, None):
        with pytest.raises(ValueError, match="n_rows must be a whole number"):
            limited(Again([X]), n_rows)
    with pytest.raises(TypeError, match="takes an iterable"):
        limited(7, 7)


@pytest.mark.parametrize(
    ("chunk", "message"),
    [
        (lambda X: __import__("scipy.sparse").sparse.csr_array(X), "yields sparse matrices.*toarray"),
        (lambda X: {1, 2}, "something else than arrays.*set"),
        (lambda X: {"rows": X.tolist()}, "dictionaries whose first value is something else than arrays.*list"),
        (lambda X: {}, "dictionaries whose first value is.*NoneType"),
        (lambda X: X.tolist(), "something else than arrays.*list"),
        (lambda X: X[0], r"shape \(4,\).*reshape"),
        (lambda X: X * 1j, "must hold real numbers"),
        (lambda X: X.astype(str), "must hold real numbers"),
        (lambda X: X[:, :0], r"has shape \(3000, 0\)"),
    ],
    ids=["sparse", "set", "dict of lists", "empty dict", "list", "1-D", "complex", "string", "no features"],
)
def test_invalid_chunks_raise(chunk, message, X):
    for kind in (FastICA, DictionaryLearning):
        with pytest.raises((ValueError, TypeError), match=message):
            kind().fit(Again([chunk(X)]))


def test_dataframe_chunks(X):
    pd = pytest.importorskip("pandas")
    np.testing.assert_array_equal(as_source(Again([pd.DataFrame(X[:100]), pd.DataFrame(X[100:])]))[:], X)


class Later:
    """Iterable whose chunk 3 is replaced by `change(chunk)` from pass `first` on."""

    def __init__(self, X, change, first):
        self.X, self.change, self.first, self.passes = X, change, first, 0

    def __iter__(self):
        self.passes += 1
        for i, part in enumerate(np.array_split(self.X, 5)):
            yield self.change(part) if i == 3 and self.passes >= self.first else part


def with_nan(part):
    part = part.copy()
    part[5, 1] = np.nan
    return part


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda part: part[:, :1], "a chunk of 1 features of float32 after chunks of 4 of float32"),
        (lambda part: part.astype(pytest.importorskip("ml_dtypes").bfloat16), "of bfloat16 after chunks"),
        (lambda part: part * 1j, "of complex64 after chunks"),
        (lambda part: part.astype(int), "of int64 after chunks"),
        (lambda part: part[None], r"has shape \(1, 600, 4\)"),
        (lambda part: part[1:], "fewer than the 3000 rows"),
        (lambda part: np.vstack([part, part[:1]]), "more than the 3000 rows"),
        (with_nan, "NaN or infinity, first in row 1805"),
    ],
    ids=["width", "bfloat16", "complex", "int", "3-D", "fewer", "more", "NaN"],
)
@pytest.mark.parametrize("first", [2, 4])
def test_every_pass_of_an_iterable_is_validated(change, message, first, X):
    for kind in (FastICA, Picard):
        with pytest.raises(ValueError, match=message):
            kind(random_state=0, memory_limit=1000).fit(Later(X, change, first))
    learner = MiniBatchDictionaryLearning(5, max_iter=9, fit_algorithm="cd", memory_limit=1000, max_no_improvement=None)
    with pytest.raises(ValueError, match=message):
        learner.fit(Later(X, change, first))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", ">f2", ">f8"])
def test_non_finite_value_in_later_pass_raises(dtype, value, X):
    X = X.astype(pytest.importorskip("ml_dtypes").bfloat16 if dtype == "bfloat16" else dtype)

    def with_value(part):
        part = part.copy()
        part[5, 1] = value
        return part

    with pytest.raises(ValueError, match="NaN or infinity, first in row 1805"):
        FastICA(random_state=0, memory_limit=1000).fit(Later(X, with_value, 4))


def test_large_finite_values_are_not_reported_as_nan(X):
    large = np.full((50, 4), 3e38, np.float32)
    np.testing.assert_array_equal(as_source(Again([large]))[:], large)
    half = np.full((50_000, 4), 6e4, np.float16)
    np.testing.assert_array_equal(as_source(Again([half]))[:], half)


def test_invalid_list_items_raise(X):
    sparse = pytest.importorskip("scipy.sparse")
    with pytest.raises(TypeError, match=r"part 1 of X is a sparse matrix.*toarray"):
        FastICA().fit([X, sparse.csr_array(X)])
    with pytest.raises(TypeError, match="part 1 of X is of type NoneType"):
        FastICA().fit([X, None])
    with pytest.raises(TypeError, match="X is a dict of 1 items: pass one of its arrays"):
        FastICA().fit({"a": X})


def test_hdf5_file_and_zarr_group_as_input_raise(X, tmp_path):
    h5py, zarr = pytest.importorskip("h5py"), pytest.importorskip("zarr")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["acts"] = X
        with pytest.raises(TypeError, match="X is a File of 1 items: pass one of its arrays"):
            FastICA().fit(file)
    with pytest.raises(TypeError, match="X is a Group of 0 items: pass one of its arrays"):
        FastICA().fit(zarr.open_group(str(tmp_path / "x.zarr"), mode="w"))


def test_string_sample_weight_raises(X, tmp_path):
    for weights in ("a", b"a", tmp_path):
        with pytest.raises(ValueError, match="sample_weight must be an array of numbers, one for each row of X, got"):
            FastICA().fit(X, sample_weight=weights)
    with pytest.raises(ValueError, match="sample_weight must hold real numbers"):
        FastICA().fit(X, sample_weight=["a"] * len(X))


def test_result_larger_than_memory_budget_raises(X):
    ica = FastICA(random_state=0).fit(X).set_params(memory_limit=1000)
    with pytest.raises(MemoryError, match=r"takes 48\.0 kB, which exceeds half of the memory budget, 1\.0 kB"):
        ica.transform(Again([X]))


def test_public_names():
    assert gpuica.limited is limited
