"""Dictionary updates against textbook loops, optimality and the objective."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition._dict_learning import _update_dict

from gpuica import kernels
from gpuica.solvers.atoms import UPDATES, approximate_ksvd, block_descent, least_squares, replace_unused

from . import fake_cupy, naive


@pytest.fixture(params=["array code", "kernel"])
def path(request, monkeypatch):
    """Both ways through a block, whatever its size."""
    monkeypatch.setattr(kernels, "ATOMS_WORTH_COMPILING", 0 if request.param == "kernel" else 1 << 60)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def cupy(request):
    if request.param == "real":
        yield pytest.importorskip("cupy")
    else:
        with fake_cupy.installed() as fake:
            yield fake


def problem(k, d, *, n=None, unused=(), scale=1.0, seed=0):
    """Unit atoms D (k, d), sparse codes C (n, k) and rows X (n, d) that other atoms of length `scale` explain."""
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
def test_blocks_are_the_textbook_loop(path, block, norm, positive):
    D, C, X = problem(26, 9, unused=[0, 7, 25], scale=1.5)
    A, B = statistics(C, X)
    options = {"positive": positive, "norm": norm, "sweeps": 2}
    start = D.copy()
    found, unused = block_descent(D, A, B, block=block, **options)
    np.testing.assert_allclose(found, naive.block_descent(D, A, B, **options), rtol=0, atol=1e-10)
    np.testing.assert_array_equal(np.flatnonzero(unused), [0, 7, 25])
    np.testing.assert_array_equal(found[unused], np.maximum(start[unused], 0) if positive else start[unused])
    np.testing.assert_array_equal(D, start)  # the given dictionary is not written to


def test_several_blocks_of_the_default_size():
    D, C, X = problem(300, 40, n=600)
    A, B = statistics(C, X)
    np.testing.assert_allclose(block_descent(D, A, B)[0], naive.block_descent(D, A, B), rtol=0, atol=1e-10)


@pytest.mark.parametrize("positive", [False, True])
def test_one_sweep_is_scikit_learns(positive):
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
    worth=st.sampled_from([0, 1 << 60]),
    seed=st.integers(0, 99),
)
def test_the_objective_never_rises(k, d, block, positive, norm, dtype, n, worth, seed):
    D, C, X = problem(k, d, n=n, scale=1.5, seed=seed)
    D = np.abs(D) if positive else D
    D, A, B = (part.astype(dtype) for part in (D, *statistics(C, X)))
    size = sum(abs(naive.dictionary_objective(np.abs(D), sign * np.abs(A), np.abs(B))) for sign in (1, -1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "ATOMS_WORTH_COMPILING", worth)
        for _ in range(4):
            before = naive.dictionary_objective(D, A, B)
            D, _ = block_descent(D, A, B, block=block, positive=positive, norm=norm)
            assert naive.dictionary_objective(D, A, B) <= before + 32 * np.finfo(dtype).eps * size
            length = np.linalg.norm(D.astype(float), axis=1)
            assert length.max() < 1 + 8 * np.finfo(dtype).eps
            assert norm == "ball" or length.min() > 1 - 8 * np.finfo(dtype).eps
            assert D.dtype == dtype
            assert D.min() >= 0 or not positive


@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_many_sweeps_end_where_the_gradient_is_balanced(path, scale):
    """A D - B is 0 for an atom inside the ball, and else points along -D_j: nothing to gain on the sphere."""
    D, C, X = problem(12, 6, n=400, scale=scale)
    A, B = statistics(C, X)
    D, _ = block_descent(D, A, B, sweeps=500, block=5)
    gradient, inside = (A @ D - B) / A.diagonal()[:, None], np.linalg.norm(D, axis=1) < 1 - 1e-9
    assert inside.all() == (scale < 1)
    assert not inside.any() or np.abs(gradient[inside]).max() < 1e-9
    outward = (gradient * D).sum(axis=1, keepdims=True)
    assert outward.max() < 1e-9
    np.testing.assert_allclose(gradient, outward * D, atol=1e-9)


def test_an_atom_without_direction():
    """Only negative entries, clipped: 0 in the ball; with norm 1 the old atom stays."""
    D, A, B = np.array([[0.6, 0.8]]), np.array([[2.0]]), np.array([[-3.0, -1.0]])
    np.testing.assert_array_equal(block_descent(D, A, B, positive=True)[0], [[0, 0]])
    np.testing.assert_array_equal(block_descent(D, A, B, positive=True, norm="unit")[0], D)


def test_least_squares_is_the_best_fit():
    D, C, X = problem(12, 7, unused=[3], scale=0.5)
    found, unused = least_squares(D, *statistics(C, X))
    used = np.arange(12) != 3
    np.testing.assert_allclose(found[used], np.linalg.lstsq(C[:, used], X)[0], rtol=0, atol=1e-8)
    np.testing.assert_array_equal(found[3], D[3])
    np.testing.assert_array_equal(unused, ~used)


def test_least_squares_when_codes_cannot_tell_atoms_apart():
    D, C, X = problem(12, 7, scale=0.2)
    C[:, 4] = C[:, 9]
    found, _ = least_squares(D / 4, *statistics(C, X))
    best = np.linalg.lstsq(C, X)[0]
    np.testing.assert_allclose(C @ found, C @ best, atol=1e-6)
    np.testing.assert_allclose(found[4] - found[9], (D[4] - D[9]) / 4, atol=1e-4)  # what the codes do not tell stays


def test_approximate_ksvd_by_residuals():
    D, C, X = problem(12, 7, unused=[3])
    found, unused = approximate_ksvd(D, *statistics(C, X))
    np.testing.assert_allclose(found, naive.approximate_ksvd(D, C, X), rtol=0, atol=1e-10)
    np.testing.assert_array_equal(np.flatnonzero(unused), [3])


def test_approximate_ksvd_is_a_power_iteration_for_the_first_singular_vector():
    """One atom alone, coded anew by least squares each time, turns into the first right singular vector of X."""
    X = np.random.default_rng(0).normal(size=(40, 5)) * [5, 1, 1, 1, 1]
    D = np.ones((1, 5)) / 5**0.5
    for _ in range(60):
        D, _ = approximate_ksvd(D, *statistics(X @ D.T, X))
    assert abs(D[0] @ np.linalg.svd(X)[2][0]) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("norm", ["ball", "unit"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_update_keeps_the_constraint_and_the_dtype(name, norm, positive, dtype):
    """Statistics are float64 totals whatever the rows' dtype."""
    D, C, X = problem(20, 6, unused=[5], scale=1.5)
    D = (np.abs(D) if positive else D).astype(dtype)
    found, unused = UPDATES[name](D, *statistics(C, X), positive=positive, norm=norm)
    assert found.dtype == dtype
    length = np.linalg.norm(found.astype(float), axis=1)
    assert length.max() < 1 + 1e-6
    assert norm == "ball" or length.min() > 1 - 1e-6
    assert found.min() >= 0 or not positive
    np.testing.assert_array_equal(found[5], D[5])
    np.testing.assert_array_equal(np.flatnonzero(unused), [5])
    exact, _ = UPDATES[name](D.astype(float), *statistics(C, X), positive=positive, norm=norm)
    np.testing.assert_allclose(found, exact, atol=1e-3 if dtype == np.float32 else 0)


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("norm", ["ball", "unit"])
def test_atoms_of_little_use_stay_whatever_they_are(name, norm):
    D, C, X = problem(20, 6)
    A, B = statistics(C, X)
    least = float(np.median(A.diagonal()))
    found, unused = UPDATES[name](3 * D, A, B, norm=norm, least_use=least)
    np.testing.assert_array_equal(unused, A.diagonal() <= least)
    np.testing.assert_array_equal(found[unused], 3 * D[unused])
    assert np.linalg.norm(found[~unused], axis=1).max() < 1 + 1e-9


