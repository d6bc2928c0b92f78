"""Checks of parameters that scikit-learn's constraints cannot express, and of parameters set after a fit."""

from dataclasses import replace
from functools import wraps

import numpy as np
from sklearn import get_config

from ..device import ALWAYS_FITS_BYTES, format_bytes
from ..device.arrays import as_numpy

RANGE = 1e100  # singular values of a starting point lie within 1 / RANGE and RANGE, so that their squares are numbers


def check_parameters(estimator):
    """Raise scikit-learn's InvalidParameterError for a parameter of a wrong type or range, unless its configuration
    skips that."""
    if not get_config()["skip_parameter_validation"]:
        estimator._validate_params()


def checks_parameters(method):
    """A method that checks the parameters first: one that may be called without `fit`, or after `set_params`."""

    @wraps(method)
    def checked(self, *args, **kwargs):
        check_parameters(self)
        return method(self, *args, **kwargs)

    return checked


def real_matrix(value, name):
    """An array parameter of any library, on any device, as a NumPy array of finite real numbers, or a ValueError that
    names it."""
    try:
        array = as_numpy(value)
        array = array.astype(np.float64) if array.dtype.kind in "OUS" else array
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of real numbers: {error}.") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, got dtype {array.dtype}.")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} contains NaN or infinity.")
    return array


def refuse_overflow(dtype, *results):
    """A ValueError if a result of a fit, an array on the host, is not finite: X was too large for its dtype."""
    if not all(np.isfinite(result).all() for result in results):
        remedy = "" if dtype == np.float64 else ", or pass float64"
        raise ValueError(f"X holds values so large that products of {dtype} numbers overflow: rescale X{remedy}.")


def refuse_many_starts(n_starts, k, device):
    """A ValueError if so many matrices (k, k) of float64 are more than the memory holds."""
    size = 8 * n_starts * k * k
    if size > ALWAYS_FITS_BYTES and size > 2 * replace(device, limit=None).budget():
        raise ValueError(
            f"{n_starts} starting points take {format_bytes(size)}, more than the memory of {device}: lower n_init "
            "(n_runs of fit_runs)."
        )


def starting_point(w_init, k):
    """w_init as an invertible matrix (k, k) of float64, or a ValueError."""
    start = real_matrix(w_init, "w_init").astype(np.float64)
    if start.shape != (k, k):
        raise ValueError(f"w_init has invalid shape -- should be {(k, k)}")
    sizes = np.linalg.svd(start, compute_uv=False)
    if not sizes[-1] > sizes[0] * k * np.finfo(np.float64).eps:
        raise ValueError(
            "w_init is singular: its rows must be linearly independent, or components that start alike stay alike."
        )
    if not (sizes[-1] > 1 / RANGE and sizes[0] < RANGE):
        raise ValueError(f"w_init has singular values beyond [{1 / RANGE:g}, {RANGE:g}]: rescale it.")
    return start
