"""Public behaviour of SparseCoder, DictionaryLearning, MiniBatchDictionaryLearning and their functions."""

import pickle
import warnings

import numpy as np
import pytest
import sklearn.decomposition
from scipy.sparse import csr_array, issparse
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from gpuica import (
    DictionaryLearning,
    MiniBatchDictionaryLearning,
    SparseCoder,
    dict_learning,
    dict_learning_online,
    sparse_encode,
)
from gpuica.coders import CODERS, supports_positive
from gpuica.metrics import mcc

LEARNERS = [DictionaryLearning, MiniBatchDictionaryLearning]


@pytest.fixture
def atoms(rng):
    D = rng.normal(size=(20, 12))
    return D / np.linalg.norm(D, axis=1, keepdims=True)


def coded_signal(rng, n=600, k=20, d=12, nonzero=2, noise=0.0):
    """Rows X = C D + noise, unit-norm atoms D, and codes C with `nonzero` Gaussian coefficients per row."""
    D = rng.normal(size=(k, d))
    D /= np.linalg.norm(D, axis=1, keepdims=True)
    C = np.zeros((n, k))
    for row in C:
        row[rng.choice(k, nonzero, replace=False)] = rng.normal(size=nonzero)
    return C @ D + noise * rng.normal(size=(n, d)), D, C


# By default fit_transform computes lasso codes and transform computes OMP codes, as in scikit-learn, whose own tests
# pass other parameters
EXPECTED_FAILED_CHECKS = dict.fromkeys(
    ["check_transformer_general", "check_transformer_data_not_an_array"], "codes of fit_transform are those of the fit"
)


def is_default(estimator):
    return type(estimator) is DictionaryLearning and estimator.get_params() == DictionaryLearning().get_params()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks(
    [
        DictionaryLearning(),
        MiniBatchDictionaryLearning(),
        DictionaryLearning(max_iter=20, transform_algorithm="lasso_lars"),
        DictionaryLearning(fit_algorithm="cd", transform_algorithm="lasso_cd", init="data"),
        MiniBatchDictionaryLearning(batch_size=10, max_iter=20),
        MiniBatchDictionaryLearning(fit_algorithm="omp", dead_atoms="worst", max_iter=20, transform_algorithm="topk"),
    ],
    expected_failed_checks=lambda estimator: EXPECTED_FAILED_CHECKS if is_default(estimator) else {},
)
def test_scikit_learn_estimator_checks(estimator, check):
    check(estimator)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([SparseCoder(np.eye(3))])
def test_scikit_learn_estimator_checks_of_sparse_coder(estimator, check):
    """Uses the dictionaries of scikit-learn's own checks, whose number of features is that of each check."""
    instances = pytest.importorskip("sklearn.utils._test_common.instance_generator")
    coder = sklearn.decomposition.SparseCoder
    if coder not in instances.INIT_PARAMS:
        pytest.skip("scikit-learn before 1.8 has no such dictionaries")
    parameters = instances.INIT_PARAMS[coder] | instances.PER_ESTIMATOR_CHECK_PARAMS[coder].get(check.func.__name__, {})
    check(estimator.set_params(**parameters))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("fit_algorithm", ["cd", "lars"])
@pytest.mark.parametrize("learner", LEARNERS)
def test_iterations_match_scikit_learn(learner, fit_algorithm, rng):
    X = rng.normal(size=(120, 9))
    settings = {"n_components": 6, "alpha": 0.5, "max_iter": 8, "fit_algorithm": fit_algorithm, "random_state": 0}
    if learner is DictionaryLearning:
        settings["tol"] = 1e-3
    theirs = getattr(sklearn.decomposition, learner.__name__)(**settings).fit(X)
    ours = learner(**settings).fit(X)
    np.testing.assert_allclose(ours.components_, theirs.components_, atol=1e-6)
    assert ours.n_iter_ == theirs.n_iter_
    if learner is DictionaryLearning:
        np.testing.assert_allclose(ours.error_, theirs.error_, rtol=1e-7)
    else:
        assert ours.n_steps_ == theirs.n_steps_
        np.testing.assert_allclose(ours._A, theirs._A, atol=1e-6)
        np.testing.assert_allclose(ours._B, theirs._B, atol=1e-6)


