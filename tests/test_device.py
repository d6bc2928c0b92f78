"""Computation on a device: on a fake device everywhere, and on a GPU (marker gpu) if one is present."""

import logging
import pickle
import sys
import warnings
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from gpuica import FastICA, Picard, device, fastica, metrics, oracle, sums
from gpuica.device import CPU, Device, choose_device, to_host
from gpuica.solvers import fastica as fastica_solver
from gpuica.solvers import orthonormal

from . import fake_cupy
from .problems import amari, mixture, white


def cube(x):
    return x**3, (3 * x**2).mean(axis=-1)


@pytest.mark.parametrize("whiten", ["unit-variance", "arbitrary-variance", False])
@pytest.mark.parametrize("fun", ["logcosh", "exp", "cube", cube])
@pytest.mark.parametrize("algorithm", ["parallel", "deflation"])
def test_device_arrays_give_the_results_of_the_cpu(cupy, algorithm, fun, whiten):
    X = mixture(2000, 4)[0] if whiten else white(2000, 4)
    arguments = {"algorithm": algorithm, "fun": fun, "whiten": whiten, "random_state": 0}
    host, on_device = FastICA(**arguments), FastICA(**arguments)
    expected = host.fit_transform(X)
    sources = on_device.fit_transform(cupy.asarray(X))
    assert isinstance(sources, cupy.ndarray)
    assert on_device.device_ == "cuda:0"
    np.testing.assert_allclose(sources.get(), expected, atol=1e-7)
    np.testing.assert_allclose(on_device.components_, host.components_, atol=1e-7 * np.abs(host.components_).max())
    assert on_device.n_iter_ == host.n_iter_
    again = on_device.transform(cupy.asarray(X))
    np.testing.assert_allclose(again.get(), expected, atol=1e-7)
    back = on_device.inverse_transform(again)
    assert isinstance(back, cupy.ndarray)
    np.testing.assert_allclose(back.get(), X, atol=1e-7)


@pytest.mark.parametrize("weights_on_device", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"whiten": False},
        {"center": "median", "normalize_rows": True},
        {"algorithm": "deflation", "fun": "cube", "whiten_solver": "eigh"},
        {"fun": cube, "tol": "auto"},
        {"n_init": 2, "tol": 1e-3},
        {"growth": 2.0},
    ],
)
def test_weights_on_the_device_give_the_results_of_the_cpu(cupy, arguments, weights_on_device, rng, monkeypatch):
    monkeypatch.setattr("gpuica.rows.device.MAX_SORTED_ROWS", 0)  # the same samples
    n = 60_000 if "growth" in arguments else 2000
    X = mixture(n, 4)[0] if arguments.get("whiten", True) else white(n, 4)
    w = rng.integers(0, 3, size=n)
    host, on_device = FastICA(random_state=0, **arguments), FastICA(random_state=0, **arguments)
    expected = host.fit_transform(X, sample_weight=w)
    sources = on_device.fit_transform(cupy.asarray(X), sample_weight=cupy.asarray(w) if weights_on_device else w)
    np.testing.assert_allclose(sources.get(), expected, atol=1e-7)
    np.testing.assert_allclose(on_device.components_, host.components_, atol=1e-7 * np.abs(host.components_).max())
    ahead = on_device.n_passes_ - host.n_passes_  # short passes: one is enqueued before the last result is read
    measured = 2 if arguments.get("tol") == "auto" else 0  # and before passes that estimate standard errors
    assert on_device.n_iter_ == host.n_iter_
    least = 0 if arguments.get("algorithm") == "deflation" else 1
    assert least <= ahead <= least + measured or "growth" in arguments


