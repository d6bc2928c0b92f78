"""Fits that can be interrupted: what the rows answered, kept in files.

A solver is a function of the sums over rows that it asked for, so its past is these sums and nothing else.  They are
small beside the rows.  A fit that is run again is told what was answered before, walks the same way without reading the
data, and goes on where it was.
"""

import json
import os
from pathlib import Path

import numpy as np

from . import Rows
from .files import read_tensors, write_tensors

ABOUT = "about.json"


class CheckpointError(ValueError):
    """The checkpoint is another fit's, or damaged."""


class Checkpoint:
    """A directory with about.json, what the fit is, and one .safetensors file for each answer, in their order.

    Files get their names when they are complete, so an interrupt at any moment leaves a checkpoint that is whole.
    """

    def __init__(self, path, fingerprint):
        """fingerprint: what may be written as JSON and must be the same for the fit that goes on.

        Raises CheckpointError for the checkpoint of another fit.
        """
        self.path, self.asked = Path(path), 0
        self.path.mkdir(parents=True, exist_ok=True)
        self.about = json.loads(json.dumps(fingerprint))
        if (self.path / ABOUT).exists():
            before = self._read_about()
            for name, value in self.about.items():
                if before.get(name) != value:
                    raise CheckpointError(
                        f"checkpoint {path} belongs to another fit: its {name} was {_short(before.get(name))}, now "
                        f"{_short(value)}. Give this fit a path of its own, or remove that directory."
                    )
            self.about = before
        elif any(self.path.iterdir()):
            raise CheckpointError(f"checkpoint {path} is a directory with other things in it: name a new one.")
        else:
            self._write_about()

    @property
    def n_answers(self):
        """How many answers are kept."""
        return sum(1 for _ in self.path.glob("answer-*.safetensors"))

    def same_draws(self, rng):
        """A RandomState that draws what rng drew when the checkpoint was begun; from now on what rng would draw."""
        if "draws" not in self.about:
            kind, key, *rest = rng.get_state()
            self.about["draws"] = [kind, key.tolist(), *rest]
            self._write_about()
        kind, key, *rest = self.about["draws"]
        same = np.random.RandomState()
        same.set_state((kind, np.array(key, dtype=np.uint32), *rest))
        return same

    def answer(self, question, ask, everywhere):
        """The arrays that were answered at this point before, or those of ask(), which are kept; and whether before.

        question: its name, which must be the same again.  everywhere: as `Rows.everywhere`: ranks go on together.
        """
        path = self.path / f"answer-{self.asked:05d}.safetensors"
        self.asked += 1
        if everywhere(path.exists()):
            arrays, about = read_tensors(path)
            if about.get("question") != question:
                raise CheckpointError(
                    f"{path} answers {about.get('question')!r}, but the fit asks {question!r}: it was begun by another "
                    "version of the package, perhaps. Remove the directory and fit anew."
                )
            return [arrays[str(i)] for i in range(len(arrays))], True
        found = ask()
        write_tensors(path, {str(i): part for i, part in enumerate(found)}, {"question": question})
        return found, False

    def _read_about(self):
        try:
            return json.loads((self.path / ABOUT).read_text())
        except ValueError as error:
            raise CheckpointError(f"{self.path / ABOUT} is damaged ({error}): remove the directory.") from error

    def _write_about(self):
        partial = self.path / (ABOUT + ".partial")
        partial.write_text(json.dumps(self.about))
        os.replace(partial, self.path / ABOUT)


class RecordedRows(Rows):
    """Rows whose sums are answered by a checkpoint as far as it goes, and kept there from then on."""

    def __init__(self, rows, checkpoint, told=0):
        """told: passes that were answered by the checkpoint so far."""
        self.rows, self.checkpoint, self.told = rows, checkpoint, told
        self.n_rows, self.n_features, self.dtype = rows.n_rows, rows.n_features, rows.dtype
        self.weights, self.scratch = rows.weights, rows.scratch

    @property
    def xp(self):
        return self.rows.xp

    @property
    def weight(self):
        return self.rows.weight

    @property
    def has_counts(self):
        return self.rows.has_counts

    @property
    def n_kish(self):
        return self.rows.n_kish

    @property
    def n_passes(self):  # type: ignore[override]  # those of the past are passes too
        return self.rows.n_passes + self.told

    def sum(self, contribution, *params):
        name = "+".join(part.__name__ for part in (contribution, *params) if hasattr(part, "__name__"))
        totals, before = self.checkpoint.answer(
            name, lambda: self.rows.sum(contribution, *params), self.rows.everywhere
        )
        self.told += before
        return tuple(self.xp.asarray(total) for total in totals)

    def map(self, function, *params, out=None):
        return self.rows.map(function, *params, out=out)

    def each(self, consume, function, *params):
        self.rows.each(consume, function, *params)

    def fold(self, kind, start, function, *params):
        return self.rows.fold(kind, start, function, *params)

    def take(self, indices):
        return self.rows.take(indices)

    def only(self, indices):
        return self.rows.only(indices)

    def everywhere(self, fact):
        return self.rows.everywhere(fact)

    @property
    def scattered(self):  # type: ignore[override]
        return self.rows.scattered

    def remembered(self, name, make):
        return [self.xp.asarray(part) for part in self.checkpoint.answer(name, make, self.rows.everywhere)[0]]

    def gathered(self):
        return self.rows.gathered()

    def batches(self, size, rng=None):
        yield from self.rows.batches(size, rng)

    def cycled(self, size, rng=None, skip=0):
        return self.rows.cycled(size, rng, skip)

    def sample(self, n, rng):
        return RecordedRows(self.rows.sample(n, rng), self.checkpoint)

    def onto(self, ready):
        return RecordedRows(self.rows.onto(ready), self.checkpoint, self.told)


def _short(value):
    text = str(value)
    return text if len(text) < 60 else text[:57] + "..."
