"""Picard: zero gradient, python-picard's results and iteration counts, growth, and edge cases."""

import numpy as np
import pytest
from sklearn.decomposition import FastICA as SklearnFastICA
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.estimator_checks import parametrize_with_checks

from gpuica import Cube, Exp, FastICA, LogCosh, Picard, check_contrast, picard
from gpuica.contrasts import Density, as_contrast
from gpuica.oracle import ContrastOracle
from gpuica.rows.host import HostRows
from gpuica.solvers import picard as picard_solver
from gpuica.solvers.manifolds import rotation_error, rotation_gradient

from . import naive
from .problems import amari, mixture, white

FAMILY = [(True, True), (True, False), (False, True), (False, False)]  # (ortho, extended)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore:.*numerical rank")  # the sample_weight check has fewer rows than features
@parametrize_with_checks(
    [
        Picard(),
        Picard(2),
        Picard(ortho=False),
        Picard(tol=1e-6),
        Picard(tol=1e-6, ortho=False, whiten="arbitrary-variance"),
    ]
)
def test_scikit_learn_contract(estimator, check):
    check(estimator)


def laplace(n, k, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.laplace(size=(n, k)) @ rng.normal(size=(k, k)).T
    X -= X.mean(0)
    eigenvalues, vectors = np.linalg.eigh(X.T @ X / n)
    return X @ vectors / np.sqrt(eigenvalues)


def solve(Z, W, *, ortho, extended, tol=1e-9, max_iter=200, **options):
    oracle = ContrastOracle(HostRows(Z), as_contrast("logcosh"))
    return picard_solver.picard(oracle, W, ortho=ortho, extended=extended, tol=tol, max_iter=max_iter, **options)


def relative_gradient(Z, W, *, ortho, extended):
    """Relative gradient by naive loops: the skew part of E ψ(y) yᵀ, or E ψ(y) yᵀ - 1."""
    _, cross, slope, _ = (part / len(Z) for part in naive.likelihood(Z, W, "logcosh"))
    cross = cross @ W.T
    Y = Z @ W.T
    power = (Y**2).mean(0)
    sign = np.sign(slope * power - np.diag(cross)) if extended else np.ones(len(W))
    M = sign[:, None] * cross
    if ortho:
        return (M - M.T) / 2
    return M + (Y.T @ Y / len(Z) if extended else 0) - np.eye(len(W))


@pytest.mark.parametrize(("ortho", "extended"), FAMILY)
def test_gradient_is_zero_at_solution(ortho, extended, rng):
    Z = white(1500, 4) if extended else laplace(1500, 4)
    result = solve(Z, np.linalg.qr(rng.normal(size=(4, 4)))[0], ortho=ortho, extended=extended)
    assert result.converged
    assert np.abs(relative_gradient(Z, result.W, ortho=ortho, extended=extended)).max() < 1e-8
    np.testing.assert_allclose(
        result.gradient, np.abs(relative_gradient(Z, result.W, ortho=ortho, extended=extended)).max(1), atol=1e-11
    )
    if ortho:
        np.testing.assert_allclose(result.W @ result.W.T, np.eye(4), atol=1e-12)
    assert (np.diff(result.losses) < 1e-12).all() or extended  # sign changes alter the minimized loss


@pytest.mark.parametrize(("ortho", "mean"), [(True, 17), (False, 23)])
def test_iteration_count_on_laplace_sources(ortho, mean):
    """Bounds from python-picard's tests, with N=10, T=1000 and tol=1e-7."""
    counts = []
    for seed in range(30):
        start = np.linalg.qr(np.random.default_rng(seed).normal(size=(10, 10)))[0]
        result = solve(laplace(1000, 10, seed), start, ortho=ortho, extended=ortho, tol=1e-7)
        assert result.converged
        counts.append(result.n_iter)
    assert np.mean(counts) < mean


@pytest.mark.parametrize(("ortho", "extended"), FAMILY)
@pytest.mark.parametrize("problem", ["laplace", "mixed"])
def test_agrees_with_python_picard(problem, ortho, extended):
    reference = pytest.importorskip("picard").picard
    if problem == "mixed" and not extended:
        pytest.skip("sub-Gaussian sources need extended=True")
    X = laplace(2000, 6) if problem == "laplace" else mixture(2000, 6)[0]
    options = {"ortho": ortho, "extended": extended, "random_state": 0, "tol": 1e-8}
    K, W, Y, mean, _ = picard(X.T, return_X_mean=True, return_n_iter=True, **options)
    _, W2, Y2, mean2, _ = reference(X.T, return_X_mean=True, return_n_iter=True, **options)
    np.testing.assert_allclose(mean, mean2, atol=1e-12)
    np.testing.assert_allclose(Y, W @ K @ (X - X.mean(0)).T, atol=1e-8)

    def loss(sources, unmixing):
        sign = np.sign(
            (1 - np.tanh(sources) ** 2).mean(1) * (sources**2).mean(1) - (np.tanh(sources) * sources).mean(1)
        )
        total = ((sign if extended else 1) * np.log(np.cosh(sources)).mean(1)).sum()
        if not ortho:
            total += (0.5 * (sources**2).mean(1).sum() if extended else 0) - np.linalg.slogdet(unmixing)[1]
        return total

    assert abs(loss(Y, W) - loss(Y2, W2)) < 1e-8 * abs(loss(Y2, W2))
    match = np.abs(np.corrcoef(Y, Y2)[: len(Y), len(Y) :])
    np.testing.assert_allclose(match.max(0), 1, atol=1e-6)


def test_fastica_with_picard_converges_to_fastica_solution():
    X, A = mixture(5000, 8)
    theirs = SklearnFastICA(random_state=0, tol=1e-10).fit(X)
    ours = FastICA(random_state=0, algorithm="picard", tol=1e-16).fit(X)
    match = np.abs(np.corrcoef(ours.transform(X).T, theirs.transform(X).T)[:8, 8:])
    np.testing.assert_allclose(match.max(0), 1, atol=1e-7)
    assert amari(ours.components_ @ A) < 0.03
    assert ours.gradient_norm_ < 1e-8


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "estimator", [Picard(), Picard(ortho=False, extended=True), FastICA(tol="auto"), FastICA(algorithm="picard")]
)
def test_known_mixtures_are_separated(estimator, dtype):
    X, A = mixture(20_000, 10, dtype=dtype)
    ica = estimator.set_params(random_state=0).fit(X)
    assert ica.converged_
    assert ica.converged_components_.all()
    assert amari(ica.components_ @ A) < 0.01


