"""Tests that need a GPU: compiled kernels, streams, memory, torch.  Run by `make test-gpu`, with random seeds."""

import logging
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

from gpuica import FastICA, Picard, device, kernels
from gpuica.contrasts import CONTRASTS, LogCosh, as_contrast
from gpuica.device import Device
from gpuica.oracle import ContrastOracle
from gpuica.rows import open_rows
from gpuica.solvers.fastica import _iterate
from gpuica.solvers.multistart import evaluate_all
from gpuica.solvers.orthonormal import orthonormal, polar

from .problems import amari, mixture, white

pytestmark = pytest.mark.gpu
CUDA = Device("cuda", 0)


@pytest.fixture
def rng():
    return np.random.default_rng()


@pytest.fixture
def cp():
    return pytest.importorskip("cupy")


@pytest.mark.first
def test_cuda_kernels_are_compiled(cp):
    """Without kernels most tests would pass with the array implementation."""
    assert kernels.on_cuda(cp.zeros(1)), device.why_no_kernels()


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fun", CONTRASTS)
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (1001, 3), (100_003, 64), (777, 300), (4096, 512), (33, 5000)])
def test_sweep_matches_reference_and_is_deterministic(cp, shape, fun, dtype, weighted, rng):
    contrast = as_contrast(fun)
    Y = rng.normal(size=shape).astype(dtype)
    w = rng.integers(0, 4, size=len(Y)).astype(dtype) if weighted else None
    on_device = None if w is None else cp.asarray(w)
    assert kernels.on_cuda(cp.asarray(Y)), device.why_no_kernels()
    times, u = np.ones(len(Y)) if w is None else w.astype(float), Y.astype(float)
    g, slope = contrast.at(u)
    expected = times @ contrast.loss(u), times @ slope, times @ (g * g)
    results = []
    for _ in range(2):
        swept = cp.asarray(Y)
        results.append([part.get() for part in (*kernels.score_and_loss(swept, contrast, on_device), swept)])
    for first, again in zip(*results, strict=True):
        np.testing.assert_array_equal(first, again)
    *totals, swept = results[0]
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(swept, times[:, None] * g, rtol=8 * eps, atol=8 * eps * max(1, times.max()))
    for found, exact in zip(totals, expected, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-5 if dtype == np.float32 else 1e-12, atol=eps * len(Y))
    alone = cp.asarray(Y)
    for found, together in zip(kernels.score(alone, contrast, on_device), totals[1:], strict=True):
        np.testing.assert_allclose(found.get(), together, rtol=1e-6, atol=eps * len(Y))


def test_sweep_is_as_accurate_as_numpy_float32(cp, rng):
    Y = rng.normal(size=(50_000, 64)).astype(np.float32)
    exact = (1 - np.tanh(Y.astype(float)) ** 2).sum(0)
    t = np.tanh(Y)
    plain = np.abs((1 - t * t).sum(0) - exact).max()
    assert np.abs(kernels.score(cp.asarray(Y), LogCosh())[0].get() - exact).max() <= 2 * plain


def test_sweep_of_nan_and_extreme_values(cp):
    Y = cp.asarray(np.array([[np.nan, 0.0, 1e-30, -100.0, 3e38, np.inf]], dtype=np.float32))
    slope, _ = kernels.score(Y, LogCosh())
    np.testing.assert_array_equal(Y.get()[0], np.array([np.nan, 0, 1e-30, -1, 1, 1], dtype=np.float32))
    np.testing.assert_array_equal(slope.get(), [np.nan, 1, 1, 0, 0, 0])


@pytest.mark.filterwarnings("ignore")  # allow_synchronize warns whenever it is called
def test_iterations_do_not_synchronize(cp, rng):
    import cupyx

    oracle = ContrastOracle(open_rows(cp.asarray(white(3000, 6)), dtype=np.dtype(float), device=CUDA), LogCosh())
    W = orthonormal(cp.asarray(rng.normal(size=(6, 6))), cp)

    def steps(n):
        found, at = [], W
        for number in range(n):
            iteration = _iterate(oracle, at, number, tol=1e-4, fraction=1.0, exact=False)
            found.append(evaluate_all(oracle, iteration))
            at = found[-1].new
        return found

    warm_up = steps(2)  # compiles kernels and creates library handles
    with cupyx.allow_synchronize(False):
        found = steps(4)
    np.testing.assert_array_equal(found[1].new.get(), warm_up[1].new.get())


@pytest.mark.parametrize("k", [1, 3, 64, 300])
def test_polar_returns_nearest_orthogonal_matrix(cp, k, rng):
    M = cp.asarray(np.geomspace(1e-3, 1, k)[:, None] * orthonormal(rng.normal(size=(k, k))) + 1e-5)
    W, defect = polar(M, cp)
    np.testing.assert_allclose(W.get(), orthonormal(M.get()), atol=1e-8)
    assert float(defect) < 1e-12


