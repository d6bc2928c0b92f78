"""Convergence measured in standard errors of the gradient: tol="auto" and convergence warnings."""

import warnings

import numpy as np
import pytest
from sklearn.decomposition import FastICA as SklearnFastICA
from sklearn.exceptions import ConvergenceWarning

from gpuica import FastICA, Picard
from gpuica.contrasts import as_contrast
from gpuica.oracle import ContrastOracle
from gpuica.rows.host import HostRows
from gpuica.solvers.fastica import _gradient_and_error
from gpuica.solvers.manifolds import GeneralLinearGroup, OrthogonalGroup
from gpuica.solvers.orthonormal import cayley_rotation
from gpuica.solvers.picard import picard
from gpuica.solvers.stopping import distance, expected_max_noise, expects_convergence, quantile

from . import naive
from .problems import mixture

FAMILY = [(True, True), (True, False), (False, True), (False, False)]  # (ortho, extended)
FAR = 10  # standard errors beyond which a fit has not converged, whatever the stopping rule


def whiten(X):
    """Whiten rows with the symmetric whitening matrix."""
    X = X - X.mean(0)
    eigenvalues, vectors = np.linalg.eigh(X.T @ X / len(X))
    return X @ (vectors / np.sqrt(eigenvalues)) @ vectors.T


def dependent_sources(n, k, rng, spread=0.7):
    """Laplace sources (n, k) that share a random variance in each row."""
    return rng.laplace(size=(n, k)) * np.exp(spread * rng.normal(size=(n, 1)))


def sources_of(ica, X, weight=None):
    """The sources in float64, at the scale used by the solver."""
    scale = np.sqrt(weight or len(X)) if ica.whiten == "arbitrary-variance" else 1
    return (X.astype(float) - ica.mean_) @ ica.components_.astype(float).T * scale


def draw_weights(kind, n, rng):
    """Weights (n,): integer counts, non-integer shares, or None."""
    return None if kind is None else rng.integers(0, 3, size=n) * (1.0 if kind == "counts" else 0.3)


def n_effective(w):
    """Effective sample size: the sum of integer counts, or Kish's effective sample size of other weights."""
    return w.sum() if (w % 1 == 0).all() else w.sum() ** 2 / (w**2).sum()


def gradient_in_standard_errors(ica, X, *, ortho=True, extended=True, weights=None):
    """|gradient| in standard errors (k, k) at the sources of a fitted estimator, by a naive loop.

    The sources of an orthonormal fit are white, and the variance is that of equal signs.
    """
    w = np.ones(len(X)) if weights is None else np.asarray(weights, dtype=float)
    Y = sources_of(ica, X, w.sum())
    T = np.tanh(Y)
    excess = np.average(1 - T**2, axis=0, weights=w) * np.average(Y**2, axis=0, weights=w)
    excess -= np.average(T * Y, axis=0, weights=w)
    sign = np.where(excess < 0, -1.0, 1.0) if extended else np.ones(Y.shape[1])
    options = {"ortho": ortho, "extended": extended, "weights": w}
    mean, _ = naive.gradient_and_variance(Y, "logcosh", sign, **options)
    _, variance = naive.gradient_and_variance(Y, "logcosh", sign**2 if ortho else sign, **options)
    return np.abs(mean) / np.sqrt(np.maximum(variance, 1e-300) / n_effective(w))


def converged_components(z):
    """Components (k,) that satisfy the rule of tol="auto"."""
    return (np.sqrt((z**2).mean(1)) < 0.5) & (z.max(1) < np.sqrt(2 * np.log(len(z) ** 2)))


# ---- measured standard errors ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["rotation", "matrix"])
def test_squares_are_means_over_rows(as_rows, kind, rng):
    Z, W = dependent_sources(700, 4, rng), rng.normal(size=(4, 4))
    Y = Z @ W.T
    T = np.tanh(Y)
    expected = [(T**2).T @ Y**2, (T * Y).T @ (T * Y if kind == "rotation" else Y**2), (Y**2).T @ Y**2]
    oracle = ContrastOracle(as_rows(Z), as_contrast("logcosh"))
    plain = oracle.likelihood(W)
    result = oracle.likelihood(W, kind)
    for part, desired in zip(result[:4], plain[:4], strict=True):
        np.testing.assert_allclose(part, desired, rtol=1e-12, atol=1e-15)
    for squares in (result.squares, oracle.fixed_point(W, kind)[3]):
        assert len(squares) == (2 if kind == "rotation" else 3)
        for part, desired in zip(squares, expected, strict=False):
            np.testing.assert_allclose(part, desired / 700, rtol=1e-11)


