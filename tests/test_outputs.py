"""Results written to files and arrays: no incomplete file under its final name, no truncated or overflowing value."""

import os

import numpy as np
import pytest
from scipy.sparse import load_npz

from gpuica import FastICA, SparseCoder, shards, spool
from gpuica.io import partial
from gpuica.io import writers as writer_module

from .problems import mixture

X = mixture(3000, 4, dtype=np.float32)[0]


@pytest.fixture(scope="module")
def ica():
    return FastICA(random_state=0).fit(X)


def coder(**parameters):
    return SparseCoder(np.eye(4, dtype=np.float32), transform_algorithm="threshold", transform_alpha=0.5, **parameters)


@pytest.fixture
def small_files(monkeypatch):
    """Limit every file to one part."""
    monkeypatch.setattr(writer_module, "CODES_FILE_BYTES", 1)
    monkeypatch.setattr("gpuica.io.files.SPOOL_FILE_BYTES", 1)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- sets of files ---------------------------------------------------------------------------------------------------
def parts(n=5, end=None, watch=lambda: None):
    for part in np.array_split(X, n):
        watch()
        yield part
    if end:
        raise end


@pytest.mark.parametrize("end", [KeyboardInterrupt(), RuntimeError("no more")], ids=["interrupt", "error"])
def test_interrupted_spool_leaves_no_files(end, tmp_path, small_files):
    with pytest.raises(type(end)):
        spool(parts(end=end), tmp_path)
    assert names(tmp_path) == []


def test_spooled_files_are_renamed_together(tmp_path, small_files):
    found = []
    source = spool(parts(watch=lambda: found.append(names(tmp_path))), tmp_path)
    assert [len(some) for some in found] == [0, 1, 2, 3, 4]
    assert all(name.endswith(".npy.partial") for some in found for name in some)
    assert names(tmp_path) == [f"rows-{i:05d}.npy" for i in range(5)]
    np.testing.assert_array_equal(source[:], X)


def interrupted_at(monkeypatch, module, name, n):
    """Raise KeyboardInterrupt after call number n; returns the list of the arguments of all calls."""
    original, calls = getattr(module, name), []

    def counted(*arguments, **keywords):
        calls.append(arguments)
        result = original(*arguments, **keywords)
        if len(calls) == n:
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(module, name, counted)
    return calls


def test_interrupted_codes_leave_no_files(tmp_path, small_files, monkeypatch):
    interrupted_at(monkeypatch, writer_module, "save_npz", 2)
    with pytest.raises(KeyboardInterrupt):
        coder(sparse_output=True).transform(X, out=tmp_path)
    assert names(tmp_path) == []


def test_code_files_are_renamed_together(tmp_path, small_files, monkeypatch):
    original, found = writer_module.save_npz, []

    def recording_save(*arguments, **keywords):
        found.append(names(tmp_path))
        return original(*arguments, **keywords)

    monkeypatch.setattr(writer_module, "save_npz", recording_save)
    model = coder(sparse_output=True)
    paths = model.transform(X, out=tmp_path)
    assert len(paths) == len(found) > 1
    assert all(name.endswith(".npz.partial") for some in found for name in some)
    assert [path.name for path in paths] == names(tmp_path) == [f"codes-{i:05d}.npz" for i in range(len(paths))]
    codes = np.concatenate([load_npz(path).toarray() for path in paths])
    np.testing.assert_array_equal(codes, coder().transform(X))


@pytest.mark.parametrize(
    "write", [lambda folder: spool(parts(), folder), lambda folder: coded(folder)], ids=["spool", "codes"]
)
def test_the_first_file_is_renamed_last(write, tmp_path, small_files, monkeypatch):
    """A process killed between two renames leaves a set without its first file."""
    calls = interrupted_at(monkeypatch, os, "replace", -1)
    write(tmp_path)
    renamed = [os.path.basename(path) for _, path in calls]
    assert renamed == names(tmp_path)[::-1]


