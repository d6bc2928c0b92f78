"""A checkpoint is valid only for the fit that wrote it; for any other fit the error names the differences."""

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
from gpuica.rows.host import HostRows

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
    "random_state": ("random_state", 0, 1),
    "random_state=None": ("random_state", None, 0),
    "RandomState": ("random_state", np.random.RandomState(0), np.random.RandomState(1)),
    "tol": ("tol", 1e-4, 1e-5),
}
OF_ICA = {
    "fun": ("fun", LogCosh(1.0), "cube"),
    "alpha": ("fun", LogCosh(1.0), LogCosh(1.5)),
    "contrast": ("fun", LogCosh(1.0), Exp(1.0)),
    "w_init": ("w_init", W, W + 1e-9),
    "n_init": ("n_init", 1, 2),
    "normalize_rows": ("normalize_rows", False, True),
    "precision": ("precision", None, "float32"),
}
OF_LEARNING = {
    "alpha": ("alpha", 1, 0.5),
    "n_components": ("n_components", 6, 7),
    "init": ("init", np.eye(6, 4), np.eye(6, 4) + 1e-9),
    "dict_init": ("dict_init", np.eye(6, 4), np.eye(6, 4) + 1e-9),
    "dead_atoms": ("dead_atoms", "resample", "keep"),
    "update": ("update", "block_descent", "least_squares"),
    "transform_max_iter": ("transform_max_iter", 1000, 999),
}


def changes():
    for name, (kind, arguments) in ESTIMATORS.items():
        for what, change in {**CHANGED, **(OF_ICA if arguments is ICA else OF_LEARNING)}.items():
            yield pytest.param(kind, arguments, *change, id=f"{name}-{what}")


@pytest.mark.parametrize(("kind", "arguments", "name", "before", "now"), list(changes()))
def test_changed_parameter_raises_with_its_name(kind, arguments, name, before, now, X, tmp_path):
    arguments = {**arguments, "checkpoint": tmp_path}
    fitted(kind, {**arguments, name: before}, X)
    with pytest.raises(CheckpointError, match=rf"belongs to another fit: (.+; )?its {name} was .+, now .+\. Give "):
        fitted(kind, {**arguments, name: now}, X)
    fitted(kind, {**arguments, name: before}, X)


def test_error_names_all_changed_parameters(X, tmp_path):
    fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)
    with pytest.raises(CheckpointError, match=r"its random_state was 0, now 1; its tol was 0\.0001, now 0\.001\."):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path, "random_state": 1, "tol": 1e-3}, X)
    with pytest.raises(CheckpointError, match=r"its estimator was FastICA, now Picard; "):
        fitted(Picard, {**ICA, "checkpoint": tmp_path}, X)
    with pytest.raises(CheckpointError, match=r"its fun was 'logcosh', now LogCosh\(alpha=1\.5\) sha256:"):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path, "fun": LogCosh(1.5)}, X)


def test_arrays_with_abbreviated_repr_are_compared_in_full(tmp_path):
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
def test_parameters_that_do_not_affect_the_result_can_change(kind, arguments, name, value, X, tmp_path):
    arguments = {"tol": 1e-4, **arguments}
    fitted(kind, {**arguments, "checkpoint": tmp_path}, X)
    again = fitted(kind, {**arguments, "checkpoint": tmp_path, name: value}, X)
    same(again, fitted(kind, {**arguments, name: value}, X))


@each_estimator
def test_lower_max_iter(kind, arguments, X, tmp_path):
    """ICA stops at the lower max_iter; dictionary learning raises, because its stored state is beyond it."""
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


def test_larger_max_iter_of_growing_samples_equals_fit_without_checkpoint(tmp_path, caplog):
    """The stages of growth depend on max_iter too, so that some stored sums are not those that the fit requires."""
    X = mixture(60_000, 4, dtype=np.float32)[0]
    arguments = {"growth": 2.0, "random_state": 0, "tol": 1e-10}
    fitted(FastICA, {**arguments, "max_iter": 2, "checkpoint": tmp_path}, X)
    resumed = fitted(FastICA, {**arguments, "max_iter": 20, "checkpoint": tmp_path}, X)
    same(resumed, fitted(FastICA, {**arguments, "max_iter": 20}, X))
    assert "needs other sums than were stored" in caplog.text


