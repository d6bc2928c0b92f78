"""Parameters and arguments of metrics that are arrays on a device: CuPy arrays, and torch tensors on a GPU."""

import numpy as np
import pytest

from gpuica import (
    DictionaryLearning,
    FastICA,
    MiniBatchDictionaryLearning,
    Picard,
    SparseCoder,
    dict_learning,
    dict_learning_online,
    fastica,
    metrics,
    picard,
    sparse_encode,
)
from gpuica.device.arrays import as_numpy
from gpuica.stability import stability

from .problems import mixture

QUIET = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(params=["cupy", pytest.param("torch", marks=pytest.mark.torch)])
def to_device(request, cupy):
    """Convert NumPy arrays to CuPy arrays or torch tensors; the tensors are on the CPU if the device is a fake one."""
    if request.param == "cupy":
        return cupy.asarray
    torch = pytest.importorskip("torch")
    target = "cpu" if hasattr(cupy.ndarray, "_wait") else "cuda"
    return lambda array: torch.from_numpy(np.ascontiguousarray(array)).to(target)


@pytest.fixture
def D(rng):
    atoms = rng.normal(size=(7, 5))
    return atoms / np.linalg.norm(atoms, axis=1, keepdims=True)


@pytest.fixture
def X(rng):
    return rng.normal(size=(60, 5))


def on_host(results):
    return [np.asarray(as_numpy(part)) for part in results]


@pytest.mark.parametrize("rows_on_device", [True, False])
def test_dictionary_on_the_device(to_device, rows_on_device, D, X):
    rows = to_device(X) if rows_on_device else X
    expected = sparse_encode(X, D, algorithm="omp", n_nonzero_coefs=2)
    found = sparse_encode(rows, to_device(D), algorithm="omp", n_nonzero_coefs=2)
    assert type(found) is type(rows)
    np.testing.assert_allclose(as_numpy(found), expected, atol=1e-12)
    coder = SparseCoder(to_device(D), transform_n_nonzero_coefs=2).fit(rows)
    np.testing.assert_allclose(as_numpy(coder.transform(rows)), expected, atol=1e-12)
    back = coder.inverse_transform(found)
    assert type(back) is type(rows)
    np.testing.assert_allclose(as_numpy(back), expected @ D, atol=1e-12)
    assert coder.n_components_ == len(D)


def test_invalid_dictionary_on_the_device_raises(to_device, D, X):
    with pytest.raises(ValueError, match="Dictionary and X have different numbers of features"):
        SparseCoder(to_device(D[:, :4])).transform(X)
    D[2, 1] = np.nan
    with pytest.raises(ValueError, match="dictionary contains NaN"):
        SparseCoder(to_device(D)).transform(X)


@QUIET
@pytest.mark.parametrize(
    ("learner", "names"),
    [
        (DictionaryLearning, ["init"]),
        (DictionaryLearning, ["dict_init", "code_init"]),
        (MiniBatchDictionaryLearning, ["init"]),
        (MiniBatchDictionaryLearning, ["dict_init"]),
    ],
)
def test_initial_atoms_on_the_device(to_device, learner, names, D, X):
    arrays = {name: np.ones((60, 7)) if name == "code_init" else D for name in names}
    settings = {"alpha": 0.3, "max_iter": 2, "fit_algorithm": "omp", "random_state": 0}
    expected = learner(7, **settings, **arrays).fit(X)
    on_device = {name: to_device(array) for name, array in arrays.items()}
    for rows in (X, to_device(X)):
        found = learner(7, **settings, **on_device).fit(rows)
        assert isinstance(found.components_, np.ndarray)
        np.testing.assert_allclose(found.components_, expected.components_, atol=1e-9)


@QUIET
def test_dictionary_learning_functions_on_the_device(to_device, D, X):
    codes = np.ones((60, 7))
    settings = {"alpha": 0.3, "max_iter": 2, "method": "cd", "random_state": 0}
    expected = dict_learning(X, 7, dict_init=D, code_init=codes, **settings)
    found = dict_learning(to_device(X), 7, dict_init=to_device(D), code_init=to_device(codes), **settings)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-4)
    expected = dict_learning_online(X, 7, dict_init=D, **settings)
    found = dict_learning_online(to_device(X), 7, dict_init=to_device(D), **settings)
    assert isinstance(found[1], np.ndarray)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-4)


@pytest.mark.parametrize("learner", [FastICA, Picard])
def test_w_init_on_the_device(to_device, learner, rng):
    X, start = mixture(500, 3)[0], rng.normal(size=(3, 3))
    expected = learner(w_init=start).fit(X)
    found = learner(w_init=to_device(start)).fit(to_device(X))
    np.testing.assert_allclose(found.components_, expected.components_, atol=1e-7 * abs(expected.components_).max())


