"""The quality of a separation: against the true mixing where it is known, else from the data alone."""

from typing import Any

import numpy as np

from ..contrasts import LogCosh, as_contrast
from ..device import array_device, to_host
from ..oracle import ContrastOracle, MomentOracle
from ..solvers.manifolds import rotation_gradient
from ._data import SideBySide, match, open_matrix, open_rows_of, small_matrix

GAUSSIAN_LOGCOSH = 0.37456720749145711  # E log cosh of a standard normal variable


def amari_distance(components: Any, A: Any) -> float:
    """Amari distance of estimated components from a mixing matrix.

    With P = components @ A, (Σ_i (Σ_j |P_ij| / max_j |P_ij| - 1) + Σ_j (Σ_i |P_ij| / max_i |P_ij| - 1)) / (2 k (k-1)).
    It does not depend on the order, sign and scale of the components.

    Parameters
    ----------
    components : array-like of shape (n_components, n_features)
        Unmixing matrix, such as `components_` of an estimator.
    A : array-like of shape (n_features, n_components)
        True mixing matrix.

    Returns
    -------
    distance : float
        0 for perfect separation, at most 1; 0 for one component.

    Raises
    ------
    ValueError
        If the numbers of components and sources differ, or components @ A has a row or column of zeros.

    See Also
    --------
    matched_correlation : Compare sources instead of matrices.

    References
    ----------
    S. Amari, A. Cichocki, H. H. Yang, "A new learning algorithm for blind signal separation", NIPS 8, 1996.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica.metrics import amari_distance
    >>> A = np.array([[2.0, 1.0], [0.5, 3.0]])
    >>> round(amari_distance(np.linalg.inv(A)[::-1], A), 6)
    0.0
    >>> amari_distance([[1, 0.5], [0.5, 1]], np.eye(2))
    0.5
    """
    P = np.abs(small_matrix(components) @ small_matrix(A))
    if P.ndim != 2 or P.shape[0] != P.shape[1]:
        raise ValueError(f"components @ A must be square, got shape {P.shape}: as many components as sources.")
    if not (P.max(axis=0).all() and P.max(axis=1).all()):
        raise ValueError("components @ A has a row or a column of zeros: a component without a source, or the reverse.")
    k = len(P)
    excess = (P / P.max(axis=1, keepdims=True)).sum() + (P / P.max(axis=0)).sum() - 2 * k
    return float(excess / max(2 * k * (k - 1), 1))


