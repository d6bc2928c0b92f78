"""Fits that can be interrupted: what the rows answered, kept in files.

A solver is a function of the sums over rows that it asked for, so its past is these sums and nothing else.  They are
small beside the rows.  A fit that is run again is given what was answered before, takes the same way without reading
the data, and goes on where it was.

Format 2.  about.json: {format, version of the package, id of the checkpoint, fit, draws, sha256 of all this}, where
`fit` is what the answer depends on, {name: text}, and `draws` the state of the random numbers.  Each file of tensors
has in its metadata the id of its checkpoint, its number or name, the digest of what was asked, and the SHA-256 of all
this and of the tensors.
"""

import hashlib
import json
import os
import uuid
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..device import logger, to_host
from .files import read_tensors, write_tensors
from .lock import NAME as LOCK
from .lock import DirectoryLock, InUseError

FORMAT = 2
ABOUT = "about.json"
PARTIAL = ".partial"
SUFFIX = ".safetensors"


class CheckpointError(ValueError):
    """The checkpoint is another fit's, damaged, in use, or cannot be written."""


class Checkpoint:
    """A directory with about.json, what the fit is, and files of tensors: an answer each, in their order, or a state.

    Files get their names when they are complete, so an interrupt at any moment leaves a checkpoint that is whole.  To
    be closed: until then, no other fit can work in the directory.
    """

    def __init__(self, path, fit, version=""):
        """fit: {name: text} of all that the answer depends on.  version: of the package, to be read by a person.

        Raises CheckpointError for the checkpoint of another fit, and for a path that cannot be one.
        """
        self.path, self.asked, self.differs = Path(path), 0, False
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
        """How many answers are kept."""
        return sum(1 for _ in self.path.glob("answer-*.safetensors"))

    def __enter__(self):
        return self

    def __exit__(self, *failed):
        self.close()

    def close(self):
        """Let others work in the directory."""
        self.lock.release()

    def same_draws(self, rng, everywhere, afresh=False):
        """A RandomState that draws what rng drew when the checkpoint was begun; from now on what rng would draw.

        It is a copy, so that a fit that is run again finds rng as it was.  afresh: rng is nobody's in particular, as
        for random_state=None: the first fit draws from it.  everywhere: as `Rows.all_ranks`: where the fit ended
        before every rank had kept the draws, all begin with those of rng.
        """
        if not everywhere("draws" in self.about):
            self.about["draws"] = draws_of(rng)
            self._write_about()
            if afresh:
                return rng
        same = np.random.RandomState()
        set_draws(same, self.about["draws"], self.path / ABOUT)
        return same

    def recall_or_compute(self, asked, ask, everywhere):
        """The arrays that were answered at this point before, or those of ask(), which are kept; and whether before.

        asked: the digest of all that the answer depends on, beside `fit`: an answer to anything else is not used, but
        replaced.  everywhere: as `Rows.all_ranks`: ranks go on together.
        """
        name = f"answer-{self.asked:05d}"
        self.asked += 1
        found = on_all_ranks(everywhere, lambda: self._answered(name, asked))
        if everywhere(found is not None):
            return found, True
        found = ask()
        if all(np.isfinite(to_host(part)).all() for part in found):  # else X is refused, or it is a step too far
            self.save(name, {str(i): part for i, part in enumerate(found)}, {"asked": asked})
        return found, False

    def _answered(self, name, asked):
        found = self.load(name)
        if found is None:
            return None
        arrays, about = found
        if about.get("asked") != asked:
            if not self.differs:
                logger.warning(
                    "checkpoint %s: from %s on, the fit asks for other sums than were kept (for another max_iter, or "
                    "rounded otherwise, by another machine or library): it reads the data for these.",
                    *(self.path, name),
                )
            self.differs = True
            return None
        return [arrays[str(i)] for i in range(len(arrays))]

    def load(self, name):
        """({name: array}, {name: text}) as they were handed to `save`; None if they were not."""
        path = self.path / (name + SUFFIX)
        if not os.path.lexists(path):
            return None
        remedy = "remove that file, and the fit computes it anew"
        try:
            arrays, about = read_tensors(path)
            whole = about.pop("sha256") == seal(arrays, about)
        except Exception as error:  # damage can be anything to those who read
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
        """Take about.json over, if there is one; False if there is nothing yet, CheckpointError for another fit's."""
        if not (self.path / ABOUT).exists():
            if others := sorted(self._others()):
                whose = "the answers of a fit, but no about.json" if _is_answer(others[0]) else "other things in it"
                raise CheckpointError(
                    f"checkpoint {self.path} is a directory with {whose} ({others[0]}): name a new directory, or "
                    "remove this one."
                )
            return False
        before = self._read_about()
        changes = [
            f"its {name} was {before['fit'].get(name)}, now {fit.get(name)}"
            for name in sorted({*fit, *before["fit"]})
            if before["fit"].get(name) != fit.get(name)
        ]
        if changes and not any(map(_is_answer, self._others())):
            return False  # it was begun, but nothing was computed
        if changes:
            raise CheckpointError(
                f"checkpoint {self.path} belongs to another fit: {'; '.join(changes)}. Give this fit a path of its "
                "own, or remove that directory."
            )
        self.about = before
        return True

    def _others(self):
        """Names in the directory but for those that an interrupted beginning leaves."""
        ours = ABOUT, ABOUT + PARTIAL, LOCK
        try:
            return [entry.name for entry in os.scandir(self.path) if entry.name not in ours]
        except OSError as error:
            raise CheckpointError(f"checkpoint {self.path} cannot be read ({_reason(error)}): name another.") from error

    def _read_about(self):
        path = self.path / ABOUT
        try:
            about = json.loads(path.read_text())
            given = about.get("format", 1)
            if given == FORMAT and about.pop("sha256") != _checksum(about):
                raise ValueError("its checksum is not that of its content")
        except Exception as error:  # damage can be anything to those who read
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
        path, partial = self.path / ABOUT, self.path / (ABOUT + PARTIAL)
        try:
            with open(partial, "w") as file:
                json.dump({**self.about, "sha256": _checksum(self.about)}, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError as error:
            raise CheckpointError(_not_written(path, error)) from error


def _locked(path):
    """The directory of a checkpoint, made if need be, as `DirectoryLock`."""
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
    """The state of a RandomState, to be written as JSON."""
    state = rng.get_state(legacy=False)
    if state["bit_generator"] != "MT19937":
        raise CheckpointError(
            f"random_state is a RandomState of {state['bit_generator']}, and a checkpoint keeps the state of MT19937 "
            "only: pass np.random.RandomState(seed), or an int."
        )
    inner = state["state"]
    return ["MT19937", inner["key"].tolist(), int(inner["pos"]), int(state["has_gauss"]), float(state["gauss"])]


def set_draws(rng, draws, path):
    """Set the state of a RandomState to that of `draws_of`; CheckpointError, which names path, if it is none.

    Checked to the last number: NumPy takes any place in the key, and reads there.
    """
    try:
        kind, key, place, has_gauss, gauss = draws
        numbers = np.array(key, dtype=np.uint32)
        right = kind == "MT19937" and numbers.shape == (624,) and numbers.tolist() == key and numbers.any()
        if not (right and type(place) is int and 0 <= place <= 624 and has_gauss in (0, 1) and np.isfinite(gauss)):
            raise ValueError("no state of MT19937")
        rng.set_state((kind, numbers, place, int(has_gauss), float(gauss)))
    except (ValueError, TypeError, OverflowError) as error:
        raise CheckpointError(
            f"{path} is damaged, the state of its draws is none ({_reason(error)}): remove the directory."
        ) from error


def seal(arrays, about):
    """The SHA-256 of arrays {name: array} and of {name: text}."""
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    header = [about, [[name, array.dtype.str, array.shape] for name, array in arrays.items()]]
    found = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for array in arrays.values():
        found.update(array.reshape(-1).view(np.uint8) if array.size else b"")
    return found.hexdigest()


def on_all_ranks(everywhere, work):
    """work(); RuntimeError where that of another rank raised an error.  everywhere: as `Rows.all_ranks`."""
    try:
        result = work()
    except CheckpointError:
        with suppress(RuntimeError):  # another rank may have left already
            everywhere(False)
        raise
    if not everywhere(True):
        raise RuntimeError("the checkpoint of another rank cannot be used: see what that rank says.")
    return result


def _is_answer(name):
    return name.endswith(SUFFIX)


def _checksum(about):
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def _not_written(path, error):
    return f"{path} could not be written ({_reason(error)}): make room or the directory writable, and fit again."


def _reason(error):
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
