"""Checkpoints of fits: the sums over rows, stored in files.

The state of a solver is a function of the sums over rows that it requested, which are small beside the rows.  A resumed
fit replays the stored sums, without reading the data, and continues from there.

Format 2.  about.json: {format, version of the package, id of the checkpoint, fit, draws, sha256 of all this}, where
`fit`, {name: text}, describes all that the result depends on, and `draws` is the state of the random number generator.
The metadata of each file of tensors contain the id of its checkpoint, its name, the digest of the requested sum, and
the SHA-256 of all this and of the tensors.
"""

import hashlib
import json
import os
import uuid
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..device import logger, to_host
from .lock import LOCK_NAME, DirectoryLock, InUseError
from .partial import PARTIAL, write_atomically
from .safetensors import read_tensors, write_tensors

FORMAT = 2
ABOUT = "about.json"
SUFFIX = ".safetensors"


class CheckpointError(ValueError):
    """The checkpoint belongs to another fit, is damaged or in use, or cannot be written."""


class Checkpoint:
    """A directory with about.json, the description of the fit, and files of tensors: numbered results, or a state.

    Files get their names when they are complete, so the checkpoint is valid after an interrupt at any moment.  Until
    `close`, no other fit can use the directory.
    """

    def __init__(self, path, fit, version=""):
        """fit: {name: text} of all that the result depends on.  version: of the package, for messages.

        Raises CheckpointError for the checkpoint of another fit, and for a path that cannot be one.
        """
        self.path, self.n_requested, self.differs = Path(path), 0, False
        self.lock = _locked(path)
        try:
            if not self._continues(fit):
                self.about = {"format": FORMAT, "version": version, "id": uuid.uuid4().hex, "fit": fit}
                self._write_about()
        except BaseException:
            self.close()
            raise

    @property
    def n_results(self):
        """The number of stored results."""
        return sum(1 for _ in self.path.glob("answer-*.safetensors"))

    def __enter__(self):
        return self

    def __exit__(self, *failed):
        self.close()

    def close(self):
        """Release the directory for other fits."""
        self.lock.release()

    def same_draws(self, rng, all_ranks, afresh=False):
        """A RandomState in the state that rng had when the checkpoint was created.

        It is a copy, so that rng is unchanged for the next run of the fit.  afresh: rng is new, as for
        random_state=None, and the first fit draws from it.  all_ranks: `Rows.all_ranks`; if some rank has not stored
        its state yet, all ranks use the state of rng.
        """
        if not all_ranks("draws" in self.about):
            self.about["draws"] = draws_of(rng)
            self._write_about()
            if afresh:
                return rng
        same = np.random.RandomState()
        set_draws(same, self.about["draws"], self.path / ABOUT)
        return same

    def recall_or_compute(self, key, compute, all_ranks):
        """(arrays, whether they were stored): the next stored result, or compute(), which is then stored.

        key: the digest of all that the result depends on, beside `fit`; a stored result with another key is replaced.
        all_ranks: `Rows.all_ranks`; a stored result is used if every rank has it.
        """
        name = f"answer-{self.n_requested:05d}"
        self.n_requested += 1
        found = on_all_ranks(all_ranks, lambda: self._stored(name, key))
        if all_ranks(found is not None):
            return found, True
        found = compute()
        if all(np.isfinite(to_host(part)).all() for part in found):  # not for an invalid X, or a step that overflows
            self.save(name, {str(i): part for i, part in enumerate(found)}, {"asked": key})
        return found, False

    def _stored(self, name, key):
        """The arrays that were stored under this name and key, or None."""
        found = self.load(name)
        if found is None:
            return None
        arrays, about = found
        if about.get("asked") != key:
            if not self.differs:
                logger.warning(
                    "checkpoint %s: from %s on, the fit needs other sums than were stored (for another max_iter, or "
                    "rounded otherwise, by another machine or library): it reads the data for these.",
                    *(self.path, name),
                )
            self.differs = True
            return None
        return [arrays[str(i)] for i in range(len(arrays))]

    def load(self, name):
        """({name: array}, {name: text}) as they were passed to `save`; None if there is no such file."""
        path = self.path / (name + SUFFIX)
        if not os.path.lexists(path):
            return None
        remedy = "remove that file, and the fit computes it anew"
        try:
            arrays, about = read_tensors(path)
            whole = about.pop("sha256") == seal(arrays, about)
        except Exception as error:  # a damaged file can raise any error
            raise CheckpointError(f"{path} cannot be read, or is damaged ({_reason(error)}): {remedy}.") from error
        if not whole:
            raise CheckpointError(f"{path} is damaged, its checksum is not that of its content: {remedy}.")
        if about.pop("checkpoint") != self.about["id"] or about.pop("name") != name:
            raise CheckpointError(f"{path} was written for another checkpoint, or with another name: {remedy}.")
        return arrays, about

    def save(self, name, arrays, about):
        """Write arrays {name: array} and {name: text} to a file of this name."""
        arrays = {key: np.ascontiguousarray(to_host(array)) for key, array in arrays.items()}
        about = {**about, "checkpoint": self.about["id"], "name": name}
        path = self.path / (name + SUFFIX)
        try:
            write_tensors(path, arrays, {**about, "sha256": seal(arrays, about)})
        except OSError as error:
            raise CheckpointError(_not_written(path, error)) from error

    def _continues(self, fit):
        """Whether the directory has an about.json, which is then read; CheckpointError for that of another fit."""
        if not (self.path / ABOUT).exists():
            if others := sorted(self._others()):
                whose = "the results of a fit, but no about.json" if _is_result(others[0]) else "other files in it"
                raise CheckpointError(
                    f"checkpoint {self.path} is a directory with {whose} ({others[0]}): name a new directory, or "
                    "remove this one."
                )
            return False
        stored = self._read_about()
        changes = [
            f"its {name} was {stored['fit'].get(name)}, now {fit.get(name)}"
            for name in sorted({*fit, *stored["fit"]})
            if stored["fit"].get(name) != fit.get(name)
        ]
        if changes and not any(map(_is_result, self._others())):
            return False  # it was created, but no result was stored
        if changes:
            raise CheckpointError(
                f"checkpoint {self.path} belongs to another fit: {'; '.join(changes)}. Give this fit a path of its "
                "own, or remove that directory."
            )
        self.about = stored
        return True

    def _others(self):
        """The names of files in the directory that are not left by an interrupted creation."""
        ours = ABOUT, ABOUT + PARTIAL, LOCK_NAME
        try:
            return [entry.name for entry in os.scandir(self.path) if entry.name not in ours]
        except OSError as error:
            raise CheckpointError(f"checkpoint {self.path} cannot be read ({_reason(error)}): name another.") from error

    def _read_about(self):
        """The contents of about.json; CheckpointError if it is damaged or of another format."""
        path = self.path / ABOUT
        try:
            about = json.loads(path.read_text())
            given = about.get("format", 1)
            if given == FORMAT and about.pop("sha256") != _checksum(about):
                raise ValueError("its checksum is not that of its content")
        except Exception as error:  # a damaged file can raise any error
            raise CheckpointError(
                f"{path} cannot be read, or is damaged ({_reason(error)}): remove the directory."
            ) from error
        if given != FORMAT:
            by = f", by gpuica {about['version']}" if "version" in about else ""
            raise CheckpointError(
                f"checkpoint {self.path} was written in format {given}{by}, and this version of gpuica has format "
                f"{FORMAT}: remove the directory, or finish the fit with the version that began it."
            )
        return about

    def _write_about(self):
        """Write about.json with its checksum, atomically."""
        path = self.path / ABOUT
        try:
            with write_atomically(path, "w") as file:
                json.dump({**self.about, "sha256": _checksum(self.about)}, file)
        except OSError as error:
            raise CheckpointError(_not_written(path, error)) from error