def coded(folder):
    return coder(sparse_output=True).transform(X, out=folder)


@pytest.mark.parametrize("write", [lambda folder: spool(parts(), folder), coded], ids=["spool", "codes"])
def test_interrupt_during_rename_leaves_no_files(write, tmp_path, small_files, monkeypatch):
    interrupted_at(monkeypatch, os, "replace", 2)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert names(tmp_path) == []


def test_partial_files_of_a_killed_process_are_replaced(tmp_path, small_files):
    for i in range(9):
        (tmp_path / f"rows-{i:05d}.npy.partial").write_bytes(b"half")
        (tmp_path / f"codes-{i:05d}.npz.partial").write_bytes(b"half")
    (tmp_path / "mine.partial").write_bytes(b"")
    coded(tmp_path)
    np.testing.assert_array_equal(spool(parts(), tmp_path)[:], X)
    assert [name for name in names(tmp_path) if name.endswith(".partial")] == ["mine.partial"]
    np.testing.assert_array_equal(shards(tmp_path)[:], X)


# ---- one file --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("n", [1, 2])
def test_interrupt_during_write_keeps_existing_file(n, ica, tmp_path, monkeypatch):
    (tmp_path / "s.npy").write_bytes(b"before")
    interrupted_at(monkeypatch, writer_module, "to_host", n)
    with pytest.raises(KeyboardInterrupt):
        ica.transform(np.repeat(X, 8, axis=0), out=tmp_path / "s.npy")
    assert names(tmp_path) == ["s.npy"]
    assert (tmp_path / "s.npy").read_bytes() == b"before"


def writers(ica):
    return {
        "transform": lambda out: ica.transform(X, out=out),
        "inverse_transform": lambda out: ica.inverse_transform(X, out=out),
        "coder.transform": lambda out: coder().transform(X, out=out),
        "coder.inverse_transform": lambda out: coder().inverse_transform(X, out=out),
    }


WRITERS = ["transform", "inverse_transform", "coder.transform", "coder.inverse_transform"]


@pytest.mark.parametrize("writer", WRITERS)
def test_invalid_output_paths_raise(writer, ica, tmp_path):
    write = writers(ica)[writer]
    (tmp_path / "folder.npy").mkdir()
    (tmp_path / "file").write_text("something")
    cases = [
        (tmp_path / "no" / "s.npy", FileNotFoundError, r"s\.npy cannot be written: there is no directory .*no\.$"),
        (tmp_path / "folder.npy", IsADirectoryError, r"folder\.npy is a directory: name a file"),
        (tmp_path / "file" / "s.npy", FileNotFoundError, r"s\.npy cannot be written: there is no directory .*file\.$"),
        (tmp_path / "s.csv", ValueError, r"must end in \.npy"),
        ("", ValueError, r"must end in \.npy"),
        (3, TypeError, r"out must be the path of a \.npy file, or an array .*; got int"),
        (b"s.npy", TypeError, r"out must be the path of a \.npy file, or an array .*; got bytes"),
    ]
    for out, kind, message in cases:
        with pytest.raises(kind, match=message) as caught:
            write(out)
        assert ".partial" not in str(caught.value)
    assert names(tmp_path) == ["file", "folder.npy"]


def test_permission_errors_name_the_final_path(ica, tmp_path, monkeypatch):
    def raise_permission_error(*arguments, **keywords):
        raise PermissionError(13, "Permission denied", "s.npy.partial")

    monkeypatch.setattr(partial, "open", raise_permission_error, raising=False)
    with pytest.raises(
        PermissionError, match=r"s\.npy cannot be written \(Permission denied\): name another dir"
    ) as caught:
        ica.transform(X, out=tmp_path / "s.npy")
    assert ".partial" not in str(caught.value)
    with pytest.raises(
        PermissionError, match=r"^\[Errno 13\] \S+codes-00000\.npz cannot be written \(Permission denied\)"
    ):
        coded(tmp_path / "codes")
    monkeypatch.setattr(partial.Path, "mkdir", raise_permission_error)
    with pytest.raises(PermissionError, match=r"codes cannot be made \(Permission denied\): name another directory"):
        coded(tmp_path / "codes")


