"""Dictionary updates against reference loops, optimality conditions and the objective."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition._dict_learning import _update_dict

from gpuica import kernels
from gpuica.solvers.atoms import UPDATES, approximate_ksvd, block_descent, least_squares, replace_unused

from . import fake_cupy, naive


@pytest.fixture(params=["array", "kernel"])
def implementation(request, monkeypatch):
    """Force the array or the compiled implementation of a block, whatever its size."""
    monkeypatch.setattr(kernels, "ATOMS_WORTH_COMPILING", 0 if request.param == "kernel" else 1 << 60)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def cupy(request):
    if request.param == "real":
        yield pytest.importorskip("cupy")
    else:
        with fake_cupy.installed() as fake:
            yield fake


def problem(k, d, *, n=None, unused=(), scale=1.0, seed=0):
    """Unit atoms D (k, d), sparse codes C (n, k), rows X (n, d) = C times other atoms of norm `scale` + noise."""
    rng = np.random.default_rng(seed)
    D = rng.normal(size=(k, d))
    C = rng.laplace(size=(n or 5 * k + 20, k)) * (rng.random((n or 5 * k + 20, k)) < 0.4)
    C[:, list(unused)] = 0
    truth = rng.normal(size=(k, d))
    X = C @ (scale * truth / np.linalg.norm(truth, axis=1, keepdims=True)) + 0.05 * rng.normal(size=(len(C), d))
    return D / np.linalg.norm(D, axis=1, keepdims=True), C, X


def statistics(C, X):
    return C.T @ C, C.T @ X


@pytest.mark.parametrize("block", [1, 4, 13, 26, 100])
@pytest.mark.parametrize("norm", ["ball", "unit"])
@pytest.mark.parametrize("positive", [False, True])
def test_block_descent_matches_reference(implementation, block, norm, positive):
    D, C, X = problem(26, 9, unused=[0, 7, 25], scale=1.5)
    A, B = statistics(C, X)
    options = {"positive": positive, "norm": norm, "sweeps": 2}
    start = D.copy()
    found, unused = block_descent(D, A, B, block=block, **options)
    np.testing.assert_allclose(found, naive.block_descent(D, A, B, **options), rtol=0, atol=1e-10)
    np.testing.assert_array_equal(np.flatnonzero(unused), [0, 7, 25])
    np.testing.assert_array_equal(found[unused], np.maximum(start[unused], 0) if positive else start[unused])
    np.testing.assert_array_equal(D, start)  # the input dictionary is not modified


def test_block_descent_with_several_default_blocks():
    D, C, X = problem(300, 40, n=600)
    A, B = statistics(C, X)
    np.testing.assert_allclose(block_descent(D, A, B)[0], naive.block_descent(D, A, B), rtol=0, atol=1e-10)


@pytest.mark.parametrize("positive", [False, True])
def test_one_sweep_matches_scikit_learn(positive):
    D, C, X = problem(30, 8, scale=1.3)
    expected = D.copy()
    _update_dict(expected, X, C.copy(), positive=positive)
    np.testing.assert_allclose(block_descent(D, *statistics(C, X), positive=positive)[0], expected, rtol=0, atol=1e-10)


@settings(max_examples=60, deadline=None)
@given(
    k=st.integers(1, 40),
    d=st.integers(1, 9),
    block=st.integers(1, 50),
    positive=st.booleans(),
    norm=st.sampled_from(["ball", "unit"]),
    dtype=st.sampled_from([np.float32, np.float64]),
    n=st.integers(1, 100),  # fewer rows than atoms: A is singular
    min_atoms=st.sampled_from([0, 1 << 60]),
    seed=st.integers(0, 99),
)
def test_block_descent_never_increases_objective(k, d, block, positive, norm, dtype, n, min_atoms, seed):
    D, C, X = problem(k, d, n=n, scale=1.5, seed=seed)
    D = np.abs(D) if positive else D
    D, A, B = (part.astype(dtype) for part in (D, *statistics(C, X)))
    size = sum(abs(naive.dictionary_objective(np.abs(D), sign * np.abs(A), np.abs(B))) for sign in (1, -1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "ATOMS_WORTH_COMPILING", min_atoms)
        for _ in range(4):
            before = naive.dictionary_objective(D, A, B)
            D, _ = block_descent(D, A, B, block=block, positive=positive, norm=norm)
            assert naive.dictionary_objective(D, A, B) <= before + 32 * np.finfo(dtype).eps * size
            norms = np.linalg.norm(D.astype(float), axis=1)
            assert norms.max() < 1 + 8 * np.finfo(dtype).eps
            assert norm == "ball" or norms.min() > 1 - 8 * np.finfo(dtype).eps
            assert D.dtype == dtype
            assert D.min() >= 0 or not positive


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_block_descent_converges_to_stationary_point(implementation, scale):
    """A D - B is 0 for an atom inside the ball; otherwise it is parallel to -D_j, which is stationary on the sphere."""
    D, C, X = problem(12, 6, n=400, scale=scale)
    A, B = statistics(C, X)
    D, _ = block_descent(D, A, B, sweeps=500, block=5)
    gradient, inside = (A @ D - B) / A.diagonal()[:, None], np.linalg.norm(D, axis=1) < 1 - 1e-9
    assert inside.all() == (scale < 1)
    assert not inside.any() or np.abs(gradient[inside]).max() < 1e-9
    outward = (gradient * D).sum(axis=1, keepdims=True)
    assert outward.max() < 1e-9
    np.testing.assert_allclose(gradient, outward * D, atol=1e-9)


def test_atom_clipped_to_zero():
    """All entries are negative and clipped: the atom is 0 in the ball and unchanged with unit norm."""
    D, A, B = np.array([[0.6, 0.8]]), np.array([[2.0]]), np.array([[-3.0, -1.0]])
    np.testing.assert_array_equal(block_descent(D, A, B, positive=True)[0], [[0, 0]])
    np.testing.assert_array_equal(block_descent(D, A, B, positive=True, norm="unit")[0], D)


def test_least_squares_matches_lstsq():
    D, C, X = problem(12, 7, unused=[3], scale=0.5)
    found, unused = least_squares(D, *statistics(C, X))
    used = np.arange(12) != 3
    np.testing.assert_allclose(found[used], np.linalg.lstsq(C[:, used], X)[0], rtol=0, atol=1e-8)
    np.testing.assert_array_equal(found[3], D[3])
    np.testing.assert_array_equal(unused, ~used)


def test_least_squares_with_identical_codes_keeps_difference_of_atoms():
    D, C, X = problem(12, 7, scale=0.2)
    C[:, 4] = C[:, 9]
    found, _ = least_squares(D / 4, *statistics(C, X))
    best = np.linalg.lstsq(C, X)[0]
    np.testing.assert_allclose(C @ found, C @ best, atol=1e-6)
    np.testing.assert_allclose(found[4] - found[9], (D[4] - D[9]) / 4, atol=1e-4)  # undetermined by the codes


def test_approximate_ksvd_matches_reference():
    D, C, X = problem(12, 7, unused=[3])
    found, unused = approximate_ksvd(D, *statistics(C, X))
    np.testing.assert_allclose(found, naive.approximate_ksvd(D, C, X), rtol=0, atol=1e-10)
    np.testing.assert_array_equal(np.flatnonzero(unused), [3])


def test_approximate_ksvd_of_one_atom_converges_to_first_singular_vector():
    """A single atom with least-squares codes converges to the first right singular vector of X (power iteration)."""
    X = np.random.default_rng(0).normal(size=(40, 5)) * [5, 1, 1, 1, 1]
    D = np.ones((1, 5)) / 5**0.5
    for _ in range(60):
        D, _ = approximate_ksvd(D, *statistics(X @ D.T, X))
    assert abs(D[0] @ np.linalg.svd(X)[2][0]) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("norm", ["ball", "unit"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_updates_preserve_constraint_and_dtype(name, norm, positive, dtype):
    """The sufficient statistics are float64 sums whatever the dtype of the rows."""
    D, C, X = problem(20, 6, unused=[5], scale=1.5)
    D = (np.abs(D) if positive else D).astype(dtype)
    found, unused = UPDATES[name](D, *statistics(C, X), positive=positive, norm=norm)
    assert found.dtype == dtype
    norms = np.linalg.norm(found.astype(float), axis=1)
    assert norms.max() < 1 + 1e-6
    assert norm == "ball" or norms.min() > 1 - 1e-6
    assert found.min() >= 0 or not positive
    np.testing.assert_array_equal(found[5], D[5])
    np.testing.assert_array_equal(np.flatnonzero(unused), [5])
    exact, _ = UPDATES[name](D.astype(float), *statistics(C, X), positive=positive, norm=norm)
    np.testing.assert_allclose(found, exact, atol=1e-3 if dtype == np.float32 else 0)


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("norm", ["ball", "unit"])
def test_atoms_used_no_more_than_least_use_are_unchanged(name, norm):
    D, C, X = problem(20, 6)
    A, B = statistics(C, X)
    least = float(np.median(A.diagonal()))
    found, unused = UPDATES[name](3 * D, A, B, norm=norm, least_use=least)
    np.testing.assert_array_equal(unused, A.diagonal() <= least)
    np.testing.assert_array_equal(found[unused], 3 * D[unused])
    assert np.linalg.norm(found[~unused], axis=1).max() < 1 + 1e-9


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("norm", ["ball", "unit"])
def test_updates_on_device_match_host(cupy, name, norm):
    D, C, X = problem(20, 6, unused=[5], scale=1.5)
    A, B = statistics(C, X)
    expected, _ = UPDATES[name](D, A, B, positive=True, norm=norm)
    on_device = [cupy.asarray(part) for part in (D, A, B)]
    found, unused = UPDATES[name](*on_device, positive=True, norm=norm, xp=cupy)
    assert isinstance(found, cupy.ndarray)
    np.testing.assert_allclose(found.get(), expected, atol=1e-9)
    np.testing.assert_array_equal(np.flatnonzero(unused.get()), [5])


@pytest.mark.parametrize("name", UPDATES)
def test_unknown_norm_raises(name):
    with pytest.raises(ValueError, match=r"'ball'.*'unit', got 'l1'"):
        UPDATES[name](np.eye(2), np.eye(2), np.eye(2), norm="l1")


def replaceable():
    """Atoms along axes 0 to 3 of 6, the mask of unused atoms (second and last), and candidate rows to replace them."""
    candidates = np.zeros((6, 6))
    candidates[1] = [-7, 0, 0, 0, 0, 0]  # the first atom
    candidates[2] = [0, 0, 0, 0, 3, -4]
    candidates[3] = [0, 0, 0, 0, -6, 8]  # parallel to the row above
    candidates[4] = [0, 2, 0, 0, 0, 0]  # an atom that is unused
    candidates[5] = 1
    return np.eye(6)[:4] * 0.5, np.array([False, True, False, True]), candidates


@pytest.mark.parametrize("as_array", ["numpy", "device"])
def test_unused_atoms_are_replaced_by_first_new_rows(cupy, as_array, rng):
    D, unused, candidates = replaceable()
    xp = np if as_array == "numpy" else cupy
    found = replace_unused(xp.asarray(D), xp.asarray(unused), xp.asarray(candidates), rng=rng, xp=xp)
    found = found if as_array == "numpy" else found.get()
    np.testing.assert_array_equal(found[~unused], D[~unused])
    np.testing.assert_allclose(found[unused], [[0, 0, 0, 0, 0.6, -0.8], [0, 1, 0, 0, 0, 0]], atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("positive", [False, True])
def test_unused_atoms_are_random_when_candidates_are_exhausted(positive, dtype, rng):
    D, unused, candidates = replaceable()
    found = replace_unused(D.astype(dtype), unused, candidates[:3], rng=rng, positive=positive)
    assert found.dtype == dtype
    np.testing.assert_allclose(found[1], [0, 0, 0, 0, *([1, 0] if positive else [0.6, -0.8])], atol=1e-7)
    assert np.linalg.norm(found[3]) == pytest.approx(1, abs=1e-6)
    assert found[3].min() >= 0 or not positive
    other = replace_unused(D.astype(dtype), unused, candidates[:0], rng=np.random.RandomState(0))[unused]
    assert abs(np.corrcoef(other)[0, 1]) < 0.999


def test_replace_unused_without_unused_atoms(rng):
    D, unused, candidates = replaceable()
    np.testing.assert_array_equal(replace_unused(D, unused & False, candidates, rng=rng), D)
