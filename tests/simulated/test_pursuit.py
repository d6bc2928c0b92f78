"""Pursuit device kernels in the simulator against the reference loops."""

import numpy as np
import pytest

from gpuica.coders import OMP, ORMP, MatchingPursuit
from gpuica.kernels.cuda import block, coding, matching, nonnegative, orthogonal, row, support
from gpuica.kernels.status import ILL_CONDITIONED

from .. import naive, one_thread
from ..coherent import DICTIONARIES, check, problem, pursuits, to_target
from ..test_coders import TOLERANCE, data, scaled

DTYPES = [np.float32, np.float64]
SHAPES = [(12, 12, 40), (12, 30, 9), (3, 1, 5), (5, 7, 1)]


def encode(X, D, coder, threads=None, **sizes):
    """Codes from the simulator with `threads` threads or, by default, from plain Python."""
    return counted(X, D, coder, threads, **sizes)[0]


def counted(X, D, coder, threads=None, **sizes):
    """Codes and the number of unfinished rows."""
    Q, form = X @ D.T, coding.KERNELS[coder.kernel]
    if threads:
        unfinished = form(X, D, D @ D.T, Q, coder, threads=threads, blocks=2, **sizes)
    else:
        with one_thread.running(orthogonal, nonnegative, matching, row, support, block):
            unfinished = form(X, D, D @ D.T, Q, coder, blocks=2, **sizes)
    assert np.isfinite(Q).all()
    assert Q.dtype == X.dtype
    return Q, unfinished