def test_random_state_is_stored_and_restored(X, tmp_path):
    first = [fitted(FastICA, {**ICA, "random_state": None, "checkpoint": tmp_path / name}, X) for name in "ab"]
    assert np.abs(first[0].components_ - first[1].components_).max() > 0  # different initial points
    # the same initial point after resuming
    same(first[0], fitted(FastICA, {**ICA, "random_state": None, "checkpoint": tmp_path / "a"}, X))
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
    """A function of the same name, compiled from source with the given constants."""
    scope = {}
    code = f"""def contrast(x, power={power}):
    return {scale} * x**power, {scale} * (power * x ** (power - 1)).mean(axis=-1)"""
    exec(code, scope)
    return scope["contrast"]


CONSTANT = 2


def of_a_global(x):
    return CONSTANT * x**3, CONSTANT * (3 * x**2).mean(axis=-1)


class Scaled:
    """A callable with state that its repr omits."""

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
def test_changed_function_of_the_same_name_raises(before, now, X, tmp_path):
    fitted(FastICA, {**ICA, "fun": before, "checkpoint": tmp_path}, X)
    fitted(FastICA, {**ICA, "fun": before, "checkpoint": tmp_path}, X)
    with pytest.raises(CheckpointError, match=r"its fun was .*sha256:.* now .*sha256:"):
        fitted(FastICA, {**ICA, "fun": now, "checkpoint": tmp_path}, X)


def test_changed_global_constant_of_a_function_raises(X, tmp_path, monkeypatch):
    arguments = {**ICA, "fun": of_a_global, "checkpoint": tmp_path}
    fitted(FastICA, arguments, X)
    monkeypatch.setattr(sys.modules[__name__], "CONSTANT", 3)
    with pytest.raises(CheckpointError, match="its fun was of_a_global"):
        fitted(FastICA, arguments, X)


def test_function_with_unidentifiable_state_raises(X, tmp_path):
    lock = threading.Lock()

    def hidden(x):
        with lock:
            return of_a_global(x)

    with pytest.raises(CheckpointError, match=r"cannot identify fun=.*hidden.* when the fit resumes"):
        fitted(FastICA, {**ICA, "fun": hidden, "checkpoint": tmp_path}, X)


@pytest.mark.parametrize(("kind", "arguments"), list(ESTIMATORS.values())[2:], ids=list(ESTIMATORS)[2:])
def test_callback_cannot_modify_the_dictionary(kind, arguments, X, tmp_path):
    def modify(state):
        state["dictionary"] *= 0

    with pytest.raises(ValueError, match="read-only"):
        fitted(kind, {**arguments, "callback": modify, "checkpoint": tmp_path}, X)


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
def test_changed_rows_raise_if_the_first_row_is_equal(kind, arguments, form, X, tmp_path):
    arguments = {**arguments, "checkpoint": tmp_path / "c", "device": "auto"}
    fitted(kind, arguments, given_as(form, X, tmp_path / "a"))
    fitted(kind, arguments, given_as(form, X, tmp_path / "b"))
    other = X.copy()
    other[1:] += 1
    with pytest.raises(CheckpointError, match=r"its sample of the rows of X was sha256:.*, now sha256:"):
        fitted(kind, arguments, given_as(form, other, tmp_path / "d"))


def test_changed_rows_raise_if_the_first_token_of_every_sequence_is_equal(tmp_path):
    """Sequences of length 64 in 2^14 rows: the sample also contains rows that are not the first of a sequence."""
    X = mixture(2**14, 3)[0]
    X[::64] = 1.0
    other = X + 1
    other[::64] = 1.0
    other[-1] = X[-1]  # identical at all multiples of 64 and in the last row
    for form in ("array", "iterable"):
        arguments = {**ICA, "checkpoint": tmp_path / form}
        fitted(FastICA, arguments, given_as(form, X, tmp_path / f"{form}-a"))
        with pytest.raises(CheckpointError, match="sample of the rows"):
            fitted(FastICA, arguments, given_as(form, other, tmp_path / f"{form}-b"))


def test_changed_shuffling_window_of_files_raises(X, tmp_path):
    np.save(tmp_path / "x.npy", X)
    arguments = {**LEARNING, "batch_size": 50, "checkpoint": tmp_path / "c"}
    fitted(MiniBatchDictionaryLearning, arguments, tmp_path / "x.npy")
    fitted(MiniBatchDictionaryLearning, {**arguments, "memory_limit": "1GB"}, tmp_path / "x.npy")
    with pytest.raises(
        CheckpointError, match=r"its window that .* \(of memory_limit\) was 67108864 bytes, now 5000 byt"
    ):
        fitted(MiniBatchDictionaryLearning, {**arguments, "memory_limit": 10_000}, tmp_path / "x.npy")