def _locked(path):
    """The `DirectoryLock` of a checkpoint, whose directory is created if it does not exist."""
    if not os.fspath(path):
        raise CheckpointError(f"checkpoint={path!r} names no directory: give a path, or None for no checkpoint.")
    if os.path.lexists(path) and not os.path.isdir(path):
        raise CheckpointError(f"checkpoint {path} is a file: name a directory, which may be a new one.")
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        return DirectoryLock(path)
    except InUseError as holder:
        raise CheckpointError(
            f"checkpoint {path} is in use by {holder}: wait for its end, or give this fit a path of its own."
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} cannot be made or written ({_reason(error)}): name a directory that can be."
        ) from error


def draws_of(rng):
    """The state of a RandomState, as JSON values."""
    state = rng.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise CheckpointError(
            f"random_state is a RandomState of {state['bit_generator']}, and a checkpoint keeps the state of MT19937 "
            "only: pass np.random.RandomState(seed), or an int."
        )
    inner = state["state"]
    return ["MT19937", inner["key"].tolist(), int(inner["pos"]), int(state["has_gauss"]), float(state["gauss"])]


def set_draws(rng, draws, path):
    """Set the state of a RandomState to the result of `draws_of`; CheckpointError, which names path, if it is invalid.

    All values are checked: NumPy accepts any position in the key, and would read out of bounds.
    """
    try:
        kind, key, position, has_gauss, gauss = draws
        numbers = np.array(key, dtype=np.uint32)
        valid = kind == "MT19937" and numbers.shape == (624,) and numbers.tolist() == key and numbers.any()
        valid = valid and type(position) is int and 0 <= position <= 624
        if not (valid and has_gauss in (0, 1) and np.isfinite(gauss)):
            raise ValueError("no state of MT19937")
        rng.set_state((kind, numbers, position, int(has_gauss), float(gauss)))
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{path} is damaged, the state of its random numbers is invalid ({_reason(error)}): remove the directory."
        ) from error


def seal(arrays, about):
    """The SHA-256 of arrays {name: array} and of {name: text}."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header = [about, [[name, array.dtype.str, array.shape] for name, array in arrays.items()]]
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for array in arrays.values():
        found.update(array.reshape(-1).view(np.uint8) if array.size else b"")
    return found.hexdigest()


def on_all_ranks(all_ranks, work):
    """work(); RuntimeError if that of another rank raised an error.  all_ranks: `Rows.all_ranks`."""
    try:
        result = work()
    except CheckpointError:
        with suppress(RuntimeError):  # another rank may have stopped already
            all_ranks(False)
        raise
    if not all_ranks(True):
        raise RuntimeError("the checkpoint of another rank cannot be used: see the output of that rank.")
    return result


def _is_result(name):
    return name.endswith(SUFFIX)


def _checksum(about):
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _not_written(path, error):
    return f"{path} could not be written ({_reason(error)}): make room or the directory writable, and fit again."


def _reason(error):
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
