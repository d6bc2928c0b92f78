"""A checkpoint is used for the fit that it is of, and for no other; the error says what is different."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from gpuica import DictionaryLearning, Exp, FastICA, LogCosh, MiniBatchDictionaryLearning, Picard, fit_on_devices
from gpuica.io.checkpoint import Checkpoint, CheckpointError, _checksum, on_all_ranks, set_draws
from gpuica.rows.memory import MemoryRows

from .conftest import Again
from .problems import mixture

ICA = {"max_iter": 4, "random_state": 0}
LEARNING = {"n_components": 6, "max_iter": 3, "fit_algorithm": "cd", "random_state": 0}
ESTIMATORS = {
    "FastICA": (FastICA, ICA),
    "Picard": (Picard, ICA),
    "DictionaryLearning": (DictionaryLearning, LEARNING),
    "MiniBatch": (MiniBatchDictionaryLearning, LEARNING),
}
each_estimator = pytest.mark.parametrize(("kind", "arguments"), ESTIMATORS.values(), ids=ESTIMATORS)


@pytest.fixture
def X():
    return mixture(600, 4, dtype=np.float64)[0]


def fitted(kind, arguments, X, **more):
    estimator = kind(**arguments)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return estimator.fit(X, **more)


def same(one, other):
    np.testing.assert_array_equal(one.components_, other.components_)


# ---- parameters ------------------------------------------------------------------------------------------------------
W = np.eye(4) + np.arange(16.0).reshape(4, 4) / 100
CHANGED = {
    "seed": ("random_state", 0, 1),
    "seed of None": ("random_state", None, 0),
    "state": ("random_state", np.random.RandomState(0), np.random.RandomState(1)),
    "tol": ("tol", 1e-4, 1e-5),
}
OF_ICA = {
    "fun": ("fun", LogCosh(1.0), "cube"),
    "alpha": ("fun", LogCosh(1.0), LogCosh(1.5)),
    "contrast": ("fun", LogCosh(1.0), Exp(1.0)),
    "start": ("w_init", W, W + 1e-9),
    "starts": ("n_init", 1, 2),
    "rows": ("normalize_rows", False, True),
    "precision": ("precision", None, "float32"),
}
OF_LEARNING = {
    "alpha": ("alpha", 1, 0.5),
    "atoms": ("n_components", 6, 7),
    "first": ("init", np.eye(6, 4), np.eye(6, 4) + 1e-9),
    "given": ("dict_init", np.eye(6, 4), np.eye(6, 4) + 1e-9),
    "unused": ("dead_atoms", "resample", "keep"),
    "update": ("update", "block_descent", "least_squares"),
    "rounds": ("transform_max_iter", 1000, 999),
}


def changes():
    for name, (kind, arguments) in ESTIMATORS.items():
        for what, change in {**CHANGED, **(OF_ICA if arguments is ICA else OF_LEARNING)}.items():
            yield pytest.param(kind, arguments, *change, id=f"{name}-{what}")


@pytest.mark.parametrize(("kind", "arguments", "name", "before", "now"), list(changes()))
def test_another_parameter_is_refused_by_its_name(kind, arguments, name, before, now, X, tmp_path):
    arguments = {**arguments, "checkpoint": tmp_path}
    fitted(kind, {**arguments, name: before}, X)
    with pytest.raises(CheckpointError, match=rf"belongs to another fit: (.+; )?its {name} was .+, now .+\. Give "):
        fitted(kind, {**arguments, name: now}, X)
    fitted(kind, {**arguments, name: before}, X)


def test_all_that_changed_is_named(X, tmp_path):
    fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)
    with pytest.raises(CheckpointError, match=r"its random_state was 0, now 1; its tol was 0\.0001, now 0\.001\."):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path, "random_state": 1, "tol": 1e-3}, X)
    with pytest.raises(CheckpointError, match=r"its estimator was FastICA, now Picard; "):
        fitted(Picard, {**ICA, "checkpoint": tmp_path}, X)
    with pytest.raises(CheckpointError, match=r"its fun was 'logcosh', now LogCosh\(alpha=1\.5\) sha256:"):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path, "fun": LogCosh(1.5)}, X)


def test_arrays_whose_repr_is_elided(tmp_path):
    X = mixture(3000, 40)[0]
    start = np.random.default_rng(0).normal(size=(40, 40))
    other = start.copy()
    other[20, 20] += 1
    fitted(FastICA, {"max_iter": 2, "w_init": start, "checkpoint": tmp_path}, X)
    fitted(FastICA, {"max_iter": 2, "w_init": start.copy(), "checkpoint": tmp_path}, X)
    with pytest.raises(CheckpointError, match=r"its w_init was ndarray of shape \(40, 40\) sha256:\w+, now ndarray of"):
        fitted(FastICA, {"max_iter": 2, "w_init": other, "checkpoint": tmp_path}, X)


FREE_OF_ALL = [
    ("verbose", 1),
    ("memory_limit", "1GB"),
    ("device", "cpu"),
    ("max_iter", 40),
    ("random_state", np.int64(0)),
    ("tol", np.float64(1e-4)),
]
FREE_OF_LEARNING = [
    *(("n_jobs", 2), ("sparse_output", True), ("callback", print), ("split_sign", True)),
    *(("transform_algorithm", "lasso_cd"), ("transform_alpha", 0.3)),
]


def freedoms():
    for id_, (kind, arguments) in ESTIMATORS.items():
        for name, value in [*FREE_OF_ALL, *(FREE_OF_LEARNING if arguments is LEARNING else [])]:
            yield pytest.param(kind, arguments, name, value, id=f"{id_}-{name}")


@pytest.mark.parametrize(("kind", "arguments", "name", "value"), list(freedoms()))
def test_what_the_answer_does_not_depend_on_may_change(kind, arguments, name, value, X, tmp_path):
    arguments = {"tol": 1e-4, **arguments}
    fitted(kind, {**arguments, "checkpoint": tmp_path}, X)
    again = fitted(kind, {**arguments, "checkpoint": tmp_path, name: value}, X)
    same(again, fitted(kind, {**arguments, name: value}, X))


@each_estimator
def test_a_lower_max_iter(kind, arguments, X, tmp_path):
    """It is answered as far as it asks (ICA), or refused, where the state is beyond it (dictionary learning)."""
    arguments = {**arguments, "tol": 0.0}
    fitted(kind, {**arguments, "checkpoint": tmp_path}, X)
    fewer = {**arguments, "max_iter": 2, "checkpoint": tmp_path}
    if "n_components" in arguments:
        with pytest.raises(
            CheckpointError, match=r"is at iteration \d+ .*the \d+ of this fit: increase max_iter, or use"
        ):
            fitted(kind, fewer, X)
    else:
        same(fitted(kind, fewer, X), fitted(kind, {**arguments, "max_iter": 2}, X))


def test_more_iterations_of_growing_samples_are_those_of_a_fit_without_checkpoint(tmp_path, caplog):
    """The stages of growth end by max_iter too, so that the same place has another question."""
    X = mixture(60_000, 4, dtype=np.float32)[0]
    arguments = {"growth": 2.0, "random_state": 0, "tol": 1e-10}
    fitted(FastICA, {**arguments, "max_iter": 2, "checkpoint": tmp_path}, X)
    more = fitted(FastICA, {**arguments, "max_iter": 20, "checkpoint": tmp_path}, X)
    same(more, fitted(FastICA, {**arguments, "max_iter": 20}, X))
    assert "asks for other sums than were kept" in caplog.text


def test_draws_of_the_global_state_go_on_and_a_given_state_is_left_as_it_is(X, tmp_path):
    first = [fitted(FastICA, {**ICA, "random_state": None, "checkpoint": tmp_path / name}, X) for name in "ab"]
    assert np.abs(first[0].components_ - first[1].components_).max() > 0  # two fits, two starts
    same(first[0], fitted(FastICA, {**ICA, "random_state": None, "checkpoint": tmp_path / "a"}, X))  # but here the same
    rng = np.random.RandomState(3)
    again = [fitted(FastICA, {**ICA, "random_state": rng, "checkpoint": tmp_path / "c"}, X) for _ in range(2)]
    same(*again)
    same(again[0], fitted(FastICA, {**ICA, "random_state": np.random.RandomState(3)}, X))
    other = np.random.RandomState(np.random.PCG64(0))
    with pytest.raises(CheckpointError, match="RandomState of PCG64, and a checkpoint keeps the state of MT19937 only"):
        fitted(FastICA, {**ICA, "random_state": other, "checkpoint": tmp_path / "d"}, X)


# ---- functions -------------------------------------------------------------------------------------------------------
def cubic(scale):
    def contrast(x, power=3):
        return scale * x**power, scale * (power * x ** (power - 1)).mean(axis=-1)

    return contrast


def written(scale, power):
    """The same function, written with other constants in another file."""
    scope = {}
    code = f"""def contrast(x, power={power}):
    return {scale} * x**power, {scale} * (power * x ** (power - 1)).mean(axis=-1)"""
    exec(code, scope)
    return scope["contrast"]


CONSTANT = 2


def of_a_global(x):
    return CONSTANT * x**3, CONSTANT * (3 * x**2).mean(axis=-1)


class Scaled:
    """A callable of state."""

    def __init__(self, scale):
        self.scale = scale

    def __repr__(self):
        return "Scaled()"

    def __call__(self, x):
        return self.scale * x**3, self.scale * (3 * x**2).mean(axis=-1)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        (written(2, 3), written(2.5, 3)),
        (written(2, 3), written(2, 5)),
        (cubic(1.0), cubic(2.0)),
        (Scaled(1.0), Scaled(2.0)),
        (Scaled(1.0).__call__, Scaled(2.0).__call__),
        (functools.partial(written(2, 3), power=3), functools.partial(written(2, 3), power=5)),
    ],
    ids=["constant", "default", "closure", "state", "method", "partial"],
)
def test_another_function_of_the_same_name(before, now, X, tmp_path):
    fitted(FastICA, {**ICA, "fun": before, "checkpoint": tmp_path}, X)
    fitted(FastICA, {**ICA, "fun": before, "checkpoint": tmp_path}, X)
    with pytest.raises(CheckpointError, match=r"its fun was .*sha256:.* now .*sha256:"):
        fitted(FastICA, {**ICA, "fun": now, "checkpoint": tmp_path}, X)


def test_a_function_that_refers_to_another_constant(X, tmp_path, monkeypatch):
    arguments = {**ICA, "fun": of_a_global, "checkpoint": tmp_path}
    fitted(FastICA, arguments, X)
    monkeypatch.setattr(sys.modules[__name__], "CONSTANT", 3)
    with pytest.raises(CheckpointError, match="its fun was of_a_global"):
        fitted(FastICA, arguments, X)


def test_a_function_with_hidden_state_is_refused(X, tmp_path):
    lock = threading.Lock()

    def hidden(x):
        with lock:
            return of_a_global(x)

    with pytest.raises(CheckpointError, match=r"cannot identify fun=.*hidden.* when the fit resumes"):
        fitted(FastICA, {**ICA, "fun": hidden, "checkpoint": tmp_path}, X)


@pytest.mark.parametrize(("kind", "arguments"), list(ESTIMATORS.values())[2:], ids=list(ESTIMATORS)[2:])
def test_a_callback_cannot_change_the_answer(kind, arguments, X, tmp_path):
    def meddling(state):
        state["dictionary"] *= 0

    with pytest.raises(ValueError, match="read-only"):
        fitted(kind, {**arguments, "callback": meddling, "checkpoint": tmp_path}, X)


# ---- data ------------------------------------------------------------------------------------------------------------
FORMS = ["array", "files", "iterable", pytest.param("dask", marks=pytest.mark.dask)]


def given_as(form, X, folder):
    if form == "files":
        folder.mkdir()
        for i, part in enumerate(np.array_split(X, 3)):
            np.save(folder / f"{i}.npy", part)
        return folder
    if form == "dask":
        import dask.array as da

        return da.from_array(X, chunks=(100, -1))
    return Again(np.array_split(X, 3)) if form == "iterable" else X


@pytest.mark.parametrize("form", FORMS)
@each_estimator
def test_other_rows_after_the_same_first_row(kind, arguments, form, X, tmp_path):
    arguments = {**arguments, "checkpoint": tmp_path / "c", "device": "auto"}
    fitted(kind, arguments, given_as(form, X, tmp_path / "a"))
    fitted(kind, arguments, given_as(form, X, tmp_path / "b"))
    other = X.copy()
    other[1:] += 1
    with pytest.raises(CheckpointError, match=r"its sample of the rows of X was sha256:.*, now sha256:"):
        fitted(kind, arguments, given_as(form, other, tmp_path / "d"))


def test_the_first_token_of_every_sequence_is_the_same(tmp_path):
    """Sequences of a length that divides everything: the sample has other rows than their first."""
    X = mixture(2**14, 3)[0]
    X[::64] = 1.0
    other = X + 1
    other[::64] = 1.0
    other[-1] = X[-1]  # a sample of multiples of 64, and the last row
    for form in ("array", "iterable"):
        arguments = {**ICA, "checkpoint": tmp_path / form}
        fitted(FastICA, arguments, given_as(form, X, tmp_path / f"{form}-a"))
        with pytest.raises(CheckpointError, match="sample of the rows"):
            fitted(FastICA, arguments, given_as(form, other, tmp_path / f"{form}-b"))


def test_mini_batches_of_files_are_drawn_within_memory(X, tmp_path):
    np.save(tmp_path / "x.npy", X)
    arguments = {**LEARNING, "batch_size": 50, "checkpoint": tmp_path / "c"}
    fitted(MiniBatchDictionaryLearning, arguments, tmp_path / "x.npy")
    fitted(MiniBatchDictionaryLearning, {**arguments, "memory_limit": "1GB"}, tmp_path / "x.npy")
    with pytest.raises(
        CheckpointError, match=r"its window that .* \(of memory_limit\) was 67108864 bytes, now 5000 byt"
    ):
        fitted(MiniBatchDictionaryLearning, {**arguments, "memory_limit": 10_000}, tmp_path / "x.npy")


def test_an_iterable_is_not_gone_through_for_the_sample(X, tmp_path):
    class Counted(Again):
        rounds = 0

        def __iter__(self):
            self.rounds += 1
            return super().__iter__()

    parts, counts = np.array_split(X, 3), []
    for checkpoint in (None, tmp_path):
        chunks = Counted(parts)
        fitted(FastICA, {**ICA, "checkpoint": checkpoint}, chunks)
        counts.append(chunks.rounds)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("kind", [FastICA, Picard])
def test_other_weights(kind, X, tmp_path):
    weights = np.linspace(1, 2, len(X))
    arguments = {**ICA, "checkpoint": tmp_path}
    fitted(kind, arguments, X, sample_weight=weights)
    fitted(kind, arguments, X, sample_weight=weights)
    for other in (weights[::-1], None):
        with pytest.raises(CheckpointError, match=r"its sample_weight was ndarray of shape .* sha256:.*, now"):
            fitted(kind, arguments, X, sample_weight=other)


@pytest.mark.parametrize("change", ["rows", "dtype"])
@each_estimator
def test_another_shape_or_dtype(kind, arguments, change, X, tmp_path):
    arguments = {**arguments, "checkpoint": tmp_path}
    fitted(kind, arguments, X)
    with pytest.raises(CheckpointError, match=r"its (shape of X|dtype) was .*, now"):
        fitted(kind, arguments, X[:-1] if change == "rows" else X.astype(np.float32))


def test_what_was_begun_but_has_no_answer_does_not_hold(X, tmp_path):
    bad = X.copy()
    bad[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path}, bad)
    same(fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X), fitted(FastICA, ICA, X))


@pytest.mark.parametrize(("kind", "arguments"), ESTIMATORS.values(), ids=ESTIMATORS)
def test_on_a_device(kind, arguments, X, tmp_path, cupy):
    arguments = {**arguments, "device": "cuda", "checkpoint": tmp_path}
    first = fitted(kind, arguments, X)
    same(fitted(kind, arguments, cupy.asarray(X)), first)
    with pytest.raises(CheckpointError, match="its device was cuda, now cpu"):
        fitted(kind, {**arguments, "device": "cpu"}, X)
    with pytest.raises(CheckpointError, match="its sample of the rows"):
        fitted(kind, arguments, cupy.asarray(X + 1))


# ---- fit_runs, devices -----------------------------------------------------------------------------------------------
def test_runs_from_a_checkpoint(X, tmp_path, monkeypatch):
    plain = Picard(**ICA)
    expected = {n: plain.fit_runs(X, n) for n in (2, 3)}
    for n in (2, 2, 3):
        found = Picard(**ICA, checkpoint=tmp_path).fit_runs(X, n)
        for one, other in zip(found, expected[n], strict=True):
            np.testing.assert_array_equal(one, other)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryRows, "sum", None)  # all is answered
        Picard(**ICA, checkpoint=tmp_path).fit_runs(X, 3)
    with pytest.raises(CheckpointError, match="its random_state was 0, now 1"):
        Picard(**{**ICA, "random_state": 1}, checkpoint=tmp_path).fit_runs(X, 3)


def test_ranks_refuse_together(X, tmp_path):
    arguments = {**ICA, "checkpoint": str(tmp_path / "c")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = fit_on_devices(FastICA(**arguments), X, ["cpu", "cpu"])
        same(first, fit_on_devices(FastICA(**arguments), X, ["cpu", "cpu"]))
        answer = tmp_path / "c-1" / "answer-00001.safetensors"
        flip(answer, -1)
        with pytest.raises(CheckpointError, match=r"c-1.answer-00001\.safetensors is damaged"):
            fit_on_devices(FastICA(**arguments), X, ["cpu", "cpu"])
        answer.unlink()
        same(first, fit_on_devices(FastICA(**arguments), X, ["cpu", "cpu"]))
        with pytest.raises(CheckpointError, match="its random_state was 0, now 1"):
            fit_on_devices(FastICA(**{**arguments, "random_state": 1}), X, ["cpu", "cpu"])


def test_ranks_that_ended_before_all_had_kept_their_draws(X, tmp_path):
    arguments = {**ICA, "random_state": None, "checkpoint": str(tmp_path / "c")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit_on_devices(FastICA(**arguments), X, ["cpu", "cpu"])
        edit_about(tmp_path / "c-1", lambda about: about.pop("draws"))
        found = fit_on_devices(FastICA(**arguments), X, ["cpu", "cpu"])
        begun = np.random.RandomState()
        set_draws(begun, json.loads((tmp_path / "c" / "about.json").read_text())["draws"], "")
        plain = FastICA(**{**ICA, "random_state": begun})
        same(found, fit_on_devices(plain, X, ["cpu", "cpu"]))


def test_the_error_of_a_rank_comes_before_that_of_the_others():
    """They may have left when it says that it has failed."""

    said = []

    def others_have_left(fact):
        said.append(fact)
        raise RuntimeError("waited in vain")

    def fails():
        raise CheckpointError("damaged")

    with pytest.raises(CheckpointError, match="damaged"):
        on_all_ranks(others_have_left, fails)
    assert said == [False]


def edit_about(folder, edit):
    """With a checksum that is right."""
    about = json.loads((folder / "about.json").read_text())
    about.pop("sha256")
    edit(about)
    (folder / "about.json").write_text(json.dumps({**about, "sha256": _checksum(about)}))


# ---- damage ----------------------------------------------------------------------------------------------------------
def flip(path, place, bit=0):
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << bit
    path.write_bytes(content)


def files_of(folder):
    return sorted(folder.glob("*.safetensors"))


@pytest.mark.parametrize("damage", ["flip", "header", "truncate", "empty", "folder", "foreign"])
@each_estimator
def test_a_damaged_file_is_named_and_its_removal_is_the_remedy(kind, arguments, damage, X, tmp_path):
    arguments = {**arguments, "checkpoint": tmp_path / "c"}
    whole = fitted(kind, arguments, X)
    path = files_of(tmp_path / "c")[-1]
    if damage == "flip":
        flip(path, -3)
    elif damage == "header":
        flip(path, 30)
    elif damage in ("truncate", "empty"):
        path.write_bytes(path.read_bytes()[: -8 if damage == "truncate" else 0])
    elif damage == "folder":
        path.unlink()
        path.mkdir()
    else:  # the same answer of the same fit, but of another checkpoint
        fitted(kind, {**arguments, "checkpoint": tmp_path / "d"}, X)
        path.write_bytes((tmp_path / "d" / path.name).read_bytes())
    with pytest.raises(CheckpointError, match=rf"{path.name} .*: remove that file, and the fit computes it anew\."):
        fitted(kind, arguments, X)
    path.rmdir() if damage == "folder" else path.unlink()
    same(fitted(kind, arguments, X), whole)


@pytest.mark.parametrize("kind", [FastICA, Picard])
def test_swapped_and_missing_answers(kind, X, tmp_path):
    arguments = {**ICA, "checkpoint": tmp_path}
    whole = fitted(kind, arguments, X)
    one, other = files_of(tmp_path)[1:3]
    one.rename(tmp_path / "x")
    other.rename(one)
    same(fitted(kind, arguments, X), whole) if not one.exists() else None
    (tmp_path / "x").rename(other)
    with pytest.raises(CheckpointError, match=rf"{one.name} was written for another checkpoint, or with another name"):
        fitted(kind, arguments, X)
    one.unlink()
    other.unlink()
    same(fitted(kind, arguments, X), whole)


DRAWS = {
    "place": lambda draws: [*draws[:2], 2**31 - 1, *draws[3:]],
    "negative": lambda draws: [*draws[:2], -5, *draws[3:]],
    "short": lambda draws: [draws[0], draws[1][:10], *draws[2:]],
    "kind": lambda draws: ["PCG64", *draws[1:]],
    "none": lambda draws: None,
    "numbers": lambda draws: [draws[0], [-1] * 624, *draws[2:]],
}


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("edit", DRAWS.values(), ids=DRAWS)
@each_estimator
def test_an_edited_state_of_the_draws(kind, arguments, edit, sealed, X, tmp_path):
    """sealed: with a checksum that is right, so that the state itself must be looked at; NumPy would read anywhere."""
    fitted(kind, {**arguments, "checkpoint": tmp_path}, X)
    if sealed:
        edit_about(tmp_path, lambda about: about.update(draws=edit(about["draws"])))
    else:
        about = json.loads((tmp_path / "about.json").read_text())
        (tmp_path / "about.json").write_text(json.dumps({**about, "draws": edit(about["draws"])}))
    with pytest.raises(CheckpointError, match=r"about\.json .*damaged.*: remove the directory\."):
        fitted(kind, {**arguments, "checkpoint": tmp_path}, X)


@each_estimator
def test_an_edited_state_of_the_draws_that_is_another(kind, arguments, X, tmp_path):
    fitted(kind, {**arguments, "checkpoint": tmp_path}, X)
    about = json.loads((tmp_path / "about.json").read_text())
    about["draws"][1][7] ^= 1
    (tmp_path / "about.json").write_text(json.dumps(about))
    with pytest.raises(
        CheckpointError, match=r"about\.json .*its checksum is not that of its content.*: remove the dir"
    ):
        fitted(kind, {**arguments, "checkpoint": tmp_path}, X)


@pytest.mark.parametrize("content", ["{", "[]", "7", "", "\\xff", "[" * 100_000, '{"format": 2}'])
def test_an_about_that_is_none(content, X, tmp_path):
    fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)
    (tmp_path / "about.json").write_bytes(content.encode("latin1"))
    with pytest.raises(
        CheckpointError, match=r"about\.json cannot be read, or is damaged \(.*\): remove the directory"
    ):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)


def test_another_format(X, tmp_path):
    (tmp_path / "about.json").write_text(json.dumps({"estimator": "FastICA", "parameters": {}, "shape": [600, 4]}))
    with pytest.raises(
        CheckpointError, match="was written in format 1, and this version of gpuica has format 2: remove"
    ):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)
    (tmp_path / "about.json").write_text(json.dumps({"format": 3, "version": "9.1"}))
    with pytest.raises(CheckpointError, match=r"format 3, by gpuica 9\.1, and .* or finish the fit with the version"):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)


def test_identifiers_of_sums_stay():
    """Files name sums by these: a renamed function keeps its identifier."""
    from gpuica import sums

    names = [
        *("curvature", "fixed_point", "fixed_point_and_squares", "likelihood", "likelihood_and_squares", "moments"),
        *("moments_and_norms", "projected_moments", "pull", "stacked", "stacked_and_squares", "total"),
    ]
    found = sorted(value.identifier for value in vars(sums).values() if hasattr(value, "identifier"))
    assert found == names


# ---- places ----------------------------------------------------------------------------------------------------------
@each_estimator
def test_paths_that_are_no_directory(kind, arguments, X, tmp_path):
    (tmp_path / "file").write_text("something")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("something")
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "answer-00000.safetensors").write_text("something")
    sentences = {
        "": r"checkpoint='' names no directory: give a path, or None",
        tmp_path / "file": r"file is a file: name a directory, which may be a new one",
        tmp_path / "file" / "c": r"cannot be made or written \(Not a directory\): name a directory that can be",
        tmp_path / "other": r"a directory with other things in it \(mine\.txt\): name a new directory, or remove",
        tmp_path / "lost": r"a directory with the answers of a fit, but no about\.json \(answer-",
        str(tmp_path / "a\0b"): r"cannot be made or written \(.*null.*\)",
    }
    for path, sentence in sentences.items():
        with pytest.raises(CheckpointError, match=sentence):
            fitted(kind, {**arguments, "checkpoint": path}, X)
    assert (tmp_path / "other" / "mine.txt").read_text() == "something"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_may_not_be_written(X, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match=r"cannot be made or written \(Permission denied\)"):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path / "c"}, X)


def test_a_beginning_that_was_interrupted_is_begun_again(X, tmp_path):
    (tmp_path / "about.json.partial").write_text("{")
    (tmp_path / "lock").write_text("")
    fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)


@each_estimator
def test_a_directory_that_goes_away(kind, arguments, X, tmp_path, monkeypatch):
    def lost(*arguments):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("gpuica.io.checkpoint.write_tensors", lost)
    with pytest.raises(CheckpointError, match=r"\.safetensors could not be written \(No such file.*\): make room"):
        fitted(kind, {**arguments, "checkpoint": tmp_path}, X)
    monkeypatch.undo()
    fitted(kind, {**arguments, "checkpoint": tmp_path}, X)  # the lock was given back


# ---- one fit at a time -----------------------------------------------------------------------------------------------
@each_estimator
def test_two_threads_with_one_directory(kind, arguments, X, tmp_path, monkeypatch):
    """The second is refused while the first works; afterwards the directory is free."""
    inside, leave, errors = threading.Event(), threading.Event(), []
    original = Checkpoint.keep

    def slowly(checkpoint, *arguments):
        inside.set()
        leave.wait(5)
        original(checkpoint, *arguments)

    monkeypatch.setattr(Checkpoint, "keep", slowly)

    def work():
        try:
            fitted(kind, {**arguments, "checkpoint": tmp_path}, X)
        except Exception as error:
            errors.append(error)

    first = threading.Thread(target=work)
    first.start()
    assert inside.wait(30)
    with pytest.raises(CheckpointError, match="is in use by another fit of this process: wait for its end, or give"):
        fitted(kind, {**arguments, "checkpoint": tmp_path}, X)
    leave.set()
    first.join()
    assert not errors
    fitted(kind, {**arguments, "checkpoint": tmp_path}, X)


HOLDER = """
import sys, time
from gpuica.io.checkpoint import Checkpoint
held = Checkpoint(sys.argv[1], {})
print("held", flush=True)
time.sleep(60)
"""


def test_two_processes_with_one_directory(X, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=rf"is in use by process {process.pid} on .+: wait for its end, or"):
            fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)  # the lock went with the process


def test_a_file_system_without_locks(X, tmp_path, monkeypatch, caplog):
    def refuses(file):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("gpuica.io.lock._lock", refuses)
    fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)
    assert "has no locks (No locks available): see to it that one process at a time works there" in caplog.text


def test_a_checkpoint_can_be_closed_twice(tmp_path):
    first = Checkpoint(tmp_path, {})
    first.close()
    with Checkpoint(tmp_path, {}) as second:
        first.close()  # does not take the lock from the second
        with pytest.raises(CheckpointError, match="is in use"):
            Checkpoint(tmp_path, {})
        assert second.about == first.about
