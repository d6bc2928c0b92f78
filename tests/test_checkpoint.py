"""Interrupted fits: they leave a usable estimator and a checkpoint, from which they resume with identical results."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from gpuica import DictionaryLearning, FastICA, MiniBatchDictionaryLearning, Picard
from gpuica.estimators import _checkpoint
from gpuica.io.checkpoint import set_draws
from gpuica.io.safetensors import read_tensors, write_tensors
from gpuica.rows.host import HostRows

from .problems import mixture


@pytest.fixture
def X():
    return mixture(30_000, 4, dtype=np.float32)[0]


class StopsAfter:
    """Raises KeyboardInterrupt at the n-th call of `method`, over all instances of HostRows; counts the calls."""

    def __init__(self, monkeypatch, n, method="sum"):
        original = getattr(HostRows, method)
        self.passes = 0

        def counted(rows, *arguments, **keywords):
            self.passes += 1
            if self.passes == n:
                raise KeyboardInterrupt
            return original(rows, *arguments, **keywords)

        monkeypatch.setattr(HostRows, method, counted)


FITS = [
    (FastICA, {"random_state": 0, "tol": 0.0, "max_iter": 12}),
    (FastICA, {"random_state": None, "tol": 0.0, "growth": 2.0, "max_iter": 12}),
    (FastICA, {"random_state": 0, "algorithm": "deflation"}),
    (Picard, {"random_state": 0, "growth": 1.5}),
    (Picard, {"random_state": np.random.RandomState(3), "n_init": 3}),
]


@pytest.mark.parametrize("at", [1, 2, 4, 7, 11])
@pytest.mark.parametrize(("kind", "arguments"), FITS)
def test_resumed_fit_is_bitwise_identical(kind, arguments, at, X, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        StopsAfter(patch, at)
        interrupted = kind(**arguments, checkpoint=tmp_path / "c")
        with pytest.raises(KeyboardInterrupt):
            _quietly(interrupted.fit, X)
    stored = sorted(path.name for path in (tmp_path / "c").glob("answer-*"))
    assert len(stored) == at - 1
    with monkeypatch.context() as patch:
        counter = StopsAfter(patch, -1)
        resumed = kind(**arguments, checkpoint=tmp_path / "c")
        _quietly(resumed.fit, X)
        n_computed = counter.passes
    rng = np.random.RandomState()  # in the state that the interrupted fit stored
    set_draws(rng, json.loads((tmp_path / "c" / "about.json").read_text())["draws"], "about.json")
    uninterrupted = kind(**{**arguments, "random_state": rng})
    _quietly(uninterrupted.fit, X)
    np.testing.assert_array_equal(resumed.components_, uninterrupted.components_)
    assert resumed.n_passes_ == uninterrupted.n_passes_
    assert resumed.n_iter_ == uninterrupted.n_iter_
    assert len(list((tmp_path / "c").glob("answer-*"))) == n_computed + at - 1  # no stored sum was computed again


def _quietly(function, *arguments):
    """Call the function with warnings ignored."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


def test_interrupted_fit_leaves_usable_estimator(X, monkeypatch):
    StopsAfter(monkeypatch, 5)
    ica = FastICA(random_state=0)
    with pytest.warns(ConvergenceWarning, match="The fit was interrupted"), pytest.raises(KeyboardInterrupt):
        ica.fit(X)
    assert not ica.converged_
    S = ica.transform(X)
    np.testing.assert_allclose(np.cov(S.T), np.eye(4), atol=1e-3)  # white, although not yet independent
    np.testing.assert_allclose(ica.inverse_transform(S), X, atol=1e-2)


def test_interrupt_in_first_pass_leaves_estimator_unfitted(X, monkeypatch):
    StopsAfter(monkeypatch, 1)
    ica = FastICA(random_state=0)
    with pytest.raises(KeyboardInterrupt):
        ica.fit(X)
    assert not hasattr(ica, "components_")


def test_unconverged_fit_resumes_with_larger_max_iter(X, tmp_path):
    short = FastICA(random_state=0, tol=1e-12, max_iter=3, checkpoint=tmp_path / "c")
    with pytest.warns(ConvergenceWarning):
        short.fit(X)
    uninterrupted = FastICA(random_state=0, tol=1e-12, max_iter=60)
    _quietly(uninterrupted.fit, X)
    resumed = FastICA(random_state=0, tol=1e-12, max_iter=60, checkpoint=tmp_path / "c")
    _quietly(resumed.fit, X)
    np.testing.assert_array_equal(resumed.components_, uninterrupted.components_)


