"""Warnings, which point at the caller's line and suggest a remedy that the parameters allow, and progress lines."""

import inspect
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
from joblib import Parallel, delayed
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from gpuica import (
    DictionaryLearning,
    FastICA,
    MiniBatchDictionaryLearning,
    Picard,
    SparseCoder,
    dict_learning,
    fastica,
    fit_on_devices,
    messages,
    picard,
    sparse_encode,
)
from gpuica.estimators import _progress

from .problems import mixture

X = mixture(400, 5)[0]
D = np.random.default_rng(0).normal(size=(9, 5))
SHORT = {"max_iter": 1, "tol": 1e-12, "random_state": 0}
HARD = {"transform_algorithm": "lasso_cd", "transform_alpha": 1e-3, "transform_max_iter": 1}


# ---- location of warnings --------------------------------------------------------------------------------------------
CALLS = {
    "fit": lambda: FastICA(**SHORT).fit(X),
    "fit_transform": lambda: Picard(**SHORT).fit_transform(X),
    "partial_fit": lambda: FastICA(**SHORT).partial_fit(X),
    "pipeline": lambda: make_pipeline(StandardScaler(), FastICA(**SHORT)).fit_transform(X),
    "n_components": lambda: FastICA(9, random_state=0).fit(X),
    "whiten=False": lambda: FastICA(2, whiten=False, random_state=0, tol=2.0).fit_transform(X),
    "rank": lambda: Picard(random_state=0).fit(np.hstack([X, X])),
    "dictionary": lambda: DictionaryLearning(3, max_iter=1).fit(X),
    "dictionary's codes": lambda: DictionaryLearning(3, max_iter=1).fit_transform(X),
    "codes": lambda: SparseCoder(D, **HARD).transform(X),
    "codes after fit": lambda: SparseCoder(D, **HARD).fit_transform(X),
    "mini-batches": lambda: MiniBatchDictionaryLearning(
        9, max_iter=1, fit_algorithm="cd", dict_init=D, alpha=1e-3, transform_max_iter=1
    ).fit(X),
    "fastica": lambda: fastica(X, **SHORT),
    "picard": lambda: picard(X.T, **SHORT),
    "sparse_encode": lambda: sparse_encode(X, D, algorithm="lasso_cd", alpha=1e-3, max_iter=1),
    "dict_learning": lambda: dict_learning(X, 3, alpha=1, max_iter=1),
    "devices": lambda: fit_on_devices(FastICA(**SHORT), X, ["cpu", "cpu"]),
    "joblib": lambda: Parallel(n_jobs=1)(delayed(FastICA(**SHORT).fit)(X) for _ in range(1)),
}


def call_at_depth(call, levels):
    return call_at_depth(call, levels - 1) if levels else call()


@pytest.mark.parametrize("levels", [0, 7])
@pytest.mark.parametrize("name", CALLS)
def test_warning_points_at_the_callers_line(name, levels):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call_at_depth(CALLS[name], levels)
    lines, first = inspect.getsourcelines(CALLS[name])
    assert caught
    for warning in caught:
        assert warning.filename == __file__
        assert first <= warning.lineno < first + len(lines)


def test_warning_in_a_script_points_at_the_script(tmp_path):
    script = tmp_path / "user.py"
    script.write_text(
        "import numpy as np, gpuica\nX = np.random.default_rng(0).laplace(size=(99, 3))\n"
        "gpuica.Picard(max_iter=1, tol=1e-12).fit(X)\n"
    )
    process = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert process.stderr.startswith(f"{script}:3: ConvergenceWarning: Picard did not converge.")


def test_warning_is_shown_once_per_line():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for _ in range(3):
            messages.warn("once")
    assert len(caught) == 1


def test_warnings_of_worker_threads_are_issued_by_the_caller():
    with pytest.warns(ConvergenceWarning, match="did not converge") as caught:
        model = fit_on_devices(FastICA(**SHORT), X, ["cpu", "cpu", "cpu"])
    assert len(caught) == 1
    assert not model.converged_
    with pytest.raises(ConvergenceWarning):  # warnings are errors here, raised by the call itself
        fit_on_devices(FastICA(**SHORT), X, ["cpu", "cpu"])


def test_warnings_are_collected_for_one_thread():
    with messages.collect_warnings() as outer:
        messages.warn("one")
        with messages.collect_warnings() as inner:
            messages.warn("two", RuntimeWarning)
        messages.warn("three")
    assert outer == [("one", UserWarning), ("three", UserWarning)]
    assert inner == [("two", RuntimeWarning)]
    with pytest.warns(UserWarning, match="four"):
        messages.warn("four")


# ---- remedies --------------------------------------------------------------------------------------------------------
def warning_of(estimator):
    with pytest.warns(ConvergenceWarning) as caught:
        estimator.fit(np.random.default_rng(0).normal(size=(300, 5)))
    return str(caught[-1].message)


def test_picard_does_not_suggest_parameters_that_are_set():
    message = warning_of(Picard(max_iter=1, random_state=0))
    assert "Increase max_iter" in message
    assert "tol=" not in message
    assert "use tol='auto'" in warning_of(Picard(max_iter=1, random_state=0, tol=1e-9))


