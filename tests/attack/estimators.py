"""Shapes, dtypes, orders and strides of X against the same fit of a plain float64 array."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from gpuica import FastICA, Picard
from tests.problems import mixture


def attack_layouts(rng):
    """A strided, reversed, Fortran-ordered, read-only, big-endian or narrower X gives the components of its copy."""
    n, d = int(rng.integers(50, 3000)), int(rng.integers(2, 8))
    X = mixture(n, d, seed=int(rng.integers(2**31)))[0]
    layouts = [
        np.asfortranarray,
        lambda A: np.repeat(A, 2, axis=0)[::2],
        lambda A: np.repeat(A, 2, axis=1)[:, ::2],
        lambda A: A[::-1].copy()[::-1],
        lambda A: A.astype(">f8"),
        lambda A: A.astype(np.float32),
    ]
    given = layouts[rng.integers(len(layouts))](X)
    given.flags.writeable = bool(rng.integers(2))
    learner = (FastICA, Picard)[rng.integers(2)]
    plain = np.array(given, dtype=given.dtype.newbyteorder("="), order="C")
    with (
        warnings.catch_warnings()
    ):  # after four iterations rounding has not grown: an end that is not reached would differ
        warnings.simplefilter("ignore", ConvergenceWarning)
        answers = [learner(random_state=0, max_iter=4).fit(A).components_ for A in (given, plain)]
    np.testing.assert_allclose(*answers, rtol=1e-4, atol=1e-4 * np.abs(answers[1]).max())
