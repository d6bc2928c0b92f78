"""scikit-learn's ICA and sparse coding for large data, on GPUs and CPUs."""

from .contrasts import Cube, Exp, LogCosh, check_contrast
from .estimators.ica import FastICA, fastica

__version__ = "0.1.0.dev0"

__all__ = ["Cube", "Exp", "FastICA", "LogCosh", "check_contrast", "fastica"]