@pytest.mark.parametrize(
    ("dtype", "remedy"), [(np.float32, "precision='float64', or a larger tol"), (float, "use a lar")]
)
def test_picard_does_not_suggest_more_iterations_at_rounding_error(dtype, remedy):
    X = mixture(300, 4)[0].astype(dtype)
    with pytest.warns(ConvergenceWarning, match=f"rounding error: .*{remedy}") as caught:
        ica = Picard(random_state=0, tol=1e-30, max_iter=5000).fit(X)
    assert ica.n_iter_ < 5000
    assert "max_iter" not in str(caught[-1].message)


@pytest.mark.parametrize("tol", [1e-12, "auto"])
@pytest.mark.parametrize("algorithm", ["parallel", "picard"])
def test_fastica_does_not_suggest_parameters_that_are_set(algorithm, tol):
    message = warning_of(FastICA(algorithm=algorithm, tol=tol, max_iter=1, random_state=0))
    assert ("try algorithm='picard'" in message) == (algorithm != "picard")
    assert ("increasing tolerance" in message) == (tol != "auto")


# ---- progress --------------------------------------------------------------------------------------------------------
LINE = re.compile(
    r"\[(FastICA|Picard)\] .*: \d+ of \d+ components converged, largest (delta|gradient) \S+ \(tol \S+\), "
)


def printed(capsys, fit):
    fit()
    return capsys.readouterr().out.splitlines()


def test_progress_lines_contain_start_and_rows(capsys):
    X = mixture(50_000, 4, dtype=np.float32)[0]
    lines = printed(capsys, lambda: Picard(random_state=0, n_init=3, verbose=2).fit(X))
    assert all(LINE.match(line) for line in lines)
    starts = {line.partition("start ")[2][:6] for line in lines if "sample of 10000 rows, " in line}
    assert starts == {"1 of 3", "2 of 3", "3 of 3"}
    last = {line.partition("start ")[2][:6] for line in lines if "all 50000 rows, " in line}
    assert len(last) == 1
    assert last < starts  # the selected start keeps its number
    alone = printed(capsys, lambda: Picard(random_state=0, verbose=2).fit(X))
    assert not any("start " in line for line in alone)
    assert [line.partition("] ")[2].partition(",")[0] for line in (alone[0], alone[-1])] == [
        "sample of 10000 rows",
        "all 50000 rows",
    ]


def test_deflation_counts_all_components(capsys):
    lines = printed(capsys, lambda: FastICA(algorithm="deflation", random_state=0, verbose=1).fit(X))
    for i in range(1, 6):
        assert any(f"component {i} of 5, " in line and f": {i} of 5 components converged" in line for line in lines)


def test_fastica_iterations_before_picard_are_labeled(capsys):
    lines = printed(capsys, lambda: Picard(fastica_it=2, random_state=0, verbose=2).fit(X))
    assert ["FastICA first" in line for line in lines[:3]] == [True, True, False]
    assert "largest delta" in lines[0]
    assert "largest gradient" in lines[2]


def test_resumed_fit_prints_a_line(capsys, tmp_path):
    fits = {
        "sums of the fit": lambda: FastICA(random_state=0, verbose=1, checkpoint=tmp_path / "ica").fit(X),
        "iterations or batches": lambda: MiniBatchDictionaryLearning(
            3, max_iter=1, random_state=0, verbose=1, checkpoint=tmp_path / "atoms"
        ).fit(X),
    }
    for ending, fit in fits.items():
        assert not any("resumed" in line for line in printed(capsys, fit))
        [line] = [line for line in printed(capsys, fit) if "resumed" in line]
        assert str(tmp_path) in line
        assert line.endswith(ending)


def test_numbers_have_at_most_four_digits(capsys):
    fits = [
        lambda: DictionaryLearning(3, max_iter=50, tol=1e-2, verbose=True).fit(X),
        lambda: MiniBatchDictionaryLearning(3, batch_size=10, max_iter=4, verbose=2, random_state=0).fit(X),
        lambda: FastICA(random_state=0, verbose=2).fit(X),
    ]
    for fit in fits:
        for line in printed(capsys, fit):
            for number in re.findall(r"(?:cost:?|delta) (\S+)", line):
                assert len(re.sub(r"e.*|[.,-]|^0+\.?0*", "", number)) <= 4, line


def test_mini_batches_print_a_line_every_two_seconds(capsys, monkeypatch):
    now = 0.0

    def clock():
        nonlocal now
        now += 0.5
        return now

    monkeypatch.setattr(_progress.time, "monotonic", clock)
    options = {"batch_size": 10, "max_iter": 1, "shuffle": False, "tol": 0, "max_no_improvement": None}
    lines = printed(capsys, lambda: MiniBatchDictionaryLearning(3, verbose=1, **options).fit(X))
    assert [int(re.search(r"step (\d+)/40", line)[1]) for line in lines] == [*range(1, 41, 4), 40]
    lines = printed(capsys, lambda: MiniBatchDictionaryLearning(3, verbose=2, **options).fit(X))
    assert len(lines) == 40


def test_verbose_sparse_encode(capsys):
    lines = printed(capsys, lambda: sparse_encode(X, D, verbose=1))
    assert lines[0] == "[sparse_encode] coding by 'lasso_lars'"
    assert lines[1].startswith("[sparse_encode] codes of shape (400, 9), ")
    assert printed(capsys, lambda: sparse_encode(X, D)) == []
