"""Damaged, malicious and changing files, and changing iterables: a clear error, or the stored numbers.

No header can cause allocations beyond a few times its own size, and every error names the file.
"""

import ast
import json
import os
import tempfile
import time
import tracemalloc
import warnings
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from gpuica import FastICA, shards
from gpuica.io.safetensors import safetensors_header
from gpuica.rows import stream
from tests.problems import mixture

SMALL = 4 << 20  # the most bytes allocated on opening any of these files
STRICTER = ("given twice", "does not begin with", "lacks dtype", "which the format does not have")
WORDS = (
    b"-",
    b"0",
    b"9" * 30,
    b"1e3",
    b"None",
    b"True",
    b"(",
    b"]",
    b"L",
    b"'",
    b'"',
    b"\\ud800",
    b"\xff",
    b"\n",
    b"{}",
)
DTYPES = ["<f4", "<f8", ">f4", "<f2", "|i1", "<i8", "|b1", "<u2", "<V2", "|V2", "<c8", "|O", "<M8[s]", "|S4"]


def mutated(rng, text):
    """The text with a few random edits: bits flipped, bytes removed, inserted or duplicated, digits replaced."""
    text = bytearray(text)
    for _ in range(rng.integers(1, 4)):
        place, kind = int(rng.integers(len(text) + 1)), rng.integers(5)
        if kind == 0 and place < len(text):
            text[place] ^= 1 << rng.integers(8)
        elif kind == 1:
            del text[place : place + int(rng.integers(1, 6))]
        elif kind == 2:
            text[place:place] = WORDS[rng.integers(len(WORDS))]
        elif kind == 3:
            text[place:place] = text[max(0, place - int(rng.integers(1, 30))) : place]
        else:
            digits = [i for i, byte in enumerate(text) if chr(byte).isdigit()]
            if digits:
                text[digits[rng.integers(len(digits))]] = rng.choice(list(b"0123456789-"))
    return bytes(text)


def opened(path, open_it):
    """(the opened object, None), or (None, the error message); fails on other errors or excessive time or memory."""
    tracemalloc.start()
    began, found, refusal = time.monotonic(), None, None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = open_it(path)
    except (ValueError, OSError, MemoryError) as error:
        refusal = str(error)
    finally:
        peak, seconds = tracemalloc.get_traced_memory()[1], time.monotonic() - began
        tracemalloc.stop()
    assert peak < SMALL + 10 * os.path.getsize(path), f"{peak} bytes of memory"
    assert seconds < 5, f"{seconds} s"
    if refusal is not None:
        assert os.fspath(path) in refusal, f"the file's name is not in: {refusal}"
        assert "\n" not in refusal.strip(), f"more than one line: {refusal}"
        assert len(refusal) < 2000, "the error message is too long"
    return found, refusal