def test_standard_error_matches_monte_carlo_deviation():
    """The standard deviation of the gradient over repeated samples equals the estimate by rotation_error."""
    rng = np.random.default_rng(0)
    n, gradients, errors = 500, [], []
    for _ in range(400):
        Y = np.stack([rng.laplace(size=n) / 2**0.5, rng.uniform(-(3**0.5), 3**0.5, size=n), rng.normal(size=n)]).T
        g = np.tanh(Y)
        sign = np.array([1.0, -1.0, 1.0])
        gradients.append(rotation_gradient(g.T @ Y / n, (1 - g**2).mean(0), sign))
        errors.append(rotation_error(g.T @ Y / n, (g**2).mean(0), (Y**2).mean(0), sign, n))
    upper = np.triu_indices(3, 1)
    ratio = np.std(gradients, axis=0)[upper] / np.mean(errors, axis=0)[upper]
    np.testing.assert_allclose(ratio, 1, atol=0.12)  # the deviation of 400 draws has a relative error of 4 %


@pytest.mark.parametrize("measured", [False, True])
def test_standard_error_on_white_rows_matches_monte_carlo_deviation(measured):
    """Samples that are whitened themselves, with sources of both signs: right, or a quarter too large."""
    rng = np.random.default_rng(0)
    n, sign, gradients, errors = 500, np.array([1.0, -1.0, 1.0, -1.0]), [], []
    for _ in range(400):
        S = np.stack([rng.laplace(size=n), rng.uniform(size=n), rng.laplace(size=n), rng.uniform(size=n)]).T
        S -= S.mean(0)
        eigenvalues, V = np.linalg.eigh(S.T @ S / n / np.outer(S.std(0), S.std(0)))
        Y = S / S.std(0) @ (V / eigenvalues**0.5) @ V.T  # white, and as near as can be to the sources
        g = np.tanh(Y)
        squares = ((g**2).T @ Y**2 / n, (g * Y).T @ (g * Y) / n) if measured else None
        gradients.append(rotation_gradient(g.T @ Y / n, (1 - g**2).mean(0), sign))
        errors.append(rotation_error(g.T @ Y / n, (g**2).mean(0), np.ones(4), None, n, squares=squares))
    upper = np.triu_indices(4, 1)
    ratio = np.std(gradients, axis=0)[upper] / np.mean(errors, axis=0)[upper]
    assert (ratio > 0.75).all()
    assert (ratio < 1.12).all()  # the deviation of 400 draws has a relative error of 4 %


