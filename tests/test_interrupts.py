"""Ctrl-C: where KeyboardInterrupt is raised, and the state of an estimator afterwards."""

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from gpuica import DictionaryLearning, FastICA, MiniBatchDictionaryLearning, Picard, interrupts
from gpuica.device import threads
from gpuica.device.threads import run_in_threads
from gpuica.oracle import ContrastOracle
from gpuica.rows.host import HostRows
from gpuica.solvers.stochastic import stochastic_picard

from .problems import mixture, white


@pytest.fixture(autouse=True)
def default_handler():
    """Install Python's default handler, which is absent where a shell started the process with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert interrupts._State.depth == interrupts._State.interruptible == 0
    signal.signal(signal.SIGINT, before)


def press():
    signal.raise_signal(signal.SIGINT)


# ---- where KeyboardInterrupt is raised -------------------------------------------------------------------------------
def test_interrupt_is_raised_by_check_and_at_the_end_of_the_block():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.defer_interrupts():  # noqa: PT012
        with interrupts.defer_interrupts():
            press()
            done.append("inner")
        done.append("outer")
        interrupts.raise_if_interrupted()
        done.append("never")
    with pytest.raises(KeyboardInterrupt), interrupts.defer_interrupts():  # noqa: PT012
        press()
        done.append("end")
    assert done == ["inner", "outer", "end"]
    interrupts.raise_if_interrupted()  # it is raised only once


def test_other_error_does_not_replace_the_interrupt():
    with pytest.raises(KeyboardInterrupt) as raised, interrupts.defer_interrupts():  # noqa: PT012
        press()
        raise ValueError("something else")
    assert isinstance(raised.value.__context__, ValueError)


def test_second_interrupt_is_raised_immediately():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.defer_interrupts():  # noqa: PT012
        press()
        done.append("first")
        press()
        done.append("second")
    assert done == ["first"]


def test_handler_of_an_application_is_kept():
    calls = []
    signal.signal(signal.SIGINT, lambda *_: calls.append("its own"))
    with interrupts.defer_interrupts():
        press()
        interrupts.raise_if_interrupted()
        assert calls == ["its own"]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_user_code_is_interrupted_immediately():
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.defer_interrupts():  # noqa: PT012
        with interrupts.interruptible():
            with pytest.raises(KeyboardInterrupt):
                press()
            with pytest.raises(KeyboardInterrupt), interrupts.defer_interrupts():  # noqa: PT012  # a nested fit
                press()
                done.append("deferred again")
            done.append("after it")
        interrupts.raise_if_interrupted()
        press()
        with interrupts.interruptible():
            done.append("never")
    assert done == ["deferred again", "after it"]


@pytest.mark.parametrize("context", [interrupts.defer_interrupts, interrupts.block_interrupts])
def test_blocked_interrupt_is_raised_after_the_block(context):
    done = []
    with pytest.raises(KeyboardInterrupt), context(), interrupts.block_interrupts():  # noqa: PT012
        press()
        press()
        done.append("whole")
    assert done == ["whole"]
    signal.signal(signal.SIGINT, lambda *_: done.append("its own"))
    with interrupts.block_interrupts():
        press()
        done.append("whole")
    assert done == ["whole", "whole", "its own"]
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_other_threads_are_not_interrupted():
    found = []

    def other():
        with interrupts.defer_interrupts():
            is_interrupted = interrupts.interrupt_flag()
            press_main.set()
            pressed.wait(20)
            interrupts.raise_if_interrupted()
            found.append(is_interrupted())

    press_main, pressed = threading.Event(), threading.Event()
    thread = threading.Thread(target=other)
    with pytest.raises(KeyboardInterrupt), interrupts.defer_interrupts():  # noqa: PT012
        thread.start()
        press_main.wait(20)
        press()
        pressed.set()
        thread.join()
    assert found == [False]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_child_does_not_defer_interrupts():
    with interrupts.defer_interrupts():
        child = os.fork()
        if not child:
            try:
                press()
                os._exit(1)
            except KeyboardInterrupt:
                os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("n_threads", [1, 4])
def test_threads_finish_their_chunks(n_threads, monkeypatch):
    monkeypatch.setattr(threads, "host_threads", lambda: n_threads)
    begun, done = [], []

    def work(i):
        begun.append(i)
        if i == 20:
            os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.001)
        done.append(i)

    with pytest.raises(KeyboardInterrupt), interrupts.defer_interrupts():
        run_in_threads(10_000, work)
    assert sorted(begun) == sorted(done)
    assert 20 < len(done) < 1000


def test_second_interrupt_does_not_wait_for_a_blocked_chunk(monkeypatch):
    monkeypatch.setattr(threads, "host_threads", lambda: 2)
    begun, release, main = [], threading.Event(), threading.current_thread()

    def work(i):
        begun.append(i)
        if threading.current_thread() is main:
            while len(begun) < 2:
                time.sleep(0.001)
            return
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.1)
        release.wait(20)

    with pytest.raises(KeyboardInterrupt), interrupts.defer_interrupts():
        run_in_threads(10_000, work)
    release.set()
    time.sleep(0.1)
    n_begun = len(begun)
    time.sleep(0.1)
    assert len(begun) == n_begun < 10_000  # no thread continues in the background


# ---- the state of an estimator afterwards ----------------------------------------------------------------------------
@pytest.fixture
def interrupt_at(monkeypatch):
    """Return a function (n, method), after which the n-th call of this method raises KeyboardInterrupt."""

    def at(n, method, of=ContrastOracle):
        original, calls = getattr(of, method), []

        def counted(self, *arguments, **keywords):
            calls.append(method)
            if len(calls) == n:
                raise KeyboardInterrupt
            return original(self, *arguments, **keywords)

        monkeypatch.setattr(of, method, counted)
        return calls

    yield at
    monkeypatch.undo()


def interrupted(estimator, X):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(KeyboardInterrupt):
            estimator.fit(X)
    return estimator


def infomax_loss(W, Z):
    Y = Z @ W.T
    return (np.logaddexp(Y, -Y) - np.log(2)).mean(axis=0).sum() - np.linalg.slogdet(W)[1]


def test_picard_keeps_the_last_accepted_iterate(interrupt_at, monkeypatch):
    X = np.random.default_rng(0).laplace(size=(500, 4))
    arguments = {"ortho": False, "extended": False, "tol": 1e-6, "whiten": "arbitrary-variance", "growth": None}
    arguments |= {"w_init": np.random.default_rng(0).normal(size=(4, 4))}
    calls = interrupt_at(0, "likelihood")
    reference = Picard(**arguments).fit(X)
    n_calls, losses = len(calls), []
    assert n_calls > reference.n_iter_ + 1  # the line search has rejected a step
    for n in range(1, n_calls + 1):
        monkeypatch.undo()
        interrupt_at(n, "likelihood")
        stopped = interrupted(Picard(**arguments), X)
        if n < 3:  # the start, and the first step
            with pytest.raises(NotFittedError):
                stopped.transform(X)
            continue
        if not hasattr(stopped, "components_"):  # the first step was halved
            continue
        Z = (X - stopped.mean_) @ stopped.whitening_.T * len(X) ** 0.5
        losses.append(infomax_loss(stopped._unmixing, Z))
        assert losses[-1] == pytest.approx(reference.losses_[stopped.n_iter_], rel=1e-9)
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]


def test_fastica_keeps_the_last_iterate(interrupt_at, monkeypatch):
    X = mixture(2000, 4)[0]
    for n in (1, 2, 5):
        interrupt_at(n, "fixed_point")
        stopped = interrupted(FastICA(random_state=0, tol=0.0), X)
        monkeypatch.undo()
        if n == 1:
            with pytest.raises(NotFittedError):
                stopped.transform(X)
            continue
        with pytest.warns(ConvergenceWarning):
            expected = FastICA(random_state=0, tol=0.0, max_iter=n - 1).fit(X)
        np.testing.assert_array_equal(stopped.components_, expected.components_)
        assert stopped.n_iter_ == n - 1
        assert not stopped.converged_


@pytest.mark.parametrize("whiten", ["unit-variance", "arbitrary-variance", False])
def test_deflation_keeps_the_finished_components(whiten, interrupt_at, monkeypatch):
    X = mixture(2000, 4)[0] if whiten else white(2000, 4)
    arguments = {"random_state": 0, "algorithm": "deflation", "whiten": whiten}
    calls = interrupt_at(0, "fixed_point")
    whole = FastICA(**arguments).fit(X)
    found = set()
    for n in range(1, len(calls) + 1):
        monkeypatch.undo()
        interrupt_at(n, "fixed_point")
        stopped = FastICA(**arguments)
        with warnings.catch_warnings(record=True) as recorded, pytest.raises(KeyboardInterrupt):  # noqa: PT012
            warnings.simplefilter("always")
            stopped.fit(X)
        if not hasattr(stopped, "components_"):
            assert not recorded
            continue
        m = len(stopped.components_)
        found.add(m)
        np.testing.assert_allclose(stopped.components_, whole.components_[:m], rtol=1e-10)
        S = stopped.transform(X)
        assert S.shape == (2000, m)
        assert len(stopped.get_feature_names_out()) == m
        back = stopped.inverse_transform(S)
        assert back.shape == X.shape
        np.testing.assert_allclose(stopped.transform(back), S, atol=1e-8)  # the sources of the reconstructed data
        if m < 4:
            assert f"only the first {m} of 4 components are kept" in str(recorded[0].message)
    assert found == {1, 2, 3, 4}


@pytest.mark.parametrize(
    "kind",
    [
        lambda: FastICA(random_state=0, n_init=3, tol=0.0, max_iter=20),
        lambda: FastICA(random_state=0, tol=0.0, max_iter=20, growth=1.5),
        lambda: FastICA(random_state=0, sort="objective"),
        lambda: FastICA(random_state=0, sort="objective", n_init=4),
        lambda: Picard(random_state=0, n_init=3, growth=1.5),
        lambda: Picard(random_state=0, fastica_it=3, growth=1.5),
        lambda: Picard(random_state=0, growth=1.5, tol=1e-12, max_iter=30),
    ],
)
def test_estimator_interrupted_in_any_pass_is_usable_or_not_fitted(kind, interrupt_at, monkeypatch):
    X = mixture(16_000, 3)[0]
    calls = interrupt_at(0, "sum", HostRows)
    whole = kind()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole.fit(X)
    n_usable = 0
    for n in np.unique(np.linspace(1, len(calls), 12).astype(int)):
        monkeypatch.undo()
        interrupt_at(n, "sum", HostRows)
        stopped = interrupted(kind(), X)
        if not hasattr(stopped, "components_"):
            with pytest.raises(NotFittedError):
                stopped.transform(X)
            continue
        n_usable += 1
        np.testing.assert_allclose(np.cov(stopped.transform(X).T), np.eye(3), atol=1e-2)
        assert vars(stopped).keys() == vars(whole).keys()
    assert n_usable > 2
    if whole.sort:  # sorting is the last pass
        np.testing.assert_allclose(sorted(stopped.components_.tolist()), sorted(whole.components_.tolist()))


def test_stochastic_picard_records_every_step():
    oracle = ContrastOracle(HostRows(white(4000, 3)), Picard()._contrast())
    start = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    Ws, *_ = stochastic_picard(oracle, [start, np.eye(3)], rng=np.random.RandomState(0), max_epochs=3)
    W, n_steps = oracle.accepted.iterate
    np.testing.assert_array_equal(W, Ws[0])
    assert n_steps > 3


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize(
    "kind",
    [
        lambda: FastICA(random_state=0),
        lambda: Picard(random_state=0),
        lambda: DictionaryLearning(3, random_state=0, max_iter=5, tol=0, fit_algorithm="threshold", alpha=0.1),
        lambda: MiniBatchDictionaryLearning(3, random_state=0, max_iter=2, fit_algorithm="threshold", alpha=0.1),
    ],
)
def test_fit_failing_in_the_first_pass_keeps_the_previous_fit(kind, error, monkeypatch):
    X = mixture(2000, 4)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator = kind().fit(X)
    state = pickle.dumps({name: vars(estimator)[name] for name in sorted(vars(estimator))})
    sources = estimator.transform(X)

    def broken(*arguments, **keywords):
        raise error("now")

    with monkeypatch.context() as patch:
        patch.setattr(HostRows, "sum", broken)
        patch.setattr(HostRows, "reduce", broken)
        with pytest.raises(error, match="now"):
            estimator.fit(X[:, :3])
        first = kind()
        with pytest.raises(error, match="now"):
            first.fit(X)
    assert pickle.dumps({name: vars(estimator)[name] for name in sorted(vars(estimator))}) == state
    np.testing.assert_array_equal(estimator.transform(X), sources)
    with pytest.raises(NotFittedError):
        first.transform(X)


@pytest.mark.parametrize("kind", [FastICA, Picard, DictionaryLearning, MiniBatchDictionaryLearning])
def test_estimator_without_components_is_not_fitted(kind):
    estimator = kind()
    estimator.n_features_in_ = 3
    with pytest.raises(NotFittedError):
        estimator.transform(np.zeros((5, 3)))


def test_warning_raised_as_error_does_not_replace_the_interrupt(interrupt_at):
    interrupt_at(3, "fixed_point")
    ica = FastICA(random_state=0)
    with warnings.catch_warnings(), pytest.raises(KeyboardInterrupt):  # noqa: PT012
        warnings.simplefilter("error")
        ica.fit(mixture(1000, 3)[0])
    assert ica.n_iter_ == 2


def test_fit_runs_does_not_change_fitted_attributes():
    X = mixture(500, 4)[0]
    ica = FastICA(random_state=0).fit(X)
    before = dict(vars(ica))
    ica.fit_runs(X[:, :3], 2)
    assert vars(ica) == before


def test_dictionary_learning_keeps_the_last_completed_iteration(interrupt_at, monkeypatch):
    X = mixture(2000, 4)[0]
    arguments = {"random_state": 0, "tol": 0, "fit_algorithm": "threshold", "alpha": 0.1}
    for n in (1, 3):
        interrupt_at(n, "reduce", HostRows)
        stopped = interrupted(DictionaryLearning(6, max_iter=5, **arguments), X)
        monkeypatch.undo()
        if n == 1:
            with pytest.raises(NotFittedError):
                stopped.transform(X)
            continue
        with pytest.warns(ConvergenceWarning):
            expected = DictionaryLearning(6, max_iter=n - 1, **arguments).fit(X)
        np.testing.assert_array_equal(stopped.components_, expected.components_)
        assert stopped.n_iter_ == len(stopped.error_) == n - 1


@pytest.mark.parametrize(
    ("estimator", "pass_", "counted", "count"),
    [
        (
            MiniBatchDictionaryLearning(6, random_state=0, fit_algorithm="threshold", alpha=0.1),
            *("reduce", "n_steps_", 3),
        ),
        (Picard(random_state=0), "sum", "n_samples_seen_", 900),
    ],
)
def test_interrupted_partial_fit_has_no_effect(estimator, pass_, counted, count, interrupt_at, monkeypatch):
    stopped, whole = clone(estimator), clone(estimator)
    for part in np.split(mixture(900, 4)[0], 3):
        interrupt_at(1, pass_, HostRows)
        with pytest.raises(KeyboardInterrupt):
            stopped.partial_fit(part)
        monkeypatch.undo()
        stopped.partial_fit(part)
        whole.partial_fit(part)
    np.testing.assert_array_equal(stopped.components_, whole.components_)
    assert getattr(stopped, counted) == getattr(whole, counted) == count


def test_callback_can_handle_the_interrupt():
    calls = []

    def callback(state):
        try:
            press()
        except KeyboardInterrupt:
            calls.append(state["ii"])

    learner = DictionaryLearning(
        3, random_state=0, max_iter=6, tol=0, fit_algorithm="threshold", alpha=0.1, callback=callback
    )
    with pytest.warns(ConvergenceWarning):
        learner.fit(mixture(500, 4)[0])
    assert calls == [0, 5]
    assert learner.n_iter_ == 6


# ---- Numba -----------------------------------------------------------------------------------------------------------
def test_import_of_numba_is_not_interrupted():
    script = """
