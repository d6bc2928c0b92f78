"""Sparse codes of rows for a fixed dictionary: the coder, the device, the chunks, and the output."""

import numpy as np
from sklearn.utils import check_array

from ..code_oracle import CodeOracle
from ..coders import accepts, as_coder
from ..device.arrays import as_host_array
from ..input import is_dask, report_nonfinite
from ..io.writers import CodesWriter, as_csr, open_writer
from ..rows import open_rows
from ..rows.device import max_chunk_elements
from ._code_warnings import DeferredWarning, warn_of_unfinished
from ._device import select_device
from ._output import download_rows, is_downloaded, memory_errors, progress_printer, write_all

MAX_ROUNDS = 2**31 - 1  # compiled coders count rounds in int32
CPU_CHUNK_CODES = 1 << 18  # elements of the codes of a chunk, so that they and the rows share a core's cache
WORK_PER_ENTRY = 25  # operations per row and entry of the dictionary, measured on lasso codes of image patches


def check_dictionary(dictionary, n_features=None):
    """The dictionary, an array of any library on any device, as a finite float array (K, n_features) on the host.

    ValueError if it is not one.  n_features=None skips the comparison with the features of X.
    """
    D = check_array(as_host_array(dictionary), dtype=[np.float64, np.float32], input_name="dictionary")
    if n_features is not None and D.shape[1] != n_features:
        raise ValueError(
            "Dictionary and X have different numbers of features:"
            f"dictionary.shape: {D.shape} X.shape: (..., {n_features})"
        )
    return D


def coder_for_transform(estimator, shape):
    """The coder that the estimator's `transform_*` parameters define, for a dictionary of this shape (K, d)."""
    alpha = estimator.transform_alpha
    if alpha is None and accepts(estimator.transform_algorithm, "alpha"):
        alpha = getattr(estimator, "alpha", None)
    return _coder(estimator, estimator.transform_algorithm, shape, alpha)


def coder_for_fit(estimator, shape):
    """The coder that the estimator's `fit_algorithm` and `alpha` define, for a dictionary of this shape (K, d)."""
    if estimator.positive_code and estimator.fit_algorithm == "lars":
        raise ValueError("Positive constraint not supported for 'lars' coding method.")
    name = {"lars": "lasso_lars", "cd": "lasso_cd"}.get(estimator.fit_algorithm, estimator.fit_algorithm)
    return _coder(estimator, name, shape, estimator.alpha if accepts(name, "alpha") else None)


def _coder(estimator, name, shape, alpha):
    """The coder of this name for a dictionary of this shape (K, d), with the parameters of the estimator."""
    return as_coder(
        name,
        shape,
        alpha=alpha,
        n_nonzero=estimator.transform_n_nonzero_coefs,
        positive=estimator.positive_code,
        max_iter=min(estimator.transform_max_iter, MAX_ROUNDS),
    )


def device_for_coding(estimator, data, shape):
    """The device, by the estimator's `device` and `memory_limit`, for coding these rows with a (K, d) dictionary."""
    return select_device(estimator, data, work=WORK_PER_ENTRY * data.shape[0] * shape[0] * shape[1])


def open_for_coding(data, n_atoms, device):
    """Open the rows of X in chunks suited to n_atoms codes per row.

    On a CPU the codes of a chunk fit a core's cache; on a GPU a chunk is large enough for efficient matrix products.
    """
    if device.kind == "cpu":
        chunk_rows = min(max(CPU_CHUNK_CODES // n_atoms, 512), 1024, max((1 << 24) // n_atoms, 64))
    else:
        chunk_rows = max(max_chunk_elements(device) // max(n_atoms, data.shape[1]), 64)
    work = WORK_PER_ENTRY * n_atoms * data.shape[1]
    settings = {"prepare": data.prepare(), "chunk_rows": chunk_rows, "work": work}
    return open_rows(data.array, dtype=data.dtype, device=device, **settings)


def encode(estimator, data, D, coder, out=None):
    """Compute the codes of all rows for the dictionary D (K, d); warn if the codes of some rows are unfinished.

    Returns an array (n, K) in the dtype of the rows, or a csr_array if the estimator has sparse_output; with `out` the
    codes are written there, and `out` or the list of the files written is returned.
    """
    device = device_for_coding(estimator, data, D.shape)
    with device.active(), report_nonfinite(estimator, data):
        oracle = CodeOracle(open_for_coding(data, len(D), device), coder)
        on_device = device.put(D.astype(data.dtype, order="C"))
        if out is not None:
            codes, n_unfinished = _codes_to_out(estimator, data, oracle, on_device, out)
        elif estimator.sparse_output:
            codes, n_unfinished = _sparse_codes(oracle, on_device, data.dtype)
        else:
            codes, n_unfinished = _dense_codes(data, device, oracle, on_device)
    warn_of_unfinished(n_unfinished, data.n_local, coder)
    return codes


def _codes_to_out(estimator, data, oracle, D, out):
    """Write the codes to `out`: (`out` or the files written, the number of unfinished rows)."""
    n_rows, sparse = data.n_local, estimator.sparse_output
    sink = CodesWriter(out, len(D)) if sparse else open_writer(out, n_rows, len(D), data.dtype)
    n_unfinished = write_all(sink, oracle.hand_codes, D, sparse, report=progress_printer(estimator, n_rows))
    return (sink.paths if sparse else out), n_unfinished


def _sparse_codes(oracle, D, dtype):
    """(the codes as a csr_array, the number of unfinished rows)."""
    parts: list[tuple] = []
    n_unfinished = oracle.hand_codes(parts.append, D, True)
    return as_csr(parts, len(D), dtype), n_unfinished


def _dense_codes(data, device, oracle, D):
    """(the codes as an array on the side of X, host or device, the number of unfinished rows)."""
    shape = data.n_local, len(D)
    if is_downloaded(data, device):
        return download_rows(data, device, shape, data.dtype, oracle.hand_codes, D, False)
    with memory_errors(data, device, shape, data.dtype):
        return oracle.codes(D, DeferredWarning(oracle.coder) if is_dask(data.array) else None)


def reconstruct(C, D):
    """The rows C @ D that codes C represent."""
    return C @ D
