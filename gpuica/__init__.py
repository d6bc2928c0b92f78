"""scikit-learn's ICA and sparse coding for large data, on GPUs and CPUs."""

from ._version import __version__
from .contrasts import Cube, Exp, LogCosh, check_contrast
from .estimators.fastica import FastICA, fastica
from .estimators.picard import Picard, picard

__all__ = ["Cube", "Exp", "FastICA", "LogCosh", "Picard", "__version__", "check_contrast", "fastica", "picard"]