def test_sampling_rows_takes_no_additional_pass_over_an_iterable(X, tmp_path):
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
def test_changed_sample_weight_raises(kind, X, tmp_path):
    weights = np.linspace(1, 2, len(X))
    arguments = {**ICA, "checkpoint": tmp_path}
    fitted(kind, arguments, X, sample_weight=weights)
    fitted(kind, arguments, X, sample_weight=weights)
    for other in (weights[::-1], None):
        with pytest.raises(CheckpointError, match=r"its sample_weight was ndarray of shape .* sha256:.*, now"):
            fitted(kind, arguments, X, sample_weight=other)


@pytest.mark.parametrize("change", ["rows", "dtype"])
@each_estimator
def test_changed_shape_or_dtype_raises(kind, arguments, change, X, tmp_path):
    arguments = {**arguments, "checkpoint": tmp_path}
    fitted(kind, arguments, X)
    with pytest.raises(CheckpointError, match=r"its (shape of X|dtype) was .*, now"):
        fitted(kind, arguments, X[:-1] if change == "rows" else X.astype(np.float32))


def test_checkpoint_without_results_accepts_other_data(X, tmp_path):
    bad = X.copy()
    bad[0, 0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path}, bad)
    same(fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X), fitted(FastICA, ICA, X))


@pytest.mark.parametrize(("kind", "arguments"), ESTIMATORS.values(), ids=ESTIMATORS)
def test_checkpoint_of_a_fit_on_a_device(kind, arguments, X, tmp_path, cupy):
    arguments = {**arguments, "device": "cuda", "checkpoint": tmp_path}
    first = fitted(kind, arguments, X)
    same(fitted(kind, arguments, cupy.asarray(X)), first)
    with pytest.raises(CheckpointError, match="its device was cuda, now cpu"):
        fitted(kind, {**arguments, "device": "cpu"}, X)
    with pytest.raises(CheckpointError, match="its sample of the rows"):
        fitted(kind, arguments, cupy.asarray(X + 1))


# ---- fit_runs, devices -----------------------------------------------------------------------------------------------
def test_fit_runs_resumes_from_checkpoint(X, tmp_path, monkeypatch):
    plain = Picard(**ICA)
    expected = {n: plain.fit_runs(X, n) for n in (2, 3)}
    for n in (2, 2, 3):
        found = Picard(**ICA, checkpoint=tmp_path).fit_runs(X, n)
        for one, other in zip(found, expected[n], strict=True):
            np.testing.assert_array_equal(one, other)
    with monkeypatch.context() as patch:
        patch.setattr(HostRows, "sum", None)  # all sums are stored
        Picard(**ICA, checkpoint=tmp_path).fit_runs(X, 3)
    with pytest.raises(CheckpointError, match="its random_state was 0, now 1"):
        Picard(**{**ICA, "random_state": 1}, checkpoint=tmp_path).fit_runs(X, 3)