def test_squares_of_part_of_a_batch(rng):
    oracle = ContrastOracle(HostRows(dependent_sources(500, 3, rng)), as_contrast("logcosh"))
    Ws, kinds = [rng.normal(size=(m, 3)) for m in (3, 1, 3, 3)], [None, None, "matrix", "rotation"]
    pairs = ((oracle.fixed_point, oracle.fixed_point_batch), (oracle.likelihood, oracle.likelihood_batch))
    for alone, batch in pairs:
        before = oracle.n_passes
        results = batch(Ws, kinds)
        assert oracle.n_passes == before + 1
        for W, kind, result in zip(Ws, kinds, results, strict=True):
            for part, desired in zip(result, alone(W, kind), strict=True):
                np.testing.assert_allclose(part, desired, rtol=1e-12)


@pytest.mark.parametrize("weighted", [None, "counts", "shares"])
@pytest.mark.parametrize(("ortho", "extended"), FAMILY)
def test_standard_errors_match_naive(ortho, extended, weighted, rng):
    """On rows that are not white, whose sources have both signs."""
    Z = whiten(np.hstack([dependent_sources(400, 2, rng), rng.uniform(-1, 1, size=(400, 2))]))
    w = draw_weights(weighted, 400, rng)
    near = np.eye(4) + 0.1 * rng.normal(size=(4, 4))
    W = np.linalg.qr(near)[0] if ortho else near
    oracle = ContrastOracle(HostRows(Z, weights=w), as_contrast("logcosh"), white=False)
    manifold = (OrthogonalGroup if ortho else GeneralLinearGroup)(oracle, extended=extended, min_curvature=0.01)
    at = oracle.likelihood(W, manifold.squares)
    sign = manifold.signs(W, at)
    assert len(set(sign)) == 1 + extended
    mean, variance = naive.gradient_and_variance(Z @ W.T, "logcosh", sign, ortho=ortho, extended=extended, weights=w)
    n = 400 if w is None else n_effective(w)
    entries = ~np.eye(4, dtype=bool) if ortho else np.ones((4, 4), bool)  # rotations have no diagonal
    np.testing.assert_allclose(manifold.gradient(W, at, sign), mean, atol=1e-12)
    np.testing.assert_allclose(manifold.error(W, at, sign)[entries], np.sqrt(variance / n)[entries], rtol=1e-9)
    if ortho and extended:
        gradient, error = _gradient_and_error(oracle, W, oracle.fixed_point(W, "rotation"), oracle.power(W))
        np.testing.assert_allclose(gradient, mean, atol=1e-12)
        np.testing.assert_allclose(error[entries], np.sqrt(variance / n)[entries], rtol=1e-9)


def test_expected_maximum_of_noise(rng):
    for k in (30, 400):
        largest = [np.abs(rng.normal(size=(k, k))).max() for _ in range(30)]
        assert 0.9 < np.mean(largest) / expected_max_noise(k) < 1
    assert expected_max_noise(1) == 1


def test_distance_bounds_row_norm_and_largest_entry():
    z = np.zeros((100, 100))
    z[0] = 0.49
    z[1] = 0.51
    z[2, 7] = expected_max_noise(100) + 0.01  # a row of root mean square 0.43
    z[3, 7] = expected_max_noise(100) - 0.01
    assert (distance(z) < 1).tolist() == [True, False, False] + 97 * [True]
    assert quantile(distance(z), 1.0) > 1 > quantile(distance(z), 0.98)


def test_convergence_is_predicted():
    assert expects_convergence(2.0, None)
    assert not expects_convergence(40.0, None)
    assert expects_convergence(2.0, 8.0)
    assert not expects_convergence(2.0, 2.5)
    assert expects_convergence(1.1, 1.0)
    assert not expects_convergence(1.3, 1.0)


