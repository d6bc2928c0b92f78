"""Products with rounded factors: on a fake device whose cuBLAS is column-major, and on a GPU (marker gpu)."""

import logging
import threading

import numpy as np
import pytest

from gpuica import FastICA, Picard, device, fastica, picard
from gpuica.device import threads
from gpuica.device.products import ROUNDED_PRECISIONS, UNIT_ROUNDOFF, matmul_precision, product, threaded_product

from . import fake_cupy
from .problems import amari, mixture

FORMS = {
    "C order": lambda M: M,
    "F order": lambda M: M.T,
    "some rows": lambda M: M[3:],
    "some columns": lambda M: M[:, 2:5],
    "rows and columns of F order": lambda M: M.T[2:, :4],
    "every other row": lambda M: M[::2],
    "every other column": lambda M: M[:, ::2],
    "reversed rows": lambda M: M[::-1],
    "one row": lambda M: M[:1],
    "one column": lambda M: M[:, 1:2],
    "one row of F order": lambda M: M.T[:1],
    "one column of F order": lambda M: M.T[:, :1],
    "no rows": lambda M: M[:0],
    "no columns": lambda M: M[:, :0],
}


@pytest.mark.parametrize("precision", ROUNDED_PRECISIONS)
@pytest.mark.parametrize("right", FORMS)
@pytest.mark.parametrize("left", FORMS)
def test_product_of_all_memory_layouts(cupy, left, right, precision, rng):
    A, B = (FORMS[form](cupy.asarray(rng.normal(size=(9, 8)).astype(np.float32))) for form in (left, right))
    inner = min(A.shape[1], B.shape[0])
    A, B = A[:, :inner], B[:inner]
    exact = A.get().astype(float) @ B.get().astype(float)
    size = np.abs(A.get()).astype(float) @ np.abs(B.get())
    with matmul_precision(cupy, precision):
        C, shared_operand = product(A, B), product(A, B, shared_operand=True)
    assert isinstance(C, cupy.ndarray)
    assert C.dtype == np.float32
    # a GPU may truncate factors to TF32 instead of rounding them, which doubles the error
    tol = 4.2 if precision == "tf32" and cupy.ndarray is not fake_cupy.FakeArray else 2.1
    assert (np.abs(C.get() - exact) <= tol * UNIT_ROUNDOFF[precision] * size).all()
    assert (
        np.abs(shared_operand.get() - exact) <= (1.1 if precision == "bf16" else tol) * UNIT_ROUNDOFF[precision] * size
    ).all()
    np.testing.assert_allclose(product(A, B).get(), exact, atol=1e-5)  # not rounded outside the context


def test_bfloat16_product_preserves_shared_operand(cupy, rng):
    A, B = np.eye(8, dtype=np.float32), rng.normal(size=(8, 8)).astype(np.float32)
    with matmul_precision(cupy, "bf16"):
        kept = product(cupy.asarray(A), cupy.asarray(B), shared_operand=True).get()
    np.testing.assert_allclose(kept, B, rtol=2.0**-15)


@pytest.mark.parametrize("n", [1, 511, 513, 1024, 8_000])
@pytest.mark.parametrize("k", [1, 2, 6, 12, 13])
def test_float32_products_over_many_rows_are_accurate(k, n, rng):
    """Sums over n rows for few components, which some kernels of OpenBLAS add up in sequence (errors of 4e-6)."""
    Y, Z = rng.uniform(size=(2, n, k)).astype(np.float32)
    exact = Y.astype(float).T @ Z.astype(float)
    found = product(Y.T, Z)
    assert found.dtype == np.float32
    size = np.linalg.norm(Y.astype(float), axis=0)[:, None] * np.linalg.norm(Z.astype(float), axis=0)
    assert (abs(found - exact) <= 1e-6 * size).all()  # 512 terms in sequence have up to 8e-7


def test_float64_and_host_products_are_not_rounded(cupy, rng):
    A = rng.normal(size=(5, 4))
    with matmul_precision(cupy, "bf16"):
        np.testing.assert_allclose(product(cupy.asarray(A), cupy.asarray(A.T)).get(), A @ A.T, rtol=1e-12)
    A = A.astype(np.float32)
    with matmul_precision(np, "bf16"):
        np.testing.assert_array_equal(product(A, A.T), A @ A.T)