def test_invalid_checkpoint_of_one_rank_raises(X, tmp_path):
    arguments = {**ICA, "checkpoint": str(tmp_path / "c")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = fit_on_devices(FastICA(**arguments), X, ["cpu", "cpu"])
        same(first, fit_on_devices(FastICA(**arguments), X, ["cpu", "cpu"]))
        stored = tmp_path / "c-1" / "answer-00001.safetensors"
        flip(stored, -1)
        with pytest.raises(CheckpointError, match=r"c-1.answer-00001\.safetensors is damaged"):
            fit_on_devices(FastICA(**arguments), X, ["cpu", "cpu"])
        stored.unlink()
        same(first, fit_on_devices(FastICA(**arguments), X, ["cpu", "cpu"]))
        with pytest.raises(CheckpointError, match="its random_state was 0, now 1"):
            fit_on_devices(FastICA(**{**arguments, "random_state": 1}), X, ["cpu", "cpu"])


def test_random_state_missing_on_one_rank_is_restored_from_the_first(X, tmp_path):
    arguments = {**ICA, "random_state": None, "checkpoint": str(tmp_path / "c")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit_on_devices(FastICA(**arguments), X, ["cpu", "cpu"])
        edit_about(tmp_path / "c-1", lambda about: about.pop("draws"))
        found = fit_on_devices(FastICA(**arguments), X, ["cpu", "cpu"])
        rng = np.random.RandomState()
        set_draws(rng, json.loads((tmp_path / "c" / "about.json").read_text())["draws"], "")
        plain = FastICA(**{**ICA, "random_state": rng})
        same(found, fit_on_devices(plain, X, ["cpu", "cpu"]))


def test_error_of_a_rank_takes_precedence_over_communication_errors():
    """The other ranks can have exited by the time the failed rank reports its error."""

    reported = []

    def others_exited(fact):
        reported.append(fact)
        raise RuntimeError("waited in vain")

    def fails():
        raise CheckpointError("damaged")

    with pytest.raises(CheckpointError, match="damaged"):
        on_all_ranks(others_exited, fails)
    assert reported == [False]


def edit_about(folder, edit):
    """Edit about.json and update its checksum."""
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
def test_damaged_file_raises_and_is_recomputed_after_removal(kind, arguments, damage, X, tmp_path):
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
    else:  # the same result of the same fit, stored in another checkpoint
        fitted(kind, {**arguments, "checkpoint": tmp_path / "d"}, X)
        path.write_bytes((tmp_path / "d" / path.name).read_bytes())
    with pytest.raises(CheckpointError, match=rf"{path.name} .*: remove that file, and the fit computes it anew\."):
        fitted(kind, arguments, X)
    path.rmdir() if damage == "folder" else path.unlink()
    same(fitted(kind, arguments, X), whole)


@pytest.mark.parametrize("kind", [FastICA, Picard])
def test_swapped_files_raise_and_missing_files_are_recomputed(kind, X, tmp_path):
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
    "position": lambda draws: [*draws[:2], 2**31 - 1, *draws[3:]],
    "negative": lambda draws: [*draws[:2], -5, *draws[3:]],
    "short": lambda draws: [draws[0], draws[1][:10], *draws[2:]],
    "generator": lambda draws: ["PCG64", *draws[1:]],
    "None": lambda draws: None,
    "out of range": lambda draws: [draws[0], [-1] * 624, *draws[2:]],
}


@pytest.mark.parametrize("valid_checksum", [False, True])
@pytest.mark.parametrize("edit", DRAWS.values(), ids=DRAWS)
@each_estimator
def test_invalid_random_state_raises(kind, arguments, edit, valid_checksum, X, tmp_path):
    """With a valid checksum the state itself must be validated: NumPy would read out of bounds."""
    fitted(kind, {**arguments, "checkpoint": tmp_path}, X)
    if valid_checksum:
        edit_about(tmp_path, lambda about: about.update(draws=edit(about["draws"])))
    else:
        about = json.loads((tmp_path / "about.json").read_text())
        (tmp_path / "about.json").write_text(json.dumps({**about, "draws": edit(about["draws"])}))
    with pytest.raises(CheckpointError, match=r"about\.json .*damaged.*: remove the directory\."):
        fitted(kind, {**arguments, "checkpoint": tmp_path}, X)


@each_estimator
def test_changed_random_state_raises(kind, arguments, X, tmp_path):
    fitted(kind, {**arguments, "checkpoint": tmp_path}, X)
    about = json.loads((tmp_path / "about.json").read_text())
    about["draws"][1][7] ^= 1
    (tmp_path / "about.json").write_text(json.dumps(about))
    with pytest.raises(
        CheckpointError, match=r"about\.json .*its checksum is not that of its content.*: remove the dir"
    ):
        fitted(kind, {**arguments, "checkpoint": tmp_path}, X)


@pytest.mark.parametrize("content", ["{", "[]", "7", "", "\\xff", "[" * 100_000, '{"format": 2}'])
def test_invalid_about_file_raises(content, X, tmp_path):
    fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)
    (tmp_path / "about.json").write_bytes(content.encode("latin1"))
    with pytest.raises(
        CheckpointError, match=r"about\.json cannot be read, or is damaged \(.*\): remove the directory"
    ):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)


def test_other_format_raises(X, tmp_path):
    (tmp_path / "about.json").write_text(json.dumps({"estimator": "FastICA", "parameters": {}, "shape": [600, 4]}))
    with pytest.raises(
        CheckpointError, match="was written in format 1, and this version of gpuica has format 2: remove"
    ):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)
    (tmp_path / "about.json").write_text(json.dumps({"format": 3, "version": "9.1"}))
    with pytest.raises(CheckpointError, match=r"format 3, by gpuica 9\.1, and .* or finish the fit with the version"):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)