import importlib.abc, os, signal, sys
import numpy as np
import gpuica
signal.signal(signal.SIGINT, signal.default_int_handler)

class Interrupts(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in ("numba.core.types", "numba.core.dispatcher"):
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupts())
X = np.random.default_rng(0).laplace(size=(60_000, 8))
ica = gpuica.FastICA(random_state=0)
try:
    ica.fit(X)
except KeyboardInterrupt:
    assert "numba" in sys.modules
else:
    raise AssertionError("swallowed")
print(*ica.fit(X).components_.ravel().tolist())
"""
    environment = {**os.environ, "NUMBA_NUM_THREADS": "1"}  # the main thread imports Numba
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, env=environment
    )
    assert process.returncode == 0, process.stderr
    expected = FastICA(random_state=0).fit(np.random.default_rng(0).laplace(size=(60_000, 8))).components_
    np.testing.assert_array_equal(np.array(process.stdout.split(), float), expected.ravel())
    assert "Exception ignored" not in process.stderr


def test_compilation_is_logged_and_not_interrupted(caplog, monkeypatch):
    from numba.core import event

    from gpuica import device
    from gpuica.kernels import compiling

    device.log_once.cache_clear()
    compiling.import_kernels("cpu.lasso")
    array, number = SimpleNamespace(dtype="float32"), SimpleNamespace()

    def compile_for(seconds, module):
        data = {"dispatcher": SimpleNamespace(py_func=SimpleNamespace(__module__=module)), "args": (array, number)}
        with event.trigger_event("numba:compile", data=data):
            with event.trigger_event("numba:compile", data=data):  # of a called function
                press()
            time.sleep(seconds)
            done.append(module)

    done: list = []
    with caplog.at_level(logging.WARNING, logger="gpuica"):
        for patience, module in [
            (60, "gpuica.kernels.cpu.matching"),
            (0.01, "somebody.else"),
            (0.01, "gpuica.kernels.cpu.lasso"),
        ]:
            monkeypatch.setattr(compiling, "PATIENCE", patience)
            with pytest.raises(KeyboardInterrupt):
                compile_for(0.2, module)
    assert [record.getMessage()[:41] for record in caplog.records] == ["Compiling the lasso kernel for float32. I"]
    assert len(done) == 3
    assert not [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer) and thread.is_alive()]