def test_full_disk_leaves_no_codes(tmp_path, small_files, monkeypatch):
    def raise_no_space(file, *arguments, **keywords):
        file.write(b"some")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writer_module, "save_npz", raise_no_space)
    with pytest.raises(
        OSError, match=r"codes-00000\.npz could not be written \(No space left .*\); what was written is r"
    ):
        coded(tmp_path)
    assert names(tmp_path) == []


def test_invalid_directories_raise(tmp_path):
    (tmp_path / "file").write_text("something")
    for path in (tmp_path / "file", tmp_path / "file" / "codes"):
        with pytest.raises(NotADirectoryError, match="cannot be a directory: it, or a part of its path, is a file"):
            coded(path)
        with pytest.raises(NotADirectoryError, match="cannot be a directory: it, or a part of its path, is a file"):
            spool(parts(), path)
    with pytest.raises(
        TypeError, match="must be a directory for files of sparse codes, got ndarray: use sparse_output"
    ):
        coded(np.empty((3000, 4)))


# ---- arrays ----------------------------------------------------------------------------------------------------------
def arrays(kind, dtype, folder):
    if kind == "numpy":
        return np.zeros((3000, 4), dtype)
    if kind == "zarr":
        zarr = pytest.importorskip("zarr")
        return zarr.open(str(folder / "a.zarr"), mode="w", shape=(3000, 4), dtype=dtype)
    h5py = pytest.importorskip("h5py")
    return h5py.File(folder / "a.h5", "w").create_dataset("a", (3000, 4), dtype)


@pytest.mark.parametrize("dtype", ["i4", "u1", "?"])
@pytest.mark.parametrize("kind", ["numpy", "zarr", "h5py"])
def test_integer_out_raises_for_every_array_type(kind, dtype, ica, tmp_path):
    out = arrays(kind, dtype, tmp_path)
    with pytest.raises(TypeError, match=r"out holds \w+, which cannot represent the result, float32: pass an array"):
        ica.transform(X, out=out)
    assert not np.asarray(out[:]).any()


@pytest.mark.parametrize("writer", WRITERS)
def test_integer_out_raises_for_every_method(writer, ica):
    with pytest.raises(TypeError, match="which cannot represent the result"):
        writers(ica)[writer](np.zeros((3000, 4), int))


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "c16", "O"])
@pytest.mark.parametrize("kind", ["numpy", "zarr", "h5py"])
def test_out_of_sufficient_dtype_is_accepted(kind, dtype, ica, tmp_path):
    if dtype == "O" and kind != "numpy":
        return
    out = arrays(kind, dtype, tmp_path)
    ica.transform(X, out=out)
    expected = ica.transform(X)
    found = np.asarray(out[:]).astype(complex).real
    np.testing.assert_allclose(found, expected, rtol=2**-10 if dtype == "f2" else 0, atol=1e-7 if dtype == "f2" else 0)


@pytest.mark.parametrize("kind", ["numpy", "zarr", "h5py"])
def test_values_that_overflow_out_raise(kind, ica, tmp_path):
    far = X.copy()
    far[1500] *= 1e6
    with pytest.raises(
        ValueError, match=r"out holds float16, whose largest number is 6\.55e\+04, and the result has .*e\+\d+: pass"
    ):
        ica.transform(far, out=arrays(kind, "f2", tmp_path))
    wide = FastICA(random_state=0).fit(X.astype(np.float64))
    far = far.astype(np.float64)
    far[1500] *= 1e40
    with pytest.raises(ValueError, match=r"out holds float32, whose largest number is 3\.4e\+38, and"):
        wide.transform(far, out=arrays(kind, "f4", tmp_path))


def test_read_only_out_raises(ica):
    out = np.zeros((3000, 4))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only: pass an array that can be written to"):
        ica.transform(X, out=out)
