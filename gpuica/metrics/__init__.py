"""Metrics of a separation and of a dictionary: against the truth where it is known, else from the data alone.

Arguments with a row for each sample are read by chunks: they can be arrays of NumPy, CuPy or torch, memory maps, paths
of files or what `gpuica.shards` returns, or Dask arrays.
"""

from ._data import match
from .codes import dead_atoms, dense_atoms, explained_variance, firing_frequencies, fvu, l0, l1
from .dictionary import coherence, mcc, mmcs
from .ica import (
    amari_distance,
    excess_kurtosis,
    log_likelihood,
    matched_correlation,
    negentropy,
    relative_gradient,
)
from .information import mutual_information_reduction

__all__ = [
    "amari_distance",
    "coherence",
    "dead_atoms",
    "dense_atoms",
    "excess_kurtosis",
    "explained_variance",
    "firing_frequencies",
    "fvu",
    "l0",
    "l1",
    "log_likelihood",
    "match",
    "matched_correlation",
    "mcc",
    "mmcs",
    "mutual_information_reduction",
    "negentropy",
    "relative_gradient",
]


def __dir__() -> list[str]:
    return __all__
