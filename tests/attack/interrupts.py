"""Ctrl-C at random times: during fits, the first import of Numba, and compilation with an empty cache.

Each round runs in a separate process, `python -m tests.attack.interrupts WHAT SEED`, which sends SIGINT to itself from
a thread.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings

import numpy as np

INTERRUPTS = 3  # per process
INFOMAX = {"ortho": False, "extended": False, "whiten": "arbitrary-variance"}


def attack_fits(rng):
    """An interrupted fit of a random estimator leaves a consistent state."""
    _in_a_process("fits", rng)


def attack_first_import(rng):
    """A first fit, which imports Numba, is interrupted; the second gives the correct result."""
    _in_a_process("first", rng)


def attack_compilation(rng):
    """The same as `attack_first_import`, with an empty cache of compiled code."""
    with tempfile.TemporaryDirectory() as cache:
        _in_a_process("compilation", rng, NUMBA_CACHE_DIR=cache)


attack_first_import.long = attack_compilation.long = True


def _in_a_process(what, rng, **environment):
    command = [sys.executable, "-m", "tests.attack.interrupts", what, str(rng.integers(2**31))]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=150,
        env={**os.environ, "PYTHONPATH": os.getcwd(), **environment},
    )
    problems = [line for line in done.stderr.splitlines() if "Compiling the" not in line]
    if done.returncode or problems:
        raise AssertionError(f"{' '.join(command)}\nended with {done.returncode}\n{done.stdout}{done.stderr}")


# ---- in the process ----------------------------------------------------------------------------------------------
def _estimators():
    import gpuica

    few = {"random_state": 0, "max_iter": 30}
    return [
        (lambda: gpuica.FastICA(**few, tol=0.0), 20_000),
        (lambda: gpuica.FastICA(**few, algorithm="deflation"), 20_000),
        (lambda: gpuica.FastICA(**few, tol=0.0, n_init=3, sort="objective"), 10_000),
        (lambda: gpuica.Picard(**few, tol=1e-12), 20_000),
        (lambda: gpuica.Picard(**few, **INFOMAX, tol=1e-12, w_init=5 * np.eye(5)[::-1]), 20_000),
        (lambda: gpuica.Picard(**few, growth=2.0), 50_000),
        (lambda: gpuica.DictionaryLearning(9, alpha=0.3, max_iter=4, tol=0, random_state=0, fit_algorithm="cd"), 3000),
        (
            lambda: gpuica.MiniBatchDictionaryLearning(
                9, alpha=0.3, max_iter=1, tol=0, random_state=0, fit_algorithm="cd", batch_size=500
            ),
            6000,
        ),
    ]


def _interrupted_fit(estimator, X, delay):
    """Fit, and send SIGINT after `delay` seconds; KeyboardInterrupt must be raised during or after the fit."""
    sender = threading.Thread(target=lambda: (time.sleep(delay), os.kill(os.getpid(), signal.SIGINT)))
    try:
        sender.start()
        estimator.fit(X)
        sender.join()
        time.sleep(0.05)
    except KeyboardInterrupt:
        sender.join()
        return
    raise AssertionError("the interrupt was swallowed")


def _state():
    """Global state that a fit must restore."""
    from threadpoolctl import threadpool_info

    return (
        [pool["num_threads"] for pool in threadpool_info()],
        signal.getsignal(signal.SIGINT),
        [thread.name for thread in threading.enumerate()],
    )


def _infomax_loss(W, Z):
    """Σ E log cosh y - log |det W|, y = W z: the objective of Picard(ortho=False, extended=False)."""
    Y = Z @ W.T
    return (np.logaddexp(Y, -Y) - np.log(2)).mean(axis=0).sum() - np.linalg.slogdet(W)[1]


def _check(estimator, X, before, again, reference):
    """Check that an interrupted estimator has its previous fit, has a new usable fit, or is not fitted."""
    from sklearn.exceptions import NotFittedError

    try:
        S = estimator.transform(X[:100])
    except NotFittedError:
        assert before is None, "the previous fit was lost"
        S = None
    if S is not None:
        assert np.isfinite(S).all()
        assert S.shape[1] == len(estimator.components_)
        if before is not None and estimator.components_ is before["components_"]:
            for name, value in before.items():
                assert getattr(estimator, name) is value or name == "max_iter", (
                    f"{name} does not belong to the previous fit"
                )
        if getattr(estimator, "ortho", True) is False:
            Z = (X - estimator.mean_) @ estimator.whitening_.T * len(X) ** 0.5
            start = _infomax_loss(np.asarray(estimator.w_init), Z)
            assert _infomax_loss(estimator._unmixing, Z) < start + 1e-9, "worse than the start"
        for name in vars(reference).keys() - vars(estimator).keys():
            raise AssertionError(f"{name} is missing")
    again.fit(X)
    np.testing.assert_array_equal(again.components_, reference.components_)


def fits(rng):
    makers = _estimators()
    make, n = makers[rng.integers(len(makers))]
    X = rng.laplace(size=(n, 5)) @ rng.normal(size=(5, 5)) + 3
    make().fit(X)  # imports and compiles
    start = time.perf_counter()
    reference = make().fit(X)
    seconds = time.perf_counter() - start
    state = _state()
    for _ in range(INTERRUPTS):
        estimator = make()
        before = None
        if rng.integers(2) and getattr(estimator, "w_init", None) is None:
            narrow = np.ascontiguousarray(X[: n // 4, :3])
            estimator.fit(narrow)
            before = dict(vars(estimator))
        _interrupted_fit(estimator, X, rng.uniform(0, 1.1 * seconds))
        assert _state() == state, (_state(), state)
        if before is not None and estimator.components_ is before["components_"]:
            assert estimator.n_features_in_ == 3
            _check(estimator, X[:, :3], before, make(), make().fit(X[:, :3]))
        else:
            _check(estimator, X, None, estimator, reference)


def first(rng, slack=0.0):
    import gpuica

    X = rng.laplace(size=(60_000, 8)).astype(np.float32)
    kinds = [
        lambda: gpuica.FastICA(random_state=0, max_iter=5, tol=0.0),
        lambda: gpuica.DictionaryLearning(9, max_iter=2, random_state=0, fit_algorithm="cd"),
    ]
    X = X[: (60_000, 2000)[(kind := int(rng.integers(2)))]]
    estimator = kinds[kind]()
    _interrupted_fit(estimator, X, rng.uniform(0, slack or 1.0))
    estimator.fit(X)
    answer = estimator.components_
    np.testing.assert_array_equal(kinds[kind]().fit(X).components_, answer)
    expected = subprocess.run(
        [sys.executable, "-c", _ALONE], input=_sent(kind, X), capture_output=True, check=True, timeout=120
    ).stdout
    np.testing.assert_array_equal(answer, np.frombuffer(expected, answer.dtype).reshape(answer.shape))
    assert [thread.name for thread in threading.enumerate()] == ["MainThread"]


def compilation(rng):
    first(rng, slack=8.0)


def _sent(kind, X):
    return bytes([kind]) + X.tobytes()


_ALONE = """
import sys, warnings, numpy as np, gpuica
warnings.simplefilter("ignore")
sent = sys.stdin.buffer.read()
X = np.frombuffer(sent[1:], np.float32).reshape(-1, 8)
kind = [
    lambda: gpuica.FastICA(random_state=0, max_iter=5, tol=0.0),
    lambda: gpuica.DictionaryLearning(9, max_iter=2, random_state=0, fit_algorithm="cd"),
][sent[0]]
sys.stdout.buffer.write(kind().fit(X).components_.tobytes())
"""

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with SIGINT ignored
    {"fits": fits, "first": first, "compilation": compilation}[sys.argv[1]](np.random.default_rng(int(sys.argv[2])))
