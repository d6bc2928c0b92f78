"""Fits that are interrupted: they leave a usable estimator and a checkpoint, and go on to the same answer."""

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
from gpuica.io.files import read_tensors, write_tensors
from gpuica.rows.memory import MemoryRows

from .problems import mixture


@pytest.fixture
def X():
    return mixture(30_000, 4, dtype=np.float32)[0]


class StopsAfter:
    """Interrupts the fit at pass number n over any rows, by whatever method they are passed over."""

    def __init__(self, monkeypatch, n, method="sum"):
        original = getattr(MemoryRows, method)
        self.passes = 0

        def counted(rows, *arguments, **keywords):
            self.passes += 1
            if self.passes == n:
                raise KeyboardInterrupt
            return original(rows, *arguments, **keywords)

        monkeypatch.setattr(MemoryRows, method, counted)


FITS = [
    (FastICA, {"random_state": 0, "tol": 0.0, "max_iter": 12}),
    (FastICA, {"random_state": None, "tol": 0.0, "growth": 2.0, "max_iter": 12}),
    (FastICA, {"random_state": 0, "algorithm": "deflation"}),
    (Picard, {"random_state": 0, "growth": 1.5}),
    (Picard, {"random_state": np.random.RandomState(3), "n_init": 3}),
]


@pytest.mark.parametrize("at", [1, 2, 4, 7, 11])
@pytest.mark.parametrize(("kind", "arguments"), FITS)
def test_an_interrupted_fit_goes_on_to_the_same_bits(kind, arguments, at, X, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        StopsAfter(patch, at)
        stopped = kind(**arguments, checkpoint=tmp_path / "c")
        with pytest.raises(KeyboardInterrupt):
            _quietly(stopped.fit, X)
    answers = sorted(path.name for path in (tmp_path / "c").glob("answer-*"))
    assert len(answers) == at - 1
    with monkeypatch.context() as patch:
        counter = StopsAfter(patch, -1)
        again = kind(**arguments, checkpoint=tmp_path / "c")
        _quietly(again.fit, X)
        read = counter.passes
    drawn = np.random.RandomState()  # what the interrupted fit drew
    set_draws(drawn, json.loads((tmp_path / "c" / "about.json").read_text())["draws"], "about.json")
    whole = kind(**{**arguments, "random_state": drawn})
    _quietly(whole.fit, X)
    np.testing.assert_array_equal(again.components_, whole.components_)
    assert again.n_passes_ == whole.n_passes_
    assert again.n_iter_ == whole.n_iter_
    assert len(list((tmp_path / "c").glob("answer-*"))) == read + at - 1  # nothing was read twice


def _quietly(function, *arguments):
    """Call it, whatever it warns of."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return function(*arguments)


def test_an_interrupt_leaves_an_estimator_that_works(X, monkeypatch):
    StopsAfter(monkeypatch, 5)
    ica = FastICA(random_state=0)
    with pytest.warns(ConvergenceWarning, match="The fit was interrupted"), pytest.raises(KeyboardInterrupt):
        ica.fit(X)
    assert not ica.converged_
    S = ica.transform(X)
    np.testing.assert_allclose(np.cov(S.T), np.eye(4), atol=1e-3)  # white, if not independent yet
    np.testing.assert_allclose(ica.inverse_transform(S), X, atol=1e-2)


def test_an_interrupt_before_anything_is_known_leaves_nothing(X, monkeypatch):
    StopsAfter(monkeypatch, 1)
    ica = FastICA(random_state=0)
    with pytest.raises(KeyboardInterrupt):
        ica.fit(X)
    assert not hasattr(ica, "components_")


def test_a_fit_that_did_not_converge_goes_on_with_more_iterations(X, tmp_path):
    short = FastICA(random_state=0, tol=1e-12, max_iter=3, checkpoint=tmp_path / "c")
    with pytest.warns(ConvergenceWarning):
        short.fit(X)
    whole = FastICA(random_state=0, tol=1e-12, max_iter=60)
    _quietly(whole.fit, X)
    more = FastICA(random_state=0, tol=1e-12, max_iter=60, checkpoint=tmp_path / "c")
    _quietly(more.fit, X)
    np.testing.assert_array_equal(more.components_, whole.components_)


def test_tensors_come_back_as_they_were(tmp_path, rng):
    arrays = {"a": rng.normal(size=(3, 4)), "b": np.arange(5), "c": np.float32([[1.5]]), "empty": np.zeros((0, 3))}
    write_tensors(tmp_path / "x.safetensors", arrays, {"why": "a test"})
    found, about = read_tensors(tmp_path / "x.safetensors")
    assert about == {"why": "a test"}
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
@pytest.mark.parametrize("every", [0.0, 1e9])
@pytest.mark.parametrize(("kind", "arguments", "at"), LEARNERS)
def test_learning_goes_on_to_the_same_bits(kind, arguments, at, every, form, X, tmp_path, monkeypatch):
    """every: snapshots after each step, or none but the first: the fit then begins anew, and must end alike too."""
    X = X[:3000]
    if form == "files":
        np.save(tmp_path / "x.npy", X)
        X = tmp_path / "x.npy"
    monkeypatch.setattr(_checkpoint, "SNAPSHOT_INTERVAL", every)
    # twelve atoms in four dimensions, and a large alpha: some go unused and are drawn anew
    arguments = {"n_components": 12, "alpha": 10.0, "fit_algorithm": "cd", "random_state": 1, **arguments}
    whole = kind(**arguments)
    _quietly(whole.fit, X)
    stopped = kind(**arguments, checkpoint=tmp_path / "c")
    with monkeypatch.context() as patch:
        StopsAfter(patch, at, "for_each")
        with pytest.raises(KeyboardInterrupt):
            stopped.fit(X)
    assert whole.n_replaced_ > stopped.n_replaced_ > 0  # draws come before and after
    assert not stopped.converged_
    assert stopped.components_.shape == (12, 4)
    assert (tmp_path / "c" / "state.safetensors").exists() == (every == 0)
    again = kind(**arguments, checkpoint=tmp_path / "c")
    _quietly(again.fit, X)
    np.testing.assert_array_equal(again.components_, whole.components_)
    assert again.n_iter_ == whole.n_iter_
    assert again.n_replaced_ == whole.n_replaced_
    costs = "error_" if kind is DictionaryLearning else "costs_"
    np.testing.assert_array_equal(getattr(again, costs), getattr(whole, costs))


# ---- a process that is really interrupted ----------------------------------------------------------------------------
SCRIPT = """
import sys
import numpy as np
from gpuica import FastICA
X = np.load(sys.argv[1])
ica = FastICA(random_state=0, tol=1e-14, max_iter=int(sys.argv[3]), checkpoint=sys.argv[2])
try:
    ica.fit(X)
except KeyboardInterrupt:
    print("interrupted", ica.converged_, ica.components_.shape)
np.save(sys.argv[4], ica.components_)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped(how, tmp_path):
    np.save(tmp_path / "x.npy", mixture(100_000, 6, dtype=np.float64)[0])
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}

    def start(n_iter, checkpoint, result):
        arguments = [tmp_path / "x.npy", tmp_path / checkpoint, n_iter, tmp_path / result]
        command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)

    whole = start(40, "whole", "whole.npy")
    stopped = start(40_000, "c", "stopped.npy")  # more iterations than there is time for
    while not (tmp_path / "c" / "answer-00004.safetensors").exists():
        assert stopped.poll() is None
        time.sleep(0.01)
    stopped.send_signal(how)
    said, _ = stopped.communicate(timeout=60)
    if how == signal.SIGINT:
        assert said == "interrupted False (6, 6)\n"
    answers = sorted((tmp_path / "c").glob("answer-*.safetensors"))
    for path in answers[30:]:  # if it was quick, it is not to be beyond the 40 iterations of the other
        path.unlink()
    again = start(40, "c", "again.npy")
    again.communicate(timeout=120)
    whole.communicate(timeout=120)
    np.testing.assert_array_equal(np.load(tmp_path / "again.npy"), np.load(tmp_path / "whole.npy"))
