"""Parameter checks that scikit-learn's constraints cannot express."""

from dataclasses import replace
from functools import wraps

import numpy as np
from sklearn import get_config

from ..device import ALWAYS_FITS_BYTES, format_bytes
from ..device.arrays import host
from ..messages import warn

MAX_SINGULAR_VALUE = 1e100  # of a starting point, and of its inverse: squares must not overflow


def check_parameters(estimator):
    """Raise scikit-learn's InvalidParameterError for a parameter of the wrong type or range, unless its configuration
    disables the check."""
    if not get_config()["skip_parameter_validation"]:
        estimator._validate_params()


def checks_parameters(method):
    """Decorate a method that can be called without `fit`, or after `set_params`: parameters are checked first."""

    @wraps(method)
    def checked(self, *args, **kwargs):
        check_parameters(self)
        return method(self, *args, **kwargs)

    return checked


def real_matrix(value, name):
    """An array parameter of any library as a NumPy array; ValueError unless its numbers are real and finite."""
    try:
        array = host(value)
        array = array.astype(np.float64) if array.dtype.kind in "OUS" else array
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of real numbers: {error}.") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return array


def check_overflow(dtype, *results):
    """ValueError unless the results of a fit, arrays on the host, are finite: X was too large for its dtype."""
    if not all(np.isfinite(result).all() for result in results):
        remedy = "" if dtype == np.float64 else ", or pass float64"
        raise ValueError(f"X holds values so large that products of {dtype} numbers overflow: rescale X{remedy}.")


def check_n_starts(n_starts, k, device):
    """ValueError if n_starts float64 matrices (k, k) exceed the memory of the device."""
    size = 8 * n_starts * k * k
    if size > ALWAYS_FITS_BYTES and size > 2 * replace(device, limit=None).budget():
        raise ValueError(
            f"{n_starts} starting points take {format_bytes(size)}, more than the memory of {device}: lower n_init "
            "(n_runs of fit_runs)."
        )


def check_w_init(w_init, k):
    """w_init as a float64 matrix (k, k); ValueError unless it is invertible."""
    start = real_matrix(w_init, "w_init").astype(np.float64)
    if start.shape != (k, k):
        raise ValueError(f"w_init has invalid shape -- should be {(k, k)}")
    sizes = np.linalg.svd(start, compute_uv=False)
    if not sizes[-1] > sizes[0] * k * np.finfo(np.float64).eps:
        raise ValueError(
            "w_init is singular: its rows must be linearly independent, or components that start alike stay alike."
        )
    if not (sizes[-1] > 1 / MAX_SINGULAR_VALUE and sizes[0] < MAX_SINGULAR_VALUE):
        raise ValueError(
            f"w_init has singular values beyond [{1 / MAX_SINGULAR_VALUE:g}, {MAX_SINGULAR_VALUE:g}]: rescale it."
        )
    return start


def as_number(growth):
    """The parameter growth with a number as a Python float: NumPy's small integers overflow."""
    return growth if growth is None or isinstance(growth, str) else float(growth)


def renamed(old, new):
    """A property for the old name of an attribute: the attribute `new`, with a FutureWarning."""

    def get(self):
        value = getattr(self, new)
        warn(f"{old} is deprecated: use {new}.", FutureWarning)
        return value

    return property(get)
