"""Row weights: a row of weight 2 equals two rows and a row of weight 0 none, in all sums and estimators."""

import logging

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuica import FastICA, Picard, kernels, metrics, sums
from gpuica.contrasts import CONTRASTS, LogCosh, as_contrast
from gpuica.device import CPU, threads
from gpuica.kernels.cpu import contrast as sweeps
from gpuica.oracle import ContrastOracle, MomentOracle
from gpuica.rows import host, open_rows
from gpuica.rows.base import ProjectedRows, round_projection
from gpuica.rows.host import HostRows
from gpuica.solvers import growth
from gpuica.solvers.fastica import parallel
from gpuica.solvers.manifolds import rotation_error, rotation_gradient
from gpuica.solvers.orthonormal import orthonormal
from gpuica.solvers.picard import picard
from gpuica.solvers.whitening import WHITENERS
from gpuica.stability import stability

from . import naive
from .problems import amari, mixture, white

pd = pytest.importorskip("pandas")


# ---- sums ------------------------------------------------------------------------------------------------------------
def naive_weighted_sum(rows, weights):
    """Σ w f(row), one row at a time; rows: f(row) for each row, a tuple of arrays."""
    return tuple(sum(w * part for w, part in zip(weights, parts, strict=True)) for parts in zip(*rows, strict=True))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(1, 30), d=st.integers(1, 6), k=st.integers(1, 6), fun=st.sampled_from(list(CONTRASTS)))
def test_weighted_contributions_match_naive(n, d, k, fun):
    rng = np.random.default_rng(n + 41 * d + 300 * k)
    Z, W, w = rng.normal(size=(n, d)), rng.normal(size=(k, d)), rng.exponential(size=n) * rng.integers(0, 2, size=n)
    contrast, c = as_contrast(fun), Z[0]
    cases = {
        "fixed_point": (sums.fixed_point(Z, W, contrast, w), [naive.fixed_point(z[None], W, fun) for z in Z]),
        "likelihood": (sums.likelihood(Z, W, contrast, w), [naive.likelihood(z[None], W, fun) for z in Z]),
        "moments": (sums.moments(Z, c, w), [naive.moments(z[None], c) for z in Z]),
        "projected": (sums.projected_moments(Z, c, W, w), [naive.moments((W @ (z - c))[None], 0) for z in Z]),
        "total": (sums.total(Z, w), [(z,) for z in Z]),
        "norms": ((sums.norms(Z, c, w),), [(np.linalg.norm(z - c) ** np.array([1, 2, 0]),) for z in Z]),
        "pull": (sums.weiszfeld_sums(Z, c, w), [naive.weiszfeld_terms(z, c) for z in Z]),
    }
    cases["stacked"] = sums.stacked(Z, W, sums.likelihood, contrast, w), cases["likelihood"][1]
    for name, (result, rows) in cases.items():
        for actual, expected in zip(result, naive_weighted_sum(rows, w), strict=True):
            np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("fun", CONTRASTS)
@pytest.mark.parametrize("shape", [(1, 1), (67, 1), (65, 2), (64, 16), (129, 7), (200, 33)])
def test_weighted_sweeps_match_naive(shape, fun, dtype, rng):
    contrast, tolerance = as_contrast(fun), {np.float32: 2e-6, np.float64: 1e-14}[dtype]
    Y = (2 * rng.normal(size=shape)).astype(dtype)
    w = rng.exponential(size=len(Y)).astype(dtype)
    G, g, slope = (
        np.array([[f(float(u)) for u in row] for row in Y]) for f in (naive.G[fun], naive.g[fun], naive.slope[fun])
    )
    exact = w.astype(float)
    tolerance *= (1 + np.abs(G).max()) * (1 + exact.max())
    for sweep, expected in ((sweeps.score, (slope, g * g)), (sweeps.score_and_loss, (G, slope, g * g))):
        swept = Y.copy()
        for result, terms in zip(sweep(swept, contrast, w), expected, strict=True):
            np.testing.assert_allclose(result, exact @ terms, rtol=4e-6, atol=tolerance * len(Y))
        np.testing.assert_allclose(swept, exact[:, None] * g, atol=tolerance)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weighted_kernels_match_array_code(dtype, rng, monkeypatch):
    Y, w = rng.normal(size=(500, 5)).astype(dtype), rng.exponential(size=500).astype(dtype)
    results = []
    for threshold in (0, 1 << 60):
        monkeypatch.setattr(kernels, "WORTH_COMPILING", threshold)
        work, second = Y.copy(), Y.copy()
        results.append(
            [*kernels.score_and_loss(work, LogCosh(1.3), w), work, *kernels.score(second, LogCosh(1.3), w), second]
        )
    for compiled, array in zip(*results, strict=True):
        np.testing.assert_allclose(compiled, array, rtol=1e-5 if dtype == np.float32 else 1e-13, atol=1e-6)


