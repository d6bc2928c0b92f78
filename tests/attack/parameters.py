"""Parameters and rows of wrong types, ranges and shapes: a correct result, or a ValueError or TypeError that gpuica or
scikit-learn's validation raises deliberately; never an unintended internal error, and never NaN in a result.
"""

import linecache
import logging
import re
import warnings
from contextlib import contextmanager, redirect_stdout
from fractions import Fraction
from io import StringIO

import numpy as np
import pandas as pd
from scipy import sparse

import gpuica
from gpuica.coders import CODERS, accepts, supports_positive
from tests.problems import mixture

VALIDATION = re.compile(r"sklearn/(utils/(validation|_param_validation|_array_api|__init__)|base)\.py$")
NO_GPU = re.compile(r"needs a GPU|does not exist: this machine has")


class Accident(AssertionError):  # noqa: N818
    """An unintended outcome of a call."""


def on_purpose(error):
    """Whether an exception was raised by a `raise` statement of gpuica or by scikit-learn's validation."""
    frames, tb = [], error.__traceback__
    while tb is not None:
        frames.append((tb.tb_frame.f_code.co_filename, tb.tb_lineno))
        tb = tb.tb_next
    if any(VALIDATION.search(file) for file, _ in frames):
        return True
    file, line = frames[-1]
    return "/gpuica/" in file and linecache.getline(file, line).strip().startswith("raise")


@contextmanager
def refusing(what):
    """Deliberate errors end the block, others raise Accident; output and warnings are suppressed."""
    logger = logging.getLogger("gpuica")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    except Accident:
        raise
    except (ValueError, TypeError) as error:
        if not on_purpose(error) or "\n\n" in str(error):
            raise Accident(f"{what}: {type(error).__name__}: {error}") from error
    except RuntimeError as error:
        if not NO_GPU.search(str(error)):
            raise Accident(f"{what}: {type(error).__name__}: {error}") from error
    except (Exception, Warning) as error:
        raise Accident(f"{what}: {type(error).__name__}: {error}") from error
    finally:
        logger.setLevel(level)


def no_nan(estimator, what):
    """Raise Accident if a fitted attribute contains NaN or infinity."""
    for name, value in vars(estimator).items():
        if name.endswith("_") and not name.startswith("_") and name not in estimator.get_params():
            value = np.asarray(value)
            if value.dtype.kind in "fc" and not np.isfinite(value).all():
                raise Accident(f"{what}: {name} contains NaN or infinity")


def pick(rng, values):
    return values[rng.integers(len(values))]


# ---- values ----------------------------------------------------------------------------------------------------------
ODD = [
    None, True, False, 0, 1, -1, 2, 10**12, 2**70, 0.0, 0.5, -0.5, 1.5, 1e-300, 1e300, np.nan, np.inf, -np.inf, 1j, "",
    "auto", "yes", b"mean", (), [], [1, 2], {}, {"alpha": 5}, {1, 2}, object(), len, np.float32(0.3), np.int8(3),
    np.array(3), np.array([1.0]), np.zeros((2, 2)), np.datetime64("2020-01-01"), Fraction(1, 3), pd.NA, type,
]  # fmt: skip
# mostly valid values of each parameter, which pass its validation; other values are drawn from ODD
GOOD = {
    "n_components": [None, 1, 2, 3, 4, 9],
    "algorithm": ["parallel", "deflation", "picard"],
    "whiten": ["unit-variance", "arbitrary-variance", False],
    "fun": ["logcosh", "tanh", "exp", "cube", gpuica.LogCosh(1.2), lambda x: (x**3, (3 * x**2).mean(-1))],
    "fun_args": [None, {}, {"alpha": 1.5}, {"alpha": "1"}, {"alpha": None}, {"beta": 1}],
    "max_iter": [1, 2, 30],
    "tol": [0, 1e-4, 1e-2, "auto", 10.0],
    "w_init": [None, np.eye(3), np.ones((3, 3)), [[1, 2, 3], [0, 1, 0], [0, 0, 1]], np.eye(2), np.eye(3) * 1e-30],
    "whiten_solver": ["svd", "eigh"],
    "random_state": [None, 0, 7, np.random.RandomState(0)],
    "device": ["auto", "cpu", "cuda", "cuda:7", "cuda:x"],
    "verbose": [0, False],
    "growth": [None, "auto", 2.0],
    "n_init": [1, 3],
    "normalize_rows": [True, False],
    "stop_percentile": [100, 50, 0.1],
    "sort": [None, "objective", "variance"],
    "center": ["mean", "median"],
    "memory_limit": [None, 1, "1", "1kB", "2 GB", "-1"],
    "checkpoint": [None],
    "precision": [None, "float32", "float64", "tf32", "bf16"],
    "ortho": [True, False],
    "extended": [None, True, False],
    "m": [1, 7],
    "ls_tries": [1, 10],
    "lambda_min": [0.01, 1e-12, 10.0],
    "fastica_it": [None, 2],
    "alpha": [0, 0.1, 1, 1e3],
    "fit_algorithm": ["lars", "cd", *CODERS],
    "transform_algorithm": list(CODERS),
    "transform_n_nonzero_coefs": [None, 1, 3, 100],
    "transform_alpha": [None, 0, 0.1, 2],
    "split_sign": [True, False],
    "n_jobs": [None, 1, -1],
    "positive_code": [True, False],
    "positive_dict": [True, False],
    "transform_max_iter": [1, 1000],
    "code_init": [None],
    "dict_init": [None, np.ones((3, 4)), np.eye(4), np.zeros((9, 4))],
    "callback": [None, lambda state: None],
    "sparse_output": [True, False],
    "init": ["svd", "data", np.eye(4)[:3], np.zeros((3, 4))],
    "dead_atoms": ["resample", "worst", "keep"],
    "update": ["block_descent", "least_squares", "approximate_ksvd"],
    "batch_size": [1, 7, 256, 10**9, "auto"],
    "shuffle": [True, False],
    "max_no_improvement": [None, 1, 10],
    "memory": [None, 1, 50],
}
CHECKED_BY_OTHERS = {"checkpoint"}  # a path: any string would create a directory


