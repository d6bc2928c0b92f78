"""Stochastic Picard-O: finite differences of the loss, naive implementations, and complete fits."""

import numpy as np
import pytest
import scipy.linalg

from gpuica import FastICA, Picard
from gpuica.contrasts import as_contrast
from gpuica.device import array_device
from gpuica.estimators import picard as estimators_picard
from gpuica.oracle import ContrastOracle
from gpuica.rows.memory import memory_rows
from gpuica.solvers import growth, stochastic
from gpuica.solvers.manifolds import OrthogonalGroup
from gpuica.solvers.picard import picard
from gpuica.solvers.stochastic import CURVATURE_INTERVAL, MIN_BATCH, State, stochastic_picard

from . import naive
from .problems import amari, mixture, white


def make_oracle(Z, weights=None):
    return ContrastOracle(memory_rows(Z, device=array_device(Z), weights=weights), as_contrast("logcosh"))


def random_rotation(rng, k):
    return np.linalg.qr(rng.normal(size=(k, k)))[0]


def loss(oracle, W, sign):
    return float((sign * oracle.likelihood(W).loss).sum())


def dependent_sources(n, k):
    """Dependent sources, which share a random scale in each row.  Returns X (n, k) and the mixing matrix."""
    X, A = mixture(n, k, mean=0.0)
    return X * np.exp(0.7 * np.random.default_rng(1).normal(size=(n, 1))), A


def naive_curvature(Z, W, weights):
    """E w g'(y_i) y_j² / E w y_j², one row at a time."""
    numerator, denominator = np.zeros((len(W), len(W))), np.zeros(len(W))
    for z, w in zip(Z, weights, strict=True):
        y = W @ z
        numerator += w * np.outer([naive.slope["logcosh"](u) for u in y], y**2)
        denominator += w * y**2
    return numerator / denominator


@pytest.fixture
def unconverged(monkeypatch):
    """No stage converges on its sample."""
    monkeypatch.setattr(growth, "MAX_ITER_STAGE", 1)
    monkeypatch.setattr(growth, "MAX_ITER_COMPETITION", 0)


# ---- single steps ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("weighted", [False, True])
def test_curvature_matches_naive(weighted, rng):
    Z, W = white(500, 4), rng.normal(size=(4, 4))
    weights = rng.integers(0, 4, size=500).astype(float) if weighted else np.ones(500)
    oracle = make_oracle(Z, weights if weighted else None)
    np.testing.assert_allclose(oracle.curvature(W), naive_curvature(Z, W, weights), rtol=1e-11)
    assert oracle.n_passes == 1


def test_curvature_of_constant_source_is_finite():
    Z = np.zeros((100, 2))
    Z[:, 0] = 1.0
    assert np.isfinite(make_oracle(Z).curvature(np.eye(2))).all()


def test_step_is_gradient_over_second_derivative(rng, monkeypatch):
    """For each pair (i, j), by finite differences along its rotation; the divisor is bounded by MIN_CURVATURE."""
    monkeypatch.setattr(stochastic, "MIN_CURVATURE", 0.005)
    Z, W = white(2000, 5), random_rotation(rng, 5)
    oracle, rate = make_oracle(Z), 1e-5
    at = oracle.likelihood(W)
    state = State(W, np, extended=True)
    state.update(at, oracle.curvature(W))
    _, sign = state.step(at, rate)
    np.testing.assert_allclose(state.W @ state.W.T, np.eye(5), atol=1e-14)
    step, seconds = state.W @ W.T - np.eye(5), []
    for i, j in zip(*np.triu_indices(5, 1), strict=True):
        pair = np.zeros((5, 5))
        pair[i, j], pair[j, i] = 1.0, -1.0
        before, middle, after = (loss(oracle, scipy.linalg.expm(t * pair) @ W, sign) for t in (-3e-4, 0.0, 3e-4))
        second = (after - 2 * middle + before) / 9e-8
        # twice the bound: the second derivative is the sum of the curvatures of both sources
        np.testing.assert_allclose(step[i, j], -rate * (after - before) / 6e-4 / max(second, 0.01), rtol=1e-3)
        seconds.append(second)
    assert min(seconds) < 0.01 < max(seconds)


