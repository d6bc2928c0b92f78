"""Polar decomposition in one block, in the simulator, against the definition."""

import numpy as np
import pytest

from gpuica.kernels.cuda import polar as polar_kernel
from gpuica.kernels.cuda.polar import polar

from .. import naive


@pytest.mark.parametrize("k", [1, 2, 4, 7, 9])
@pytest.mark.parametrize(("condition", "size"), [(1, 1.0), (10, 1e30), (1e5, 1e-30)])
def test_polar_matches_symmetric_decorrelation(k, condition, size, rng):
    U, _, V = np.linalg.svd(rng.normal(size=(k, k)))
    M = size * (U * np.geomspace(1, 1 / condition, k)) @ V
    W, defect = polar(M)
    np.testing.assert_allclose(W, naive.symmetric_decorrelation(M), atol=1e-15 * condition * k + 1e-13)
    assert abs(W @ W.T - np.eye(k)).max() == pytest.approx(defect, abs=1e-15)
    assert defect < 1e-13


def test_polar_of_nearly_orthogonal_rows_takes_few_steps(monkeypatch, rng):
    monkeypatch.setattr(polar_kernel, "MAX_STEPS", 7)
    U, _, _ = np.linalg.svd(rng.normal(size=(8, 8)))
    M = np.geomspace(1, 0.5, 8)[:, None] * U + 1e-3 * rng.normal(size=(8, 8))
    W, defect = polar(M)
    np.testing.assert_allclose(W, naive.symmetric_decorrelation(M), atol=1e-13)
    assert defect < 1e-13


@pytest.mark.parametrize("smallest", [0, 1e-14])
def test_polar_of_singular_matrix_has_large_defect(smallest, rng):
    U, _, V = np.linalg.svd(rng.normal(size=(5, 5)))
    W, defect = polar((U * [1, 0.5, 0.2, 0.1, smallest]) @ V)
    assert np.isfinite(W).all()
    assert defect > 1e-8


def test_polar_of_zeros_and_nan_has_large_defect(rng):
    W, defect = polar(np.zeros((3, 3)))
    np.testing.assert_array_equal(W, 0)
    assert defect == 1
    _, defect = polar(np.full((3, 3), np.nan))
    assert not defect < 1e-8