def test_weighted_fits_of_few_rows_and_of_outliers_on_the_device(cupy, rng, caplog):
    X, w = rng.laplace(size=(30, 50)), rng.exponential(size=30)
    with pytest.warns(UserWarning, match="numerical rank 29"):
        host = FastICA(random_state=0, tol=1).fit(X, sample_weight=w)
    with pytest.warns(UserWarning, match="numerical rank 29"):
        on_device = FastICA(random_state=0, tol=1).fit(cupy.asarray(X), sample_weight=w)
    np.testing.assert_allclose(on_device.components_, host.components_, atol=1e-6 * np.abs(host.components_).max())
    X = mixture(2000, 3)[0]
    X[77] *= 1e6
    with caplog.at_level(logging.WARNING, logger="gpuica"):
        FastICA(random_state=0, tol=1).fit(cupy.asarray(X))
    assert "a few rows of very large norm" in caplog.text


def test_weighted_metrics_on_the_device(cupy, rng):
    S, w = rng.laplace(size=(500, 3)), rng.integers(0, 3, size=500)
    expected = metrics.matched_correlation(S, -S, sample_weight=w)[0]
    found = metrics.matched_correlation(cupy.asarray(S), cupy.asarray(-S), sample_weight=cupy.asarray(w))[0]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int16])
def test_other_dtypes_on_the_device(cupy, dtype):
    X = (mixture(3000, 4)[0] * 50).astype(dtype)
    host, on_device = FastICA(random_state=0).fit(X), FastICA(random_state=0).fit(cupy.asarray(X))
    assert on_device.components_.dtype == host.components_.dtype
    np.testing.assert_allclose(on_device.components_, host.components_, atol=1e-3 * np.abs(host.components_).max())


@pytest.mark.parametrize("solver", ["svd", "eigh"])
@pytest.mark.parametrize("shape", [(300, 5), (6, 20)])
def test_rank_deficient_data_on_the_device(cupy, shape, solver, rng):
    X = rng.normal(size=shape)
    X[:, 1] = X[:, 0]
    with pytest.warns(UserWarning, match="numerical rank"):
        host = FastICA(random_state=0, tol=1, whiten_solver=solver).fit(X)
    with pytest.warns(UserWarning, match="numerical rank"):
        on_device = FastICA(random_state=0, tol=1, whiten_solver=solver).fit(cupy.asarray(X))
    np.testing.assert_allclose(on_device.components_, host.components_, atol=1e-6 * np.abs(host.components_).max())


def test_fitted_attributes_are_numpy_and_pickles_need_no_gpu(cupy):
    ica = FastICA(random_state=0).fit(cupy.asarray(mixture(500, 3)[0]))
    for name, value in vars(ica).items():
        assert not isinstance(value, cupy.ndarray), name
    assert b"cupy" not in pickle.dumps(ica)


@pytest.mark.parametrize("arguments", [{}, {"extended": False}, {"ortho": False, "extended": True}, {"ortho": False}])
def test_picard_on_the_device_gives_the_results_of_the_cpu(cupy, arguments):
    X = mixture(2000, 4)[0]
    host, on_device = (Picard(random_state=0, **arguments).fit(rows) for rows in (X, cupy.asarray(X)))
    assert (on_device.n_iter_, on_device.n_passes_) == (host.n_iter_, host.n_passes_)
    np.testing.assert_allclose(on_device.components_, host.components_, atol=1e-6 * np.abs(host.components_).max())
    np.testing.assert_allclose(on_device.losses_, host.losses_, rtol=1e-9)


@pytest.mark.parametrize("cut", [np.s_[::2], np.s_[:, ::2], np.s_[::-1, 1:], "columns"])
def test_device_arrays_of_any_strides(cupy, cut):
    X = mixture(2000, 8)[0]
    X, on_device = (
        (np.asfortranarray(X), cupy.asarray(X.T.copy()).T) if cut == "columns" else (X[cut], cupy.asarray(X)[cut])
    )
    host, on_device = FastICA(random_state=0).fit(X), FastICA(random_state=0).fit(on_device)
    np.testing.assert_allclose(on_device.components_, host.components_, atol=1e-6 * np.abs(host.components_).max())


def test_device_failure_raises_runtime_error(cupy, monkeypatch):
    def fail(*args, **weights):
        raise cupy.cuda.runtime.CUDARuntimeError(999)

    X = cupy.asarray(mixture(500, 3)[0])
    monkeypatch.setattr(sums, "fixed_point", fail)
    with pytest.raises(RuntimeError, match=r"cuda:0 failed at work .*nvidia-smi"):
        FastICA(random_state=0).fit(X)


