"""Block coordinate descent on dictionary atoms: device kernels in the simulator against the reference loop."""

import numpy as np
import pytest

from gpuica.kernels.cuda import atoms as cuda_atoms
from gpuica.solvers import atoms

from .. import naive

CASES = {  # atoms, features, block, threads
    "one block": (7, 5, 8, 4),
    "several blocks, the last smaller": (11, 6, 4, 4),
    "more threads than atoms or features": (3, 2, 3, 8),
    "one atom, one feature": (1, 1, 1, 2),
    "number of threads not a power of 2": (9, 10, 5, 3),
    "four slices of two columns": (6, 5, 6, 9),
}


def problem(k, d, dtype, rng):
    """Unit-norm D (k, d), and A = Σ c cᵀ and B = Σ c xᵀ of sparse codes; atom 1, if any, is unused."""
    D, C, X = rng.normal(size=(k, d)), rng.normal(size=(40, k)), 3 * rng.normal(size=(40, d))
    C[rng.random(C.shape) < 0.5] = 0
    C[:, 1:2] = 0
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    return D.astype(dtype), C.T @ C, C.T @ X


@pytest.fixture
def use_device_kernels(monkeypatch):
    """Make `block_descent` use the device kernels with a given number of threads."""

    def use(threads):
        def descend(*arguments):
            cuda_atoms.descend(*arguments, threads=threads)

        monkeypatch.setattr(atoms.kernels, "descend", descend)

    return use


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("norm", ["ball", "unit"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_block_descent_matches_reference(case, positive, norm, dtype, use_device_kernels, rng):
    k, d, block, threads = CASES[case]
    D, A, B = problem(k, d, dtype, rng)
    use_device_kernels(threads)
    new, unused = atoms.block_descent(D, A, B, positive=positive, norm=norm, block=block, sweeps=2)
    expected = naive.block_descent(D, A, B, positive=positive, norm=norm, sweeps=2)
    assert new.dtype == dtype
    np.testing.assert_array_equal(unused, A.diagonal() == 0)
    np.testing.assert_allclose(new, expected, atol=2e-6 if dtype == np.float32 else 1e-13)


def test_float32_is_accurate_for_correlated_atoms(use_device_kernels, rng):
    """Rare and frequent atoms together make L large; results in float32 equal those in float64 up to rounding."""
    D, _, _ = problem(8, 12, np.float32, rng)
    C = rng.normal(size=(60, 8)) * np.geomspace(1e-2, 30, 8)[::-1]
    A, B = C.T @ C, C.T @ (C @ D + 0.1 * rng.normal(size=(60, 12)))
    use_device_kernels(4)
    new, _ = atoms.block_descent(D, A, B, block=8)
    step = np.abs(np.tril(A / A.diagonal()[:, None], -1)).max() * np.finfo(np.float32).eps
    np.testing.assert_allclose(new, naive.block_descent(D, A, B), atol=4 * step)
    assert (np.linalg.norm(new, axis=1) <= 1 + 1e-6).all()


def test_unit_atom_with_zero_update_is_unchanged(use_device_kernels):
    D, A, B = np.eye(3), np.eye(3), np.array([[1.0, 0, 0], [0, 0, 0], [0, 0, 2.0]])
    use_device_kernels(2)
    new, _ = atoms.block_descent(D, A, B, norm="unit", block=3)
    np.testing.assert_allclose(new, D)