def parameters(rng, estimator, odd):
    """Random parameters of an estimator: each value is from ODD with probability `odd`, otherwise from GOOD."""
    names = sorted(set(estimator.get_params()) - CHECKED_BY_OTHERS - {"dictionary"})
    chosen = rng.choice(names, size=rng.integers(1, 7), replace=False)
    return {str(name): odd_value(rng, name) if rng.random() < odd else pick(rng, GOOD[name]) for name in chosen}


def odd_value(rng, name):
    """A value from ODD, with the number of iterations limited, so that a round terminates."""
    value = pick(rng, ODD)
    counts_work = "max_iter" in name or name in ("fastica_it", "ls_tries")
    return 3 if counts_work and isinstance(value, int) and value > 1000 else value


def matrix(rng, n, d):
    """(name, rows of shape (n, d)) of a random kind, valid or invalid."""
    kind = pick(rng, list(ROWS))
    with np.errstate(all="ignore"):
        return kind, ROWS[kind](rng.laplace(size=(n, d)) @ rng.normal(size=(d, d)), rng)


def spoilt(X, rng, value):
    X = X.astype(float)
    X[rng.integers(len(X)), rng.integers(X.shape[1])] = value
    return X


ROWS = {
    "plain": lambda X, rng: X,
    "float32": lambda X, rng: X.astype("f4"),
    "float16": lambda X, rng: X.astype("f2"),
    "longdouble": lambda X, rng: X.astype(np.longdouble),
    "integers": lambda X, rng: (X * 10).astype(int),
    "bytes": lambda X, rng: (X * 10).astype("u1"),
    "booleans": lambda X, rng: X > 0,
    "objects": lambda X, rng: X.astype(object),
    "texts": lambda X, rng: X.astype(str),
    "words": lambda X, rng: np.full(X.shape, "word"),
    "complex": lambda X, rng: X * 1j,
    "dates": lambda X, rng: np.full(X.shape, np.datetime64("2020-01-01")),
    "records": lambda X, rng: np.zeros(X.shape, dtype=[("a", float)]),
    "list": lambda X, rng: X.tolist(),
    "ragged": lambda X, rng: [[1.0, 2.0], [3.0]],
    "frame": lambda X, rng: pd.DataFrame(X),
    "frame with a gap": lambda X, rng: pd.DataFrame(spoilt(X, rng, np.nan)),
    "frame of words": lambda X, rng: pd.DataFrame(np.full(X.shape, "a")),
    "masked": lambda X, rng: np.ma.masked_greater(X, 0),
    "nan": lambda X, rng: spoilt(X, rng, np.nan),
    "infinity": lambda X, rng: spoilt(X, rng, pick(rng, [np.inf, -np.inf])),
    "enormous": lambda X, rng: X * pick(rng, [1e100, 1e154, 1e200, 1e307]),
    "one enormous": lambda X, rng: spoilt(X, rng, pick(rng, [1e30, 1e160, 1e307])),
    "tiny": lambda X, rng: X * pick(rng, [1e-100, 1e-160, 1e-200, 1e-310]),
    "float32 enormous": lambda X, rng: (X * 1e37).astype("f4"),
    "float32 tiny": lambda X, rng: (X * pick(rng, [1e-20, 1e-37, 1e-42])).astype("f4"),
    "large mean": lambda X, rng: X + 1e12,
    "float32 of a large mean": lambda X, rng: (X + 1e6).astype("f4"),
    "unlike scales": lambda X, rng: X * 10.0 ** rng.integers(-6, 6, size=X.shape[1]),
    "sparse": lambda X, rng: pick(rng, [sparse.csr_matrix, sparse.csc_array])(X),
    "zeros": lambda X, rng: np.zeros_like(X),
    "constant": lambda X, rng: np.full_like(X, rng.normal()),
    "a constant column": lambda X, rng: np.where(np.arange(X.shape[1]) == 0, 3.0, X),
    "columns alike": lambda X, rng: np.repeat(X[:, :1], X.shape[1], axis=1),
    "rows alike": lambda X, rng: np.repeat(X[:2], len(X), axis=0)[: len(X)],
    "two values": lambda X, rng: np.sign(X),
    "zero rows": lambda X, rng: X * (np.arange(len(X)) % 2)[:, None],
    "one row": lambda X, rng: X[:1],
    "two rows": lambda X, rng: X[:2],
    "three rows": lambda X, rng: X[:3],
    "no row": lambda X, rng: X[:0],
    "no column": lambda X, rng: X[:, :0],
    "one column": lambda X, rng: X[:, :1],
    "a vector": lambda X, rng: X[0],
    "a number": lambda X, rng: 3.0,
    "three dimensions": lambda X, rng: X[None],
    "nothing": lambda X, rng: None,
    "a dict": lambda X, rng: {"a": [1.0, 2.0]},
    "a generator": lambda X, rng: (row for row in X),
    "an empty list": lambda X, rng: [],
    "an object": lambda X, rng: object(),
}


