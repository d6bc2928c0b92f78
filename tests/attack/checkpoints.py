"""Killed fits and outputs, damaged checkpoints, and checkpoints used with other parameters or concurrently."""

import contextlib
import json
import os
import shutil
import signal
import tempfile
import threading
import time
import warnings
from pathlib import Path
from unittest import mock

import numpy as np
from scipy.sparse import load_npz

from gpuica import DictionaryLearning, FastICA, MiniBatchDictionaryLearning, Picard, SparseCoder, shards, spool
from gpuica.device import logger
from gpuica.estimators import _checkpoint
from gpuica.io import files, writers
from gpuica.io.checkpoint import CheckpointError, set_draws
from tests.problems import mixture

ICA = {"max_iter": 12, "tol": 1e-10}
LEARNING = {"n_components": 12, "max_iter": 6, "fit_algorithm": "cd", "alpha": 10.0, "tol": 0.0}  # atoms go unused
ONLINE = {**LEARNING, "max_iter": 2, "batch_size": 300}
FITS = [
    *((FastICA, ICA), (FastICA, {**ICA, "n_init": 3}), (FastICA, {**ICA, "algorithm": "deflation", "max_iter": 4})),
    *((Picard, ICA), (Picard, {**ICA, "ortho": False}), (Picard, {**ICA, "growth": 1.5})),
    *((FastICA, {**ICA, "growth": 1.5}), (FastICA, {**ICA, "center": "median"})),
    *((DictionaryLearning, LEARNING), (MiniBatchDictionaryLearning, ONLINE)),
]


def drawn(rng, values):
    return values[rng.integers(len(values))]


