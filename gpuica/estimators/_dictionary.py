"""The base class of the estimators that have a dictionary."""

from numbers import Integral
from typing import Any

import numpy as np
from scipy.sparse import hstack, issparse
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions
from sklearn.utils.validation import check_is_fitted

from ..coders import CODERS
from ..input import InputData, check_input
from ..rows import open_rows
from ._codes import coder_for_transform, encode, reconstruct
from ._device import select_device
from ._output import to_output
from ._parameters import checks_parameters

CODING_CONSTRAINTS: dict = {  # of parameters that differ from scikit-learn's, or that it does not have
    "transform_algorithm": [StrOptions(set(CODERS))],
    "device": [str],
    "sparse_output": ["boolean"],
    "memory_limit": [Interval(Integral, 1, None, closed="left"), str, None],
}


class DictionaryEstimator(TransformerMixin, BaseEstimator):
    """An estimator with a dictionary D of shape (K, d): codes of rows, and rows of codes.

    A subclass has scikit-learn's parameters and those of CODING_CONSTRAINTS.  Its dictionary is `components_`, set by
    `fit`, unless it overrides `_dictionary`.
    """

    def _dictionary(self, n_features: Any = None) -> Any:
        """The dictionary (K, d) on the host.  ValueError if its atoms do not have n_features features."""
        return np.asarray(self.components_)

    @checks_parameters
    def transform(self, X: Any, y: Any = None, *, out: Any = None) -> Any:
        """Compute the sparse codes of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows to code, of any kind that `fit` accepts.
        y : None
            Ignored.
        out : path-like or array-like of shape (n_samples, n_components), default=None
            Destination of codes that do not fit in memory: the path of a `.npy` file, or an array whose rows can be
            assigned (`numpy.memmap`, zarr, h5py).  With `sparse_output=True`, a directory for files
            `codes-00000.npz`, ..., which `scipy.sparse.load_npz` reads; they are renamed from temporary names once
            all are complete.  Requires `split_sign=False`.

        Returns
        -------
        codes : array of shape (n_samples, n_components), or (n_samples, 2 * n_components) with `split_sign=True`
            Codes, in the library and on the device of X; a `scipy.sparse.csr_array` with `sparse_output=True`.
            If `out` is given: `out`, or the list of files that were written.

        Raises
        ------
        ValueError
            If X is not a finite real matrix with `n_features_in_` features, if the coder does not support the
            parameters, or if `out` is combined with `split_sign=True`.
        MemoryError
            If X is out-of-core data and the codes exceed the memory budget.

        Warns
        -----
        ConvergenceWarning
            If the codes of some rows are unfinished, with their number and the remedy.
        """
        check_is_fitted(self)
        data = check_input(self, X, reset=False)
        D = self._dictionary(data.shape[1])
        coder = coder_for_transform(self, D.shape)
        if out is not None and self.split_sign:
            raise ValueError("out= requires split_sign=False: split the signs when the codes are read.")
        codes = encode(self, data, D, coder, out)
        if out is not None:
            return codes
        if self.sparse_output:
            return hstack([codes.maximum(0), (-codes).maximum(0)], format="csr") if self.split_sign else codes
        return data.to_caller(_split_sign(codes) if self.split_sign else codes)

    @checks_parameters
    def inverse_transform(self, X: Any, *, out: Any = None) -> Any:
        """Reconstruct rows from their codes: the product of codes and dictionary.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_components), or (n_samples, 2 * n_components) with \
                `split_sign=True`
            Codes.
        out : path-like or array-like of shape (n_samples, n_features), default=None
            Destination of rows that do not fit in memory: the path of a `.npy` file, or an array whose rows can be
            assigned.  Not used for sparse codes.

        Returns
        -------
        X_original : array of shape (n_samples, n_features)
            Reconstructed rows, in the library and on the device of X, of NumPy for sparse codes; `out` if it is given.

        Raises
        ------
        ValueError
            If the number of columns of X does not match the dictionary.
        """
        check_is_fitted(self)
        D = self._dictionary()
        data = _check_codes(self, X)
        C, n_codes = data.array, len(D) * (2 if self.split_sign else 1)
        if C.shape[1] != n_codes:
            raise ValueError(
                "The number of components in the code is different from the number of components in the dictionary."
                f"Expected {n_codes}, got {C.shape[1]}."
            )
        if self.split_sign:
            D = np.concatenate([D, -D])
        if issparse(C):
            return C @ D
        device = select_device(self, data, work=2 * C.shape[0] * D.size)
        with device.active():
            dtype = np.result_type(data.dtype, D.dtype)
            rows = open_rows(C, dtype=dtype, device=device, prepare=data.prepare())
            params = (device.put(D.astype(dtype)),)
            return to_output(self, data, device, rows, reconstruct, params, D.shape[1], out)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _check_codes(estimator: Any, codes: Any) -> Any:
    """Codes, dense of any kind or SciPy sparse, as `InputData`."""
    if issparse(codes):
        return InputData(check_array(codes, accept_sparse="csr"), estimator._dictionary().dtype, None)
    return check_input(estimator, codes, reset=None)


def _split_sign(codes: Any) -> Any:
    """Codes (n, K) as their positive parts, then the absolute values of their negative parts, (n, 2 K)."""
    n_atoms = codes.shape[1]
    split = np.empty_like(codes, shape=(codes.shape[0], 2 * n_atoms))
    split[:, :n_atoms] = codes.clip(0, None)
    split[:, n_atoms:] = (-codes).clip(0, None)
    return split