def test_device_array_with_unusable_cupy_raises(cupy, monkeypatch):
    X = cupy.asarray(mixture(500, 3)[0])
    monkeypatch.setattr(device, "why_no_gpu", lambda: "CuPy cannot use one (driver gone): check `nvidia-smi`.")
    for name in ("auto", "cuda", "cpu"):
        with pytest.raises(RuntimeError, match=r"X is on cuda:0, but CuPy cannot use one \(driver gone\)"):
            FastICA(device=name).fit(X)


@pytest.mark.parametrize("torch_is_loaded", [True, False])
def test_memory_pool_is_released_if_torch_is_loaded(cupy, torch_is_loaded, monkeypatch):
    fake_only(cupy)
    calls = []
    monkeypatch.setattr(cupy, "get_default_memory_pool", lambda: fake_pool(calls))
    if torch_is_loaded:
        monkeypatch.setitem(device.sys.modules, "torch", device)
    else:
        monkeypatch.delitem(device.sys.modules, "torch", raising=False)
    FastICA(random_state=0).fit(cupy.asarray(mixture(500, 3)[0]))
    assert len(calls) == torch_is_loaded


def fake_pool(calls):
    none = dict.fromkeys(("free_bytes", "get_limit", "total_bytes"), lambda: 0)
    return SimpleNamespace(free_all_blocks=lambda: calls.append("released"), **none)


def fake_only(cupy):
    if not hasattr(cupy.ndarray, "_wait"):
        pytest.skip("only the fake device counts")


@pytest.mark.parametrize("tol", [0, "auto"])
def test_iterations_do_not_synchronize_the_whole_device(cupy, tol, monkeypatch):
    fake_only(cupy)
    X = cupy.asarray(mixture(2000, 4)[0])
    monkeypatch.setattr(fastica_solver, "distance", lambda z, xp: z.max(axis=1) + np.inf)
    counts = []
    for n_iter in (3, 9):
        fake_cupy.waits = fake_cupy.event_waits = 0
        with pytest.warns(UserWarning, match="did not converge"):
            FastICA(random_state=0, max_iter=n_iter, tol=tol).fit(X)
        counts.append((fake_cupy.waits, fake_cupy.event_waits))
    assert counts[1][0] == counts[0][0]
    assert counts[1][1] - counts[0][1] == 6  # each waits for the copies of one iteration


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("ortho", [True, False])
def test_number_of_waits_in_picard_iterations(cupy, ortho):
    fake_only(cupy)
    X = cupy.asarray(mixture(2000, 4)[0])
    counts = []
    for n_iter in (3, 6):
        fake_cupy.waits = 0
        fitted = Picard(random_state=0, ortho=ortho, max_iter=n_iter, tol=0).fit(X)
        counts.append((fake_cupy.waits, fitted.n_passes_))
    passes = counts[1][1] - counts[0][1]  # each step of the line search is a pass and a wait
    assert counts[1][0] - counts[0][0] == 3 + passes


def test_next_pass_is_enqueued_before_the_last_result_is_read(cupy, monkeypatch):
    fake_only(cupy)
    log, original = fake_cupy.log, sums.fixed_point
    monkeypatch.setattr(sums, "fixed_point", lambda *args, **weights: log.append("pass") or original(*args, **weights))
    X = cupy.asarray(mixture(2000, 4)[0])
    log.clear()
    short = FastICA(random_state=0).fit(X)
    events = [entry if entry == "pass" else entry[0] for entry in log]
    assert events[:4] == ["pass", "record", "pass", "record"]
    assert events[4:] == ["synchronize", "pass", "record"] * (short.n_iter_ - 1) + ["synchronize"]
    monkeypatch.setattr(oracle, "SHORT_PASS", 0)  # passes longer than a wait: none is enqueued in advance
    long = FastICA(random_state=0).fit(X)
    assert (long.n_iter_, long.n_passes_) == (short.n_iter_, short.n_passes_ - 1)
    np.testing.assert_array_equal(long.components_, short.components_)