def attack_npy_headers(rng):
    """Accepted files equal NumPy's memory maps, and matrices of real numbers that NumPy maps are accepted."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        for _ in range(40):
            shape = (int(rng.integers(1, 40)), int(rng.integers(1, 6)))
            header = {"descr": str(rng.choice(DTYPES)), "fortran_order": bool(rng.integers(2)), "shape": shape}
            text = str(header).encode() + b" " * int(rng.integers(20)) + b"\n"
            text = mutated(rng, text) if rng.random() < 0.9 else text
            size = len(text) if rng.random() < 0.95 else int(rng.integers(1 << 16))
            version, data = int(rng.integers(1, 3)), rng.bytes(40 * 6 * 8)
            path.write_bytes(b"\x93NUMPY" + bytes([version, 0]) + size.to_bytes(2 * version, "little") + text + data)
            source, refusal = opened(path, shards)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    expected = np.load(path, mmap_mode="r", allow_pickle=False)
            except Exception:  # whatever NumPy's parser raises
                expected = None
            if source is not None and source.shape[0]:
                assert expected is not None, f"NumPy rejects {text!r}"
                found = source.read(0, len(source))
                assert found.shape == expected.shape, text
                assert found.tobytes() == np.ascontiguousarray(expected).tobytes(), text
            elif (
                source is None
                and expected is not None
                and expected.ndim == 2
                and expected.dtype.kind in "iufb"
                and expected.size
            ):
                exact = all(type(n) is int for n in ast.literal_eval(text.decode("latin1").replace("L", ""))["shape"])
                assert not exact, f"NumPy accepts {text!r}: {refusal}"


def header_of_tensors(rng):
    """A valid header as a dict, and the size of its data in bytes."""
    header, end = {}, 0
    if rng.random() < 0.3:
        header["__metadata__"] = {"x": "y"}
    for i in rng.permutation(int(rng.integers(1, 5))):
        dtype = ["F32", "F64", "BF16", "U8", "F4", "I64"][rng.integers(6)]
        bits = {"F32": 32, "F64": 64, "BF16": 16, "U8": 8, "F4": 4, "I64": 64}[dtype]
        shape = [int(n) for n in 2 * rng.integers(0, 6, size=rng.integers(1, 4))]
        size = int(np.prod(shape)) * bits // 8
        header[f"t{i}"] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    return header, end


def spoilt(rng, header):
    """Replace one of the values of the header in place."""
    name = rng.choice([name for name in header if name != "__metadata__"])
    about = header[name]
    field = rng.choice(["dtype", "shape", "data_offsets"])
    values = [None, True, "3", 3.0, -1, 1 << 64, [], {}, [3.5, 2], ["3", "4"], [-4, -3], [0, 1 << 62], [True, 2]]
    if rng.random() < 0.5 and isinstance(about[field], list) and about[field]:
        about[field][rng.integers(len(about[field]))] = values[rng.integers(6)]
    else:
        about[field] = values[rng.integers(len(values))]


def attack_safetensors_headers(rng):
    """Headers are accepted as by the safetensors library, if installed; stricter only where its specification is."""
    try:
        import safetensors
    except ImportError:
        safetensors = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        for _ in range(40):
            header, size = header_of_tensors(rng)
            if rng.random() < 0.4:
                spoilt(rng, header)
            text = json.dumps(header).encode()
            text = mutated(rng, text) if rng.random() < 0.5 else text
            size += int(rng.choice([0, 0, 0, 0, 1, -1, 8]))
            length = len(text) if rng.random() < 0.95 else int(rng.integers(1 << 40))
            path.write_bytes(length.to_bytes(8, "little") + text + rng.bytes(max(0, size)))
            found, refusal = opened(path, safetensors_header)
            source, _ = opened(path, shards)
            if source is not None:
                assert source.offset + source.read(0, len(source)).nbytes <= os.path.getsize(path)
                assert source.offset >= found.offset
            if safetensors is None:
                continue
            try:
                with safetensors.safe_open(path, "numpy") as file:
                    expected = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            except Exception:  # rejected by the reference library
                expected = None
            if found is not None:
                assert expected == {name: tensor.shape for name, tensor in found.tensors.items()}, text
            elif expected is not None:
                assert any(words in refusal for words in STRICTER), f"{text!r}: {refusal}"


def attack_zarr_metadata(rng):
    """Metadata with parts replaced or damaged: an error that names the array, or an array of real numbers."""
    try:
        import zarr  # noqa: F401
    except ImportError:
        return
    from tests.test_files import zarray

    codecs = ["pickle", "json2", "zlib", "vlen-utf8", "numcodecs.pickle", "bytes", "astype", 7, None, {}]
    values = [None, True, "x", -1, 1 << 70, 3.5, [], {}, [3, 2], ["<f4"], "|O", "<f4", "string", *codecs[:7]]
    with tempfile.TemporaryDirectory() as folder:
        for number in range(8):
            path = zarray(Path(folder) / f"{number}.zarr", int(rng.integers(2, 4)))
            file = next(path.iterdir())
            about = json.loads(file.read_text())
            kind = rng.integers(3)
            if kind == 0:
                codec = codecs[rng.integers(len(codecs))]
                about |= {"compressor": {"id": codec}, "codecs": [{"name": codec}, *about.get("codecs", [])]}
            elif kind == 1:
                part = about
                while True:  # at a random position in the tree
                    key = rng.choice(list(part)) if isinstance(part, dict) else int(rng.integers(len(part)))
                    if isinstance(part[key], dict | list) and part[key] and rng.random() < 0.7:
                        part = part[key]
                        continue
                    part[key] = values[rng.integers(len(values))]
                    break
            text = json.dumps(about).encode()
            file.write_bytes(mutated(rng, text) if kind == 2 else text)
            source, _ = opened(path, shards)
            if source is not None and source.shape[0] < 1000 and source.shape[1] < 1000:
                assert source.dtype.kind in "iufb"
                part, _ = opened(path, lambda path, source=source: source.read(0, source.shape[0]))
                assert part is None or part.shape == source.shape


def attack_truncated_files(rng):
    """A file truncated at a random position: an error that names it, or all of its numbers."""
    X = rng.normal(size=(int(rng.integers(2, 300)), int(rng.integers(1, 6)))).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("x.npy", "f.npy", "x.safetensors", "x.h5"):
            path = Path(folder) / name
            if not written(path, np.asfortranarray(X) if name == "f.npy" else X):
                continue
            data = path.read_bytes()
            path.write_bytes(data[: int(rng.integers(len(data)))])
            source, _ = opened(path, shards)
            if source is not None:
                part, _ = opened(path, lambda path, source=source: source.read(0, len(source)))
                if part is not None:
                    np.testing.assert_array_equal(part, X)


def written(path, X):
    """Write X to the path; returns False if this requires h5py, which is not installed."""
    if path.suffix == ".npy":
        np.save(path, X)
    elif path.suffix == ".safetensors":
        header = {"acts": {"dtype": "F32", "shape": list(X.shape), "data_offsets": [0, X.nbytes]}}
        text = json.dumps(header).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text + X.tobytes())
    else:
        try:
            import h5py
        except ImportError:
            return False
        with h5py.File(path, "w") as file:
            file["acts"] = X
    return True


@contextmanager
def small_blocks():
    """Chunks of 100 rows, blocks of a few chunks, and no convergence warnings."""
    with (
        patch("gpuica.rows.host.default_chunk_rows", lambda *given: 100),
        patch.object(stream, "BLOCK_BYTES", 1 << 12),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def attack_files_that_change(rng):
    """A file replaced, overwritten, truncated or removed at a random read of a fit: an error, or an unchanged fit."""
    X = mixture(1500, 3, dtype=np.float32, seed=int(rng.integers(2**31)))[0]
    with tempfile.TemporaryDirectory() as folder, small_blocks():
        path = Path(folder) / ("x.npy", "x.safetensors")[rng.integers(2)]
        order = "CF"[rng.integers(2)] if path.suffix == ".npy" else "C"
        written(path, np.asarray(X, order=order))
        ica = FastICA(random_state=0, max_iter=8, memory_limit=1000)
        expected = ica.fit(path).components_
        source, reads, last = shards(path), 0, int(rng.integers(1, 80))
        original = type(source)._unchanged

        @contextmanager
        def watch(self):
            nonlocal reads
            reads += 1
            if reads == last:
                change(rng, path, X)
            with original(self) as file:
                yield file

        with patch.object(type(source), "_unchanged", watch):
            found, _ = opened(path.parent, lambda folder: ica.fit(source).components_)
        assert (found is None) == (reads >= last), "a changed file was read without an error"
        if found is not None:
            np.testing.assert_array_equal(found, expected)


def change(rng, path, X):
    kind = rng.integers(4)
    if kind == 0:
        path.unlink()
    elif kind == 1:
        os.truncate(path, int(rng.integers(os.path.getsize(path))))
    elif kind == 2:
        status = path.stat()
        written(path.with_name("other" + path.suffix), X[::-1])
        os.utime(path.with_name("other" + path.suffix), ns=(status.st_atime_ns, status.st_mtime_ns))
        os.replace(path.with_name("other" + path.suffix), path)
    else:
        status = path.stat()
        path.write_bytes(path.read_bytes()[::-1])
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))


def attack_iterables_that_change(rng):
    """One chunk changes from a random pass on: an error, or an unchanged fit if that pass is not reached."""
    X = mixture(1500, 3, dtype=np.float32, seed=int(rng.integers(2**31)))[0]
    first, which = int(rng.integers(2, 12)), int(rng.integers(5))  # the first pass determines shape and dtype

    def with_nan(part):
        part = part.copy()
        part[rng.integers(len(part)), rng.integers(3)] = (np.nan, np.inf)[rng.integers(2)]
        return part

    changes = [
        lambda part: part[:, :1],
        lambda part: np.hstack([part, part]),
        lambda part: part.astype((np.float64, np.int32, np.complex64, object)[rng.integers(4)]),
        lambda part: part[: len(part) - 1],
        lambda part: np.vstack([part, part[:1]]),
        lambda part: part[0],
        lambda part: part[None],
        lambda part: None,
        with_nan,
    ]
    spoil = changes[rng.integers(len(changes))]

    class Changing:
        passes = 0

        def __iter__(self):
            self.passes += 1
            for i, part in enumerate(np.array_split(X, 5)):
                yield spoil(part) if i == which and self.passes >= first else part

    data, ica = Changing(), FastICA(random_state=0, max_iter=8, memory_limit=1000)
    with small_blocks():
        expected, found, refusal = ica.fit([X]).components_, None, ""
        try:
            found = ica.fit(data).components_
        except (ValueError, TypeError) as error:
            refusal = str(error)
    assert len(refusal) < 600, refusal
    assert (found is None) == (data.passes >= first), refusal or "a changed pass was accepted"
    if found is not None:
        np.testing.assert_array_equal(found, expected)