def test_ica_functions_on_the_device(to_device, rng):
    X, start = mixture(500, 3)[0], rng.normal(size=(3, 3))
    for found, expected in (
        (fastica(to_device(X), w_init=to_device(start)), fastica(X, w_init=start)),
        (picard(to_device(X.T), w_init=to_device(start)), picard(X.T, w_init=start)),
    ):
        for part, exact in zip(on_host(found), expected, strict=True):
            np.testing.assert_allclose(part, exact, atol=1e-6 * abs(exact).max())
    white = (X - X.mean(0)) @ FastICA(random_state=0).fit(X).components_.T + 3
    *_, mean = picard(to_device(white.T), whiten=False, return_X_mean=True, random_state=0)
    assert isinstance(mean, np.ndarray)
    np.testing.assert_allclose(mean, white.mean(0), atol=1e-9)


def test_sample_weight_on_the_device(to_device, rng):
    X, w = mixture(500, 3)[0], rng.integers(0, 3, size=500)
    expected = FastICA(random_state=0).fit(X, sample_weight=w)
    found = FastICA(random_state=0).fit(to_device(X), sample_weight=to_device(w))
    np.testing.assert_allclose(found.components_, expected.components_, atol=1e-7 * abs(expected.components_).max())


# name: (function of arrays, shapes of the arrays)
METRICS = {
    "amari_distance": (metrics.amari_distance, [(3, 3), (3, 3)]),
    "matched_correlation": (metrics.matched_correlation, [(90, 3), (90, 4), (90,)]),
    "match": (metrics.match, [(3, 4)]),
    "relative_gradient": (metrics.relative_gradient, [(90, 3)]),
    "negentropy": (metrics.negentropy, [(90, 3)]),
    "excess_kurtosis": (metrics.excess_kurtosis, [(90, 3)]),
    "log_likelihood": (metrics.log_likelihood, [(90, 3), (3, 3), (3,)]),
    "mutual_information_reduction": (metrics.mutual_information_reduction, [(90, 3), (3, 3)]),
    "l0": (metrics.l0, [(90, 4)]),
    "l1": (metrics.l1, [(90, 4)]),
    "dense_atoms": (metrics.dense_atoms, [(90, 4)]),
    "fvu": (metrics.fvu, [(90, 3), (90, 4), (4, 3)]),
    "coherence": (metrics.coherence, [(4, 3)]),
    "mmcs": (metrics.mmcs, [(4, 3), (5, 3)]),
    "mcc": (metrics.mcc, [(4, 3), (5, 3)]),
}


@pytest.mark.parametrize("where", ["all", "first", "last"])
@pytest.mark.parametrize("name", METRICS)
def test_metrics_of_arrays_on_the_device(to_device, name, where, rng):
    function, shapes = METRICS[name]
    arrays = [rng.random(size=shape) for shape in shapes]
    last = len(arrays) - 1
    on_device = {"all": range(last + 1), "first": [0], "last": [last]}[where]
    expected = function(*arrays)
    found = function(*(to_device(array) if i in on_device else array for i, array in enumerate(arrays)))
    assert type(found) is type(expected)
    for part, exact in zip(np.atleast_1d(found), np.atleast_1d(expected), strict=True):
        np.testing.assert_allclose(part, exact, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bootstrap", [True, False])
def test_stability_of_rows_on_the_device(to_device, bootstrap, rng):
    X, w = mixture(400, 3)[0], rng.integers(1, 3, size=400)
    settings = {"n_runs": 3, "bootstrap": bootstrap, "random_state": 0}
    expected = stability(FastICA(tol=1e-3), X, sample_weight=w, **settings)
    found = stability(FastICA(tol=1e-3), to_device(X), sample_weight=to_device(w), **settings)
    np.testing.assert_allclose(found.index, expected.index, atol=1e-5)


@pytest.mark.parametrize("kind", ["Fortran", "float32"])
def test_out_on_the_device(cupy, kind, rng):
    X = mixture(500, 3)[0]
    fit = FastICA(random_state=0).fit(X)
    out = cupy.asarray(np.zeros((3, 500)).T if kind == "Fortran" else np.zeros((500, 3), dtype=np.float32))
    for rows in (X, cupy.asarray(X)):
        out[...] = 0
        assert fit.transform(rows, out=out) is out
        np.testing.assert_allclose(out.get(), fit.transform(X), atol=1e-5 if kind == "float32" else 1e-12)
