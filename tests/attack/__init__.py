"""Randomised attacks on gpuica: `python -m tests.attack --minutes 10`.

A module of this package holds functions `attack_NAME(rng)`.  One call is one round: it draws its case from `rng` (a
numpy Generator), and raises where gpuica gives a wrong answer, an error that is not one of its own sentences, or none.
"""

import importlib
import pkgutil
import sys
import traceback

import numpy as np


def attacks():
    """name -> function, of every module in this package."""
    found = {}
    for module in sorted(module.name for module in pkgutil.iter_modules(__path__) if module.name != "__main__"):
        loaded = importlib.import_module(f"{__name__}.{module}")
        for name, function in vars(loaded).items():
            if name.startswith("attack_"):
                found[f"{module}.{name.removeprefix('attack_')}"] = function
    return found


def run_round(name, seed):
    """The traceback of a round that failed, or None."""
    try:
        attacks()[name](np.random.default_rng(seed))
    except Exception:
        return traceback.format_exc()
    return None


def fail(name, seed, report):
    print(f"FAILED {name} --seed {seed}\n{report}", file=sys.stderr, flush=True)