@contextlib.contextmanager
def folder():
    path = Path(tempfile.mkdtemp(prefix="attack-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


def fitted(kind, arguments, X, **more):
    """Return the fitted estimator; dictionary learning stores a snapshot after every step."""
    quiet = mock.patch.object(logger, "warning")
    with warnings.catch_warnings(), mock.patch.object(_checkpoint, "SNAPSHOT_INTERVAL", 0.0), quiet:
        warnings.simplefilter("ignore")
        return kind(**arguments).fit(X, **more)


def check_same(found, expected, rtol=0.0):
    atol = rtol * np.abs(expected.components_).max()
    np.testing.assert_allclose(found.components_, expected.components_, rtol=0, atol=atol)
    assert found.n_iter_ == expected.n_iter_


def slowly(file):
    """Replace os.fsync: most kills then occur while a file is incomplete."""
    time.sleep(0.002)


def killed(work, seconds):
    """Call `work` in a child process, which is killed after this number of seconds unless it has ended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about forking a process with threads: those of BLAS, which stops them
        child = os.fork()
    if not child:
        with contextlib.suppress(BaseException), mock.patch.object(os, "fsync", slowly):
            work()
        os._exit(0)
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def data(rng, arguments):
    n_rows = 25_000 if "growth" in arguments else int(rng.integers(600, 2500))
    return mixture(n_rows, 4, seed=int(rng.integers(2**31)))[0]


def attack_kills(rng):
    """A fit that is killed up to four times and resumed is bitwise identical to an uninterrupted one."""
    kind, arguments = drawn(rng, FITS)
    X, seed = data(rng, arguments), (int(rng.integers(100)), None)[rng.integers(2)]
    began = time.perf_counter()
    whole = fitted(kind, {**arguments, "random_state": 0}, X)
    lasted = time.perf_counter() - began
    with folder() as path:
        arguments = {**arguments, "random_state": seed, "checkpoint": path / "c"}
        for _ in range(int(rng.integers(1, 5))):
            killed(lambda: fitted(kind, arguments, X), rng.uniform(0, min(3 * lasted + 0.05, 0.5)))
        found = fitted(kind, arguments, X)
        begun = np.random.RandomState()
        set_draws(begun, json.loads((path / "c" / "about.json").read_text())["draws"], path)
        whole = fitted(kind, {**arguments, "random_state": begun if seed is None else seed, "checkpoint": None}, X)
    check_same(found, whole)


# ---- damage ----------------------------------------------------------------------------------------------------------
def flipped(rng, path, others):
    content = bytearray(path.read_bytes())
    for _ in range(int(rng.integers(1, 4))):
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def truncated(rng, path, others):
    path.write_bytes(path.read_bytes()[: rng.integers(path.stat().st_size)])


def longer(rng, path, others):
    path.write_bytes(path.read_bytes() + rng.bytes(9))


def swapped(rng, path, others):
    other = others[rng.integers(len(others))]
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)


def deleted(rng, path, others):
    path.unlink()


def edited(rng, path, others):
    """Replace a character of a JSON file or of a tensor header."""
    content = path.read_bytes()
    places = [i for i, byte in enumerate(content[:4000]) if chr(byte).isalnum()]
    i = places[rng.integers(len(places))]
    path.write_bytes(content[:i] + bytes([rng.choice(list(b"0123456789abcdefEN-"))]) + content[i + 1 :])


DAMAGE = [flipped, truncated, longer, swapped, deleted, edited]


def attack_damage(rng):
    """A damaged checkpoint gives bitwise identical results or raises CheckpointError."""
    kind, arguments = drawn(rng, FITS)
    X = data(rng, arguments)
    with folder() as path:
        arguments = {**arguments, "random_state": 0, "checkpoint": path}
        whole = fitted(kind, arguments, X)
        before = {file.name: file.read_bytes() for file in path.iterdir()}
        for _ in range(8):
            for name, content in before.items():
                (path / name).write_bytes(content)
            found = sorted(file for file in path.iterdir() if file.name != "lock")
            for _ in range(int(rng.integers(1, 3))):
                file = found[rng.integers(len(found))]
                if file.exists() and file.stat().st_size:
                    DAMAGE[rng.integers(len(DAMAGE))](rng, file, [other for other in found if other.exists()])
            with contextlib.suppress(CheckpointError):
                check_same(fitted(kind, arguments, X), whole)


# ---- other parameters ------------------------------------------------------------------------------------------------
def cubic(scale):
    return lambda x: (scale * x**3, scale * (3 * x**2).mean(axis=-1))


START = np.random.default_rng(0).normal(size=(4, 4))
ATOMS = np.random.default_rng(0).normal(size=(12, 4))
SHARED = {
    "random_state": [0, 1, np.int64(0), np.random.RandomState(0)],
    "tol": [1e-10, 1e-3],
    "max_iter": [1, 2, 5, 12],
    "memory_limit": [None, "1GB", 10_000],
    "device": ["auto", "cpu"],
    "verbose": [0, False],
}
OF_ICA = {
    **SHARED,
    "n_components": [None, 4, 3],
    "w_init": [None, START, START + 1e-12],
    "normalize_rows": [False, True],
    "center": ["mean", "median"],
    "whiten_solver": ["svd", "eigh"],
    "n_init": [1, 2],
    "growth": [None, 1.5, 2.0],
    "sort": [None, "objective", "variance"],
    "stop_percentile": [100, 50.0],
    "precision": [None, "float64", "float32"],
}
OF_FASTICA = {**OF_ICA, "fun": ["logcosh", "cube", cubic(1.0), cubic(2.0)], "algorithm": ["parallel", "deflation"]}
OF_PICARD = {**OF_ICA, "ortho": [True, False], "extended": [None, False]}
OF_LEARNING = {
    **SHARED,
    "n_components": [12, 11],
    "alpha": [10, 10.0, 1],
    "init": ["svd", "data", ATOMS],
    "dict_init": [None, ATOMS, ATOMS + 1e-12],
    "dead_atoms": ["resample", "worst", "keep"],
    "update": ["block_descent", "least_squares"],
    "transform_alpha": [None, 0.2],
    "transform_max_iter": [1000, 5],
    "positive_dict": [False, True],
    "split_sign": [False, True],
    "n_jobs": [None, 2],
}
CHOICES = {
    FastICA: OF_FASTICA,
    Picard: OF_PICARD,
    DictionaryLearning: OF_LEARNING,
    MiniBatchDictionaryLearning: {**OF_LEARNING, "batch_size": [300, 200], "shuffle": [True, False]},
}


def attack_parameters(rng):
    """With other parameters, data or weights a fit from a checkpoint raises, or equals a fit without checkpoint."""
    kind, arguments = drawn(rng, FITS)
    choices, given = CHOICES[kind], data(rng, arguments)
    names = [str(name) for name in rng.choice(list(choices), 2, replace=False)]
    names = ["max_iter", "max_iter"] if rng.integers(3) == 0 else names
    weights = [None, np.linspace(1, 2, len(given)), np.linspace(2, 1, len(given))]
    changed = given.copy()
    changed[1:] += rng.normal()
    with folder() as path:
        for turn in range(4):
            now = {**arguments, "random_state": 0, "checkpoint": path}
            now |= {name: drawn(rng, choices[name]) for name in (names if turn else names[:1])}
            X = drawn(rng, [given, given, changed])
            more = {"sample_weight": drawn(rng, weights)} if kind in (FastICA, Picard) and rng.integers(3) == 0 else {}
            try:
                found = fitted(kind, now, X, **more)
            except CheckpointError:
                continue
            except ValueError:  # incompatible parameters
                with contextlib.suppress(ValueError):
                    fitted(kind, {**now, "checkpoint": None}, X, **more)
                    raise
                continue
            # memory_limit determines whether whitened rows are stored, in chunks of another size: rounding can differ
            tolerance = 1e-6 if "memory_limit" in names else 0.0
            check_same(found, fitted(kind, {**now, "checkpoint": None}, X, **more), tolerance)


# ---- concurrent fits -------------------------------------------------------------------------------------------------
def attack_several_at_once(rng):
    """Concurrent fits with one directory, in threads and processes, each give the correct result or raise."""
    kind, arguments = drawn(rng, FITS)
    X, outcomes = data(rng, arguments), []
    whole = fitted(kind, {**arguments, "random_state": 0}, X)
    with folder() as path:
        arguments = {**arguments, "random_state": 0, "checkpoint": path}

        def work():
            try:
                outcomes.append(kind(**arguments).fit(X))
            except BaseException as error:
                outcomes.append(error)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child = os.fork()
            if not child:
                work()
                os._exit(0 if isinstance(outcomes[0], kind | CheckpointError) else 1)
            threads = [threading.Thread(target=work) for _ in range(3)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert os.waitpid(child, 0)[1] == 0
    for outcome in outcomes:
        if isinstance(outcome, CheckpointError):
            assert "is in use by" in str(outcome), outcome
        else:
            check_same(outcome, whole)


# ---- outputs ---------------------------------------------------------------------------------------------------------
def attack_killed_outputs(rng):
    """Output of a killed process is complete, absent, or lacks its first file; it can be written again."""
    X = rng.normal(size=(int(rng.integers(2000, 20_000)), 4))
    model = SparseCoder(np.eye(4), transform_algorithm="threshold", transform_alpha=0.5)
    sparse = SparseCoder(np.eye(4), transform_algorithm="threshold", transform_alpha=0.5, sparse_output=True)
    codes = model.transform(X)
    parts = np.array_split(X, int(rng.integers(1, 40)))

    def read_codes(path):
        return np.concatenate([load_npz(file).toarray() for file in sorted(path.glob("codes-*.npz"))])

    write, pattern, first, read, expected = (
        (lambda path: spool(iter(parts), path), "*.npy", "rows-00000.npy", lambda path: shards(path)[:], X),
        (lambda path: sparse.transform(X, out=path), "codes-*.npz", "codes-00000.npz", read_codes, codes),
        (lambda path: model.transform(X, out=path / "s.npy"), "*.npy", "s.npy", lambda path: shards(path)[:], codes),
    )[rng.integers(3)]
    with (
        folder() as path,
        mock.patch.object(writers, "CODES_FILE_BYTES", 10_000),
        mock.patch.object(files, "SPOOL_FILE_BYTES", 10_000),
    ):
        killed(lambda: write(path), rng.uniform(0, 0.05))
        if (path / first).exists():
            np.testing.assert_array_equal(read(path), expected)
        for file in path.glob(pattern):  # of a process killed between two renames
            file.unlink()
        write(path)
        np.testing.assert_array_equal(read(path), expected)
        assert not list(path.glob("*.partial"))