# ---- rows ------------------------------------------------------------------------------------------------------------
@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 200),
    d=st.integers(1, 6),
    chunk=st.integers(1, 210),
    projected=st.sampled_from(["no", "stored", "on the fly"]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_weighted_sum_equals_sum_over_repeated_rows(n, d, chunk, projected, dtype):
    rng = np.random.default_rng(n + 300 * d)
    X, W, K = rng.normal(size=(n, d)).astype(dtype), rng.normal(size=(2, d)), rng.normal(size=(d, d))
    w = rng.integers(0, 4, size=n)
    w[rng.integers(n)] = 3
    weighted = HostRows(X, chunk_rows=chunk, weights=w.astype(float))
    repeated = HostRows(np.repeat(X, w, axis=0))
    if projected == "stored":
        weighted, repeated = (rows.projected(np.ones(d), K) for rows in (weighted, repeated))
    elif projected == "on the fly":
        projection = round_projection(np.ones(d), K, weighted.dtype)
        weighted, repeated = (ProjectedRows(rows, projection) for rows in (weighted, repeated))
    assert weighted.weight == repeated.weight == w.sum()
    contrast, W = LogCosh(), W.astype(dtype)
    tolerance = 1e-9 if dtype == np.float64 else 1e-3
    for contribution, params in (
        (sums.fixed_point, (W, contrast)),
        (sums.likelihood, (W, contrast)),
        (sums.stacked, (W, sums.fixed_point, contrast)),
        (sums.moments, (np.ones(d),)),
        (sums.projected_moments, (np.ones(d), K)),
        (sums.total, ()),
        (sums.weiszfeld_sums, (np.ones(d),)),
    ):
        result, expected = (rows.sum(contribution, *params) for rows in (weighted, repeated))
        for actual, desired in zip(result, expected, strict=True):
            np.testing.assert_allclose(
                actual, desired, rtol=tolerance, atol=tolerance * n, err_msg=contribution.__name__
            )


def test_batches_keep_weights(rng):
    X, w = np.arange(103.0)[:, None], rng.integers(0, 5, size=103).astype(float)
    rows = HostRows(X, weights=w)
    for source in (rows, ProjectedRows(rows, round_projection(np.zeros(1), np.eye(1), rows.dtype))):
        for order in (None, np.random.RandomState(0)):
            batches = list(source.batches(10, order))
            assert sum(batch.weight for batch in batches) == w.sum()
            np.testing.assert_allclose(sum(batch.sum(sums.total)[0] for batch in batches), w @ X)


def test_weighted_sums_do_not_depend_on_thread_count(rng, monkeypatch):
    X, W = rng.normal(size=(20_000, 40)).astype(np.float32), rng.normal(size=(40, 40)).astype(np.float32)
    weights, results = rng.exponential(size=20_000), []
    for n_threads in (1, 3):
        monkeypatch.setattr(threads, "host_threads", lambda n=n_threads: n)
        monkeypatch.setattr(host, "MIN_WORK_FOR_THREADS", 0)
        results.append(HostRows(X, chunk_rows=500, weights=weights).sum(sums.fixed_point, W, LogCosh()))
    for one, many in zip(*results, strict=True):
        np.testing.assert_array_equal(one, many)


def test_effective_sample_size(rng):
    X = np.ones((100, 1))
    assert HostRows(X).n_effective == HostRows(X).weight == 100
    half = np.repeat([0.0, 7.0], 50)
    assert HostRows(X, weights=half).n_kish == pytest.approx(50)
    assert HostRows(X, weights=half).n_effective == 350  # counts
    assert HostRows(X, weights=half / 4).n_effective == pytest.approx(50)
    w = rng.exponential(size=100)
    kish = w.sum() ** 2 / (w * w).sum()
    for scale in (1e-100, 1, 1e100):
        assert HostRows(X, weights=scale * w).n_effective == pytest.approx(kish)


# ---- whitening -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("solver", WHITENERS)
@pytest.mark.parametrize(("n", "d"), [(500, 6), (60, 30), (30, 50)])
def test_whitened_weighted_rows_are_white(n, d, solver, rng):
    X, w = rng.normal(size=(n, d)) @ rng.normal(size=(d, d)) + 10, rng.exponential(size=n)
    w[::3] = 0
    spectrum = WHITENERS[solver](MomentOracle(HostRows(X, weights=w)), eps=2.2e-16)
    assert spectrum.rank == min((w > 0).sum() - 1, d)
    Z = (X - spectrum.mean) @ spectrum.whitening.T
    np.testing.assert_allclose(w @ Z / w.sum(), 0, atol=1e-6)
    np.testing.assert_allclose((w * Z.T) @ Z / w.sum(), np.eye(spectrum.rank), atol=1e-6 if solver == "eigh" else 1e-8)


def test_small_directions_of_weighted_rows(rng):
    """The second pass, in coordinates where the covariance is nearly the identity, must be weighted too."""
    scales = np.array([1, 1e-2, 1e-4, 1e-9])
    X = rng.normal(size=(5000, 4)) * scales @ np.linalg.qr(rng.normal(size=(4, 4)))[0].T
    w = rng.exponential(size=5000)
    centered = (X - w @ X / w.sum()) * np.sqrt(w)[:, None]
    exact = np.linalg.svd(centered, compute_uv=False) / w.sum() ** 0.5
    spectrum = WHITENERS["svd"](MomentOracle(HostRows(X, weights=w)), eps=2.2e-16)
    np.testing.assert_allclose(spectrum.deviations, exact, rtol=1e-4)


@pytest.mark.parametrize("where", ["the first half", "two of three"])
def test_rows_of_zero_weight_do_not_shift_the_sums(where, rng):
    X, i = rng.normal(size=(3000, 3)), np.arange(3000)
    positive = i >= 1500 if where == "the first half" else i % 3 == 0
    X[~positive] += 1e12  # sums of squares centered on these rows would lose all digits of the others
    mean, covariance = MomentOracle(HostRows(X, weights=positive.astype(float))).moments()
    np.testing.assert_allclose(mean, X[positive].mean(0), atol=1e-12)
    np.testing.assert_allclose(covariance, np.cov(X[positive].T, bias=True), atol=1e-12)


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("n", [20, 200])
def test_rank_does_not_depend_on_weight_scale(n, scale, rng):
    half = rng.normal(size=(n // 2, 5)) @ rng.normal(size=(5, 50))
    X, w = np.vstack([half, -half]), np.full(n, scale)
    assert WHITENERS["svd"](MomentOracle(HostRows(X, weights=w)), eps=2.2e-16).rank == 5


# ---- estimators ------------------------------------------------------------------------------------------------------
ESTIMATORS = [
    FastICA(tol=1e-12, max_iter=1000),
    FastICA(tol=1e-12, max_iter=1000, algorithm="deflation", whiten_solver="eigh", fun="cube"),
    FastICA(tol=1e-12, max_iter=1000, center="median", whiten="arbitrary-variance"),
    FastICA(tol=1e-12, max_iter=1000, whiten=False),
    FastICA(tol=1e-12, max_iter=1000, fun=lambda x: (np.tanh(x), (1 - np.tanh(x) ** 2).mean(-1))),
    Picard(tol=1e-8, n_init=2, normalize_rows=True),
    Picard(tol=1e-8, ortho=False, extended=True, whiten=False),
]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000), dtype=st.sampled_from([np.float64, np.float32]))
def test_integer_weights_equal_repeated_rows(estimator, seed, dtype):
    X = (mixture(1500, 3, seed=seed)[0] if estimator.whiten else white(1500, 3, seed=seed)).astype(dtype)
    w = np.random.default_rng(seed).choice([0, 1, 2, 5], size=1500)
    tol = estimator.tol if dtype == np.float64 else max(estimator.tol, 1e-6)
    one, two = (type(estimator)(**{**estimator.get_params(), "tol": tol, "random_state": seed}) for _ in range(2))
    sources = one.fit_transform(X, sample_weight=w)
    expected = two.fit(np.repeat(X, w, axis=0)).transform(X)
    np.testing.assert_allclose(sources, one.transform(X), atol=1e-3 if dtype == np.float32 else 1e-9)
    products = expected.T @ sources  # rounding can change the selected start and n_iter_: match order and sign
    _, order = metrics.match(products)
    sign = np.sign(products[np.arange(3), order])
    tolerance = 1e-6 if dtype == np.float64 else 5e-3  # solutions are accurate to sqrt(tol)
    pairs = {"sources": (sources[:, order] * sign, expected)}
    pairs["components_"] = (one.components_[order] * sign[:, None], two.components_)
    pairs["mixing_"] = (one.mixing_[:, order] * sign, two.mixing_)
    if estimator.whiten:
        pairs |= {name: (getattr(one, name), getattr(two, name)) for name in ("mean_", "whitening_")}
    for name, (result, desired) in pairs.items():
        np.testing.assert_allclose(result, desired, atol=tolerance * np.abs(desired).max(), err_msg=name)


def test_sources_have_unit_weighted_variance(rng):
    X, w = mixture(3000, 3)[0], rng.exponential(size=3000)
    Y = FastICA(random_state=0).fit_transform(X, sample_weight=w)
    np.testing.assert_allclose(w @ Y, 0, atol=1e-9)
    np.testing.assert_allclose(w @ Y**2 / w.sum(), 1)


@pytest.mark.parametrize(("dtype", "scale"), [(np.float32, 1e-30), (np.float32, 1e30), (float, 1e-300), (float, 1e300)])
def test_results_do_not_depend_on_weight_scale(dtype, scale, rng):
    X, w = mixture(3000, 3, dtype=dtype)[0], rng.exponential(size=3000)
    one, two = (Picard(random_state=0).fit(X, sample_weight=weights) for weights in (w, scale * w))
    np.testing.assert_allclose(two.components_, one.components_, atol=1e-4 * np.abs(one.components_).max())
    assert two.n_iter_ == one.n_iter_  # tol="auto" uses Kish's effective sample size


def test_weighted_standard_error_matches_monte_carlo_deviation():
    """Var Σ w v / Σ w = Var v Σ w² / (Σ w)², for weights independent of the values."""
    rng = np.random.default_rng(0)
    n, gradients, errors = 500, [], []
    weights = rng.exponential(size=n) ** 2
    sign = np.array([1.0, -1.0])
    for _ in range(400):
        Y = np.stack([rng.laplace(size=n) / 2**0.5, rng.uniform(-(3**0.5), 3**0.5, size=n)]).T
        oracle = ContrastOracle(HostRows(Y, weights=weights), LogCosh())
        _, cross, slope, square, _ = oracle.likelihood(np.eye(2))
        power = weights @ Y**2 / weights.sum()
        gradients.append(rotation_gradient(cross, slope, sign)[0, 1])
        errors.append(rotation_error(cross, square, power, sign, oracle.n_effective)[0, 1])
    assert np.std(gradients) / np.mean(errors) == pytest.approx(1, abs=0.12)  # relative error of 400 draws: 4 %


def converged_at(solver, oracle, W):
    """Boolean mask of the components that are converged at W."""
    if solver is parallel:
        return parallel(oracle, W, max_iter=1, tol="auto").converged_components
    return picard(oracle, W, max_iter=0, tol="auto", ortho=solver == "rotations").converged_components


@pytest.mark.parametrize("solver", [parallel, "rotations", "matrices"])
def test_auto_tol_uses_effective_sample_size(solver, rng):
    """The threshold is half the standard error of a mean of n_effective rows, whatever the number of rows."""
    Z = rng.laplace(size=(6000, 3))
    w = np.where(rng.random(6000) < 0.03, 1.0, 1e-3)
    Z -= w @ Z / w.sum()
    Z = Z @ np.linalg.inv(np.linalg.cholesky((w * Z.T) @ Z / w.sum())).T
    oracle = ContrastOracle(HostRows(Z, weights=w), LogCosh())
    solution = picard(oracle, np.eye(3), max_iter=200, tol=1e-10, ortho=solver != "matrices").W
    skew = np.array([[0, 1, -1], [-1, 0, 1], [1, -1, 0]]) / 2
    expected_convergence = []
    for angle in np.linspace(0, 1.5 if solver == "matrices" else 0.3, 31):
        W = (np.eye(3) + angle * skew) @ solution
        W = W if solver == "matrices" else orthonormal(W)
        Y = Z @ W.T
        psi = np.tanh(Y) + (Y if solver == "matrices" else 0)
        terms = psi[:, :, None] * Y[:, None, :] - (np.eye(3) if solver == "matrices" else 0)
        if solver != "matrices":
            terms = (terms - terms.swapaxes(1, 2)) / 2
        gradient = np.einsum("n,nij->ij", w, terms) / w.sum()
        variance = np.einsum("n,nij->ij", w, terms**2) / w.sum() - gradient**2
        error = np.sqrt(variance * (w @ w)) / w.sum() + np.eye(3) * 1e-9
        ratio = np.sqrt(((gradient / error) ** 2).mean(axis=1))
        decided = np.abs(ratio / 0.5 - 1) > 0.05  # (the solvers bound the diagonal's variance, where the gradient is 0)
        np.testing.assert_array_equal(converged_at(solver, oracle, W)[decided], (ratio < 0.5)[decided])
        expected_convergence.extend((ratio < 0.5)[decided])
    assert 10 < sum(expected_convergence) < len(expected_convergence) - 10


# ---- growth ----------------------------------------------------------------------------------------------------------
def test_samples_keep_weights(rng):
    X, A = mixture(60_000, 4, dtype=np.float32)
    w = rng.integers(0, 2, size=60_000)
    X[w == 0] = X[w == 0][:, ::-1] * 3  # another mixture, which must be ignored
    ica = Picard(random_state=0, growth=2.0).fit(X, sample_weight=w)
    assert ica.n_passes_ != int(ica.n_passes_)
    assert amari(ica.components_ @ A) < 0.02


def test_samples_contain_enough_rows_of_positive_weight(monkeypatch, rng):
    calls = []
    original = ContrastOracle.sample

    def recorded(self, n, rng):
        calls.append((n, round(original(self, n, np.random.RandomState(0)).n_effective, -3)))
        return original(self, n, rng)

    # the curvature check draws samples of its own: see tests/test_curvature.py
    monkeypatch.setattr(ContrastOracle, "curvature_batch", lambda self, Ws: [np.ones((len(W), len(W))) for W in Ws])
    monkeypatch.setattr(ContrastOracle, "sample", recorded)
    X, _ = mixture(100_000, 3)
    Picard(random_state=0).fit(X, sample_weight=np.tile([0, 1], 50_000))
    assert calls == [(20_000, 10_000), (40_000, 20_000)]
    calls.clear()
    for too_few in (1_000, 30_000):
        Picard(random_state=0).fit(X, sample_weight=np.arange(100_000) < too_few)
    assert not calls


def test_only_best_start_uses_all_weighted_rows(monkeypatch):
    calls = []
    original = growth.fittest

    def recorded(oracle, solutions):
        calls.append((oracle.n_rows, len(solutions)))
        return original(oracle, solutions)

    monkeypatch.setattr(growth, "fittest", recorded)
    X, _ = mixture(100_000, 3)
    Picard(random_state=0, n_init=2).fit(X, sample_weight=np.tile([0, 1], 50_000))
    assert calls == [(20_000, 2), (100_000, 1)]


# ---- warnings and errors ---------------------------------------------------------------------------------------------
def test_few_rows_of_positive_weight_warn(caplog):
    X = np.random.default_rng(0).laplace(size=(500, 10))
    with caplog.at_level(logging.WARNING, logger="gpuica"):
        FastICA(random_state=0, tol=1).fit(X, sample_weight=np.arange(500) < 50)
    assert "50 rows are few for 10 components" in caplog.text
    caplog.clear()
    FastICA(random_state=0, tol=1).fit(X, sample_weight=np.full(500, 0.1))
    assert not caplog.text


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(99), r"a number for each row of X, shape \(100,\); got \(99,\)"),
        (np.ones((100, 1)), r"a number for each row of X, shape \(100,\); got \(100, 1\)"),
        (3.0, r"a number for each row of X"),
        (np.full(100, np.nan), "sample_weight contains NaN, infinity"),
        (np.full(100, np.inf), "sample_weight contains NaN, infinity"),
        (np.full(100, 1e308), "sample_weight contains NaN, infinity, or numbers whose sum overflows"),
        (np.linspace(-1, 3, 100), "sample_weight contains negative weights"),
        (np.zeros(100), "sample_weight is zero for every row"),
        (np.full(100, 1e37), "sample_weight must add up to"),
        (np.full(100, 1e-45), "sample_weight must add up to"),
        (np.ones(100) * 1j, "sample_weight must hold real numbers, got dtype complex128"),
        (np.full(100, "one"), "sample_weight must hold real numbers, got dtype <U3"),
    ],
)
@pytest.mark.parametrize("whiten", ["unit-variance", False])
@pytest.mark.parametrize("method", ["fit", "fit_transform"])
def test_invalid_weights_raise(method, whiten, weights, message):
    with pytest.raises(ValueError, match=message):
        getattr(FastICA(whiten=whiten), method)(mixture(100, 3, dtype=np.float32)[0], sample_weight=weights)


