"""ICA of a language model's residual stream: does it converge, what can be trusted, and what do components respond to?

    python -m benchmarks.activations --layers 3 --rows 200000      # MiniLM, offline; extra `activations`
    python -m examples.residual_stream [--activations FILE.npy] [--figure residual_stream.png]

Fits `Picard()` with its defaults to raw rows from two starts.  Prints the diagnostics, how many components come back
from the other start, and, for some components of all ranks of negentropy, the tokens at which they are largest.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.activations import Tokens
from benchmarks.problems import ACTIVATIONS
from gpuica import Picard, metrics


def diagnose(ica, n_rows):
    """Print what the estimator says of its answer."""
    print(
        f"converged {ica.converged_}, {ica.converged_components_.sum()} of "
        f"{len(ica.converged_components_)} components; rank {ica.rank_} "
        f"of {ica.n_features_in_} features\n"
        f"largest gradient {ica.gradient_norm_:.1e} (1 / sqrt(n) is {n_rows**-0.5:.1e}); {ica.n_iter_} iterations, "
        f"{ica.n_passes_:.1f} passes over all rows"
    )


def upright(S):
    """The sources S (n, k), each with the sign that makes its third moment positive: its tail is then on top."""
    return S * np.where(np.einsum("nk,nk,nk->k", S, S, S) < 0, -1, 1).astype(S.dtype)


def loudest(s, tokens, count=6):
    """The tokens at which a source s (n,) is largest, in their context, as [token]; a token appears twice at most."""
    shown, seen = [], []
    for row in np.argsort(-s)[:2000]:
        before, token, after = tokens.context(row, before=4, after=2)
        if seen.count(token) < 2:
            shown.append(f"{before}[{token.strip()}]{after}".replace("\n", " ").strip())
            seen.append(token)
        if len(shown) == count:
            break
    return shown


def draw(ica, negentropy, kurtosis, alike, path):
    """Loss against passes over all rows; negentropy, kurtosis and agreement of two seeds, by component."""
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
    middle.set(xlabel="component, least Gaussian first", title="how far from Gaussian")
    middle.legend(frameon=False)
    right.plot(alike[order], ".", ms=4, color="#4a6fa5")
    right.axhline(0.9, color="#999999", lw=0.8, ls=":")
    right.set(xlabel="component, least Gaussian first", ylabel="|correlation|", ylim=(0, 1.02))
    right.set_title(f"{(alike > 0.9).mean():.0%} found again from another start")
    figure.savefig(path, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--activations", type=Path, default=ACTIVATIONS)
    parser.add_argument("--figure", type=Path, help="file for a picture; needs matplotlib")
    parser.add_argument("--show", type=int, default=12, help="components whose tokens are printed")
    args = parser.parse_args()
    X = np.load(args.activations)
    tokens = Tokens.load(args.activations.with_name(args.activations.name.partition("-")[0] + "-tokens.npz"))
    ica = Picard(random_state=0, verbose=1).fit(X)
    print(f"\n{args.activations.stem}: {len(X):,} x {X.shape[1]}")
    diagnose(ica, len(X))
    S = upright(ica.transform(X))
    other = Picard(random_state=1).fit(X)
    alike = metrics.matched_correlation(S, other.transform(X))[0]
    print(
        f"found again from another start (|correlation| above 0.9): {(alike > 0.9).mean():.2f} of components, mean "
        f"|correlation| {alike.mean():.2f}"
    )
    negentropy, kurtosis = metrics.negentropy(S), metrics.excess_kurtosis(S)
    print(f"excess kurtosis: median {np.median(kurtosis):.1f}, {(kurtosis < 0).sum()} components below 0\n")
    order = np.argsort(-negentropy)
    for rank in np.linspace(0, len(order) - 1, args.show).astype(int):
        i = order[rank]
        print(
            f"component {i} (rank {rank}, kurtosis {kurtosis[i]:.0f}, again {alike[i]:.2f}): "
            + " | ".join(loudest(S[:, i], tokens))
        )
    if args.figure:
        draw(ica, negentropy, kurtosis, alike, args.figure)
        print(f"\npicture: {args.figure}")


if __name__ == "__main__":
    main()