def test_matmul_precision_is_thread_local():
    """Ranks that are threads exit the context in any order."""
    with fake_cupy.installed() as cupy:
        A, recorded = cupy.asarray(np.ones((3, 3), dtype=np.float32)), []

        def multiply():
            fake_cupy.gemms.clear()
            product(A, A)
            recorded.append(list(fake_cupy.gemms))

        with matmul_precision(cupy, "tf32"):
            other = threading.Thread(target=multiply)
            other.start()
            other.join()
            multiply()
        multiply()
        assert recorded == [[], [ROUNDED_PRECISIONS["tf32"]], []]


@pytest.mark.parametrize("precision", ROUNDED_PRECISIONS)
def test_unsupported_precision_on_gpu_logs_warning(precision, caplog, monkeypatch):
    monkeypatch.setattr(device.Device, "generation", 7)
    device.log_once.cache_clear()
    with fake_cupy.installed() as cupy, caplog.at_level(logging.WARNING, logger="gpuica"):
        fake_cupy.gemms.clear()
        A = cupy.asarray(np.ones((3, 3), dtype=np.float32))
        with matmul_precision(cupy, precision):
            product(A, A)
    assert not fake_cupy.gemms
    assert f"no units for precision='{precision}'" in caplog.text


@pytest.mark.parametrize("precision", ROUNDED_PRECISIONS)
@pytest.mark.parametrize("learner", [FastICA, Picard])
def test_precision_applies_to_samples_only(cupy, learner, precision):
    """The last stage converges to the tolerance of float32, with about as many passes as without rounding."""
    X, A = mixture(120_000, 6, dtype=np.float32)
    options = {"random_state": 0, "growth": 2, "tol": "auto" if learner is FastICA else 1e-6}
    X_device = cupy.asarray(X)
    expected = learner(**options).fit(X_device)
    fake_cupy.gemms.clear()
    fit = learner(precision=precision, **options).fit(X_device)
    assert set(fake_cupy.gemms) == ({ROUNDED_PRECISIONS[precision]} if cupy.ndarray is fake_cupy.FakeArray else set())
    assert fit.converged_
    assert fit.n_passes_ < expected.n_passes_ + 2.5
    assert amari(fit.components_ @ A) < 0.01
    if learner is Picard:
        assert np.max(fit.gradient_norm_) < 1e-6
    fake_cupy.gemms.clear()
    learner(precision=precision, **{**options, "growth": None}).fit(X_device)
    assert not fake_cupy.gemms


@pytest.mark.parametrize("precision", [*ROUNDED_PRECISIONS, "float64"])
def test_functions_accept_precision(precision):
    X = mixture(1000, 3)[0].astype(np.float32)
    dtype = np.float64 if precision == "float64" else np.float32
    assert fastica(X, random_state=0, precision=precision)[2].dtype == dtype
    assert picard(X.T, random_state=0, precision=precision)[2].dtype == dtype


@pytest.mark.parametrize("n", [1, 3, 700, 1300])
def test_rows_of_a_large_product_are_computed_by_threads(n, monkeypatch, rng):
    monkeypatch.setattr("gpuica.device.products.MIN_WORK_FOR_THREADS", 0)
    A, B = rng.normal(size=(n, 50)), rng.normal(size=(50, 30))
    found = []
    for n_threads in (1, 2, 3):
        monkeypatch.setattr(threads, "host_threads", lambda n=n_threads: n)
        found.append(threaded_product(A, B))
    np.testing.assert_allclose(found[0], A @ B, atol=1e-13)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    assert threaded_product(A.astype(np.float32), B.astype(np.float32)).dtype == np.float32


def test_threaded_product_on_a_device(cupy, monkeypatch, rng):
    monkeypatch.setattr("gpuica.device.products.MIN_WORK_FOR_THREADS", 0)
    A, B = rng.normal(size=(9, 8)), rng.normal(size=(8, 7))
    found = threaded_product(cupy.asarray(A), cupy.asarray(B))
    assert isinstance(found, cupy.ndarray)
    np.testing.assert_allclose(found.get(), A @ B, atol=1e-13)
