"""`python -m benchmarks` lists all benchmarks; `python -m benchmarks NAME [options]` runs one."""

import sys
from importlib import import_module

from .common.command import main

MODULES = (
    *("demo", "run", "ica_studies", "layers", "pass_cost", "coding", "dictionary", "many_atoms"),
    *("atoms", "streamed", "scale", "gpu.runner", "activations", "report"),
)


def benchmarks():
    """All benchmarks, in the order in which they are listed."""
    return [benchmark for name in MODULES for benchmark in import_module(f"benchmarks.{name}").BENCHMARKS]


if __name__ == "__main__":
    sys.exit(main(benchmarks(), sys.argv[1:]))
