"""Lasso device kernels in the simulator: optimality conditions and the reference loop."""

import numpy as np
import pytest

from gpuica.coders import Lasso
from gpuica.kernels.cuda import block, lasso, lasso_row, row, support

from .. import naive, one_thread
from ..test_coders import LASSO, check_lasso, data


def encode(X, D, coder, gram, threads=None):
    """Codes from the simulator with `threads` threads, or from plain Python (one candidate per round) by default."""
    G = D @ D.T if gram else None
    if threads:
        C, unfinished = lasso.lasso(X, D, G, coder, threads=threads)
    else:
        with one_thread.running(lasso, lasso_row, row, support, block):
            C, unfinished = lasso.lasso(X, D, G, coder)
    assert C.shape == (len(X), len(D))
    assert C.dtype == X.dtype
    assert np.isfinite(C).all()
    return C, unfinished


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", LASSO)
def test_lasso_is_optimal(name, dtype, positive, gram):
    X, D, alpha = LASSO[name](dtype)
    X = X[: 1 if name == "large supports" else 12]
    C, unfinished = encode(X, D, Lasso(alpha, positive), gram)
    assert unfinished == 0
    check_lasso(X, D, C, alpha, positive)


@pytest.mark.parametrize("gram", [True, False])
@pytest.mark.parametrize("threads", [2, 5, 64])
def test_lasso_with_several_threads_matches_reference(threads, gram):
    X, D = data(2, 4, 9)
    X[1] *= 0.1
    C, _ = encode(X, D, Lasso(0.3), gram, threads)
    np.testing.assert_allclose(C, [naive.lasso(x, D, 0.3) for x in X], atol=1e-9)


def test_lasso_with_duplicate_atoms_and_several_threads_is_optimal():
    X, D = data(1, 3, 5, np.float32)
    X, D = X, np.concatenate([D, D])
    C, unfinished = encode(X, D, Lasso(0.1), True, threads=3)
    assert unfinished == 0
    check_lasso(X, D, C, 0.1, False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gram", [True, False])
def test_lasso_supports_larger_than_shared_memory(gram, dtype, monkeypatch):
    monkeypatch.setattr(lasso, "SHARED_ROOM", 3)
    monkeypatch.setattr(lasso, "SHARED_WIDTH", 3 + lasso_row.CANDIDATES)
    monkeypatch.setattr(lasso, "at_once", lambda *_: 1)
    X, D = data(4, 20, 30, dtype)
    X[2] *= 1e-3  # converges immediately
    C, unfinished = encode(X, D, Lasso(0.2), gram)
    assert unfinished == 0
    assert (C != 0).sum(axis=1).max() > 12  # the capacity is exceeded more than once
    check_lasso(X, D, C, 0.2, False)


def test_lasso_without_penalty_is_least_squares():
    X, D = data(3, 9, 6)
    C, unfinished = encode(X, D, Lasso(0.0), True)
    assert unfinished == 0
    np.testing.assert_allclose(C, np.linalg.lstsq(D.T, X.T)[0].T, atol=1e-10)


def test_lasso_counts_unfinished_rows():
    X, D = data(4, 12, 60)
    X[:2] = 0
    n_unfinished = [encode(X, D, Lasso(0.05, max_iter=rounds), True)[1] for rounds in (0, 1, 100)]
    assert n_unfinished == [2, 2, 0]


def test_lasso_independent_of_rows_per_product(monkeypatch):
    X, D = data(70, 3, 5)
    expected, _ = encode(X, D, Lasso(0.1), True)
    monkeypatch.setattr(lasso, "MAX_PRODUCT_NUMBERS", 5)
    np.testing.assert_array_equal(encode(X, D, Lasso(0.1), True)[0], expected)