def test_standard_error_is_finite_on_samples_that_are_not_white():
    """E y² of a sample is not 1; assuming it would make the variance of nearly Gaussian pairs negative."""
    rng = np.random.default_rng(0)
    Y = rng.normal(size=(2000, 4)) * 1.3
    g = np.tanh(Y)
    error = rotation_error(g.T @ Y / 2000, (g**2).mean(0), (Y**2).mean(0), np.ones(4), 2000)
    products = g[:, :, None] * Y[:, None, :]
    expected = ((products - products.swapaxes(1, 2)) / 2).std(0) / 2000**0.5
    upper = np.triu_indices(4, 1)
    np.testing.assert_allclose(error[upper], expected[upper], rtol=0.2)


@pytest.mark.parametrize("ortho", [True, False])
def test_auto_tol_stops_at_standard_error(ortho):
    Z = laplace(4000, 5)
    start = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))[0]
    result = solve(Z, start, ortho=ortho, extended=ortho, tol="auto")
    assert result.converged
    gradient = relative_gradient(Z, result.W, ortho=ortho, extended=ortho)
    T, Y = np.tanh(Z @ result.W.T), Z @ result.W.T
    products = T[:, :, None] * Y[:, None, :]
    entries = (products - products.swapaxes(1, 2)) / 2 if ortho else products
    error = entries.std(0) / len(Z) ** 0.5
    off_diagonal = ~np.eye(5, dtype=bool)
    assert (np.abs(gradient[off_diagonal]) < 1.2 * error[off_diagonal]).all()
    assert result.n_iter < solve(Z, start, ortho=ortho, extended=ortho, tol=1e-7).n_iter


# ---- growth ----------------------------------------------------------------------------------------------------------
def test_fastica_with_picard_does_not_stop_early_with_many_components():
    X, A = mixture(20_000, 64)  # the gradient is below 1e-2 already at the start
    ica = FastICA(algorithm="picard", random_state=0).fit(X)
    assert amari(ica.components_ @ A) < 0.02
    assert amari(FastICA(random_state=0).fit(X).components_ @ A) < 0.02


@pytest.mark.parametrize("estimator", [Picard(), FastICA(algorithm="picard", tol=1e-8), FastICA(tol=1e-8)])
def test_growth_reaches_same_solution_in_fewer_passes(estimator):
    X, A = mixture(120_000, 8, dtype=np.float32)
    full = estimator.set_params(random_state=0, growth=None).fit(X)
    passes, distance = full.n_passes_, amari(full.components_ @ A)
    grown = estimator.set_params(growth=3.0).fit(X)
    assert grown.converged_
    assert grown.n_passes_ < passes
    assert amari(grown.components_ @ A) < 1.1 * distance


def test_passes_over_samples_count_as_fractions():
    X, _ = mixture(47_111, 4)
    ica = Picard(random_state=0, growth=3.0).fit(X)
    assert 2 < ica.n_passes_ < 30
    assert ica.n_passes_ != int(ica.n_passes_)


