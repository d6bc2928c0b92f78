"""Sparse coding and dictionary learning with device arrays: on a fake device, and on a GPU."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from gpuica import DictionaryLearning, MiniBatchDictionaryLearning, SparseCoder, sparse_encode

CODERS = [
    "lasso_cd",
    "fista",
    "omp",
    "nnomp",
    "ormp",
    "lars",
    "matching_pursuit",
    "gradient_pursuit",
    "threshold",
    "topk",
]


@pytest.fixture
def atoms(rng):
    D = rng.normal(size=(20, 12))
    return D / np.linalg.norm(D, axis=1, keepdims=True)


@pytest.mark.parametrize("name", CODERS)
def test_codes_equal_those_of_the_cpu(cupy, name, atoms, rng):
    X = rng.normal(size=(150, 12))
    settings = {"algorithm": name, "n_nonzero_coefs": 3, "alpha": 0.2 if name in CODERS[:2] else None}
    expected = sparse_encode(X, atoms, **settings)
    on_device = sparse_encode(cupy.asarray(X), atoms, **settings)
    assert isinstance(on_device, cupy.ndarray)
    np.testing.assert_allclose(on_device.get(), expected, atol=1e-3 if name in CODERS[:2] else 1e-9)
    sparse = sparse_encode(cupy.asarray(X), atoms, sparse_output=True, **settings)
    assert isinstance(sparse, csr_array)
    np.testing.assert_array_equal(sparse.toarray(), on_device.get())


def test_split_sign_round_trip(cupy, atoms, rng):
    X = rng.normal(size=(40, 12))
    coder = SparseCoder(atoms, transform_n_nonzero_coefs=12, split_sign=True)
    code = coder.transform(cupy.asarray(X))
    assert code.shape == (40, 40)
    np.testing.assert_allclose(coder.inverse_transform(code).get(), X, atol=1e-8)


@pytest.mark.parametrize("fit_algorithm", ["cd", "omp"])
@pytest.mark.parametrize("dead_atoms", ["resample", "worst", "keep"])
@pytest.mark.parametrize("learner", [DictionaryLearning, MiniBatchDictionaryLearning])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_atoms_equal_those_of_the_cpu(cupy, learner, dead_atoms, fit_algorithm, atoms, rng):
    X, start = rng.normal(size=(200, 12)), atoms.copy()
    start[3] = 0  # an unused atom
    settings = {"alpha": 0.3, "max_iter": 3, "init": start, "fit_algorithm": fit_algorithm, "random_state": 0}
    host = learner(20, dead_atoms=dead_atoms, **settings).fit(X)
    on_device = learner(20, dead_atoms=dead_atoms, **settings).fit(cupy.asarray(X))
    assert on_device.device_ == "cuda:0"
    assert isinstance(on_device.components_, np.ndarray)
    np.testing.assert_allclose(on_device.components_, host.components_, atol=1e-2 if fit_algorithm == "cd" else 1e-8)
    assert on_device.n_replaced_ == host.n_replaced_
    np.testing.assert_allclose(on_device.score(cupy.asarray(X)), host.score(X), rtol=1e-3)


@pytest.mark.parametrize("init", ["svd", "data"])
def test_initial_atoms_on_the_device(cupy, init, rng):
    X = rng.normal(size=(100, 6))
    host, on_device = (
        MiniBatchDictionaryLearning(4, init=init, max_iter=0, random_state=0).fit(rows) for rows in (X, cupy.asarray(X))
    )
    np.testing.assert_allclose(abs(on_device.components_), abs(host.components_), atol=1e-8)


def test_partial_fit_on_the_device_then_on_the_host(cupy, rng):
    X, start = rng.normal(size=(90, 6)), rng.normal(size=(4, 6))
    settings = {"alpha": 0.3, "fit_algorithm": "omp", "transform_n_nonzero_coefs": 2, "dict_init": start}
    host, on_device = (MiniBatchDictionaryLearning(4, random_state=0, **settings) for _ in range(2))
    for i in range(0, 90, 30):
        host.partial_fit(X[i : i + 30])
        on_device.partial_fit(X[i : i + 30] if i == 60 else cupy.asarray(X[i : i + 30]))
    np.testing.assert_allclose(on_device.components_, host.components_, atol=1e-9)


@pytest.mark.parametrize("size", [(150, 12, 20), (301, 33, 129)])
@pytest.mark.parametrize("name", CODERS)
def test_float32_codes_are_deterministic_and_as_good_as_in_float64(cupy, name, size, rng):
    """Codes can differ where atoms are nearly tied; their objective values cannot."""
    n, d, K = size
    D = rng.normal(size=(K, d))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    X = rng.normal(size=(n, d)).astype(np.float32)
    settings = {"algorithm": name, "n_nonzero_coefs": 5, "max_iter": 5000, "alpha": 0.2 if name in CODERS[:2] else None}
    exact = sparse_encode(X.astype(np.float64), D, device="cpu", **settings)
    on_device, repeated = (sparse_encode(cupy.asarray(X), D.astype(np.float32), **settings).get() for _ in range(2))
    assert on_device.dtype == np.float32
    np.testing.assert_array_equal(on_device, repeated)

    def objective(C):
        penalty = settings["alpha"] * abs(C).sum(axis=1) if name in CODERS[:2] else 0
        return ((X - C.astype(np.float64) @ D) ** 2).sum(axis=1) / 2 + penalty

    assert np.isfinite(on_device).all()
    close = np.isclose(objective(on_device), objective(exact), rtol=1e-4, atol=1e-5)
    assert close.mean() > 0.98  # ties can be broken differently, which is no worse on average
    np.testing.assert_allclose(objective(on_device).mean(), objective(exact).mean(), rtol=3e-3)