def test_identifiers_of_sums_are_stable():
    """Checkpoints refer to sums by their identifiers: a renamed function keeps its identifier."""
    from gpuica import sums

    names = [
        *("curvature", "fixed_point", "fixed_point_and_squares", "likelihood", "likelihood_and_squares", "moments"),
        *("moments_and_norms", "projected_moments", "pull", "stacked", "stacked_and_squares", "total"),
    ]
    found = sorted(value.identifier for value in vars(sums).values() if hasattr(value, "identifier"))
    assert found == names


# ---- paths -----------------------------------------------------------------------------------------------------------
@each_estimator
def test_invalid_paths_raise(kind, arguments, X, tmp_path):
    (tmp_path / "file").write_text("something")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("something")
    (tmp_path / "lost").mkdir()
    (tmp_path / "lost" / "answer-00000.safetensors").write_text("something")
    messages = {
        "": r"checkpoint='' names no directory: give a path, or None",
        tmp_path / "file": r"file is a file: name a directory, which may be a new one",
        tmp_path / "file" / "c": r"cannot be made or written \(Not a directory\): name a directory that can be",
        tmp_path / "other": r"a directory with other files in it \(mine\.txt\): name a new directory, or remove",
        tmp_path / "lost": r"a directory with the results of a fit, but no about\.json \(answer-",
        str(tmp_path / "a\0b"): r"cannot be made or written \(.*null.*\)",
    }
    for path, message in messages.items():
        with pytest.raises(CheckpointError, match=message):
            fitted(kind, {**arguments, "checkpoint": path}, X)
    assert (tmp_path / "other" / "mine.txt").read_text() == "something"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_directory_raises(X, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(CheckpointError, match=r"cannot be made or written \(Permission denied\)"):
        fitted(FastICA, {**ICA, "checkpoint": tmp_path / "c"}, X)


def test_interrupted_creation_of_a_checkpoint_is_repeated(X, tmp_path):
    (tmp_path / "about.json.partial").write_text("{")
    (tmp_path / "lock").write_text("")
    fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)


@each_estimator
def test_failed_write_raises_and_releases_the_lock(kind, arguments, X, tmp_path, monkeypatch):
    def fail(*arguments):
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr("gpuica.io.checkpoint.write_tensors", fail)
    with pytest.raises(CheckpointError, match=r"\.safetensors could not be written \(No such file.*\): make room"):
        fitted(kind, {**arguments, "checkpoint": tmp_path}, X)
    monkeypatch.undo()
    fitted(kind, {**arguments, "checkpoint": tmp_path}, X)  # the lock was released


# ---- concurrent fits -------------------------------------------------------------------------------------------------
@each_estimator
def test_directory_in_use_by_another_thread_raises(kind, arguments, X, tmp_path, monkeypatch):
    """The second fit raises while the first one runs; afterwards the directory is free."""
    saving, proceed, errors = threading.Event(), threading.Event(), []
    original = Checkpoint.save

    def slow_save(checkpoint, *arguments):
        saving.set()
        proceed.wait(5)
        original(checkpoint, *arguments)

    monkeypatch.setattr(Checkpoint, "save", slow_save)

    def work():
        try:
            fitted(kind, {**arguments, "checkpoint": tmp_path}, X)
        except Exception as error:
            errors.append(error)

    first = threading.Thread(target=work)
    first.start()
    assert saving.wait(30)
    with pytest.raises(CheckpointError, match="is in use by another fit of this process: wait for its end, or give"):
        fitted(kind, {**arguments, "checkpoint": tmp_path}, X)
    proceed.set()
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


def test_directory_in_use_by_another_process_raises(X, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(CheckpointError, match=rf"is in use by process {process.pid} on .+: wait for its end, or"):
            fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)  # the lock was released when the process ended


def test_file_system_without_locks_warns(X, tmp_path, monkeypatch, caplog):
    def fail(file):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("gpuica.io.lock._lock", fail)
    fitted(FastICA, {**ICA, "checkpoint": tmp_path}, X)
    assert "has no locks (No locks available): make sure that one process at a time uses the directory" in caplog.text


def test_checkpoint_can_be_closed_twice(tmp_path):
    first = Checkpoint(tmp_path, {})
    first.close()
    with Checkpoint(tmp_path, {}) as second:
        first.close()  # does not release the lock of the second
        with pytest.raises(CheckpointError, match="is in use"):
            Checkpoint(tmp_path, {})
        assert second.about == first.about
