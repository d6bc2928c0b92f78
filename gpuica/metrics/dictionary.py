"""The quality of a dictionary D (K, d), alone and against another one."""

from typing import Any

import numpy as np

from ..device import array_device, to_host
from ..rows.base import normalize_rows
from ._data import match, open_matrix, slices


def coherence(D: Any) -> float:
    """Largest absolute cosine of two different atoms of a dictionary.

    Parameters
    ----------
    D : array-like of shape (n_atoms, n_features)
        Dictionary.

    Returns
    -------
    coherence : float
        max_{i≠j} |cos(D_i, D_j)|, in [0, 1].  An atom of zeros has cosine 0 with every other; 0 for one atom.

    See Also
    --------
    mmcs, mcc : Compare two dictionaries.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica.metrics import coherence
    >>> coherence(np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 4.0]]))
    0.8
    """
    D = _directions(D)
    largest = 0.0
    for rows in slices(len(D), len(D)):
        cosines = abs(D[rows] @ D[rows.start :].T)  # each pair once
        itself = array_device(D).xp.arange(len(cosines))
        cosines[itself, itself] = 0
        largest = max(largest, float(cosines.max()))
    return largest


def mmcs(D: Any, E: Any) -> float:
    """Mean max cosine similarity: how well each atom of D is found among the atoms of E.

    E_i max_j |cos(D_i, E_j)|.  It is not symmetric: atoms of E that D does not have are ignored.

    Parameters
    ----------
    D : array-like of shape (n_atoms, n_features)
        Dictionary.
    E : array-like of shape (n_others, n_features)
        Another dictionary.

    Returns
    -------
    similarity : float
        1 if E has all atoms of D, up to sign and scale.

    See Also
    --------
    mcc : The same with a one-to-one matching.

    References
    ----------
    L. Sharkey, D. Braun, B. Millidge, "Taking features out of superposition with sparse autoencoders", AI Alignment
    Forum, 2022.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica.metrics import mmcs
    >>> mmcs(np.eye(2), np.array([[0.0, -3.0]]))
    0.5
    """
    D, E = _directions(D), _directions(E)
    E = array_device(D).put(E)
    return sum(float(abs(D[rows] @ E.T).max(axis=1).sum()) for rows in slices(len(D), len(E))) / len(D)


def mcc(D: Any, E: Any) -> float:
    """Mean absolute cosine of atoms of two dictionaries, matched one to one.

    The matching has the largest sum of absolute cosines (Hungarian method).  All cosines are held in memory.

    Parameters
    ----------
    D : array-like of shape (n_atoms, n_features)
        Dictionary.
    E : array-like of shape (n_others, n_features)
        Another dictionary.

    Returns
    -------
    similarity : float
        1 if the larger dictionary contains the smaller one, up to order, sign and scale.

    See Also
    --------
    mmcs : The same without a matching.
    matched_correlation : The same for sources.

    References
    ----------
    X. Song et al., "Mechanistic interpretability should prioritize feature consistency in SAEs", arXiv 2505.20254,
    2025.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica.metrics import mcc
    >>> mcc(np.eye(3), -2 * np.eye(3)[[2, 0, 1]])
    1.0
    """
    D, E = to_host(_directions(D)), to_host(_directions(E))
    return float(match(D @ E.T)[0].mean())


def _directions(D: Any) -> Any:
    """The atoms (K, d) with norm 1, in float64; atoms of zeros stay 0."""
    return normalize_rows(open_matrix(D)[:].astype(np.float64))