def test_float32_steps_end_orthonormal_in_float64(rng):
    """Rounding moves W from orthonormal at each of the steps; the last W, which is accepted, is corrected."""
    Z, W = white(20_000, 5), random_rotation(rng, 5)
    oracle = make_oracle(Z.astype(np.float32))
    (found,), *_ = stochastic_picard(oracle, [W], rng=np.random.RandomState(0))
    (expected,), *_ = stochastic_picard(make_oracle(Z), [W], rng=np.random.RandomState(0))
    assert found.dtype == np.float64
    np.testing.assert_allclose(found @ found.T, np.eye(5), atol=1e-14)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    assert oracle.accepted.iterate[0] is found


def test_running_averages(rng):
    """The plain mean of the first batches, later a mean that discounts old batches."""
    Z, state = white(3000, 3), State(np.eye(3), np, extended=True)
    likelihoods = [make_oracle(part).likelihood(np.eye(3)) for part in np.split(Z, 10)]
    for at in likelihoods:
        state.update(at, None)
    np.testing.assert_allclose(state.slope, np.mean([at.slope for at in likelihoods], axis=0))
    np.testing.assert_allclose(state.middle, np.mean([np.diag(at.cross) for at in likelihoods], axis=0))
    for _ in range(200):
        state.update(likelihoods[0], None)
    np.testing.assert_allclose(state.slope, likelihoods[0].slope, rtol=1e-4)


# ---- complete runs ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_final_loss_is_within_sampling_error(dtype, rng):
    """The excess loss is below k² / 4n, the sampling error of n rows; that of the start is far above it."""
    k, n = 6, 30_000
    Z = white(n, k, dtype=dtype)
    oracle = make_oracle(Z)
    best = picard(oracle, random_rotation(rng, k), max_iter=200, tol=1e-6)
    at = oracle.likelihood(best.W)
    sign = OrthogonalGroup(oracle, extended=True, min_curvature=0.01).signs(best.W, at)
    start = scipy.linalg.expm(0.1 * (lambda D: D - D.T)(rng.normal(size=(k, k)))) @ best.W
    (W,), *_ = stochastic_picard(oracle, [start], rng=np.random.RandomState(0))
    bound = k * k / (4 * n)
    assert loss(oracle, start, sign) - at.loss @ sign > 30 * bound
    assert abs(loss(oracle, W, sign) - at.loss @ sign) < bound
    np.testing.assert_allclose(W @ W.T, np.eye(k), atol=1e-10)


