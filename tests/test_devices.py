"""fit_on_devices with CPU threads as devices, and with GPUs if two are present."""

import numpy as np
import pytest

from gpuica import DictionaryLearning, FastICA, Picard, fit_on_devices
from gpuica.device import device_count

from .problems import mixture

MODELS = [
    FastICA(random_state=0),
    FastICA(random_state=None, n_init=2),
    Picard(random_state=0, growth=2.0),
    DictionaryLearning(6, alpha=1.0, max_iter=20, tol=3e-3, fit_algorithm="cd", init="data", random_state=0),
]


@pytest.fixture
def X():
    return mixture(25_000, 4)[0]


@pytest.mark.parametrize("devices", [["cpu"], ["cpu"] * 2, ["cpu"] * 3])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_several_devices_give_the_results_of_one(model, devices, X):
    if model.random_state is None:
        np.random.seed(0)
    found = fit_on_devices(model, X, devices)
    assert found is model
    assert model.device_ == ", ".join(devices)
    assert model.device == "auto"
    components = model.components_
    if model.random_state is None:
        np.random.seed(0)
        assert np.isfinite(components).all()
        return
    np.testing.assert_allclose(components, model.fit(X).components_, rtol=1e-6, atol=1e-8)
    np.testing.assert_array_equal(fit_on_devices(model, X, devices).components_, components)  # bit for bit


def test_files_and_sample_weight(X, tmp_path, rng):
    np.save(tmp_path / "x.npy", X)
    w = rng.integers(0, 3, size=len(X))
    expected = FastICA(random_state=0).fit(X, sample_weight=w).components_
    for rows in (X, tmp_path / "x.npy", [X[:100], X[100:]]):
        model = fit_on_devices(FastICA(random_state=0), rows, ["cpu"] * 3, sample_weight=w)
        np.testing.assert_allclose(model.components_, expected, rtol=1e-7, atol=1e-9)


def test_error_on_one_device_is_raised(X):
    X[20_000, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        fit_on_devices(FastICA(), X, ["cpu"] * 3)
    with pytest.raises(ValueError, match="device must be 'auto'"):
        fit_on_devices(FastICA(), X[:1000], ["cpu", "gpu"])


def test_all_devices_without_a_gpu_raises(X):
    if device_count():
        pytest.skip("there are GPUs here")
    with pytest.raises(RuntimeError, match="devices='all' found no GPU"):
        fit_on_devices(FastICA(), X)


@pytest.mark.gpu
def test_two_gpus_give_the_results_of_one_device(X):
    if device_count() < 2:
        pytest.skip(f"needs two GPUs, there are {device_count()}")
    model = fit_on_devices(FastICA(random_state=0), X)
    np.testing.assert_allclose(model.components_, FastICA(random_state=0).fit(X).components_, rtol=1e-6)
