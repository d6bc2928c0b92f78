"""scikit-learn's ICA and sparse coding for large data, on GPUs and CPUs."""

from . import comm
from ._version import __version__
from .contrasts import Cube, Exp, LogCosh, check_contrast
from .estimators.coding import SparseCoder
from .estimators.devices import fit_on_devices
from .estimators.dict_learning import dict_learning, dict_learning_online
from .estimators.dictionary import DictionaryLearning
from .estimators.fastica import FastICA, fastica
from .estimators.minibatch import MiniBatchDictionaryLearning
from .estimators.picard import Picard, picard
from .estimators.sparse_encode import sparse_encode
from .io.files import shards, spool
from .io.iterables import limited
from .rows.shared import shared

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
    "picard",
    "shards",
    "shared",
    "sparse_encode",
    "spool",
]
