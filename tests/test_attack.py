"""Each attack of tests/attack runs for a few rounds, so that `python -m tests.attack` works when it is wanted.

Those whose rounds take many seconds, `attack.long = True`, are left out.
"""

import numpy as np
import pytest

from .attack import attacks


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", [name for name, attack in attacks().items() if not getattr(attack, "long", False)])
def test_attack(name, seed):
    attacks()[name](np.random.default_rng(seed))
