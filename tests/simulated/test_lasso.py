"""The lasso on the device's kernels, in the simulator: conditions of optimality, and the textbook loop."""

import numpy as np
import pytest

from gpuica.coders import Lasso
from gpuica.kernels.cuda import block, lasso, lasso_row, row, support

from .. import naive, one_thread
from ..test_coders import LASSO, check_lasso, data


def encode(X, D, coder, gram, threads=None):
    """By the simulator with some threads, or as plain Python (with one candidate a round, hence many rounds)."""
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
def test_lasso_is_the_textbook_loop_with_several_threads(threads, gram):
    X, D = data(2, 4, 9)
    X[1] *= 0.1
    C, _ = encode(X, D, Lasso(0.3), gram, threads)
    np.testing.assert_allclose(C, [naive.lasso(x, D, 0.3) for x in X], atol=1e-9)


def test_duplicate_atoms_with_several_threads():
    X, D = data(1, 3, 5, np.float32)
    X, D = X, np.concatenate([D, D])
    C, unfinished = encode(X, D, Lasso(0.1), True, threads=3)
    assert unfinished == 0
    check_lasso(X, D, C, 0.1, False)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("gram", [True, False])
def test_supports_may_outgrow_shared_memory(gram, dtype, monkeypatch):
    monkeypatch.setattr(lasso, "SHARED_ROOM", 3)
    monkeypatch.setattr(lasso, "SHARED_WIDTH", 3 + lasso_row.CANDIDATES)
    monkeypatch.setattr(lasso, "at_once", lambda *_: 1)
    X, D = data(4, 20, 30, dtype)
    X[2] *= 1e-3  # done at once
    C, unfinished = encode(X, D, Lasso(0.2), gram)
    assert unfinished == 0
    assert (C != 0).sum(axis=1).max() > 12  # more than once
    check_lasso(X, D, C, 0.2, False)


def test_lasso_without_penalty_is_least_squares():
    X, D = data(3, 9, 6)
    C, unfinished = encode(X, D, Lasso(0.0), True)
    assert unfinished == 0
    np.testing.assert_allclose(C, np.linalg.lstsq(D.T, X.T)[0].T, atol=1e-10)


def test_rows_that_are_left_undone_are_counted():
    X, D = data(4, 12, 60)
    X[:2] = 0
    left = [encode(X, D, Lasso(0.05, max_iter=rounds), True)[1] for rounds in (0, 1, 100)]
    assert left == [2, 2, 0]


def test_rows_of_several_products(monkeypatch):
    X, D = data(70, 3, 5)
    expected, _ = encode(X, D, Lasso(0.1), True)
    monkeypatch.setattr(lasso, "MAX_PRODUCT_NUMBERS", 5)
    np.testing.assert_array_equal(encode(X, D, Lasso(0.1), True)[0], expected)
