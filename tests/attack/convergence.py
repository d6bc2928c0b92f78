"""`converged_` against the gradient, recomputed in float64: dependent, nearly Gaussian and heavy-tailed sources."""

import warnings

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from gpuica import FastICA, Picard

FAR = 10.0  # standard errors beyond which a gradient exceeds noise
# bound on the gradient of a fit that FastICA's rule ends without a warning: the rule evaluates the iterate before the
# last step, with the standard errors of independent sources
MAX_UNWARNED = 2.5 * FAR


def draw_rows(rng):
    """Draw mixed rows (n, k) of sources of several distributions, and weights or None."""
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
    if rng.random() < 0.5:  # all sources of a row share a variance
        S = S * np.exp(rng.uniform(0, 1) * rng.normal(size=(n, 1)))
    weights = rng.integers(0, 4, size=n) * rng.choice([1.0, 0.7]) if rng.random() < 0.3 else None
    X = S @ rng.normal(size=(k, k)) + rng.normal(size=k)
    return X.astype(np.float32 if rng.random() < 0.3 else np.float64), weights


def gradient_in_standard_errors(ica, X, weights, contrast):
    """|gradient| in standard errors of the rows (k, k), at the sources as scaled by the solver."""
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


def fit_and_catch_warnings(ica, X, weights):
    """Fit, and return the messages of the convergence warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ica.fit(X, sample_weight=weights)
    return [str(w.message) for w in caught if issubclass(w.category, ConvergenceWarning)]


def draw_start(rng, k):
    """Draw a starting point, or None."""
    return [None, np.eye(k), rng.normal(size=(k, k))][rng.integers(3)]


def attack_auto(rng):
    """tol="auto": converged fits satisfy the rule, and `gradient_z_` equals the value computed from the rows."""
    X, weights = draw_rows(rng)
    k = X.shape[1]
    options = {"max_iter": int(rng.choice([3, 300])), "random_state": 0, "growth": [None, 2.0][rng.integers(2)]}
    if rng.random() < 0.2:
        options["n_init"] = 2
    elif rng.random() < 0.3:
        options["w_init"] = draw_start(rng, k)
    kind = rng.integers(4)
    fun = "cube" if rng.random() < 0.2 and kind != 3 else None
    if kind < 2:
        ica = Picard(tol="auto", fun=fun or "tanh", **options)
    elif kind == 2:
        ica = FastICA(tol="auto", algorithm=["parallel", "picard"][rng.integers(2)], fun=fun or "logcosh", **options)
    else:
        extended = bool(rng.integers(2))
        ica = Picard(tol="auto", ortho=False, extended=extended, whiten="arbitrary-variance", **options)
    messages = fit_and_catch_warnings(ica, X, weights)
    assert bool(messages) != ica.converged_, messages
    assert ica.converged_ == ica.converged_components_.all()
    assert ica.gradient_z_.shape == (len(ica.components_),)
    z = gradient_in_standard_errors(ica, X, weights, fun)
    rounding = 0.02 if X.dtype == np.float64 else 0.1
    if ica.converged_:
        k = len(z)
        bound = max(1.0, np.sqrt(2 * np.log(k**2)))
        assert np.sqrt((z**2).mean(1)).max() < 0.5 + rounding, np.sqrt((z**2).mean(1))
        assert z.max() < bound + rounding, z.max()
        np.testing.assert_allclose(ica.gradient_z_, z.max(1), rtol=rounding, atol=rounding)


def attack_fastica(rng):
    """A numeric tol: fits without a warning are near a solution; fits with one are not, or reached max_iter."""
    X, weights = draw_rows(rng)
    tol = float(10 ** rng.uniform(-5, -1))
    algorithm = ["parallel", "picard"][rng.integers(2)]
    ica = FastICA(algorithm=algorithm, tol=tol, random_state=0, w_init=draw_start(rng, X.shape[1]))
    messages = fit_and_catch_warnings(ica, X, weights)
    assert bool(messages) != ica.converged_, messages
    z = gradient_in_standard_errors(ica, X, weights, None)
    if ica.converged_:
        assert z.max() < MAX_UNWARNED, z.max()
    elif any("standard errors from zero" in text for text in messages):
        assert z.max() > FAR * 0.9, z.max()
        assert (ica.gradient_z_ > FAR).any()
    else:
        assert ica.n_iter_ == ica.max_iter
