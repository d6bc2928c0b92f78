"""Codes of rows against a dictionary: the device, the chunks, and where the codes go."""

import numpy as np
from sklearn.utils import check_array

from ..code_oracle import CodeOracle
from ..device.arrays import as_host_array
from ..io.writers import CodesWriter, as_csr, open_writer
from ..rows import open_rows
from ..rows.device import max_chunk_elements
from ._results import leaves, received, room_for, teller, write_all
from ._shell import is_dask, locate_nonfinite
from ._spread import select_device
from ._unfinished import WarnLater, warn_of_unfinished

CACHED = 1 << 18  # codes of a chunk of rows, in numbers: they share a core's cache with what they are made of
WORK = 25  # operations for each of the K d numbers of a dictionary and row, measured on lasso codes of image patches


def check_dictionary(dictionary, n_features=None):
    """The dictionary, of any library and on any device, as a finite float array (K, n_features) on the host, or a
    ValueError."""
    D = check_array(as_host_array(dictionary), dtype=[np.float64, np.float32], input_name="dictionary")
    if n_features is not None and D.shape[1] != n_features:
        raise ValueError(
            "Dictionary and X have different numbers of features:"
            f"dictionary.shape: {D.shape} X.shape: (..., {n_features})"
        )
    return D


def open_for_coding(given, n_atoms, device):
    """Rows of X in chunks whose codes against n_atoms atoms stay in the cache, or are enough for a matrix product."""
    if device.kind == "cpu":
        chunk_rows = min(max(CACHED // n_atoms, 512), 1024, max((1 << 24) // n_atoms, 64))
    else:
        chunk_rows = max(max_chunk_elements(device) // max(n_atoms, given.shape[1]), 64)
    work = WORK * n_atoms * given.shape[1]
    settings = {"prepare": given.prepare(), "chunk_rows": chunk_rows, "work": work}
    return open_rows(given.array, dtype=given.dtype, device=device, **settings)


def device_for_coding(estimator, given, shape):
    """The device that an estimator's `device` and `memory_limit` mean for these rows and a dictionary of this shape."""
    return select_device(estimator, given, work=WORK * given.shape[0] * shape[0] * shape[1])


def encode(estimator, given, D, coder, out=None):
    """Codes of the rows in their dtype, (n, K) where X is or csr_array, or written to `out`, which is returned, or its
    files; warns of rows not finished."""
    device, n_rows, sparse = device_for_coding(estimator, given, D.shape), given.n_here, estimator.sparse_output
    with device.active(), locate_nonfinite(estimator, given):
        oracle = CodeOracle(open_for_coding(given, len(D), device), coder)
        there, tell = device.put(D.astype(given.dtype, order="C")), teller(estimator, n_rows)
        if out is not None:
            writer = CodesWriter(out, len(D)) if sparse else open_writer(out, n_rows, len(D), given.dtype)
            n_unfinished = write_all(writer, oracle.hand_codes, there, sparse, tell=tell)
            codes = writer.paths if sparse else out
        elif sparse:
            parts: list[tuple] = []
            n_unfinished = oracle.hand_codes(parts.append, there, sparse)
            codes = as_csr(parts, len(D), given.dtype)
        elif leaves(given, device):
            shape = n_rows, len(D)
            codes, n_unfinished = received(given, device, shape, given.dtype, oracle.hand_codes, there, False)
        else:
            with room_for(given, device, (n_rows, len(D)), given.dtype):
                codes, n_unfinished = oracle.codes(there, WarnLater(coder) if is_dask(given.array) else None)
    warn_of_unfinished(n_unfinished, n_rows, coder)
    return codes


def times_dictionary(C, D):
    """C @ D: rows that codes stand for."""
    return C @ D