@pytest.mark.parametrize("learner", [FastICA, Picard])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_fit_recovers_sources_of_large_data(cp, learner, dtype):
    X, A = mixture(300_000, 16, dtype=dtype)
    fits = [learner(random_state=0).fit(cp.asarray(X)), learner(random_state=0, device="cuda").fit(X)]
    for fit in fits:
        assert fit.device_ == "cuda:0"
        assert amari(fit.components_ @ A) < 0.01
    np.testing.assert_array_equal(fits[0].components_, learner(random_state=0).fit(cp.asarray(X)).components_)


@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_rounded_samples_converge_to_float32_tolerance(cp, precision):
    X, A = mixture(1_000_000, 64, dtype=np.float32)
    on_device = cp.asarray(X)
    plain, fit = (Picard(random_state=0, growth=2, tol=1e-5, precision=p).fit(on_device) for p in (None, precision))
    assert plain.converged_
    assert fit.converged_
    assert np.max(fit.gradient_norm_) < 1e-5
    assert amari(fit.components_ @ A) < 0.01
    assert fit.n_passes_ < plain.n_passes_ + 3  # rounded samples cost no more than a few extra passes


def test_fit_on_stream_of_caller(cp):
    X = mixture(200_000, 8)[0]
    on_device = cp.asarray(X)
    cp.cuda.Device().synchronize()
    expected = FastICA(random_state=0).fit(on_device).components_
    with cp.cuda.Stream(non_blocking=True):
        np.testing.assert_array_equal(FastICA(random_state=0).fit(on_device).components_, expected)
        np.testing.assert_allclose(FastICA(random_state=0, n_init=2).fit(on_device).converged_, True)


def test_fit_without_compiled_kernels_warns(cp, monkeypatch, caplog):
    X = cp.asarray(mixture(50_000, 8)[0])
    expected = FastICA(random_state=0).fit(X).components_
    monkeypatch.setattr(kernels, "why_no_kernels", lambda: "there is no compiler.")
    device.log_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="gpuica"):
        found = FastICA(random_state=0).fit(X).components_
    np.testing.assert_allclose(found, expected, atol=1e-6 * np.abs(expected).max())
    assert "without compiled kernels: there is no compiler." in caplog.text


def test_fit_with_little_memory_matches_unlimited_fit(cp, caplog):
    X = mixture(400_000, 32, dtype=np.float32)[0]
    expected = FastICA(random_state=0, device="cuda", max_iter=500).fit(X).components_
    pool = cp.get_default_memory_pool()
    pool.free_all_blocks()
    device.log_once.cache_clear()
    pool.set_limit(size=pool.used_bytes() + int(2.8 * X.nbytes))
    try:
        with caplog.at_level(logging.WARNING, logger="gpuica"):
            found = FastICA(random_state=0, device="cuda", max_iter=500).fit(X).components_
    finally:
        pool.set_limit(size=0)
    np.testing.assert_allclose(found, expected, atol=1e-2 * np.abs(expected).max())


def test_pickled_fit_transforms_without_gpu(cp, tmp_path):
    X = mixture(2000, 4)[0]
    fit = FastICA(random_state=0).fit(cp.asarray(X))
    (tmp_path / "fit").write_bytes(pickle.dumps(fit))
    np.save(tmp_path / "X.npy", X)
    script = (
        f"import pickle, numpy as np; X = np.load(r'{tmp_path / 'X.npy'}'); "
        f"print(repr(float(abs(pickle.load(open(r'{tmp_path / 'fit'}', 'rb')).transform(X)).sum())))"
    )
    alone = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    ran = subprocess.run([sys.executable, "-c", script], env=alone, capture_output=True, text=True, check=True)
    np.testing.assert_allclose(float(ran.stdout), np.abs(fit.transform(X)).sum(), rtol=1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16", "float16"])
def test_torch_in_torch_out(cp, dtype):
    torch = pytest.importorskip("torch")
    X = torch.from_numpy(mixture(20_000, 4)[0]).to("cuda", getattr(torch, dtype)).requires_grad_()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        moved = X * 1.0  # may still be pending when the fit starts
        fit = FastICA(random_state=0)
        S = fit.fit_transform(moved)
        assert S.is_cuda
        assert fit.device_ == "cuda:0"
        centered = X.detach().double().cpu().numpy() - fit.mean_
        error = np.abs(S.double().cpu().numpy() - centered @ fit.components_.T).max()
    assert error < (1e-6 if dtype == "float64" else 2e-2)


def test_fit_on_second_device(cp):
    if cp.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("needs two GPUs")
    X, w = mixture(5000, 4)[0], np.ones(5000)
    expected = FastICA(random_state=0).fit(cp.asarray(X)).components_
    with cp.cuda.Device(1):
        on_device, weights = cp.asarray(X), cp.asarray(w)
    fit = FastICA(random_state=0).fit(on_device)
    assert fit.device_ == "cuda:1"
    np.testing.assert_allclose(fit.components_, expected, atol=1e-9)
    fit = FastICA(random_state=0, device="cuda:0").fit(on_device, sample_weight=weights)
    assert fit.device_ == "cuda:0"
    np.testing.assert_allclose(fit.components_, expected, atol=1e-9)