# ---- tol="auto" ------------------------------------------------------------------------------------------------------
def test_one_mixed_pair_is_not_converged(rng):
    """An entry of 4.7 standard errors adds only 4.7 / sqrt(128) = 0.42 to the root mean square of its row."""
    k, n = 128, 3000
    Z = whiten(rng.laplace(size=(n, k)) * (rng.random((n, k)) < 0.2))
    oracle = ContrastOracle(HostRows(Z), as_contrast("logcosh"))
    W = picard(oracle, np.eye(k), max_iter=300, tol=1e-6).W

    def z_of(W):
        Y = Z @ W[:2].T
        T = np.tanh(Y)
        x = (T[:, 0] * Y[:, 1] - T[:, 1] * Y[:, 0]) / 2
        return abs(x.mean()) / (x.std() / n**0.5)

    def rotated(angle):
        rotation = np.eye(k)
        rotation[:2, :2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
        return rotation @ W

    angle = min(np.linspace(0, 0.1, 200), key=lambda angle: abs(z_of(rotated(angle)) - 4.7))
    assert abs(z_of(rotated(angle)) - 4.7) < 0.1
    sign = np.ones(k)
    z = _naive_z(Z @ rotated(angle).T, sign)
    assert (np.sqrt((z**2).mean(1)) < 0.5).all()
    assert not converged_components(z)[:2].any()
    without_final_check = picard(oracle, rotated(angle), max_iter=50, tol="auto", final=False)
    assert without_final_check.converged
    assert without_final_check.n_iter == 0
    result = picard(oracle, rotated(angle), max_iter=50, tol="auto")
    assert result.converged
    assert 0 < result.n_iter < 10
    z = _naive_z(Z @ result.W.T, sign)
    assert converged_components(z).all()
    np.testing.assert_allclose(result.z, z.max(1), rtol=1e-6)


def test_sources_of_both_signs_are_within_their_sampling_error(rng):
    """From 1.2 deviations of a solution's angles, the rule leaves at most half a deviation, in root mean square."""
    k, n = 12, 20_000
    S = np.hstack([rng.laplace(size=(n, k // 2)), rng.uniform(-1, 1, size=(n, k // 2))])
    S -= S.mean(0)
    Z = whiten(S)
    oracle = ContrastOracle(HostRows(Z), as_contrast("logcosh"))
    exact = picard(oracle, np.eye(k), max_iter=50, tol=1e-10).W
    of_both = np.not_equal.outer(np.arange(k) < k // 2, np.arange(k) < k // 2)
    deviation = np.sqrt(((exact - exact.T) ** 2)[of_both].mean()) / 2  # of the identity: Z is nearly S
    D = np.triu(rng.normal(size=(k, k)) * of_both)
    start = cayley_rotation(exact, 1.2 * deviation * (D - D.T))
    end = picard(oracle, start, max_iter=50, tol="auto")
    assert end.converged
    left = end.W @ exact.T
    assert np.sqrt(((left - left.T) ** 2)[of_both].mean()) / 2 < 0.6 * deviation


def _naive_z(Y, sign):
    mean, _ = naive.gradient_and_variance(Y, "logcosh", sign)
    _, variance = naive.gradient_and_variance(Y, "logcosh", sign**2)
    return np.abs(mean) / np.sqrt(np.maximum(variance, 1e-300) / len(Y))


@pytest.mark.parametrize("weighted", [None, "counts", "shares"])
@pytest.mark.parametrize(
    "estimator",
    [
        Picard(),
        Picard(ortho=False, extended=True, whiten="arbitrary-variance"),
        Picard(ortho=False, whiten="arbitrary-variance"),
        Picard(growth=2.0),
        Picard(n_init=3),
        FastICA(tol="auto"),
        FastICA(tol="auto", n_init=2, growth=2.0),
        FastICA(tol="auto", algorithm="picard"),
    ],
)
def test_converged_fits_satisfy_the_rule(estimator, weighted, rng):
    S = np.hstack([dependent_sources(24_000, 3, rng), rng.normal(size=(24_000, 1)) + rng.laplace(size=(24_000, 1))])
    X = S @ rng.normal(size=(4, 4))
    w = draw_weights(weighted, len(X), rng)
    ica = estimator.set_params(random_state=0).fit(X, sample_weight=w)
    assert ica.converged_
    ortho = getattr(ica, "ortho", True)
    z = gradient_in_standard_errors(ica, X, ortho=ortho, extended=getattr(ica, "extended", None) or ortho, weights=w)
    assert converged_components(z).all()
    np.testing.assert_allclose(ica.gradient_z_, z.max(1), rtol=1e-5, atol=1e-5)


def test_stop_percentile_requires_fraction_of_components(rng):
    X = np.hstack([rng.laplace(size=(4000, 8)), rng.normal(size=(4000, 2))])
    ica = Picard(stop_percentile=80, random_state=0).fit(X)
    assert ica.converged_
    np.testing.assert_array_equal(converged_components(gradient_in_standard_errors(ica, X)), ica.converged_components_)
    assert ica.converged_components_.mean() >= 0.8


def test_standard_errors_add_no_pass_if_convergence_is_predicted():
    X, _ = mixture(20_000, 10)
    ica = Picard(random_state=0).fit(X)
    assert ica.n_passes_ <= 2 + 1 + ica.n_iter_ + 4  # evaluations of the line search
    auto = FastICA(tol="auto", random_state=0).fit(X)
    assert auto.n_passes_ == 2 + auto.n_iter_


def test_exit_at_max_iter_uses_measured_errors(rng):
    X = dependent_sources(3000, 4, rng) @ rng.normal(size=(4, 4))
    for ica in (Picard(max_iter=2, random_state=0), FastICA(tol="auto", max_iter=2, random_state=0)):
        with pytest.warns(ConvergenceWarning):
            ica.fit(X)
        assert ica.n_iter_ == 2
        if isinstance(ica, Picard):  # FastICA's last step was taken after the last pass
            np.testing.assert_allclose(ica.gradient_z_, gradient_in_standard_errors(ica, X).max(1), rtol=1e-6)


# ---- gradient_z_ -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "estimator",
    [
        FastICA(),
        FastICA(algorithm="deflation"),
        FastICA(algorithm="picard"),
        FastICA(whiten=False),
        FastICA(fun=lambda x: (np.tanh(x), (1 - np.tanh(x) ** 2).mean(-1))),
        Picard(tol=1e-4),
        Picard(tol=1e-4, ortho=False, extended=True),
        Picard(tol=1e-4, whiten=False),
    ],
)
def test_every_fit_sets_gradient_z(estimator):
    X = whiten(mixture(5000, 4)[0])
    ica = estimator.set_params(random_state=0).fit(X)
    assert ica.gradient_z_.shape == (4,)
    assert (ica.gradient_z_ >= 0).all()
    assert ica.gradient_z_.max() < 3
    assert isinstance(ica.gradient_z_, np.ndarray)


def test_unmeasured_errors_assume_independent_sources():
    X, _ = mixture(20_000, 5)
    ica = Picard(tol=1e-3, random_state=0).fit(X)
    np.testing.assert_allclose(ica.gradient_z_, gradient_in_standard_errors(ica, X).max(1), rtol=0.1)
    counts = np.random.default_rng(0).integers(1, 9, size=len(X))
    weighted = Picard(tol=1e-3, random_state=0).fit(X, sample_weight=counts)
    np.testing.assert_allclose(
        weighted.gradient_z_, gradient_in_standard_errors(weighted, X, weights=counts).max(1), rtol=0.1
    )


@pytest.mark.parametrize("algorithm", ["parallel", "deflation", "picard"])
def test_gradient_z_adds_no_pass(algorithm, monkeypatch):
    monkeypatch.setattr(ContrastOracle, "covariance", None)  # it would need a pass
    Z = whiten(mixture(3000, 4)[0])
    assert FastICA(algorithm=algorithm, whiten=False, random_state=0).fit(Z).converged_


def test_partial_fit_sets_gradient_z():
    X, _ = mixture(20_000, 4)
    ica = Picard(random_state=0)
    for part in np.array_split(X, 10):
        ica.partial_fit(part)
    assert ica.gradient_z_.shape == (4,)
    assert np.isfinite(ica.gradient_z_).all()


def test_gradient_z_follows_component_order(rng):
    X = dependent_sources(3000, 4, rng) @ rng.normal(size=(4, 4))
    ica = Picard(sort="objective", random_state=0).fit(X)
    np.testing.assert_allclose(ica.gradient_z_, gradient_in_standard_errors(ica, X).max(1), rtol=1e-5, atol=1e-6)


# ---- FastICA's stopping rule -----------------------------------------------------------------------------------------
def slowly_converging_rows(rng, n=200_000, k=5):
    """Rows on which FastICA's first step is short, although it is far from a solution."""
    return dependent_sources(n, k, rng) @ rng.normal(size=(k, k))


@pytest.mark.parametrize("algorithm", ["parallel", "deflation"])
def test_short_step_is_not_convergence(algorithm, rng):
    X = slowly_converging_rows(rng)
    ica = FastICA(algorithm=algorithm, tol=1e-2, random_state=0)
    with pytest.warns(ConvergenceWarning, match=r"errors from zero.*gradient_z_.*smaller tol, or algorithm='pic"):
        ica.fit(X)
    assert not ica.converged_
    assert (ica.delta_ < 1e-2).all()
    assert ica.gradient_z_.max() > FAR
    np.testing.assert_array_equal(ica.converged_components_, ica.gradient_z_ < FAR)
    if algorithm == "parallel":
        np.testing.assert_allclose(ica.gradient_z_, _measured_z(ica, X).max(1), rtol=1e-6)
        assert ica.n_passes_ == 3 + ica.n_iter_
        with pytest.warns(ConvergenceWarning):
            allowed = FastICA(tol=1e-2, random_state=0, stop_percentile=20).fit(X)
        assert not allowed.converged_


def _measured_z(ica, X):
    """As `gradient_in_standard_errors`, by matrix products, for many rows."""
    Y = sources_of(ica, X)
    T = np.tanh(Y)
    sign = np.where((1 - T**2).mean(0) < (T * Y).mean(0), -1.0, 1.0)
    n, M = len(Y), sign[:, None] * (T.T @ Y) / len(Y)
    A, B = (T**2).T @ Y**2 / n, (T * Y).T @ (T * Y) / n
    variance = (A + A.T) / 4 - B / 2 - ((M - M.T) / 2) ** 2
    return np.abs(M - M.T) / 2 / np.sqrt(np.maximum(variance, 1e-12) / n)


def test_suggested_remedies_converge(rng):
    X = slowly_converging_rows(rng)
    for remedy in ({"tol": 1e-5}, {"algorithm": "picard"}, {"tol": "auto", "max_iter": 2000}):
        ica = FastICA(random_state=0, **{"tol": 1e-2, **remedy}).fit(X)
        assert ica.converged_
        assert _measured_z(ica, X).max() < FAR


def test_results_match_scikit_learn_despite_warning(rng):
    X = slowly_converging_rows(rng)
    theirs = SklearnFastICA(tol=1e-2, random_state=0, whiten="unit-variance").fit(X)
    with pytest.warns(ConvergenceWarning):
        ours = FastICA(tol=1e-2, random_state=0).fit(X)
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.components_, theirs.components_, atol=1e-6)


@pytest.mark.parametrize("algorithm", ["parallel", "deflation", "picard"])
def test_elliptical_data_do_not_warn(algorithm, rng):
    X = rng.normal(size=(50_000, 4)) * np.exp(0.7 * rng.normal(size=(50_000, 1)))
    ica = FastICA(algorithm=algorithm, tol=1e-2, random_state=0).fit(X)
    assert ica.converged_
    assert ica.gradient_z_.max() < FAR


@pytest.mark.parametrize("algorithm", ["parallel", "deflation", "picard"])
@pytest.mark.parametrize("growth", [None, 2.0])
def test_separated_sources_do_not_warn(algorithm, growth):
    """With many rows the gradient at the last pass can reach ten standard errors; that at the solution does not."""
    if algorithm == "deflation" and growth:
        pytest.skip("deflation does not support growth")
    for seed in range(2):
        X, _ = mixture(300_000, 3, seed=seed, dtype=np.float32)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            ica = FastICA(algorithm=algorithm, growth=growth, random_state=seed).fit(X)
        assert ica.converged_
        assert _measured_z(ica, X).max() < FAR
        if growth is None and algorithm == "parallel":
            assert ica.n_passes_ <= 3 + ica.n_iter_


@pytest.mark.parametrize("algorithm", ["parallel", "deflation", "picard"])
def test_tol_of_one_skips_the_gradient_check(algorithm, rng):
    ica = FastICA(algorithm=algorithm, tol=1, random_state=0).fit(slowly_converging_rows(rng))
    assert ica.converged_
    assert ica.n_iter_ <= 2


def test_no_extra_pass_if_last_step_reduces_gradient():
    X, _ = mixture(30_000, 3)
    ica = FastICA(tol=2e-2, random_state=0).fit(X)
    assert ica.gradient_z_.max() > FAR  # at the last pass
    assert _measured_z(ica, X).max() < FAR
    assert ica.converged_
    assert ica.n_passes_ == 2 + ica.n_iter_


def test_deflation_compares_starts_on_a_sample():
    X, _ = mixture(60_000, 4, dtype=np.float32)
    ica = FastICA(algorithm="deflation", n_init=3, random_state=0).fit(X)
    assert ica.converged_