def matched_correlation(S: Any, T: Any, sample_weight: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Absolute correlations of two sets of sources, matched one to one.

    The matching has the largest sum of absolute correlations (Hungarian method).  One pass.

    Parameters
    ----------
    S : array, path or Dask array of shape (n_samples, n_components)
        Sources, of any kind that `gpuica.FastICA` takes; read by chunks.
    T : array, path or Dask array of shape (n_samples, n_others)
        Other sources of the same rows, of any kind that `gpuica.FastICA` takes; read by chunks.
    sample_weight : array-like of shape (n_samples,), default=None
        The number of rows that each row counts as.  Means and variances are weighted.

    Returns
    -------
    correlations : ndarray of shape (min(n_components, n_others),)
        Absolute correlation of each matched pair, in the order of the columns of S.
    columns : ndarray of shape (min(n_components, n_others),)
        The column of T in each pair.

    Raises
    ------
    ValueError
        If S and T have different numbers of rows.

    See Also
    --------
    amari_distance : Compare with a known mixing matrix.
    mcc : The same for atoms of dictionaries.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica.metrics import matched_correlation
    >>> S = np.random.default_rng(0).laplace(size=(1000, 3))
    >>> correlations, columns = matched_correlation(S, -2 * S[:, [2, 0, 1]])
    >>> columns
    array([1, 2, 0])
    >>> bool((correlations > 0.999).all())
    True
    """
    S, T = open_matrix(S), open_matrix(T)
    if len(S) != len(T):
        raise ValueError(f"S and T must have the same rows, got {len(S)} and {len(T)}.")
    both = open_rows_of(SideBySide(S, T), array_device(S), sample_weight)
    _, covariance = MomentOracle(both).moments()
    return match(to_host(_correlation(covariance))[: S.shape[1], S.shape[1] :])


def relative_gradient(S: Any, fun: Any = "logcosh", sample_weight: Any = None) -> float:
    """Largest entry of the relative gradient of FastICA's and Picard-O's loss at given sources.

    max_ij |s_i E g(y_i) y_j - s_j E g(y_j) y_i| / 2 for sources y scaled to variance 1, with s_i the sign of
    E g'(y_i) - E g(y_i) y_i.  It is 0 at a solution; its sampling error is about 0.5 / sqrt(n_samples).

    Parameters
    ----------
    S : array, path or Dask array of shape (n_samples, n_components)
        Uncorrelated sources, of any kind that `gpuica.FastICA` takes; read by chunks.
    fun : {'logcosh', 'exp', 'cube'}, callable or contrast, default='logcosh'
        The contrast, as for `gpuica.FastICA`; its G must be known.
    sample_weight : array-like of shape (n_samples,), default=None
        The number of rows that each row counts as.  Means and variances are weighted.

    Returns
    -------
    gradient : float
        0 at a solution.

    See Also
    --------
    negentropy : How far each source is from Gaussian.

    References
    ----------
    P. Ablin, J.-F. Cardoso, A. Gramfort, "Faster ICA under orthogonal constraint", ICASSP 2018.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica import Picard
    >>> from gpuica.metrics import relative_gradient
    >>> X = np.random.default_rng(0).laplace(size=(2000, 3)) @ np.array([[2, 1, 0], [0, 1, 1], [1, 0, 3.0]])
    >>> relative_gradient(Picard(tol=1e-6, random_state=0).fit_transform(X)) < 1e-5
    True
    """
    rows, scale = _standard(S, sample_weight)
    xp = rows.xp
    _, cross, slope, *_ = ContrastOracle(rows, as_contrast(fun)).likelihood(xp.diag(scale))
    return float(xp.abs(rotation_gradient(cross, slope, xp=xp)).max())


def negentropy(S: Any, sample_weight: Any = None) -> np.ndarray:
    """Approximate the negentropy of each column.

    (E log cosh y - E log cosh u)² for a column y centered and scaled to variance 1, and a standard normal u.

    Parameters
    ----------
    S : array, path or Dask array of shape (n_samples, n_components)
        Sources, of any kind that `gpuica.FastICA` takes; read by chunks.
    sample_weight : array-like of shape (n_samples,), default=None
        The number of rows that each row counts as.  Means and variances are weighted.

    Returns
    -------
    negentropy : ndarray of shape (n_components,)
        0 for a Gaussian; the larger, the farther from one.

    See Also
    --------
    excess_kurtosis : Another measure of non-Gaussianity, with a sign.

    References
    ----------
    A. Hyvärinen, E. Oja, "Independent component analysis: algorithms and applications", Neural Networks 13, 2000,
    equation (25).

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica.metrics import negentropy
    >>> rng = np.random.default_rng(0)
    >>> gaussian, laplace = negentropy(np.stack([rng.normal(size=9999), rng.laplace(size=9999)], axis=1))
    >>> bool(gaussian < 1e-5 < laplace)
    True
    """
    rows, scale = _standard(S, sample_weight)
    loss = ContrastOracle(rows, LogCosh()).likelihood(rows.xp.diag(scale))[0]
    return to_host((loss - GAUSSIAN_LOGCOSH) ** 2)


def excess_kurtosis(S: Any, sample_weight: Any = None) -> np.ndarray:
    """E y⁴ / (E y²)² - 3 of each centered column y.

    Parameters
    ----------
    S : array, path or Dask array of shape (n_samples, n_components)
        Sources, of any kind that `gpuica.FastICA` takes; read by chunks.
    sample_weight : array-like of shape (n_samples,), default=None
        The number of rows that each row counts as.  Means and variances are weighted.

    Returns
    -------
    kurtosis : ndarray of shape (n_components,)
        0 for a Gaussian, 3 for a Laplace, -1.2 for a uniform distribution.

    See Also
    --------
    negentropy : A measure that outliers influence less.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica.metrics import excess_kurtosis
    >>> excess_kurtosis(np.array([[-1.0], [1.0], [1.0], [-1.0]]))
    array([-2.])
    """
    rows, scale = _standard(S, sample_weight)
    loss = ContrastOracle(rows, as_contrast("cube")).likelihood(rows.xp.diag(scale))[0]  # G = u⁴ / 4
    return to_host(4 * loss - 3)


def log_likelihood(X: Any, components: Any, mean: Any = 0.0, fun: Any = "logcosh", sample_weight: Any = None) -> float:
    """Mean log-likelihood of a row under independent sources, in nats.

    log |det components| - Σ_i E G(y_i) for sources y = components (x - mean) of density exp(-G), up to its constant.

    Parameters
    ----------
    X : array, path or Dask array of shape (n_samples, n_features)
        Rows, of any kind that `gpuica.FastICA` takes; read by chunks.
    components : array-like of shape (n_features, n_features)
        Unmixing matrix of an ICA with as many components as features.
    mean : float or array-like of shape (n_features,), default=0.0
        Mean of the rows.
    fun : {'logcosh', 'exp', 'cube'}, callable or contrast, default='logcosh'
        The contrast, as for `gpuica.FastICA`; its G must be known.
    sample_weight : array-like of shape (n_samples,), default=None
        The number of rows that each row counts as.  Means and variances are weighted.

    Returns
    -------
    likelihood : float
        Larger is better.

    Raises
    ------
    ValueError
        If components is not square.

    See Also
    --------
    mutual_information_reduction : A comparison of entropies that assumes no density.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica.metrics import log_likelihood
    >>> X = np.random.default_rng(0).laplace(size=(1000, 2))
    >>> log_likelihood(X, np.eye(2)) > log_likelihood(X, np.array([[0.6, 0.8], [-0.8, 0.6]]))
    True
    """
    components = small_matrix(components)
    if components.ndim != 2 or components.shape[0] != components.shape[1]:
        raise ValueError(f"a likelihood needs as many components as features, got components {components.shape}.")
    X = open_matrix(X)
    rows = open_rows_of(X, array_device(X), sample_weight)
    mean = np.broadcast_to(small_matrix(mean), (X.shape[1],))
    projected = rows.projected(rows.xp.asarray(mean), rows.xp.asarray(components))
    loss = ContrastOracle(projected, as_contrast(fun)).likelihood(rows.xp.eye(len(components)))[0]
    return float(np.linalg.slogdet(components)[1] - float(loss.sum()))


def _standard(S: Any, sample_weight: Any) -> Any:
    """Rows of S centered, and the factors (k,) that scale each column to variance 1."""
    S = open_matrix(S)
    rows = open_rows_of(S, array_device(S), sample_weight)
    mean, covariance = MomentOracle(rows).moments()
    variance, xp = covariance.diagonal(), rows.xp
    centered = rows.projected(mean, xp.eye(S.shape[1]))
    return centered, 1 / xp.sqrt(xp.where(variance > 0, variance, 1))


def _correlation(covariance: Any) -> Any:
    """Correlations (k, k) from covariances; 0 for a variance of 0."""
    scale = covariance.diagonal() ** 0.5
    scale = scale + (scale == 0)
    return covariance / scale[:, None] / scale
