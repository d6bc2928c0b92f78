"""`converged_` against the gradient, recomputed in float64: dependent, nearly Gaussian and heavy-tailed sources."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from gpuica import FastICA, Picard

FAR = 10.0  # standard errors beyond which a gradient is no noise
# what a gradient may have where FastICA's rule ends a fit without a warning: its last step is judged by the one before,
# and by standard errors as of independent sources
ABSURD = 2.5 * FAR


def draw_rows(rng):
    """Rows (n, k) of sources of several kinds, mixed, and their weights or None."""
    n, k = int(10 ** rng.uniform(2.5, 4.7)), int(rng.integers(1, 9))
    kinds = [
        lambda: rng.laplace(size=n),
        lambda: rng.uniform(-1, 1, size=n),
        lambda: rng.normal(size=n),
        lambda: rng.normal(size=n) + 0.5 * rng.laplace(size=n),
        lambda: rng.standard_t(3, size=n),
        lambda: rng.laplace(size=n) * (rng.random(n) < 0.1),
        lambda: rng.choice([-1.0, 1.0], size=n) + 0.1 * rng.normal(size=n),
    ]
    S = np.stack([kinds[rng.integers(len(kinds))]() for _ in range(k)], axis=1)
    if rng.random() < 0.5:  # a variance that all sources of a row share
        S = S * np.exp(rng.uniform(0, 1) * rng.normal(size=(n, 1)))
    weights = rng.integers(0, 4, size=n) * rng.choice([1.0, 0.7]) if rng.random() < 0.3 else None
    X = S @ rng.normal(size=(k, k)) + rng.normal(size=k)
    return X.astype(np.float32 if rng.random() < 0.3 else np.float64), weights


def in_errors(ica, X, weights, contrast):
    """|gradient| in standard errors of the rows (k, k), at the sources as the solver had them."""
    w = np.ones(len(X)) if weights is None else weights.astype(float)
    n_effective = w.sum() if (w % 1 == 0).all() else w.sum() ** 2 / (w**2).sum()  # counts, or Kish's number
    w = w / w.sum()
    ortho = getattr(ica, "ortho", True)
    extended = ortho if getattr(ica, "extended", None) is None else ica.extended
    scale = np.sqrt(len(X) if weights is None else weights.sum()) if ica.whiten == "arbitrary-variance" else 1
    Y = (X.astype(float) - ica.mean_.astype(float)) @ ica.components_.astype(float).T * scale
    if contrast == "cube":
        g, slope = Y**3, 3 * Y**2
    else:
        g, slope = np.tanh(Y), 1 - np.tanh(Y) ** 2
    excess = (w @ slope) * (w @ Y**2) - w @ (g * Y)
    psi = np.where(excess < 0, -1.0, 1.0) * g if extended else g
    if extended and not ortho:
        psi = psi + Y
    M, products = (psi.T * w) @ Y, (psi.T**2 * w) @ Y**2
    independent = np.outer(w @ psi**2, w @ Y**2)
    if ortho:
        gradient = (M - M.T) / 2
        variance = (products + products.T) / 4 - ((psi * Y).T * w) @ (psi * Y) / 2 - gradient**2
        independent = (independent + independent.T) / 4
    else:
        gradient, variance = M - np.eye(len(M)), products - M**2
    return np.abs(gradient) / np.sqrt(np.maximum(variance, 0.01 * independent) / n_effective)


def fitted(ica, X, weights):
    """The fit, and its warnings that it has not converged."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ica.fit(X, sample_weight=weights)
    return [str(w.message) for w in caught if issubclass(w.category, ConvergenceWarning)]


def start(rng, k):
    """A starting point, or None."""
    return [None, np.eye(k), rng.normal(size=(k, k))][rng.integers(3)]


def attack_auto(rng):
    """tol="auto": what has converged satisfies the rule, and `gradient_z_` is what the rows say."""
    X, weights = draw_rows(rng)
    k = X.shape[1]
    options = {"max_iter": int(rng.choice([3, 300])), "random_state": 0, "growth": [None, 2.0][rng.integers(2)]}
    if rng.random() < 0.2:
        options["n_init"] = 2
    elif rng.random() < 0.3:
        options["w_init"] = start(rng, k)
    kind = rng.integers(4)
    fun = "cube" if rng.random() < 0.2 and kind != 3 else None
    if kind < 2:
        ica = Picard(tol="auto", fun=fun or "tanh", **options)
    elif kind == 2:
        ica = FastICA(tol="auto", algorithm=["parallel", "picard"][rng.integers(2)], fun=fun or "logcosh", **options)
    else:
        extended = bool(rng.integers(2))
        ica = Picard(tol="auto", ortho=False, extended=extended, whiten="arbitrary-variance", **options)
    complaints = fitted(ica, X, weights)
    assert bool(complaints) != ica.converged_, complaints
    assert ica.converged_ == ica.converged_components_.all()
    assert ica.gradient_z_.shape == (len(ica.components_),)
    z = in_errors(ica, X, weights, fun)
    rounding = 0.02 if X.dtype == np.float64 else 0.1
    if ica.converged_:
        k = len(z)
        most = max(1.0, np.sqrt(2 * np.log(k**2)))
        assert np.sqrt((z**2).mean(1)).max() < 0.5 + rounding, np.sqrt((z**2).mean(1))
        assert z.max() < most + rounding, z.max()
        np.testing.assert_allclose(ica.gradient_z_, z.max(1), rtol=rounding, atol=rounding)


def attack_fastica(rng):
    """A number for tol: what ends without a warning is not far from a solution; what ends with one is, or moves."""
    X, weights = draw_rows(rng)
    tol = float(10 ** rng.uniform(-5, -1))
    algorithm = ["parallel", "picard"][rng.integers(2)]
    ica = FastICA(algorithm=algorithm, tol=tol, random_state=0, w_init=start(rng, X.shape[1]))
    complaints = fitted(ica, X, weights)
    assert bool(complaints) != ica.converged_, complaints
    z = in_errors(ica, X, weights, None)
    if ica.converged_:
        assert z.max() < ABSURD, z.max()
    elif any("standard errors from zero" in text for text in complaints):
        assert z.max() > FAR * 0.9, z.max()
        assert (ica.gradient_z_ > FAR).any()
    else:
        assert ica.n_iter_ == ica.max_iter