def test_auto_growth_samples_large_data_only(monkeypatch):
    calls = []
    original = ContrastOracle.sample
    monkeypatch.setattr(ContrastOracle, "sample", lambda self, n, rng: calls.append(n) or original(self, n, rng))
    Picard(random_state=0).fit(mixture(5000, 3)[0])
    assert not calls
    Picard(random_state=0).fit(mixture(50_000, 3)[0])
    assert calls == [10_000, 20_000]  # sizes double while the next sample fits


def test_growth_is_reproducible_with_random_state():
    X, _ = mixture(60_000, 5)
    one, two = (Picard(random_state=3, growth=2.0).fit(X).components_ for _ in range(2))
    np.testing.assert_array_equal(one, two)


# ---- edge cases -----------------------------------------------------------------------------------------------------
def test_gaussian_data_give_finite_components():
    X = np.random.default_rng(0).normal(size=(20_000, 6))
    ica = Picard(random_state=0).fit(X)
    assert np.isfinite(ica.components_).all()


def test_binary_sources_converge():
    """For binary y, g(y) is proportional to y, so the standard error of the gradient between sources is 0."""
    rng = np.random.default_rng(0)
    X = rng.choice([-1.0, 1.0], size=(5000, 4)) @ rng.normal(size=(4, 4))
    for dtype in (np.float64, np.float32):
        ica = Picard(random_state=0).fit(X.astype(dtype))
        assert ica.converged_
        assert ica.n_iter_ < 60


def test_rank_deficient_data_warn():
    x = np.random.default_rng(0).laplace(size=(500, 1))
    with pytest.warns(UserWarning, match="numerical rank 1"):
        assert Picard(random_state=0).fit(x @ [[1.0, 2.0, 3.0]]).components_.shape == (1, 3)
    X, _ = mixture(3000, 3)
    with pytest.warns(UserWarning, match="numerical rank 3"):
        assert Picard(random_state=0).fit(np.hstack([X, X[:, :1]])).converged_


def test_one_enormous_row_gives_finite_components():
    X, _ = mixture(5000, 4)
    X[17] *= 1e6
    ica = Picard(random_state=0).fit(X)
    assert np.isfinite(ica.components_).all()


@pytest.mark.parametrize("ortho", [True, False])
def test_no_convergence_warns(ortho):
    X, _ = mixture(2000, 5)
    with pytest.warns(ConvergenceWarning, match=r"Picard did not converge\. Final gradient norm.*max_iter.*tol='auto'"):
        ica = Picard(random_state=0, max_iter=2, tol=1e-12, ortho=ortho).fit(X)
    assert not ica.converged_


def test_incompatible_parameters_raise():
    X, _ = mixture(200, 3)
    for params in ({"tol": "auto"}, {"growth": 2.0}):
        with pytest.raises(ValueError, match="not 'deflation'"):
            FastICA(algorithm="deflation", **params).fit(X)
    with pytest.raises(ValueError, match="contrast with a known G"):
        FastICA(algorithm="picard", fun=lambda x: (x**3, (3 * x**2).mean(-1))).fit(X)
    with pytest.raises(ValueError, match="whiten=True centers X"):
        picard(X.T, centering=False)
    with pytest.raises(ValueError, match="'growth' parameter"):
        Picard(growth=1.0).fit(X)


@pytest.mark.parametrize("fun", ["exp", "cube", Cube()])
def test_other_contrasts_converge(fun):
    X, A = mixture(20_000, 4)
    ica = Picard(random_state=0, fun=fun, max_iter=300).fit(X)
    assert ica.converged_
    assert amari(ica.components_ @ A) < 0.03


def test_fastica_it_and_w_init():
    X, A = mixture(5000, 4)
    assert amari(Picard(random_state=0, fastica_it=5).fit(X).components_ @ A) < 0.03
    assert amari(Picard(w_init=np.eye(4)).fit(X).components_ @ A) < 0.03


