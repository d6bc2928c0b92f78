"""Validation of X: arrays of any library, files, streams, Dask arrays and shared arrays become `InputData`."""

from . import dask, local, shared
from .dask import is_dask
from .data import InputData
from .finite import report_nonfinite
from .sources import as_source
from .weights import with_sample_weight

__all__ = ["InputData", "as_source", "check_input", "is_dask", "report_nonfinite", "with_sample_weight"]


def check_input(estimator, X, *, reset, min_rows=1, finite=True):
    """Validate X as scikit-learn does and return it as `InputData`.  X is not copied, unless it is a list or a frame.

    reset: True in `fit` (sets n_features_in_), False after it (compares with n_features_in_), None where X does not
    have the features that the estimator was fitted to.  min_rows: smallest number of rows.  finite: whether to check
    for NaN and infinity now; `fit` finds them in its first sums.  Raises ValueError or TypeError, with scikit-learn's
    messages, unless X is a 2-D array of real, finite numbers.
    """
    for accepts, check in CHECKS:
        if accepts(X):
            return check(estimator, X, reset=reset, min_rows=min_rows, finite=finite)
    return local.check_local(estimator, X, reset=reset, min_rows=min_rows, finite=finite)


# (whether X is of a kind, how to validate it); everything else is local
CHECKS = [(shared.is_shared, shared.check_shared), (is_dask, dask.check_dask)]