def test_inaccurate_polar_factor_is_recomputed_by_decomposition(cupy, monkeypatch):
    calls = []

    def short(M, xp):
        calls.append(M)
        W, defect = orthonormal.polar(M, xp)
        return (W / 2, defect + 1) if len(calls) == 3 else (W, defect)

    X = mixture(2000, 4)[0]
    host = FastICA(random_state=0).fit(X)
    monkeypatch.setattr(fastica_solver, "polar", short)
    on_device = FastICA(random_state=0).fit(cupy.asarray(X))
    assert len(calls) > 3
    assert on_device.n_iter_ == host.n_iter_
    np.testing.assert_allclose(on_device.components_, host.components_, atol=1e-7 * np.abs(host.components_).max())


@pytest.mark.parametrize("name", ["auto", "cuda", "cuda:0", "cpu"])
def test_host_input_gives_host_output(cupy, name, monkeypatch):
    monkeypatch.setattr(device, "MIN_WORK_FOR_GPU", 0)
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda module: module)
    X, A = mixture(3000, 3)
    ica = FastICA(random_state=0, device=name)
    sources = ica.fit_transform(X)
    assert ica.device_ == ("cpu" if name == "cpu" else "cuda:0")
    assert isinstance(sources, np.ndarray)
    assert isinstance(ica.transform(X), np.ndarray)
    assert amari(ica.components_ @ A) < 0.03


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of CuPy's, under NumPy 2.5
def test_fake_device_has_the_restrictions_of_cupy(cupy):
    X = cupy.asarray(np.ones((3, 2)))
    for convert in (np.asarray, np.array, lambda X: X + np.ones(2), lambda X: cupy.sqrt([1.0, 2.0])):
        with pytest.raises(TypeError):
            convert(X)
    for name in ("__array_interface__", "newbyteorder", "ctypes"):
        assert not hasattr(X, name)
    with pytest.raises(TypeError):
        X.set(np.ones((3, 2), dtype=np.float32))
    little = cupy.asarray(np.arange(3, dtype=">f4"))
    assert little.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(little.get(), [0, 1, 2])
    assert cupy.asarray(X).data.ptr == X.data.ptr
    np.testing.assert_array_equal(cupy.diag(X[:2].sum(axis=0)).get(), [[2, 0], [0, 2]])


def test_device_input_gives_device_output_if_computed_on_the_cpu(cupy):
    ica = FastICA(random_state=0, device="cpu")
    sources = ica.fit_transform(cupy.asarray(mixture(500, 3)[0]))
    assert isinstance(sources, cupy.ndarray)
    assert ica.device_ == "cpu"


def test_fastica_function_on_the_device(cupy):
    X, _ = mixture(500, 3)
    K, W, S = fastica(cupy.asarray(X), random_state=0)
    np.testing.assert_allclose(S.get(), (X - X.mean(0)) @ K.T @ W.T, atol=1e-8)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("whiten", ["unit-variance", False])
def test_non_finite_input_on_the_device_raises(cupy, bad, whiten):
    X = mixture(500, 3)[0]
    X[77, 1] = bad
    with pytest.raises(ValueError, match="NaN"):
        FastICA(whiten=whiten).fit(cupy.asarray(X))


