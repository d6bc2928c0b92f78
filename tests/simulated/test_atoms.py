"""The atoms of a block in turn, on the device's kernels in the simulator, against the textbook loop."""

import numpy as np
import pytest

from gpuica.kernels.cuda import atoms as cuda_atoms
from gpuica.solvers import atoms

from .. import naive

CASES = {  # atoms, features, block, threads
    "one block": (7, 5, 8, 4),
    "several blocks, the last of fewer": (11, 6, 4, 4),
    "more threads than atoms or features": (3, 2, 3, 8),
    "one of each": (1, 1, 1, 2),
    "a number of threads that is no power of 2": (9, 10, 5, 3),
    "four slices of two columns": (6, 5, 6, 9),
}


def problem(k, d, dtype, rng):
    """D (k, d) of norm 1, A = Σ c cᵀ and B = Σ c xᵀ of sparse codes; atom 1 is not used where there are several."""
    D, C, X = rng.normal(size=(k, d)), rng.normal(size=(40, k)), 3 * rng.normal(size=(40, d))
    C[rng.random(C.shape) < 0.5] = 0
    C[:, 1:2] = 0
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    return D.astype(dtype), C.T @ C, C.T @ X


@pytest.fixture
def on_the_device(monkeypatch):
    """`block_descent` uses the device's kernels, with a few threads."""

    def use(threads):
        def descend(*arguments):
            cuda_atoms.descend(*arguments, threads=threads)

        monkeypatch.setattr(atoms.kernels, "descend", descend)

    return use


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm", ["ball", "unit"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_atoms_are_those_of_the_textbook_loop(case, positive, norm, dtype, on_the_device, rng):
    k, d, block, threads = CASES[case]
    D, A, B = problem(k, d, dtype, rng)
    on_the_device(threads)
    new, unused = atoms.block_descent(D, A, B, positive=positive, norm=norm, block=block, sweeps=2)
    expected = naive.block_descent(D, A, B, positive=positive, norm=norm, sweeps=2)
    assert new.dtype == dtype
    np.testing.assert_array_equal(unused, A.diagonal() == 0)
    np.testing.assert_allclose(new, expected, atol=2e-6 if dtype == np.float32 else 1e-13)


def test_scales_are_accurate_where_atoms_are_used_together(on_the_device, rng):
    """Rare atoms beside frequent ones make L large: the answer in float32 is that of float64, to float32's rounding."""
    D, _, _ = problem(8, 12, np.float32, rng)
    C = rng.normal(size=(60, 8)) * np.geomspace(1e-2, 30, 8)[::-1]
    A, B = C.T @ C, C.T @ (C @ D + 0.1 * rng.normal(size=(60, 12)))
    on_the_device(4)
    new, _ = atoms.block_descent(D, A, B, block=8)
    step = np.abs(np.tril(A / A.diagonal()[:, None], -1)).max() * np.finfo(np.float32).eps
    np.testing.assert_allclose(new, naive.block_descent(D, A, B), atol=4 * step)
    assert (np.linalg.norm(new, axis=1) <= 1 + 1e-6).all()


def test_a_unit_atom_without_direction_stays(on_the_device):
    D, A, B = np.eye(3), np.eye(3), np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 2.0]])
    on_the_device(2)
    new, _ = atoms.block_descent(D, A, B, norm="unit", block=3)
    np.testing.assert_allclose(new, D)