def test_partial_fit_matches_batches_of_fit(rng):
    X = rng.normal(size=(200, 9))
    start = rng.normal(size=(6, 9))
    settings = {"n_components": 6, "alpha": 0.4, "dict_init": start, "random_state": 0, "batch_size": 50}
    whole = MiniBatchDictionaryLearning(max_iter=2, shuffle=False, tol=0, max_no_improvement=None, **settings).fit(X)
    parts = MiniBatchDictionaryLearning(**settings)
    for _ in range(2):
        for begin in range(0, 200, 50):
            parts.partial_fit(X[begin : begin + 50])
    np.testing.assert_allclose(parts.components_, whole.components_, rtol=1e-12)
    assert parts.n_steps_ == whole.n_steps_ == 8


@pytest.mark.parametrize("learner", LEARNERS)
def test_recovers_a_known_dictionary(learner, rng):
    X, D, _ = coded_signal(rng, n=4000, d=16)
    settings = (
        {"batch_size": 200, "tol": 0, "max_no_improvement": None}
        if learner is MiniBatchDictionaryLearning
        else {"tol": 1e-4}
    )
    model = learner(20, alpha=0.2, max_iter=40, fit_algorithm="cd", init="data", random_state=0, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)
    assert mcc(model.components_, D) > 0.97
    assert mcc(rng.normal(size=D.shape), D) < 0.8


def test_memory_sets_exponential_window(rng):
    X, start = rng.normal(size=(80, 6)), rng.normal(size=(4, 6))
    model = MiniBatchDictionaryLearning(4, memory=20, dict_init=start, alpha=0.1, random_state=0)
    expected = np.zeros((4, 4))
    for step, part in enumerate(np.split(X, 8)):
        D = start if step == 0 else model.components_
        C = sparse_encode(part, D, algorithm="lasso_cd", alpha=0.1)
        expected = (0 if step == 0 else 0.5) * expected + C.T @ C / 10  # the window spans two batches
        model.partial_fit(part)
        np.testing.assert_allclose(model._A, expected, rtol=1e-9)


def test_errors_are_the_objective_and_decrease(rng):
    X = rng.normal(size=(150, 8))
    code, D, errors = dict_learning(X, 10, alpha=0.3, max_iter=30, tol=1e-3, random_state=0)
    assert all(np.diff(errors) <= 1e-9 * errors[0])
    np.testing.assert_allclose(errors[-1], 0.5 * ((X - code @ D) ** 2).sum() + 0.3 * abs(code).sum(), rtol=1e-9)


@pytest.mark.parametrize("update", ["block_descent", "least_squares", "approximate_ksvd"])
@pytest.mark.parametrize("fit_algorithm", ["omp", "lasso_cd", "fista", "topk", "gradient_pursuit"])
def test_updates_learn_with_all_kinds_of_coders(update, fit_algorithm, rng):
    X, D, _ = coded_signal(rng, n=2000)
    model = MiniBatchDictionaryLearning(
        20,
        alpha=0.1,
        fit_algorithm=fit_algorithm,
        transform_n_nonzero_coefs=2,
        init="data",
        update=update,
        batch_size=500,
        max_iter=15,
        random_state=1,
        dead_atoms="worst",
    )
    before = mcc(MiniBatchDictionaryLearning(20, init="data", max_iter=0, random_state=1).fit(X).components_, D)
    after = mcc(model.fit(X).components_, D)
    assert after > before + 0.03


# ---- codes ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", CODERS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_output_equals_dense_codes(name, dtype, atoms, rng):
    X = rng.normal(size=(300, 12)).astype(dtype)
    settings = {"transform_algorithm": name, "transform_n_nonzero_coefs": 3}
    dense = SparseCoder(atoms, **settings).transform(X)
    sparse = SparseCoder(atoms, sparse_output=True, **settings).transform(X)
    assert isinstance(sparse, csr_array)
    assert dense.dtype == sparse.dtype == dtype
    np.testing.assert_array_equal(sparse.toarray(), dense)
    assert sparse.nnz == np.count_nonzero(dense) > 0


