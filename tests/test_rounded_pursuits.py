"""Orthogonal matching pursuit of float64 rows whose atoms are chosen in float32: the same atoms as in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuica import sparse_encode
from gpuica.coders import OMP, ORMP
from gpuica.kernels.cpu import coding, rounded_orthogonal
from gpuica.kernels.cpu.rounded_orthogonal import FIRST_ROWS, MANY, Rounded
from gpuica.kernels.status import FINISHED

from . import naive


def unit(A):
    return A / np.linalg.norm(A, axis=1, keepdims=True)


def encode(X, D, n_nonzero):
    """Codes and the number of unfinished rows, both ways: dense, and compressed codes that must be the same."""
    prepared = coding.prepare(D, OMP(n_nonzero))
    assert isinstance(prepared, Rounded)
    C, n_unfinished = coding.encode(X, D, prepared, OMP(n_nonzero))
    (counts, indices, values), again = coding.encode_compressed(X, D, prepared, OMP(n_nonzero))
    other = np.zeros_like(C)
    other[np.arange(len(X)).repeat(counts), indices] = values
    np.testing.assert_array_equal(C, other)
    assert n_unfinished == again
    assert all((np.diff(part) > 0).all() for part in np.split(indices, np.cumsum(counts)[:-1]))
    return C, n_unfinished


def expected(X, D, n_nonzero):
    return np.array([naive.omp(x, D, n_nonzero) for x in X])


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 20),
    d=st.integers(8, 40),
    K=st.integers(8, 90),
    offset=st.sampled_from([0.0, 3.0]),
    spread=st.sampled_from([0.0, 4.0]),
    size=st.sampled_from([1e-30, 1e-6, 1.0, 1e9, 1e60]),
)
def test_codes_are_those_of_textbook_omp(seed, n, d, K, offset, spread, size):
    """Also with atoms of unlike norms, with a common mean, and for rows that float32 cannot represent."""
    rng = np.random.default_rng(seed)
    D = (rng.normal(size=(K, d)) + offset) * 10 ** rng.uniform(-spread, spread, size=(K, 1))
    X = size * (rng.normal(size=(n, d)) + offset)
    n_nonzero = 1 + d // 4 // 2
    C, n_unfinished = encode(X, D, n_nonzero)
    assert n_unfinished == 0
    assert ((C != 0).sum(axis=1) == n_nonzero).all()
    right = expected(X, D, n_nonzero)
    np.testing.assert_allclose(C @ D, right @ D, atol=1e-9 * abs(X).max())
    np.testing.assert_array_equal(C != 0, right != 0)


@pytest.mark.parametrize("difference", [1e-9, 1e-7])
def test_choices_that_float32_cannot_make(difference, rng):
    """Pairs of atoms that differ by less than the precision of float32: the better one enters, in float64."""
    n, d, pairs = 200, 32, 50
    D = unit(rng.normal(size=(pairs, d)))
    D = unit(np.vstack([D, D + difference * rng.normal(size=D.shape)]))
    X = rng.normal(size=(n, d))
    C = np.vstack([encode(x, D, 3)[0] for x in np.split(X, 4)])
    np.testing.assert_array_equal(C != 0, expected(X, D, 3) != 0)
    assert (C[:, :pairs] != 0).any()
    assert (C[:, pairs:] != 0).any()


@pytest.mark.parametrize("n", [MANY - 1, 3 * FIRST_ROWS])
def test_one_of_equal_atoms_enters(n, rng):
    D = unit(rng.normal(size=(30, 32)))
    X = rng.normal(size=(n, 32))
    C, n_unfinished = encode(X, np.vstack([D, D]), 4)
    np.testing.assert_allclose(C[:, :30] + C[:, 30:], expected(X, D, 4), atol=1e-12)
    assert ((C != 0).sum(axis=1) == 4).all()
    assert n_unfinished == 0


def test_gram_matrix_of_float64_is_computed_once_and_only_for_many_uncertain_rows(rng):
    D = unit(rng.normal(size=(30, 32)))
    D, coder = np.vstack([D, D]), OMP(4)
    prepared = coding.prepare(D, coder)
    coding.encode(rng.normal(size=(MANY - 1, 32)), D, prepared, coder)
    assert prepared.exact == []
    coding.encode(rng.normal(size=(MANY, 32)), D, prepared, coder)
    (gram,) = prepared.exact
    coding.encode(rng.normal(size=(MANY, 32)), D, prepared, coder)
    assert prepared.exact[0] is gram


def test_zero_rows_and_zero_atoms(rng):
    D, X = rng.normal(size=(30, 32)), rng.normal(size=(300, 32))
    D[3], X[::2] = 0, 0
    C, n_unfinished = encode(X, D, 4)
    assert not C[::2].any()
    assert not C[:, 3].any()
    np.testing.assert_allclose(C[1::2], expected(X[1::2], D, 4), atol=1e-12)
    assert n_unfinished == 0


def test_rows_in_the_span_of_few_atoms_end_early(rng):
    """As in float64: when the residual is rounding, without a warning."""
    D = rng.normal(size=(40, 32))
    X = rng.normal(size=(20, 2)) @ D[[4, 9]]
    C, n_unfinished = encode(X, D, 6)
    np.testing.assert_allclose(C @ D, X, atol=1e-12)
    assert n_unfinished == 0
    assert (C != 0).sum(axis=1).max() < 6


@pytest.mark.parametrize("distance", [0.0, 1e-9, 1e-4])
def test_dependent_atoms_as_the_definition(distance, rng):
    D = distance * rng.normal(size=(10, 32))
    D[:, :3] += rng.normal(size=(10, 3))
    X = rng.normal(size=(20, 32))
    C, n_unfinished = encode(X, D, 5)
    right, n_right = OMP(5).encode(X, D)
    assert n_unfinished == n_right
    np.testing.assert_array_equal(C != 0, right != 0)
    np.testing.assert_allclose(C @ D, right @ D, atol=1e-9)


def test_nan_rows_keep_nan_out_of_others(rng):
    D, X = rng.normal(size=(40, 32)), rng.normal(size=(5, 32))
    right, X[2] = expected(X, D, 3), np.nan
    prepared = coding.prepare(D, OMP(3))
    C, _ = coding.encode(X, D, prepared, OMP(3))
    np.testing.assert_allclose(C[[0, 1, 3, 4]], right[[0, 1, 3, 4]], atol=1e-12)


OTHERS = [
    (ORMP(3), np.float64, 1),
    (OMP(3, 0.1), np.float64, 1),
    (OMP(9), np.float64, 1),
    (OMP(3, positive=True), np.float64, 1),
    (OMP(3), np.float32, 1),
    (OMP(3), np.float64, 1e-20),
    (OMP(3), np.float64, 1e20),
]


@pytest.mark.parametrize(("coder", "dtype", "scale"), OTHERS)
def test_other_problems_take_the_gram_matrix(coder, dtype, scale, rng):
    assert isinstance(coding.prepare(scale * rng.normal(size=(40, 32)).astype(dtype), coder), np.ndarray)


def choose(X, D, n_nonzero):
    """The atoms that float32 chooses, 99 where none was written, and which rows are certain."""
    coder = OMP(n_nonzero)
    chosen, status = np.full((len(X), n_nonzero), 99, np.int32), np.empty(len(X), np.int64)
    rounded_orthogonal._choose_in_float32(X, coding.prepare(D, coder), coder, chosen, status)
    return chosen, status == FINISHED


def nearly_dependent_atoms():
    """e_0 + e_i / 10, each with 2 % of its square outside the span of those before it."""
    D = 0.1 * np.eye(32)[1:]
    D[:, 0] = 1
    return unit(D)


def test_supports_of_small_determinant_are_uncertain():
    X = np.full((1, 32), 0.1) * np.arange(1, 33)
    chosen, are_certain = choose(X, nearly_dependent_atoms(), 6)
    assert (chosen != 99).all()
    assert not are_certain.any()
    assert choose(X, nearly_dependent_atoms(), 3)[1].all()


def test_rows_are_not_tried_where_the_first_ones_are_uncertain():
    X = np.full((4 * FIRST_ROWS, 32), 0.1) * np.arange(1, 33)
    X[: FIRST_ROWS // 4] = 0
    were_tried = (choose(X, nearly_dependent_atoms(), 6)[0] != 99).all(axis=1)
    assert were_tried[FIRST_ROWS // 4 : FIRST_ROWS].all()
    assert not were_tried[FIRST_ROWS:].any()
    X[: 2 * FIRST_ROWS] = 0  # rows of zeros are not uncertain
    X[2 * FIRST_ROWS :: 2] = 0
    were_tried = (choose(X, nearly_dependent_atoms(), 6)[0] != 99).all(axis=1)
    assert were_tried.sum() == FIRST_ROWS


def test_zero_rows_are_not_coded_again(rng, monkeypatch):
    monkeypatch.setattr(rounded_orthogonal, "encode_in_batches", None)
    D, X = rng.normal(size=(30, 32)), np.zeros((20, 32))
    assert not encode(X, D, 4)[0].any()


def test_through_the_estimators(rng):
    D, X = rng.normal(size=(40, 32)), rng.normal(size=(700, 32))
    dense = sparse_encode(X, D, algorithm="omp", n_nonzero_coefs=5)
    sparse = sparse_encode(X, D, algorithm="omp", n_nonzero_coefs=5, sparse_output=True)
    np.testing.assert_array_equal(dense, sparse.toarray())
    np.testing.assert_allclose(dense[:50], expected(X[:50], D, 5), atol=1e-10)
