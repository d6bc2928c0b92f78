"""Independent component analysis, dictionary learning and sparse coding for large data, on GPUs and CPUs.

scikit-learn's estimators with the same parameters and attributes: replace the import.
"""

from importlib import import_module
from typing import Any

from . import comm
from ._version import __version__
from .contrasts import Cube, Exp, LogCosh, check_contrast
from .estimators.coding import SparseCoder
from .estimators.devices import fit_on_devices
from .estimators.dict_learning import dict_learning, dict_learning_online
from .estimators.dictionary import DictionaryLearning
from .estimators.fastica import FastICA
from .estimators.ica_functions import fastica, picard
from .estimators.minibatch import MiniBatchDictionaryLearning
from .estimators.picard import Picard
from .estimators.sparse_encode import sparse_encode
from .estimators.warmup import warmup
from .io.files import shards, spool
from .io.iterables import limited
from .rows.shared import shared

_SUBMODULES = ("metrics", "stability")  # imported at first use

__all__ = [
    "Cube",
    "DictionaryLearning",
    "Exp",
    "FastICA",
    "LogCosh",
    "MiniBatchDictionaryLearning",
    "Picard",
    "SparseCoder",
    "__version__",
    "check_contrast",
    "comm",
    "dict_learning",
    "dict_learning_online",
    "fastica",
    "fit_on_devices",
    "limited",
    "metrics",
    "picard",
    "shards",
    "shared",
    "sparse_encode",
    "spool",
    "stability",
    "warmup",
]


def __getattr__(name: Any) -> Any:
    if name in _SUBMODULES:
        return import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