@pytest.mark.parametrize("sparse_output", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_split_sign_separates_positive_and_negative_parts(sparse_output, dtype, atoms, rng):
    X = rng.normal(size=(50, 12)).astype(dtype)
    plain = SparseCoder(atoms).transform(X)
    coder = SparseCoder(atoms, split_sign=True, sparse_output=sparse_output)
    split = coder.transform(X)
    assert split.dtype == dtype
    assert issparse(split) == sparse_output
    values = split.toarray() if sparse_output else split
    assert values.min() >= 0
    np.testing.assert_array_equal(values[:, :20] - values[:, 20:], plain)
    np.testing.assert_allclose(coder.inverse_transform(split), plain @ atoms, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", sorted(filter(supports_positive, CODERS)))
def test_positive_codes_are_non_negative(name, atoms, rng):
    X = rng.normal(size=(80, 12))
    C = sparse_encode(X, atoms, algorithm=name, alpha=0.2 if "lasso" in name else None, positive=name != "nnomp")
    assert C.min() == 0 < C.max()


def test_omp_stops_at_squared_residual_alpha(atoms, rng):
    X = rng.normal(size=(200, 12))
    C = sparse_encode(X, atoms, algorithm="omp", alpha=0.5)
    residual = ((X - C @ atoms) ** 2).sum(axis=1)
    assert residual.max() <= 0.5
    fewer = sparse_encode(X, atoms, algorithm="omp", n_nonzero_coefs=1)
    one_less = (C != 0).sum(axis=1) == 1
    np.testing.assert_allclose(C[one_less], fewer[one_less])


def test_inverse_transform_of_csr_codes(rng):
    X, D, C = coded_signal(rng)
    np.testing.assert_allclose(SparseCoder(D).fit(X).inverse_transform(csr_array(C)), X)


def test_score_is_minus_the_mean_cost(rng):
    X = rng.normal(size=(100, 8))
    model = MiniBatchDictionaryLearning(10, alpha=0.3, max_iter=3, random_state=0, batch_size=20).fit(X)
    C = sparse_encode(X, model.components_, algorithm="lasso_cd", alpha=0.3)
    cost = 0.5 * ((X - C @ model.components_) ** 2).sum() + 0.3 * abs(C).sum()
    np.testing.assert_allclose(model.score(X), -cost / 100, rtol=1e-9)


# ---- atoms ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("learner", LEARNERS)
@pytest.mark.parametrize("policy", ["resample", "worst", "keep"])
def test_dead_atoms_policies(learner, policy, rng):
    X, D, _ = coded_signal(rng, n=400)
    start = D.copy()
    start[3] = 0  # unused by every code
    model = learner(20, alpha=0.1, max_iter=3, init=start, dead_atoms=policy, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X)
    norm = np.linalg.norm(model.components_[3])
    assert (norm == 0) == (policy == "keep")
    assert (model.n_replaced_ > 0) == (policy != "keep")
    assert np.linalg.norm(model.components_, axis=1).max() <= 1 + 1e-12


@pytest.mark.parametrize("learner", LEARNERS)
def test_initial_atoms_of_each_init(learner, rng):
    X = rng.normal(size=(60, 8))
    given = rng.normal(size=(5, 8))
    found = learner(5, init=given, max_iter=0).fit(X).components_
    np.testing.assert_array_equal(found, given)
    drawn = learner(5, init="data", max_iter=0, random_state=0).fit(X).components_
    cosines = drawn @ (X / np.linalg.norm(X, axis=1, keepdims=True)).T
    np.testing.assert_allclose(cosines.max(axis=1), 1)
    largest = learner(3, max_iter=0, random_state=0).fit(X).components_
    _, S, V = np.linalg.svd(X)
    np.testing.assert_allclose(abs(largest), abs(S[:3, None] * V[:3]), rtol=1e-6, atol=1e-8)


def test_initial_atoms_from_moments_match_svd(rng, monkeypatch):
    from gpuica.estimators import _learning

    X = rng.normal(size=(200, 6))
    monkeypatch.setattr(_learning, "MAX_SVD_SIZE", 0)
    D = DictionaryLearning(9, max_iter=0).fit(X).components_
    _, S, V = np.linalg.svd(X, full_matrices=False)
    np.testing.assert_allclose(abs(D[:6]), abs(S[:, None] * V), atol=1e-9)
    assert not D[6:].any()


def test_unfinished_codes_warn(atoms, rng):
    X = rng.normal(size=(30, 12))
    with pytest.warns(ConvergenceWarning, match=r"codes of \d+ of 30 rows.*transform_max_iter"):
        SparseCoder(atoms, transform_algorithm="lasso_cd", transform_alpha=0.01, transform_max_iter=1).transform(X)


def test_unconverged_fit_warns(rng):
    X = rng.normal(size=(100, 8))
    with pytest.warns(ConvergenceWarning, match="did not converge.*max_iter"):
        model = DictionaryLearning(10, alpha=0.1, max_iter=2).fit(X)
    assert not model.converged_
    with pytest.warns(ConvergenceWarning, match="one iteration has no decrease of the cost to test"):
        DictionaryLearning(10, alpha=0.1, max_iter=1).fit(X)


def test_fit_does_not_modify_input(rng):
    X, start = rng.normal(size=(100, 8)), rng.normal(size=(5, 8))
    kept, kept_start = X.copy(), start.copy()
    MiniBatchDictionaryLearning(5, dict_init=start, max_iter=2, batch_size=10).fit(X).partial_fit(X)
    np.testing.assert_array_equal(X, kept)
    np.testing.assert_array_equal(start, kept_start)


@pytest.mark.parametrize("learner", LEARNERS)
def test_fit_is_reproducible_and_can_be_pickled(learner, rng):
    X = rng.normal(size=(3000, 8)).astype(np.float32)
    settings = {"tol": 1e-2} if learner is DictionaryLearning else {"max_iter": 3}
    first, second = (learner(12, alpha=0.2, random_state=0, **settings).fit(X) for _ in range(2))
    np.testing.assert_array_equal(first.components_, second.components_)
    restored = pickle.loads(pickle.dumps(first))
    np.testing.assert_array_equal(restored.transform(X), first.transform(X))
    assert clone(first).get_params()["alpha"] == 0.2


def test_automatic_batch_size(rng):
    X = rng.normal(size=(600, 8))
    model = MiniBatchDictionaryLearning(300, alpha=0.2, batch_size="auto", max_iter=1, random_state=0).fit(X)
    assert model.n_steps_ == 2  # two batches of 300 rows


def test_callback_receives_iteration_number(rng):
    X, steps = rng.normal(size=(40, 6)), []
    MiniBatchDictionaryLearning(4, batch_size=10, max_iter=1, callback=lambda state: steps.append(state["i"])).fit(X)
    assert steps == [0, 1, 2, 3]
    steps.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        DictionaryLearning(4, max_iter=7, tol=0, callback=lambda state: steps.append(state["ii"])).fit(X)
    assert steps == [0, 5]


def test_verbose_prints_progress(rng, capsys):
    X = rng.normal(size=(60, 8))
    DictionaryLearning(5, max_iter=50, tol=1e-2, verbose=True).fit(X)
    assert "current cost" in capsys.readouterr().out
    MiniBatchDictionaryLearning(5, max_iter=2, batch_size=20, verbose=True).fit(X)
    assert "Minibatch step 1/6, epoch 1: mean batch cost" in capsys.readouterr().out


# ---- invalid input --------------------------------------------------------------------------------------------------
def test_more_nonzeros_than_atoms_raises(atoms, rng):
    X = rng.normal(size=(10, 12))
    for name in ("omp", "lars", "nnomp", "matching_pursuit", "topk"):
        with pytest.raises(ValueError, match="n_nonzero_coefs=21 is more than the 20 atoms"):
            sparse_encode(X, atoms, algorithm=name, n_nonzero_coefs=21)


def test_unsupported_positive_constraint_raises(atoms, rng):
    with pytest.raises(ValueError, match=r"Positive constraint not supported for 'omp'.*nnomp"):
        SparseCoder(atoms, positive_code=True).fit(rng.normal(size=(10, 12)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_raise(bad, atoms, rng):
    X, D = rng.normal(size=(10, 12)), atoms.copy()
    X[3, 4] = bad
    for learner in LEARNERS:
        with pytest.raises(ValueError, match=r"contains (NaN|infinity)"):
            learner(4).fit(X)
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
        sparse_encode(X, D)
    D[2, 2] = bad
    with pytest.raises(ValueError, match=r"Input dictionary contains (NaN|infinity)"):
        sparse_encode(np.ones((3, 12)), D)
    with pytest.raises(ValueError, match="init contains NaN or infinity"):
        DictionaryLearning(20, init=D).fit(np.ones((30, 12)))


def test_mismatched_shapes_raise(atoms, rng):
    with pytest.raises(ValueError, match="different numbers of features"):
        sparse_encode(rng.normal(size=(5, 11)), atoms)
    with pytest.raises(ValueError, match=r"dict_init has shape \(20, 12\)"):
        MiniBatchDictionaryLearning(25, dict_init=atoms).fit(rng.normal(size=(50, 12)))
    model = MiniBatchDictionaryLearning(4).partial_fit(rng.normal(size=(30, 8)))
    with pytest.raises(ValueError, match="X has 9 features, but MiniBatchDictionaryLearning is expecting 8"):
        model.partial_fit(rng.normal(size=(30, 9)))
    with pytest.raises(ValueError, match="0 sample"):
        model.partial_fit(np.empty((0, 8)))
    with pytest.raises(ValueError, match="Expected 4, got 5"):
        model.inverse_transform(np.ones((3, 5)))


def test_sparse_X_raises(atoms):
    for fit in (SparseCoder(atoms).transform, DictionaryLearning(3).fit, MiniBatchDictionaryLearning(3).partial_fit):
        with pytest.raises(TypeError, match="dense"):
            fit(csr_array(np.eye(12)))


@pytest.mark.parametrize("learner", LEARNERS)
def test_degenerate_data_yield_finite_results(learner, rng):
    settings = {"alpha": 0.1, "max_iter": 5, "random_state": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        for X in (
            np.zeros((20, 6)),
            np.ones((20, 6)),
            rng.normal(size=(3, 6)),
            rng.normal(size=(20, 1)),
            np.eye(6, dtype=int),
        ):
            model = learner(8, **settings).fit(X)  # more atoms than rows, features or rank
            assert np.isfinite(model.components_).all()
            assert np.isfinite(model.transform(X)).all()


@pytest.mark.parametrize("alpha", [0.0, 1e-12, 1e12])
def test_lasso_with_extreme_penalties(alpha, rng):
    X = rng.normal(size=(50, 6))
    D = rng.normal(size=(9, 6))
    C = sparse_encode(X, D, algorithm="lasso_cd", alpha=alpha)
    if alpha > 1:
        assert not C.any()
    else:
        np.testing.assert_allclose(C @ D, X, atol=1e-6)


def test_memory_mapped_strided_and_integer_input(tmp_path, atoms, rng):
    X = rng.normal(size=(50, 12))
    expected = sparse_encode(X, atoms, algorithm="lasso_cd", alpha=0.3)
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    for same in (mapped, np.asfortranarray(X), X[::-1][::-1]):
        np.testing.assert_allclose(sparse_encode(same, atoms, algorithm="lasso_cd", alpha=0.3), expected, atol=1e-9)
    whole = (10 * X).astype(np.int16)
    np.testing.assert_allclose(
        sparse_encode(whole, atoms, alpha=1.0), sparse_encode(whole.astype(float), atoms, alpha=1.0), atol=1e-9
    )


def test_functions_match_estimators(rng):
    X = rng.normal(size=(80, 8))
    code, D = dict_learning_online(X, 5, alpha=0.3, max_iter=3, batch_size=20, random_state=0)
    model = MiniBatchDictionaryLearning(5, alpha=0.3, max_iter=3, batch_size=20, random_state=0).fit(X)
    np.testing.assert_array_equal(D, model.components_)
    np.testing.assert_allclose(code, sparse_encode(X, D, alpha=0.3), atol=1e-12)
    alone = dict_learning_online(X, 5, alpha=0.3, max_iter=3, batch_size=20, random_state=0, return_code=False)
    np.testing.assert_array_equal(alone, D)