def weights(rng, n):
    """Valid or invalid weights for n rows."""
    return pick(rng, [
        None, np.ones(n), rng.integers(0, 3, size=n), rng.exponential(size=n), np.zeros(n), -np.ones(n), np.ones(n + 1),
        np.full(n, np.nan), 3.0, np.ones((n, 1)), [1] * n, np.arange(n) == 0, np.full(n, 1e-320),
        np.full(n, 1e300), np.ones(n) * 1j, np.full(n, "x"), [None] * n,
    ])  # fmt: skip


# ---- ICA -------------------------------------------------------------------------------------------------------------
def check_ica(ica, X, what):
    """Check that components_ @ mixing_ is the identity and that transform returns finite sources."""
    no_nan(ica, what)
    k, d = ica.components_.shape
    if len(ica.mixing_) != d or ica.n_iter_ < 1:
        raise Accident(f"{what}: shapes or n_iter_ are wrong")
    exact = ica.components_.dtype == np.float64
    with np.errstate(all="ignore"):
        product = ica.components_.astype(float) @ ica.mixing_
        rounding = (np.abs(ica.components_).astype(float) @ np.abs(ica.mixing_)).max()
    if (
        "one enormous" not in what
        and np.isfinite(rounding)
        and np.abs(product - np.eye(k)).max() > (1e-6 if exact else 1e-2) * max(1, rounding)
    ):
        raise Accident(f"{what}: components_ @ mixing_ is not the identity but {product}")
    S = ica.transform(X)
    if np.shape(S) != (len(X), k) or not np.isfinite(np.asarray(S)).all():
        raise Accident(f"{what}: sources of shape {np.shape(S)}, finite: {np.isfinite(S).all()}")


def attack_ica_parameters(rng):
    """Random parameters, valid rows."""
    X = mixture(int(rng.integers(20, 200)), 3, seed=int(rng.integers(99)), dtype=pick(rng, [float, np.float32]))[0]
    kind = pick(rng, [gpuica.FastICA, gpuica.Picard])
    chosen = parameters(rng, kind(), odd=0.2)
    what = f"{kind.__name__}(**{chosen!r})"
    with refusing(what):
        ica = kind(**{"max_iter": 20, **chosen}).fit(X, sample_weight=weights(rng, len(X)))
        check_ica(ica, X, what)
    later = parameters(rng, kind(), odd=0.7)
    with refusing(f"{what}, then {later!r}"):
        ica = kind(random_state=0, max_iter=20).fit(X)
        S = ica.transform(X)
        ica.set_params(**later)
        method = pick(rng, ["transform", "inverse_transform", "partial_fit"])
        if hasattr(ica, method):  # Picard(ortho=False) has no partial_fit
            getattr(ica, method)(pick(rng, [X, S]))
    with refusing(f"fit_transform of {what}"):
        if not np.isfinite(kind(**{"max_iter": 5, **chosen}).fit_transform(X)).all():
            raise Accident("sources are not finite")


