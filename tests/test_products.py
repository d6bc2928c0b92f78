"""Products with rounded factors: on a fake device whose cuBLAS reads memory columns first, and on a GPU (marker gpu)."""

import logging
import threading

import numpy as np
import pytest

from gpuica import FastICA, Picard, device, fastica, picard
from gpuica.products import ROUNDED, UNITS, product, products

from . import fake_cupy
from .problems import amari, mixture

FORMS = {
    "rows first": lambda M: M,
    "columns first": lambda M: M.T,
    "some rows": lambda M: M[3:],
    "some columns": lambda M: M[:, 2:5],
    "some of columns first": lambda M: M.T[2:, :4],
    "every other row": lambda M: M[::2],
    "every other column": lambda M: M[:, ::2],
    "backwards": lambda M: M[::-1],
    "one row": lambda M: M[:1],
    "one column": lambda M: M[:, 1:2],
    "one row of columns first": lambda M: M.T[:1],
    "one column of columns first": lambda M: M.T[:, :1],
    "no rows": lambda M: M[:0],
    "no columns": lambda M: M[:, :0],
}


@pytest.mark.parametrize("precision", ROUNDED)
@pytest.mark.parametrize("right", FORMS)
@pytest.mark.parametrize("left", FORMS)
def test_a_product_of_every_layout(cupy, left, right, precision, rng):
    A = FORMS[left](cupy.asarray(rng.normal(size=(9, 8)).astype(np.float32)))
    inner = A.shape[1]
    taken = FORMS[right](np.arange(9 * 8).reshape(9, 8))
    whole = rng.normal(size=(9, 8)).astype(np.float32)
    B = FORMS[right](cupy.asarray(whole))
    if len(taken) < inner:
        A = A[:, : len(taken)]
    B = B[: A.shape[1]]
    exact = A.get().astype(float) @ B.get().astype(float)
    with products(cupy, precision):
        C = product(A, B)
    assert isinstance(C, cupy.ndarray)
    assert C.dtype == np.float32
    scale = np.abs(A.get()).astype(float) @ np.abs(B.get())
    assert (np.abs(C.get() - exact) <= 2.1 * UNITS[precision] * scale).all()
    np.testing.assert_allclose(product(A, B).get(), exact, atol=1e-5)  # no longer rounded