@pytest.mark.parametrize("name", UPDATES)
@pytest.mark.parametrize("norm", ["ball", "unit"])
def test_updates_on_the_device(cupy, name, norm):
    D, C, X = problem(20, 6, unused=[5], scale=1.5)
    A, B = statistics(C, X)
    expected, _ = UPDATES[name](D, A, B, positive=True, norm=norm)
    there = [cupy.asarray(part) for part in (D, A, B)]
    found, unused = UPDATES[name](*there, positive=True, norm=norm, xp=cupy)
    assert isinstance(found, cupy.ndarray)
    np.testing.assert_allclose(found.get(), expected, atol=1e-9)
    np.testing.assert_array_equal(np.flatnonzero(unused.get()), [5])


@pytest.mark.parametrize("name", UPDATES)
def test_an_unknown_norm_is_refused(name):
    with pytest.raises(ValueError, match=r"'ball'.*'unit', got 'l1'"):
        UPDATES[name](np.eye(2), np.eye(2), np.eye(2), norm="l1")


def replaceable():
    """Atoms along axes 0 to 3 of 6, of which the second and last are unused, and rows for them."""
    candidates = np.zeros((6, 6))
    candidates[1] = [-7, 0, 0, 0, 0, 0]  # the first atom
    candidates[2] = [0, 0, 0, 0, 3, -4]
    candidates[3] = [0, 0, 0, 0, -6, 8]  # the row above again
    candidates[4] = [0, 2, 0, 0, 0, 0]  # an atom that is unused
    candidates[5] = 1
    return np.eye(6)[:4] * 0.5, np.array([False, True, False, True]), candidates


@pytest.mark.parametrize("as_array", ["numpy", "device"])
def test_replacements_are_the_first_rows_that_are_new(cupy, as_array, rng):
    D, unused, candidates = replaceable()
    xp = np if as_array == "numpy" else cupy
    found = replace_unused(xp.asarray(D), xp.asarray(unused), xp.asarray(candidates), rng=rng, xp=xp)
    found = found if as_array == "numpy" else found.get()
    np.testing.assert_array_equal(found[~unused], D[~unused])
    np.testing.assert_allclose(found[unused], [[0, 0, 0, 0, 0.6, -0.8], [0, 1, 0, 0, 0, 0]], atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("positive", [False, True])
def test_random_directions_when_candidates_run_out(positive, dtype, rng):
    D, unused, candidates = replaceable()
    found = replace_unused(D.astype(dtype), unused, candidates[:3], rng=rng, positive=positive)
    assert found.dtype == dtype
    np.testing.assert_allclose(found[1], [0, 0, 0, 0, *([1, 0] if positive else [0.6, -0.8])], atol=1e-7)
    assert np.linalg.norm(found[3]) == pytest.approx(1, abs=1e-6)
    assert found[3].min() >= 0 or not positive
    other = replace_unused(D.astype(dtype), unused, candidates[:0], rng=np.random.RandomState(0))[unused]
    assert abs(np.corrcoef(other)[0, 1]) < 0.999


def test_nothing_to_replace(rng):
    D, unused, candidates = replaceable()
    np.testing.assert_array_equal(replace_unused(D, unused & False, candidates, rng=rng), D)