def each(X, D):
    return zip(X.astype(float), [D.astype(float)] * len(X), strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_nonzero", [1, 4, 100])
@pytest.mark.parametrize("kind", [OMP, ORMP])
def test_orthogonal_pursuits_match_reference(kind, n_nonzero, shape, dtype):
    X, D = data(*shape, dtype, seed=1)
    C = encode(X, D, kind(n_nonzero))
    loop = naive.omp if kind is OMP else naive.ormp
    expected = np.array([loop(*both, n_nonzero) for both in each(X, D)])
    assert ((C != 0).sum(axis=1) <= min(n_nonzero, *D.shape)).all()
    if n_nonzero < 100:  # with more, reconstructions are exact whichever atoms are selected last
        np.testing.assert_allclose(C, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    np.testing.assert_allclose(C @ D, expected @ D, atol=1e-4)


SPLITS = {"neither atoms nor directions": 0, "atoms": 2, "two directions": 4, "all": 99}


@pytest.mark.parametrize(("kind", "dtype"), [(OMP, np.float32), (ORMP, np.float64)])
@pytest.mark.parametrize("split", SPLITS)
def test_codes_are_independent_of_shared_memory_split(split, kind, dtype):
    """Directions of the support are in shared memory as far as they fit, and otherwise in a workspace."""
    X, D = data(2, 12, 21, dtype, seed=3)
    row = len(D) * np.dtype(dtype).itemsize
    shared = orthogonal.MIN_SHARERS * (SPLITS[split] * row + orthogonal.BLOCK_OVERHEAD)
    held, near, _ = orthogonal._split(6, row, 32, shared)
    assert (held, near) == {0: (False, 0), 2: (True, 0), 4: (True, 2), 99: (True, 6)}[SPLITS[split]]
    expected = [(naive.omp if kind is OMP else naive.ormp)(*both, 7) for both in each(X, D)]
    for threads in (None, 4):  # each has several rounds of four atoms, the last with fewer
        C = encode(X, D, kind(7), threads, shared=shared)
        np.testing.assert_allclose(C, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize(  # a thread processes four atoms, 32 apart
    ("kind", "K"), [(OMP, 32), (ORMP, 33), (ORMP, 96), (OMP, 97), (ORMP, 128), (OMP, 161)]
)
def test_all_atoms_are_assigned_to_threads(kind, K):
    X, D = data(1, 12, K, seed=K)
    X[0] += 9 * D[-1]
    expected = [(naive.omp if kind is OMP else naive.ormp)(*both, 4) for both in each(X, D)]
    for threads in (None, 64):
        np.testing.assert_allclose(encode(X, D, kind(4), threads), expected, atol=1e-9)


def test_capacity_grows_as_needed(monkeypatch):
    X, D = data(6, 20, 50)
    capacities, split = [], orthogonal._split
    monkeypatch.setattr(orthogonal, "_split", lambda room, *sizes: capacities.append(room) or split(room, *sizes))
    target = 1e-2 * float((X * X).sum(axis=1).mean())
    few = encode(X, D, OMP(20, target), room=1)
    assert capacities == [1, 4, 16]  # 19 at most
    np.testing.assert_array_equal(few, encode(X, D, OMP(20, target)))


@pytest.mark.parametrize(
    ("room", "row", "threads", "shared", "expected"),
    [
        (31, 4096, 256, 233_472, (True, 25, 2)),  # 32 of 1,024 atoms in float32, on an H100
        (7, 1024, 64, 233_472, (True, 7, 8)),
        (31, 65_536, 256, 233_472, (False, 0, 2)),
        (0, 4, 32, 233_472, (True, 0, 16)),
    ],
)
def test_shared_memory_is_split_between_two_or_more_blocks(room, row, threads, shared, expected):
    held, near, sharers = orthogonal._split(room, row, threads, shared)
    assert (held, near, sharers) == expected
    assert sharers * ((near + 2) * row * held + 3 * 1024) <= shared


@pytest.mark.parametrize("coder", [OMP(3), ORMP(3), OMP(3, 0.5)], ids=str)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # raised by NumPy for NaN
def test_non_finite_rows_are_recoded_by_array_implementation(coder, monkeypatch):
    X, D = data(5, 8, 12)
    X[1, 2], X[3, 0], X[4] = np.nan, np.inf, 0
    statuses = []
    monkeypatch.setattr(orthogonal, "recode_ill_conditioned", lambda X, D, Q, how, coder: statuses.extend(how) or 0)
    Q = X @ D.T
    with one_thread.running(orthogonal, row, block):
        orthogonal.orthogonal(X, D, D @ D.T, Q, coder, blocks=2)
    assert [end == ILL_CONDITIONED for end in statuses] == [False, True, False, True, False]


@pytest.mark.parametrize("room", [2, 64])
@pytest.mark.parametrize("fraction", [0.5, 1e-2, 1e-5])
@pytest.mark.parametrize("kind", [OMP, ORMP])
def test_pursuits_stop_at_target_residual(kind, fraction, room):
    X, D = data(10, 20, 50)
    target = fraction * float((X * X).sum(axis=1).mean())
    C, loop = encode(X, D, kind(20, target), room=room), naive.omp if kind is OMP else naive.ormp
    for x, c in zip(X, C, strict=True):
        left = [float(((x - loop(x, D, m) @ D) ** 2).sum()) for m in range(21)]
        assert np.count_nonzero(c) == next(m for m in range(21) if left[m] <= target or m == 20)


@pytest.mark.parametrize("coder", [OMP(5), ORMP(5), OMP(5, positive=True)])
def test_pursuits_stop_when_remaining_atoms_are_dependent(coder, rng):
    X, D = abs(rng.normal(size=(9, 5))), np.tile(np.eye(5)[:3], (4, 1))
    C = encode(X, D, coder)
    assert (np.count_nonzero(C, axis=1) == 3).all()
    np.testing.assert_allclose(C @ D, X * [1, 1, 1, 0, 0], atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_nonzero", [1, 3, 12])
def test_non_negative_omp_matches_reference(n_nonzero, dtype):
    X, D = data(20, 20, 30, dtype, seed=2)
    C = encode(X, D, OMP(n_nonzero, positive=True))
    expected = [naive.omp(*both, n_nonzero, positive=True) for both in each(X, D)]
    np.testing.assert_allclose(C, expected, atol=TOLERANCE[dtype])
    assert (C >= 0).all()
    np.testing.assert_allclose(encode(X, D, OMP(n_nonzero, positive=True), room=2), C, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("gradient", [False, True])
def test_matching_pursuits_match_reference(gradient, dtype):
    X, D = data(12, 12, 40, dtype)
    D = D if gradient else scaled(D)
    codes = [naive.matching_pursuit(*both, 15, gradient) for both in each(X, D)]
    for steps in (1, 2, 7, 15):
        C = encode(X, D, MatchingPursuit(steps, gradient=gradient))
        np.testing.assert_allclose(C, [c[steps - 1] for c in codes], rtol=1e-4, atol=TOLERANCE[dtype])
    C = encode(X, D, MatchingPursuit(15, 1.5, gradient))
    for x, c, steps in zip(X, C, codes, strict=True):
        expected = next((c for c in steps if ((x - c @ D) ** 2).sum() <= 1.5), steps[-1])
        np.testing.assert_allclose(c, expected, rtol=1e-4, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("threads", [2, 8, 64])  # one warp and two warps
@pytest.mark.parametrize(
    "coder", [OMP(3), ORMP(3), OMP(3, positive=True), MatchingPursuit(4), MatchingPursuit(4, gradient=True)], ids=str
)
def test_codes_are_independent_of_number_of_threads(coder, threads):
    """Race conditions would change the result: it must equal that of one thread."""
    X, D = data(3, 5, 9)
    X[1] = 0
    X = X[:1] if threads == 64 else X  # slow: the simulator runs a Python thread for each
    np.testing.assert_allclose(encode(X, D, coder, threads), encode(X, D, coder), atol=1e-12)


SMALL = {"bumps": {"d": 10, "K": 14}, "pairs": {"d": 6, "K": 12}, "low_rank": {"d": 6, "K": 9, "rank": 3}}


def small(name, n, dtype, rng):
    return problem(lambda rng: DICTIONARIES[name](rng, **SMALL[name]), n, dtype, rng)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SMALL)
def test_residual_is_no_larger_than_row(name, dtype, rng):
    X, D = small(name, 6, dtype, rng)
    for coder in (*pursuits(6), *to_target(1e-3, len(D))):
        if coder.kernel != "lars":
            C, unfinished = counted(X, D, coder)
            check(X, D, C, coder, unfinished)


@pytest.mark.parametrize("name", ["pairs", "low_rank"])
def test_unfinished_rows_are_independent_of_number_of_threads(name, rng):
    X, D = small(name, 2, np.float32, rng)
    for coder in (OMP(6), ORMP(6), OMP(6, positive=True)):
        C, unfinished = counted(X, D, coder, 4)
        check(X, D, C, coder, unfinished)
        assert unfinished == counted(X, D, coder)[1]


@pytest.mark.parametrize("coder", to_target(0.5, 9), ids=str)
def test_rows_that_miss_target_are_counted_as_unfinished(coder):
    D, X = np.eye(9, 12), np.zeros((4, 12))
    X[:, -1] = [0.1, 0.7, 0.71, 2]
    X[:, 0] = 3
    C, unfinished = counted(X, D, coder)
    assert unfinished == 2
    np.testing.assert_allclose(C[:, 0], 3)
