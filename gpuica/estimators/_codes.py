"""Codes of rows against a dictionary: the device, the chunks, and where the codes go."""

import numpy as np
from sklearn.utils import check_array

from ..code_oracle import CodeOracle
from ..device.arrays import here
from ..input import is_dask, report_nonfinite
from ..io.writers import CodesWriter, as_csr, open_writer
from ..rows import open_rows
from ..rows.memory import max_chunk_elements
from ._code_warnings import WarnLater, warn_of_unfinished
from ._device import select_device
from ._output import download_rows, is_downloaded, memory_errors, progress_printer, write_all

CACHED = 1 << 18  # codes of a chunk of rows, in numbers: they share a core's cache with what they are made of
WORK = 25  # operations for each of the K d numbers of a dictionary and row, measured on lasso codes of image patches


def check_dictionary(dictionary, n_features=None):
    """The dictionary, of any library and on any device, as a finite float array (K, n_features) on the host, or a
    ValueError."""
    D = check_array(here(dictionary), dtype=[np.float64, np.float32], input_name="dictionary")
    if n_features is not None and D.shape[1] != n_features:
        raise ValueError(
            "Dictionary and X have different numbers of features:"
            f"dictionary.shape: {D.shape} X.shape: (..., {n_features})"
        )
    return D


def open_for_coding(data, n_atoms, device):
    """Rows of X in chunks whose codes against n_atoms atoms stay in the cache, or are enough for a matrix product."""
    if device.kind == "cpu":
        chunk_rows = min(max(CACHED // n_atoms, 512), 1024, max((1 << 24) // n_atoms, 64))
    else:
        chunk_rows = max(max_chunk_elements(device) // max(n_atoms, data.shape[1]), 64)
    work = WORK * n_atoms * data.shape[1]
    settings = {"prepare": data.prepare(), "chunk_rows": chunk_rows, "work": work}
    return open_rows(data.array, dtype=data.dtype, device=device, **settings)


def device_for_coding(estimator, data, shape):
    """The device that an estimator's `device` and `memory_limit` mean for these rows and a dictionary of this shape."""
    return select_device(estimator, data, work=WORK * data.shape[0] * shape[0] * shape[1])


def encode(estimator, data, D, coder, out=None):
    """Codes of the rows in their dtype, (n, K) where X is or csr_array, or written to `out`, which is returned, or its
    files; warns of rows not finished."""
    device, n_rows, sparse = device_for_coding(estimator, data, D.shape), data.n_local, estimator.sparse_output
    with device.active(), report_nonfinite(estimator, data):
        oracle = CodeOracle(open_for_coding(data, len(D), device), coder)
        there, tell = device.put(D.astype(data.dtype, order="C")), progress_printer(estimator, n_rows)
        if out is not None:
            sink = CodesWriter(out, len(D)) if sparse else open_writer(out, n_rows, len(D), data.dtype)
            n_unfinished = write_all(sink, oracle.hand_codes, there, sparse, report=tell)
            codes = sink.paths if sparse else out
        elif sparse:
            parts: list[tuple] = []
            n_unfinished = oracle.hand_codes(parts.append, there, sparse)
            codes = as_csr(parts, len(D), data.dtype)
        elif is_downloaded(data, device):
            shape = n_rows, len(D)
            codes, n_unfinished = download_rows(data, device, shape, data.dtype, oracle.hand_codes, there, False)
        else:
            with memory_errors(data, device, (n_rows, len(D)), data.dtype):
                codes, n_unfinished = oracle.codes(there, WarnLater(coder) if is_dask(data.array) else None)
    warn_of_unfinished(n_unfinished, n_rows, coder)
    return codes


def times_dictionary(C, D):
    """C @ D: rows that codes stand for."""
    return C @ D