def test_invalid_input_on_the_device_raises(cupy):
    for X, message in (
        (np.ones(5), "Expected 2D array"),
        (np.ones((1, 3)), "minimum of 2"),
        (np.ones((4, 0)), "1 feature"),
        (np.ones((4, 3)) * 1j, "real numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            FastICA().fit(cupy.asarray(X))
    ica = FastICA(random_state=0).fit(cupy.asarray(mixture(500, 3)[0]))
    with pytest.raises(ValueError, match="X has 2 features, but FastICA is expecting 3"):
        ica.transform(cupy.asarray(np.ones((4, 2))))


def test_auto_selects_the_cpu_for_small_problems_and_callables(cupy, monkeypatch, caplog):
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda module: module)
    X, _ = mixture(500, 3)
    assert FastICA(random_state=0).fit(X).device_ == "cpu"
    monkeypatch.setattr(device, "MIN_WORK_FOR_GPU", 0)
    with caplog.at_level(logging.WARNING, logger="gpuica"):
        for _ in range(3):
            assert FastICA(random_state=0, fun=cube).fit(X).device_ == "cpu"
    assert [record.name for record in caplog.records] == ["gpuica"]
    assert "Running on the CPU" in caplog.text


def test_nonexistent_device_raises(cupy):
    with pytest.raises(RuntimeError, match="'cuda:99' does not exist: this machine has"):
        FastICA(device="cuda:99").fit(mixture(500, 3)[0])


# ---- kernels -----------------------------------------------------------------------------------------------------
class TrialCompiler:
    """A fake `numba.cuda` with a GPU, on which `run` is applied in place of the trial kernel."""

    def __init__(self, run):
        self.run = run

    def is_available(self):
        return True

    def to_device(self, array):
        self.number = array
        return self

    def copy_to_host(self):
        return self.number

    def jit(self, function):
        return {(1, 1): lambda number: self.run(function, self.number)}


def removed(function, number):
    raise AttributeError("module 'numpy' has no attribute 'row_stack'")


def not_implemented(function, number):
    raise NotImplementedError("libdevice.10.bc is missing")


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (lambda function, number: function(number), ""),
        (removed, "numba-cuda cannot compile a kernel here (AttributeError: module 'numpy' has no"),
        (not_implemented, "numba-cuda cannot compile a kernel here (NotImplementedError: libdevice.10.bc is missing)"),
        (lambda function, number: None, "a trial kernel compiled by numba-cuda returned a wrong number."),
    ],
)
def test_kernels_are_used_only_if_a_trial_kernel_works(monkeypatch, run, reason):
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda module: module)
    monkeypatch.setattr(device, "numba_cuda", lambda: TrialCompiler(run))
    device.why_no_kernels.cache_clear()
    try:
        assert device.why_no_kernels().startswith(reason)
        assert bool(device.why_no_kernels()) == bool(reason)
    finally:
        device.why_no_kernels.cache_clear()


def test_warnings_during_import_are_not_errors(monkeypatch):
    """The test suite turns warnings into errors, as users can."""

    class Warns(ModuleType):
        config = SimpleNamespace(ENABLE_CUDASIM=True)

        @property
        def cuda(self):
            warnings.warn("NumPy deprecates this", DeprecationWarning, stacklevel=2)
            return "imported"

    monkeypatch.setitem(sys.modules, "numba", Warns("numba"))
    device.numba_cuda.cache_clear()
    try:
        assert device.numba_cuda() == "imported"
    finally:
        device.numba_cuda.cache_clear()


# ---- without a GPU ---------------------------------------------------------------------------------------------------
@pytest.fixture
def no_cupy(monkeypatch):
    device.why_no_gpu.cache_clear()
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda module: None)
    yield
    device.why_no_gpu.cache_clear()


@pytest.mark.parametrize("name", ["cuda", "cuda:0"])
def test_cuda_without_cupy_raises_with_install_command(no_cupy, name):
    with pytest.raises(RuntimeError, match=r"device='cuda.*' needs a GPU, but CuPy is not installed: pip install"):
        FastICA(device=name).fit(mixture(100, 3)[0])


def test_auto_without_cupy_selects_the_cpu(no_cupy):
    assert choose_device("auto", np.ones(3), work=1e30) == CPU


def test_cuda_with_unusable_cupy_raises(monkeypatch):
    device.why_no_gpu.cache_clear()
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda module: module)

    def broken():
        raise OSError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(device, "_cupy", broken)
    with pytest.raises(RuntimeError, match=r"needs a GPU, but CuPy cannot use one \(libcuda.*nvidia-smi"):
        FastICA(device="cuda").fit(mixture(100, 3)[0])
    device.why_no_gpu.cache_clear()


def test_device_names_and_to_host():
    assert (str(CPU), str(Device("cuda", 1))) == ("cpu", "cuda:1")
    assert to_host([1, 2]).tolist() == [1, 2]
