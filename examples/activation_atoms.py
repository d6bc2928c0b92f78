"""An overcomplete dictionary of a language model's activations, and what its atoms respond to.

    python -m benchmarks.activations --rows 200000          # MiniLM, layer 3, offline; extra `activations`
    python -m examples.activation_atoms [--atoms 1536]

Rows are centered and brought to norm 1; codes are the lasso's.  Prints how good the codes are, how many atoms are dead,
how alike the dictionaries of two seeds are, and the tokens that some atoms respond to most.
"""

import argparse
import time
from pathlib import Path

import numpy as np

import gpuica
from benchmarks.activations import Tokens
from benchmarks.problems import ACTIVATIONS
from gpuica import metrics


def rows(path):
    """The activations (n, d) float32, about their mean and of norm 1."""
    X = np.load(path).astype(np.float32)
    X -= X.mean(axis=0)
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def learn(X, atoms, alpha, passes, seed=0):
    """A fitted dictionary whose codes are sparse arrays."""
    return gpuica.MiniBatchDictionaryLearning(
        atoms,
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


def telling(codes, most=0.01):
    """Atoms that fire seldom and strongly: the largest mean of their ten largest coefficients first."""
    columns = abs(codes).tocsc()
    frequencies = metrics.firing_frequencies(codes)
    strength = np.zeros(codes.shape[1])
    for j in np.flatnonzero((frequencies > 20 / codes.shape[0]) & (frequencies < most)):
        values = columns.data[columns.indptr[j] : columns.indptr[j + 1]]
        strength[j] = np.sort(values)[-10:].mean()
    return np.argsort(-strength)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--activations", type=Path, default=ACTIVATIONS)
    parser.add_argument("--atoms", type=int, default=1_536)
    parser.add_argument("--alpha", type=float, default=0.08)
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--show", type=int, default=12, help="atoms whose tokens are printed")
    args = parser.parse_args()
    X = rows(args.activations)
    tokens = Tokens.load(args.activations.with_name(args.activations.name.partition("-")[0] + "-tokens.npz"))
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
        f"non-zeros a row {metrics.l0(codes):.1f}, explained variance {metrics.explained_variance(X, codes, D):.3f}, "
        f"dead atoms {len(metrics.dead_atoms(codes))}, replaced {model.n_replaced_}"
    )
    other = learn(X, args.atoms, args.alpha, args.passes, seed=1).components_
    print(f"two seeds: mean largest |cosine| {metrics.mmcs(D, other):.2f}\n")
    by_column = codes.tocsc()
    for j in telling(codes)[: args.show]:
        own = slice(by_column.indptr[j], by_column.indptr[j + 1])
        strongest = np.argsort(-abs(by_column.data[own]))
        shown, seen = [], set()
        for row in by_column.indices[own][strongest]:
            before, token, after = tokens.context(row, before=4, after=2)
            if token not in seen or len(seen) > 5:
                shown.append(f"{before}[{token.strip()}]{after}".replace("\n", " ").strip())
                seen.add(token)
            if len(shown) == 5:
                break
        print(f"atom {j}, in {100 * len(strongest) / len(X):.2f} % of rows: " + " | ".join(shown))


if __name__ == "__main__":
    main()
