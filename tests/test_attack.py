"""Each attack of tests/attack runs for a few rounds, so that `python -m tests.attack` works when it is wanted."""

import numpy as np
import pytest

from .attack import attacks


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", attacks())
def test_attack(name, seed):
    attacks()[name](np.random.default_rng(seed))