class SubGaussian:
    """A density with python-picard's interface: G = u²/2 - log cosh u, for sub-Gaussian sources."""

    def log_lik(self, y):
        return y**2 / 2 - np.log(np.cosh(y))

    def score_and_der(self, y):
        assert y.ndim == 2
        return y - np.tanh(y), np.tanh(y) ** 2


@pytest.mark.parametrize("kind", [FastICA, Picard])
def test_python_picard_densities(kind):
    X, A = mixture(20_000, 4)
    for density in (SubGaussian(), densities().Tanh(), densities().Exp({"alpha": 0.3}), densities().Cube()):
        ica = kind(random_state=0, fun=density, max_iter=500).fit(X)
        assert amari(ica.components_ @ A) < 0.03
        assert ica.converged_


def densities():
    return pytest.importorskip("picard.densities")


def test_known_densities_map_to_contrasts_and_others_are_wrapped(rng):
    u = rng.normal(size=(7, 3)) * 3
    for density, contrast in (
        (densities().Tanh({"alpha": 0.5}), LogCosh(0.5)),
        (densities().Exp(), Exp()),
        (densities().Cube(), Cube()),
    ):
        assert as_contrast(density) == contrast
        for result, desired in zip(Density(density).at(u), contrast.at(u), strict=True):
            np.testing.assert_allclose(result, desired, atol=1e-12)
        shift = Density(density).loss(u) - contrast.loss(u)  # a density is determined up to a constant
        np.testing.assert_allclose(shift, shift[0, 0], atol=1e-12)
    changed = densities().Tanh()
    changed.log_lik = lambda y: y
    assert isinstance(as_contrast(changed), Density)
    check_contrast(SubGaussian())


class WrongDerivative(SubGaussian):
    def score_and_der(self, y):
        return y - np.tanh(y), 1 + np.tanh(y) ** 2


class FlattenedOutput(SubGaussian):
    def score_and_der(self, y):
        return y.ravel(), y.ravel()


@pytest.mark.parametrize("error", [ValueError, AssertionError])  # gpuica's and python-picard's exceptions
def test_invalid_densities_raise(error):
    with pytest.raises(error, match="g' is not the derivative of g"):
        picard(mixture(100, 2)[0].T, fun=WrongDerivative())
    with pytest.raises(ValueError, match=r"score_and_der of .* must return two arrays of that shape"):
        Picard(fun=FlattenedOutput()).fit(mixture(100, 2)[0])
    for fun in (3, object(), np.tanh):
        with pytest.raises((TypeError, ValueError)):
            picard(mixture(100, 2)[0].T, fun=fun)


def test_contrast_name_aliases():
    X, _ = mixture(500, 3)
    for kind in (FastICA, Picard):
        one, two = (kind(random_state=0, fun=fun, fun_args={"alpha": 1.3}).fit(X) for fun in ("tanh", "logcosh"))
        np.testing.assert_array_equal(one.components_, two.components_)


def test_function_counts_iterations_from_zero():
    X, _ = mixture(500, 3)
    for max_iter in (1, 3):
        with pytest.warns(ConvergenceWarning):
            *_, n_iter = picard(X.T, max_iter=max_iter, tol=1e-12, return_n_iter=True, random_state=0)
        assert n_iter == max_iter - 1
    *_, W, _, n_iter = picard(X.T, return_n_iter=True, random_state=0)
    assert n_iter >= 1
    *_, n_iter_restarted = picard(X.T, return_n_iter=True, w_init=W, tol=1e-6)
    assert n_iter_restarted == 0  # the start is a solution
    assert Picard(w_init=W, tol=1e-6).fit(X).n_iter_ == 1


def test_function_without_whitening():
    Z = white(3000, 4)
    K, W, Y = picard(Z.T, whiten=False, random_state=0)
    assert K is None
    np.testing.assert_allclose(Y, W @ Z.T, atol=1e-9)
    W3, Y3, mean = picard(Z.T + 5, whiten=False, ortho=False, random_state=0, return_X_mean=True)[1:]
    np.testing.assert_allclose(mean, 5, atol=1e-9)
    np.testing.assert_allclose(Y3, W3 @ Z.T, atol=1e-8)