@pytest.mark.parametrize("estimator", [FastICA(random_state=0), Picard(random_state=0)])
def test_array_like_weights(estimator, rng):
    X, w = mixture(500, 3)[0], rng.integers(0, 3, size=500)
    expected = estimator.fit(X, sample_weight=w.astype(float)).components_
    read_only = w.astype(np.float64)
    read_only.setflags(write=False)
    kinds = (
        w,
        w.tolist(),
        pd.Series(w),
        w.astype(np.float16),
        w.astype(ml_dtypes.bfloat16),
        w.astype(object),
        np.repeat(w, 2)[::2],
        read_only,
    )
    for weights in kinds:
        np.testing.assert_array_equal(estimator.fit(X, sample_weight=weights).components_, expected)
    boolean = estimator.fit(X, sample_weight=w > 0).components_
    np.testing.assert_array_equal(boolean, estimator.fit(X, sample_weight=(w > 0).astype(int)).components_)


def test_single_row_of_positive_weight_raises():
    with pytest.raises(ValueError, match="X has no variance"):
        FastICA().fit(mixture(100, 3)[0], sample_weight=np.arange(100) == 7)


# ---- runs and metrics ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("bootstrap", [False, True])
def test_stability_of_weighted_rows(bootstrap, rng):
    X, A = mixture(4000, 3)
    w = rng.integers(0, 2, size=4000)
    X[w == 0] = rng.normal(size=(4000, 3))[w == 0] * 10
    result = stability(Picard(), X, n_runs=4, bootstrap=bootstrap, random_state=0, sample_weight=w)
    assert (result.index > 0.9).all()
    assert amari(result.components @ A) < 0.06


