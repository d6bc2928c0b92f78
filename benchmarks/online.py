"""partial_fit against a fit of all the rows that it saw: the ratio of their Amari distances to the truth.

    python -m benchmarks.online [--sources 20] [--repeats 5]

Half of the sources are uniform, half Laplace or Student's t of 2.2 degrees of freedom, mixed at random.
"""

import argparse

import numpy as np

import gpuica
from gpuica.metrics import amari_distance

from .environment import environment


def batches(n, size, A, kind, rng):
    """n batches (size, k) of mixed sources."""
    k = len(A)
    for _ in range(n):
        S = rng.uniform(-(3**0.5), 3**0.5, size=(size, k))
        S[:, 1::2] = (
            rng.laplace(size=(size, k // 2)) / 2**0.5 if kind == "laplace" else rng.standard_t(2.2, (size, k // 2))
        )
        yield S @ A.T


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sources", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    where = environment()
    print(f"{where['machine']['cpu']}, {where['machine']['cores']} cores; commit {where['commit']}, {where['date']}")
    print("batches  rows each  sources   partial_fit     fit   ratio")
    for size in (2_000, 10_000):
        for n in (10, 40):
            for kind in ("laplace", "student"):
                found = []
                for seed in range(args.repeats):
                    rng = np.random.default_rng(seed)
                    A = rng.normal(size=(args.sources, args.sources))
                    parts = list(batches(n, size, A, kind, rng))
                    model = gpuica.Picard(random_state=0)
                    for part in parts:
                        model.partial_fit(part)
                    whole = gpuica.Picard(random_state=0).fit(np.concatenate(parts))
                    found.append([amari_distance(each.components_, A) for each in (model, whole)])
                followed, whole = np.mean(found, axis=0)
                print(f"{n:7} {size:10} {kind:>8} {followed:13.5f} {whole:7.5f} {followed / whole:7.2f}", flush=True)


if __name__ == "__main__":
    main()