def test_safetensors_round_trip(tmp_path, rng):
    arrays = {"a": rng.normal(size=(3, 4)), "b": np.arange(5), "c": np.float32([[1.5]]), "empty": np.zeros((0, 3))}
    write_tensors(tmp_path / "x.safetensors", arrays, {"why": "a test"})
    found, metadata = read_tensors(tmp_path / "x.safetensors")
    assert metadata == {"why": "a test"}
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    safetensors = pytest.importorskip("safetensors.numpy")
    for name, array in safetensors.load_file(tmp_path / "x.safetensors").items():
        np.testing.assert_array_equal(array, arrays[name])


# ---- dictionary learning ---------------------------------------------------------------------------------------------
LEARNERS = [
    (DictionaryLearning, {"max_iter": 8, "tol": 0.0}, 4),
    (MiniBatchDictionaryLearning, {"max_iter": 2, "batch_size": 500, "tol": 0.0, "max_no_improvement": None}, 5),
    (MiniBatchDictionaryLearning, {"max_iter": 9, "batch_size": 500, "max_no_improvement": 9, "memory": 3000}, 12),
]


@pytest.mark.parametrize("form", ["array", "files"])
@pytest.mark.parametrize("interval", [0.0, 1e9])
@pytest.mark.parametrize(("kind", "arguments", "at"), LEARNERS)
def test_resumed_dictionary_learning_is_bitwise_identical(
    kind, arguments, at, interval, form, X, tmp_path, monkeypatch
):
    """With interval 0 every step stores a snapshot; with 1e9 none does, and the fit restarts with the same result."""
    X = X[:3000]
    if form == "files":
        np.save(tmp_path / "x.npy", X)
        X = tmp_path / "x.npy"
    monkeypatch.setattr(_checkpoint, "SNAPSHOT_INTERVAL", interval)
    # with twelve atoms in four dimensions and a large alpha, some atoms are unused and resampled
    arguments = {"n_components": 12, "alpha": 10.0, "fit_algorithm": "cd", "random_state": 1, **arguments}
    uninterrupted = kind(**arguments)
    _quietly(uninterrupted.fit, X)
    interrupted = kind(**arguments, checkpoint=tmp_path / "c")
    with monkeypatch.context() as patch:
        StopsAfter(patch, at, "for_each")
        with pytest.raises(KeyboardInterrupt):
            interrupted.fit(X)
    assert uninterrupted.n_replaced_ > interrupted.n_replaced_ > 0  # atoms are resampled before and after the interrupt
    assert not interrupted.converged_
    assert interrupted.components_.shape == (12, 4)
    assert (tmp_path / "c" / "state.safetensors").exists() == (interval == 0)
    resumed = kind(**arguments, checkpoint=tmp_path / "c")
    _quietly(resumed.fit, X)
    np.testing.assert_array_equal(resumed.components_, uninterrupted.components_)
    assert resumed.n_iter_ == uninterrupted.n_iter_
    assert resumed.n_replaced_ == uninterrupted.n_replaced_
    costs = "error_" if kind is DictionaryLearning else "costs_"
    np.testing.assert_array_equal(getattr(resumed, costs), getattr(uninterrupted, costs))


# ---- interrupted processes -------------------------------------------------------------------------------------------
SCRIPT = """
import sys
import numpy as np
from gpuica import FastICA
X = np.load(sys.argv[1])
ica = FastICA(random_state=0, tol=0, max_iter=int(sys.argv[3]), checkpoint=sys.argv[2])
try:
    ica.fit(X)
except KeyboardInterrupt:
    print("interrupted", ica.converged_, ica.components_.shape)
np.save(sys.argv[4], ica.components_)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_process_stopped_by_signal_resumes(signum, tmp_path):
    np.save(tmp_path / "x.npy", mixture(100_000, 6, dtype=np.float64)[0])
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}

    def start(n_iter, checkpoint, result):
        arguments = [tmp_path / "x.npy", tmp_path / checkpoint, n_iter, tmp_path / result]
        command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    uninterrupted = start(40, "whole", "whole.npy")
    interrupted = start(40_000, "c", "stopped.npy")  # more iterations than can complete
    while not (tmp_path / "c" / "answer-00004.safetensors").exists():
        assert interrupted.poll() is None
        time.sleep(0.01)
    interrupted.send_signal(signum)
    stdout, _ = interrupted.communicate(timeout=60)
    if signum == signal.SIGINT:
        assert stdout == "interrupted False (6, 6)\n"
    stored = sorted((tmp_path / "c").glob("answer-*.safetensors"))
    for path in stored[30:]:  # so that it is not beyond the 40 iterations of the uninterrupted fit
        path.unlink()
    resumed = start(40, "c", "again.npy")
    resumed.communicate(timeout=120)
    uninterrupted.communicate(timeout=120)
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), np.load(tmp_path / "whole.npy"))
