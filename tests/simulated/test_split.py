"""Numbers of float32 as sums of two of 11 bits, in the simulator."""

import numpy as np
import pytest

from gpuica.kernels.cuda import split as split_kernel

from ..fake_cupy import rounded


@pytest.mark.parametrize("shape", [(1, 1), (7, 33), (20, 5)])
def test_parts_have_few_bits_and_add_up(shape, monkeypatch, rng):
    monkeypatch.setattr(split_kernel, "multiprocessors", lambda index: 1)
    A = (rng.normal(size=shape) * 10.0 ** rng.integers(-30, 30, size=shape)).astype(np.float32)
    parts = split_kernel.split(A)
    high, low = parts[:, : shape[1]], parts[:, shape[1] :]
    np.testing.assert_array_equal(high, rounded(high, 11))
    np.testing.assert_array_equal(high + low, A)
    assert (np.abs(low) <= np.abs(A) * 2.0**-11).all()
    exact = high.astype(float) + rounded(low, 11)
    np.testing.assert_allclose(exact, A, rtol=2.0**-22)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of the threads of the simulator
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_stay_so(bad, monkeypatch):
    monkeypatch.setattr(split_kernel, "multiprocessors", lambda index: 1)
    high, low = split_kernel.split(np.array([[bad]], dtype=np.float32))[0]
    assert not np.isfinite(high + low)