def test_fit_runs_with_integer_weights_equal_repeated_rows(rng):
    X, w = mixture(2000, 3)[0], rng.integers(0, 3, size=2000)
    estimator = FastICA(random_state=0, tol=1e-12, max_iter=1000)
    runs, covariance = estimator.fit_runs(X, 3, sample_weight=w)
    expected, expected_covariance = estimator.fit_runs(np.repeat(X, w, axis=0), 3)
    np.testing.assert_allclose(runs, expected, atol=1e-6)
    np.testing.assert_allclose(covariance, expected_covariance, rtol=1e-9)


def test_metrics_with_integer_weights_equal_repeated_rows(rng):
    S, T, w = rng.laplace(size=(500, 3)), rng.normal(size=(500, 3)), rng.integers(0, 4, size=500)
    repeated = np.repeat(S, w, axis=0)
    for metric in (metrics.negentropy, metrics.excess_kurtosis, metrics.relative_gradient):
        np.testing.assert_allclose(metric(S, sample_weight=w), metric(repeated), rtol=1e-8)
    components = rng.normal(size=(3, 3))
    result = metrics.log_likelihood(S, components, 0.1, sample_weight=w)
    assert result == pytest.approx(metrics.log_likelihood(repeated, components, 0.1))
    result = metrics.matched_correlation(S, T + S, sample_weight=w)
    expected = metrics.matched_correlation(repeated, np.repeat(T + S, w, axis=0))
    np.testing.assert_allclose(result[0], expected[0])
    with pytest.raises(ValueError, match="negative weights"):
        metrics.negentropy(S, sample_weight=-np.ones(500))


def test_contributions_without_weights(rng):
    """A contribution without a weights parameter can be summed over unweighted rows."""
    rows = open_rows(rng.normal(size=(50, 2)), dtype=np.dtype(float), device=CPU)
    np.testing.assert_allclose(rows.sum(lambda chunk: (chunk.sum(axis=0),))[0], rows.array.sum(0))
