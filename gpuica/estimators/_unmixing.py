"""What a fitted ICA estimator does to rows: to sources, and back."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ..contrasts import is_density
from ..rows import open_rows
from ..rows.base import normalize_rows, project_chunk
from ._parameters import checks_parameters
from ._results import to_output
from ._shell import check_input
from ._spread import select_device


class Unmixing(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """The part of an ICA estimator that applies components_, mixing_ and mean_."""

    whiten: Any
    fun: Any
    device: str
    memory_limit: Any
    normalize_rows: bool
    components_: Any
    mixing_: Any
    mean_: Any

    @checks_parameters
    def transform(self, X, copy=True, *, out=None):
        """Recover the sources of X: (X - mean_) @ components_.T.

        X : array of shape (n_samples, n_features), of any kind that `fit` takes.
        copy : ignored; X is never written to.
        out : for results larger than memory: the path of a .npy file, or an array (n_samples, n_components) that rows
            can be assigned to (zarr, h5py, memmap).
        Returns an array (n_samples, n_components) of the kind of X; `out` if it is given.
        """
        check_is_fitted(self)
        given = check_input(self, X, reset=False)
        before, C = getattr(self, "mean_", 0.0), self.components_
        # what rounding took from the mean: of float32 rows around 1e6 it may be a tenth of their deviation
        after = -C @ getattr(self, "_rounded_off", np.zeros(C.shape[1]))
        return self._apply(given, C, before=before, after=after, prepare=self._prepare, out=out)

    @checks_parameters
    def inverse_transform(self, X, copy=True, *, out=None):
        """Mix sources back: X @ mixing_.T + mean_.

        X : array of shape (n_samples, n_components).
        copy : ignored; X is never written to.
        out : as for `transform`.
        Returns an array (n_samples, n_features) of the kind of X; `out` if it is given.
        """
        check_is_fitted(self)
        given = check_input(self, X, reset=None)
        if given.shape[1] != self.mixing_.shape[1]:
            raise ValueError(
                f"X has {given.shape[1]} columns, but this {type(self).__name__} has {self.mixing_.shape[1]} "
                "components."
            )
        return self._apply(given, self.mixing_, after=getattr(self, "mean_", 0.0), out=out)

    def _apply(self, given, matrix, before=0.0, after=0.0, prepare=None, out=None):
        """(X - before) @ matrixᵀ + after, chunk by chunk, on the device that X asks for."""
        dtype = np.result_type(given.dtype, matrix.dtype)
        device = self._device(given, work=2 * given.shape[0] * matrix.size)
        with device.active():
            rows = open_rows(given.array, dtype=dtype, device=device, prepare=given.prepare(prepare))
            ready = tuple(device.put(np.asarray(part, dtype=dtype)) for part in (before, matrix, -after))
            return to_output(self, given, device, rows, project_chunk, (ready,), len(matrix), out)

    def __sklearn_is_fitted__(self):
        return hasattr(self, "components_")  # a fit that failed may have left other attributes

    @property
    def _n_features_out(self):
        return self.components_.shape[0]

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags

    @property
    def _prepare(self):
        return normalize_rows if self.normalize_rows else None

    def _device(self, given, work):
        foreign = callable(self.fun) or is_density(self.fun)
        numpy_only = "a contrast function is called with arrays of the kind that X has." if foreign else None
        return select_device(self, given, work=work, refusal=numpy_only)