def test_passes_and_epochs_are_counted(rng):
    oracle = make_oracle(white(10 * MIN_BATCH + 7, 3))
    for n_epochs in (1, 4):
        _, _, passes, epochs = stochastic_picard(
            oracle, [random_rotation(rng, 3)], rng=np.random.RandomState(0), max_epochs=n_epochs
        )
        steps = 10 * n_epochs
        assert passes == pytest.approx((steps + -(-steps // CURVATURE_INTERVAL)) * MIN_BATCH / oracle.n_rows)
        assert epochs == n_epochs
    assert oracle.n_passes == 0
    _, _, passes, epochs = stochastic_picard(
        make_oracle(white(MIN_BATCH // 2, 3)), [np.eye(3)], rng=np.random.RandomState(0), max_epochs=1
    )
    assert (passes, epochs) == (2, 1)  # fewer rows than a batch: one batch of all rows, and one pass for its curvature


def test_starts_share_passes(rng):
    """Each start has the same result as alone; the curvature takes one pass per start."""
    oracle, starts = make_oracle(white(20_000, 4)), [random_rotation(rng, 4) for _ in range(3)]
    together, _, passes, _ = stochastic_picard(oracle, starts, rng=np.random.RandomState(5))
    for start, result in zip(starts, together, strict=True):
        (alone,), _, one, _ = stochastic_picard(oracle, [start], rng=np.random.RandomState(5))
        np.testing.assert_allclose(result, alone, atol=1e-9)
    assert passes == pytest.approx(one * (1 + 3 / CURVATURE_INTERVAL) / (1 + 1 / CURVATURE_INTERVAL))


def test_signs_change_only_if_extended(rng):
    Z = white(4000, 4)  # of which two sources are sub-Gaussian
    W = picard(make_oracle(Z), random_rotation(rng, 4), max_iter=100, tol=1e-8).W
    oracle = make_oracle(Z)
    for extended, negative in ((True, 2), (False, 0)):
        state = State(W, np, extended)
        state.update(oracle.likelihood(W), oracle.curvature(W))
        assert (state.step(oracle.likelihood(W), 0.1)[1] < 0).sum() == negative


def test_rows_of_zero_weight_are_ignored(rng):
    X = white(40_000, 3)
    w = (np.arange(40_000) < 30_000).astype(float)
    W = picard(make_oracle(X[:30_000]), random_rotation(rng, 3), max_iter=100, tol=1e-8).W
    X[30_000:] = X[30_000:, ::-1] ** 3
    (result,), *_ = stochastic_picard(make_oracle(X, w), [W], rng=np.random.RandomState(0))
    np.testing.assert_allclose(abs(result @ W.T), np.eye(3), atol=0.02)


def test_batches_of_zero_weight_are_skipped(monkeypatch):
    monkeypatch.setattr(stochastic, "MIN_BATCH", 2)
    monkeypatch.setattr(stochastic, "BATCH_PER_COMPONENT", 1)
    # batches of 200 rows, of which about two or none have positive weight
    w = (np.arange(20_000) % 100 == 0).astype(float)
    with np.errstate(all="raise", under="ignore"):
        (W,), *_ = stochastic_picard(make_oracle(white(20_000, 2), w), [np.eye(2)], rng=np.random.RandomState(0))
    assert np.isfinite(W).all()


# ---- estimators ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "estimator", [Picard(), Picard(n_init=8), FastICA(algorithm="picard", growth="auto", tol="auto")]
)
def test_no_stochastic_steps_if_samples_converge(estimator, monkeypatch):
    monkeypatch.setattr(stochastic, "State", None)
    X, A = mixture(80_000, 8, dtype=np.float32)
    estimator.set_params(random_state=0).fit(X)
    assert estimator.converged_
    assert amari(estimator.components_ @ A) < 0.01


@pytest.mark.parametrize(
    "estimator",
    [
        Picard(),
        Picard(extended=False, fun="tanh"),
        Picard(n_init=2),
        FastICA(algorithm="picard", growth="auto", tol="auto"),
    ],
)
def test_stochastic_steps_replace_samples_that_do_not_converge(estimator, unconverged, monkeypatch):
    states = []
    original = State.__init__

    def counted(self, *arguments):
        states.append(self)
        original(self, *arguments)

    monkeypatch.setattr(State, "__init__", counted)
    rng = np.random.default_rng(0)
    A = rng.normal(size=(8, 8))
    X = (rng.laplace(size=(60_000, 8)) @ A.T).astype(np.float32)
    estimator.set_params(random_state=0).fit(X)
    assert len(states) == 1  # of the best start
    assert estimator.converged_
    assert amari(estimator.components_ @ A) < 0.01
    assert len(estimator.losses_) < 6  # few iterations over all rows remain


def test_dependent_sources_reach_the_same_loss_in_fewer_passes():
    X, _ = dependent_sources(150_000, 40)
    ica, full = (Picard(random_state=0, growth=growing).fit(X.astype(np.float32)) for growing in ("auto", None))
    assert ica.converged_
    assert full.converged_
    assert ica.n_passes_ < full.n_passes_
    assert ica.losses_[-1] < full.losses_[-1] + 40**2 / 150_000


def test_no_stochastic_steps_without_growth_or_ortho(unconverged, monkeypatch):
    monkeypatch.setattr(stochastic, "State", None)
    X, _ = mixture(60_000, 4, dtype=np.float32)
    assert Picard(growth=None, random_state=0).fit(X).converged_
    assert Picard(growth=None, n_init=3, random_state=0).fit(X).converged_
    assert Picard(ortho=False, extended=True, random_state=0).fit(X).converged_


def test_max_iter_bounds_epochs(unconverged, monkeypatch):
    epochs, original = [], estimators_picard.stochastic_picard

    def recorded(*arguments, **options):
        epochs.append(options["max_epochs"])
        return original(*arguments, **options)

    monkeypatch.setattr(estimators_picard, "stochastic_picard", recorded)
    X, _ = mixture(60_000, 4, dtype=np.float32)
    for max_iter in (2, 500):
        ica = Picard(max_iter=max_iter, tol=1.0, random_state=0).fit(X)
        assert ica.n_iter_ >= epochs[-1]
    assert epochs == [2, stochastic.MAX_EPOCHS]


def test_fits_are_bitwise_reproducible(unconverged):
    X, _ = mixture(60_000, 5, dtype=np.float32)
    a, b = (Picard(random_state=3).fit(X) for _ in range(2))
    np.testing.assert_array_equal(a.components_, b.components_)


@pytest.mark.parametrize("leave_mixtures", [False, True])
def test_checkpoint_stores_result_of_stochastic_steps(leave_mixtures, unconverged, tmp_path, monkeypatch):
    """The samples that are drawn after the steps, on which mixtures are left, are the same in a fit that resumes."""
    if leave_mixtures:  # always, to whatever FastICA finds
        monkeypatch.setattr(growth, "NEARLY_GAUSSIAN", 1.0)
        monkeypatch.setattr(growth, "SIGNIFICANT", -np.inf)
        monkeypatch.setattr(growth, "ROWS_TO_LEAVE", 2)
    X, _ = mixture(60_000, 4, dtype=np.float32)
    expected = Picard(random_state=0).fit(X)
    first = Picard(random_state=0, checkpoint=tmp_path / "fit").fit(X)
    monkeypatch.setattr(stochastic, "State", None)
    resumed = Picard(random_state=0, checkpoint=tmp_path / "fit").fit(X)
    for ica in (first, resumed):
        np.testing.assert_array_equal(ica.components_, expected.components_)
        assert ica.n_passes_ == pytest.approx(expected.n_passes_)


def test_progress_is_printed(unconverged, capsys):
    X, _ = mixture(60_000, 4, dtype=np.float32)
    Picard(random_state=0, verbose=2).fit(X)
    assert f"[Picard] batches of {MIN_BATCH} rows, step 50: " in capsys.readouterr().out


def test_dask_rows_are_sampled_once(unconverged, monkeypatch):
    da = pytest.importorskip("dask.array")
    from gpuica.rows.dask import DaskRows

    drawn, original = [], DaskRows.batches

    def recorded(self, size, rng=None):
        drawn.append(size)
        return original(self, size, rng)

    monkeypatch.setattr(DaskRows, "batches", recorded)
    X, A = mixture(60_000, 4)
    ica = Picard(random_state=0).fit(da.from_array(X, chunks=(9_000, -1)))
    assert amari(ica.components_ @ A) < 0.02
    assert [size for size in drawn if size >= MIN_BATCH] == [
        10_000,
        60_000,
    ]  # the sample, and the rows from which batches are drawn


def test_device_results_match_host(cupy, rng, monkeypatch):
    monkeypatch.setattr("gpuica.rows.device.MAX_SORTED_ROWS", 0)  # the same draws
    monkeypatch.setattr("gpuica.solvers.orthonormal.MAX_EXCESS", -1)  # Cayley's rotations, as on a device
    Z, W = white(6000, 4), random_rotation(rng, 4)
    weights = rng.integers(0, 3, size=6000).astype(float)
    for w in (None, weights):
        device_result = stochastic_picard(
            make_oracle(cupy.asarray(Z), None if w is None else cupy.asarray(w)),
            [cupy.asarray(W)],
            rng=np.random.RandomState(0),
        )
        host_result = stochastic_picard(make_oracle(Z, w), [W], rng=np.random.RandomState(0))
        for i in range(2):  # W, and the distances from Gaussian
            np.testing.assert_allclose(device_result[i][0].get(), host_result[i][0], atol=1e-8)
        assert device_result[2:] == host_result[2:]


def test_rows_of_files_are_read_in_batches(unconverged, tmp_path):
    X, A = mixture(60_000, 4, dtype=np.float32)
    np.save(tmp_path / "rows.npy", X)
    ica = Picard(random_state=0, memory_limit="1MB").fit(str(tmp_path / "rows.npy"))
    assert ica.converged_
    assert amari(ica.components_ @ A) < 0.02