def attack_ica_rows(rng):
    """Random rows, valid parameters."""
    name, X = matrix(rng, int(rng.integers(3, 60)), int(rng.integers(1, 7)))
    kind = pick(rng, [gpuica.FastICA, gpuica.Picard])
    chosen = parameters(rng, kind(), odd=0.0) | {"device": "cpu", "w_init": None}
    what = f"{kind.__name__}(**{chosen!r}) of {name}"
    with refusing(what):
        ica = kind(**{"max_iter": 20, **chosen}).fit(X)
        check_ica(ica, np.asarray(X), what)
    fitted = kind(random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fitted.fit(mixture(50, 4)[0])
    method = pick(rng, ["transform", "inverse_transform", "partial_fit"])
    with refusing(f"{method} of {name} by {kind.__name__}"):
        answer = getattr(fitted, method)(X)
        overflows = method == "partial_fit" or "enormous" in name
        if not overflows and not np.isfinite(np.asarray(answer, dtype=float)).all():
            raise Accident(f"{method} of {name} by {kind.__name__} is not finite")


def attack_ica_functions(rng):
    """`fastica` and `picard` with random parameters and rows."""
    name, X = matrix(rng, int(rng.integers(3, 60)), 3)
    if rng.random() < 0.7:
        name, X = "plain", rng.laplace(size=(50, 3))
    function = pick(rng, [gpuica.fastica, gpuica.picard])
    options = {
        gpuica.fastica: ["return_X_mean", "compute_sources", "return_n_iter"],
        gpuica.picard: ["return_X_mean", "return_n_iter", "centering", "check_fun", "whiten", "ortho", "extended"],
    }[function]
    shared = "n_components fun max_iter tol w_init random_state device verbose growth precision".split()
    chosen = {option: pick(rng, [True, False, *ODD]) for option in options if rng.random() < 0.3}
    chosen |= {option: pick(rng, [*GOOD[option], odd_value(rng, option)]) for option in shared if rng.random() < 0.3}
    with refusing(f"{function.__name__}({name}, **{chosen!r})"):
        rows = X.T if function is gpuica.picard and hasattr(X, "T") else X
        for part in function(rows, **{"max_iter": 10, **chosen}):
            if part is not None and not np.isfinite(np.asarray(part, dtype=float)).all():
                raise Accident(f"{function.__name__}({name}, **{chosen!r}) is not finite")


# ---- dictionaries ----------------------------------------------------------------------------------------------------
def attack_dictionary_parameters(rng):
    """Dictionary learning with random parameters on valid rows, and with valid parameters on random rows."""
    X = rng.normal(size=(int(rng.integers(5, 60)), 4)).astype(pick(rng, [float, np.float32]))
    kind = pick(rng, [gpuica.DictionaryLearning, gpuica.MiniBatchDictionaryLearning])
    chosen = {"n_components": 3, "max_iter": 2} | parameters(rng, kind(), odd=0.15)
    what = f"{kind.__name__}(**{chosen!r})"
    with refusing(what):
        model = kind(**chosen).fit(X)
        no_nan(model, what)
        model.transform(X)
        if not np.isfinite(model.score(X)):
            raise Accident(f"{what}: the score is not finite")
    name, rows = matrix(rng, int(rng.integers(3, 60)), 4)
    settings = {"n_components": 3, "max_iter": 2} | parameters(rng, kind(), odd=0.0) | {"device": "cpu"}
    what = f"{kind.__name__}(**{settings!r}) of {name}"
    method = pick(rng, ["fit", "fit_transform", "partial_fit"])
    with refusing(what):
        model = kind(**settings)
        getattr(model, method if hasattr(model, method) else "fit")(rows)
        no_nan(model, what)
    with refusing(f"{what}, later"):
        model = kind(3, max_iter=2, random_state=0).fit(X)
        model.set_params(**parameters(rng, kind(), odd=0.5))
        getattr(model, pick(rng, ["transform", "inverse_transform", "score"]))(rows)


def attack_dictionary_functions(rng):
    """`dict_learning` and `dict_learning_online` with random parameters and rows."""
    name, X = matrix(rng, int(rng.integers(3, 60)), 4)
    if rng.random() < 0.6:
        name, X = "plain", rng.normal(size=(30, 4))
    function = pick(rng, [gpuica.dict_learning, gpuica.dict_learning_online])
    options = "alpha max_iter tol random_state positive_dict positive_code dict_init verbose callback device".split()
    chosen = {option: pick(rng, [*GOOD[option], odd_value(rng, option)]) for option in options if rng.random() < 0.3}
    others = ("method", "n_jobs", "method_max_iter")
    chosen |= {option: odd_value(rng, option) for option in others if rng.random() < 0.1}
    settings = {"alpha": 1, "n_components": pick(rng, GOOD["n_components"]), "max_iter": 2} | chosen
    with refusing(f"{function.__name__}({name}, **{settings!r})"):
        for part in function(X, **settings)[:2]:
            if not np.isfinite(np.asarray(part, dtype=float)).all():
                raise Accident(f"{function.__name__}({name}, **{settings!r}) is not finite")


# ---- codes -----------------------------------------------------------------------------------------------------------
def attack_coder(rng):
    """`SparseCoder` with random parameters, dictionary and rows."""
    name, X = matrix(rng, int(rng.integers(3, 60)), 4)
    if rng.random() < 0.5:
        name, X = "plain", rng.normal(size=(30, 4))
    of, D = matrix(rng, int(rng.integers(2, 9)), 4)
    if rng.random() < 0.7:
        of, D = "plain", rng.normal(size=(6, 4))
    chosen = parameters(rng, gpuica.SparseCoder(None), odd=0.2)
    what = f"SparseCoder({of}, **{chosen!r}) of {name}"
    method = pick(rng, ["transform", "fit_transform", "inverse_transform", "fit"])
    with refusing(what):
        codes = getattr(gpuica.SparseCoder(D, **chosen), method)(X)
        values = codes.data if sparse.issparse(codes) else codes
        if method != "fit" and "enormous" not in name + of and not np.isfinite(np.asarray(values, dtype=float)).all():
            raise Accident(f"{what}: codes are not finite")


def attack_codes(rng):
    """Codes of random coders and options are as sparse as requested, and their cost is at most that of zero codes."""
    n, d, k = int(rng.integers(1, 40)), int(rng.integers(1, 20)), int(rng.integers(1, 30))
    dtype = pick(rng, [np.float64, np.float32])
    scale = 10.0 ** rng.integers(-3, 4)
    D = rng.normal(size=(k, d))
    if rng.integers(2):
        D /= np.linalg.norm(D, axis=1, keepdims=True)
    if k > 1 and rng.random() < 0.2:
        D[rng.integers(k)] = pick(rng, [0.0, D[0], -D[0]])
    X = (scale * rng.normal(size=(n, d))).astype(dtype)
    if rng.random() < 0.3:
        X = (scale * (rng.normal(size=(n, k)) * (rng.random((n, k)) < 0.2)) @ D).astype(dtype)
    D = D.astype(dtype)
    name, positive = pick(rng, list(CODERS)), bool(rng.integers(2))
    positive = positive and supports_positive(name)
    count = pick(rng, [None, int(rng.integers(1, k + 1))])
    alpha = pick(rng, [None, 0, float(scale * rng.exponential())]) if accepts(name, "alpha") else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        C = gpuica.sparse_encode(X, D, algorithm=name, n_nonzero_coefs=count, alpha=alpha, positive=positive)
    what = f"{name}, {n} x {d}, {k} atoms, {dtype.__name__}, count {count}, alpha {alpha}, positive {positive}"
    if C.dtype != dtype or C.shape != (n, k) or not np.isfinite(C).all():
        raise Accident(f"{what}: {C.dtype}, {C.shape}, finite: {np.isfinite(C).all()}")
    if (positive or name == "nnomp") and (C < 0).any():
        raise Accident(f"{what}: negative codes")
    if not accepts(name, "alpha"):
        most = min(k, max(int(d / 10), 1)) if count is None else count
        if (C != 0).sum(axis=1).max() > most:
            raise Accident(f"{what}: more than {most} atoms")
    if name in ("threshold", "topk"):
        return  # no descent of the objective
    X, D, C = X.astype(float), D.astype(float), C.astype(float)
    penalty = 0.0 if name not in ("lasso_lars", "lasso_cd", "fista") else 1.0 if alpha is None else alpha
    cost = ((X - C @ D) ** 2).sum(axis=1) / 2 + penalty * np.abs(C).sum(axis=1)
    zero = (X**2).sum(axis=1) / 2
    if (cost > zero * (1 + (1e-8 if dtype is np.float64 else 1e-4)) + 1e-12).any():
        raise Accident(f"{what}: cost exceeds that of zero codes by a factor of {(cost / zero).max()}")
