"""Contrast functions: what FastICA and its relatives mean by "far from Gaussian".

A contrast is a scalar function G with its first two derivatives g and g'.  Each one is written twice on purpose and
no more: `loss` and `at` on arrays of any library (the definition, and the fallback everywhere), `at_point` on one
number (the body that the kernels compile).  `check_contrast` holds the two, and the derivatives, together.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log1p, tanh
from numbers import Real
from typing import Any, Protocol

import numpy as np

real = float  # the working type inside `at_point`; a kernel compiled for float32 puts float32 here


class Contrast(Protocol):
    """What a solver's sums need to know of a contrast.

    A static method `at_point(u, *params)` -> (G, g, g') of one number is optional: without it, kernels use the arrays.
    """

    @property
    def params(self) -> tuple[float, ...]:
        """Numbers that `at_point` takes after u."""
        ...

    def loss(self, u, xp=np) -> Any:
        """G(u), of the shape of u.  xp: numpy or cupy."""
        ...

    def at(self, u, xp=np) -> tuple[Any, Any]:
        """g(u) and g'(u), each of the shape of u."""
        ...


@dataclass(frozen=True)
class LogCosh:
    """G(u) = log cosh(αu) / α,  g(u) = tanh(αu),  g'(u) = α (1 - tanh²(αu)),  with α in [1, 2].

    The default of FastICA: robust, good for most sources.  Hyvärinen 1999, equation (2.13).
    """

    alpha: float = 1.0

    @property
    def params(self):
        return (float(self.alpha),)

    def loss(self, u, xp=np):
        size = xp.abs(u)
        return size + (xp.log1p(xp.exp(-2 * self.alpha * size)) - math.log(2)) / self.alpha

    def at(self, u, xp=np):
        t = xp.tanh(self.alpha * u)
        return t, self.alpha * (1 - t * t)

    @staticmethod
    def at_point(u, alpha):
        v = alpha * u
        t = tanh(v)
        size = abs(v)
        G = (size + log1p(exp(real(-2) * size)) - real(0.6931471805599453)) * (real(1) / alpha)
        return G, t, alpha * (real(1) - t * t)


@dataclass(frozen=True)
class Exp:
    """G(u) = -exp(-αu²/2) / α,  g(u) = u exp(-αu²/2),  g'(u) = (1 - αu²) exp(-αu²/2),  with α > 0.

    For very peaked sources, or where outliers must count for nothing.  Hyvärinen 1999, equation (2.14).  FastICA's
    "exp" has α = 1, Picard's 0.1, as in scikit-learn and python-picard.
    """

    alpha: float = 1.0

    @property
    def params(self):
        return (float(self.alpha),)

    def loss(self, u, xp=np):
        return -xp.exp(-0.5 * self.alpha * u * u) / self.alpha

    def at(self, u, xp=np):
        square = self.alpha * u * u
        e = xp.exp(-0.5 * square)
        return u * e, (1 - square) * e

    @staticmethod
    def at_point(u, alpha):
        square = alpha * u * u
        e = exp(real(-0.5) * square)
        return -e * (real(1) / alpha), u * e, (real(1) - square) * e


@dataclass(frozen=True)
class Cube:
    """G(u) = u⁴/4,  g(u) = u³,  g'(u) = 3u²: kurtosis.

    Fast, but ruled by outliers.  Hyvärinen 1999, equation (2.15).
    """

    params = ()

    def loss(self, u, xp=np):
        return (u * u) ** 2 / 4

    def at(self, u, xp=np):
        square = u * u
        return square * u, 3 * square

    @staticmethod
    def at_point(u):
        square = u * u
        return real(0.25) * square * square, square * u, real(3) * square


@dataclass(frozen=True)
class Custom:
    """A callable in scikit-learn's form: function(x, **kwargs) -> (g(x), mean of g'(x) along the last axis).

    It is called on blocks of samples, x of shape (n_components, n_block), so it must work element by element; `at`
    takes u as the sums have it, (n_block, n_components).
    Its G is not known, so solvers that need the loss refuse it.
    """

    function: Callable
    kwargs: tuple[tuple[str, Any], ...] = ()

    params = ()

    def at(self, u, xp=np):
        x = u.T.copy()  # the function may overwrite its argument
        answer = self.function(x, **dict(self.kwargs))
        g, slope = _pair(
            answer, f"the contrast function {_name(self.function)}", "mean of g'(x) over the last axis", xp
        )
        if g.shape != x.shape or slope.shape not in (x.shape, x.shape[:-1]):
            raise ValueError(
                f"the contrast function {_name(self.function)} was given x of shape {x.shape} and must return g(x) of "
                f"that shape and g'(x) averaged over its last axis, of shape {x.shape[:-1]}; "
                f"it returned shapes {g.shape} and {slope.shape}."
            )
        if slope.shape != x.shape:
            slope = xp.broadcast_to(slope[..., None], x.shape)
        return g.T, slope.T


@dataclass(frozen=True)
class Density:
    """A density of python-picard as a contrast: an object with log_lik(y), which is G, and score_and_der(y), g and g'.

    Both must work element by element.  As in python-picard, log_lik gets the samples of one source, (n_block,), and
    score_and_der those of all, (n_components, n_block).
    """

    density: Any

    params = ()

    def loss(self, u, xp=np):
        u = xp.asarray(u)
        return xp.asarray(self.density.log_lik(u.T.ravel())).reshape(u.T.shape).T

    def at(self, u, xp=np):
        y = u.T.copy()
        g, slope = _pair(self.density.score_and_der(y), f"score_and_der of {_name(self.density)}", "g'(x)", xp)
        if g.shape != y.shape or slope.shape != y.shape:
            raise ValueError(
                f"score_and_der of {_name(self.density)} was given y of shape {y.shape} and must return two arrays of "
                f"that shape; it returned shapes {g.shape} and {slope.shape}."
            )
        return g.T, slope.T


CONTRASTS: dict[str, type] = {"logcosh": LogCosh, "exp": Exp, "cube": Cube}
SYNONYMS = {"tanh": "logcosh"}  # python-picard's names
NAMES = {*CONTRASTS, *SYNONYMS}


def is_density(fun):
    """Whether fun has the methods of python-picard's densities."""
    return all(callable(getattr(fun, method, None)) for method in ("log_lik", "score_and_der"))


def as_contrast(fun, fun_args=None):
    """The contrast that scikit-learn's arguments `fun` and `fun_args` name.

    fun: "logcosh" (also "tanh"), "exp", "cube", a callable in scikit-learn's form, a contrast, or a density in
    python-picard's form.  fun_args: dict or None.
    Raises ValueError for alpha outside [1, 2], whatever fun is (scikit-learn's rule); TypeError for no contrast.
    """
    fun_args = dict(fun_args or {})
    alpha = fun_args.get("alpha", 1.0)
    if not (isinstance(alpha, Real) and 1 <= float(alpha) <= 2):
        raise ValueError(f"alpha must be in [1,2], got {alpha!r}.")
    if isinstance(fun, str):
        name = SYNONYMS.get(fun, fun)
        if name not in CONTRASTS:
            raise ValueError(f"fun must be one of {sorted(NAMES)}, a callable or a contrast; got {fun!r}.")
        return LogCosh(float(alpha)) if name == "logcosh" else CONTRASTS[name]()
    if hasattr(fun, "at") and (hasattr(fun, "params") or not callable(fun)):  # a ufunc has an `at` of another kind
        return fun
    if is_density(fun):
        return _known(fun) or Density(fun)
    if not callable(fun):
        raise TypeError(f"fun must be one of {sorted(NAMES)}, a callable or a contrast; got {_name(fun)}.")
    return Custom(fun, tuple(fun_args.items()))


def _known(density):
    """The contrast that is the same function as one of python-picard's own densities, and compiled; else None."""
    kind = type(density)
    ours = {"Tanh": LogCosh, "Exp": Exp, "Cube": Cube}.get(kind.__name__)
    if kind.__module__ != "picard.densities" or ours is None or not set(vars(density)) <= {"alpha"}:
        return None
    return ours(*map(float, vars(density).values()))


def _pair(answer, of, second, xp):
    """The two arrays that a function gave, or a ValueError that says what it should have given."""
    if not (isinstance(answer, tuple | list) and len(answer) == 2):
        raise ValueError(f"{of} must return a tuple (g(x), {second}), but returned {type(answer).__name__}.")
    return [xp.asarray(part) for part in answer]


def check_contrast(contrast, points=None):
    """Check a contrast's derivatives by finite differences, and `at_point` against `at`.

    contrast: a name, a callable in scikit-learn's form or a contrast.  points: (n,) where to look; by default 41 points
    from -4 to 4.  Returns None; raises ValueError that says which of G, g, g' is wrong, where, and by how much.

    >>> check_contrast("logcosh")
    """
    contrast = as_contrast(contrast)
    u = np.linspace(-4, 4, 41) if points is None else np.asarray(points, dtype=np.float64)

    def at(v):  # one row per point, so that a callable's own average over the last axis is g' itself
        g, slope = contrast.at(v[None, :])
        return np.asarray(g)[0], np.asarray(slope)[0]

    step = 1e-5
    g, slope = at(u)
    _agree((at(u + step)[0] - at(u - step)[0]) / (2 * step), slope, u, "g' is not the derivative of g", 1e-6)
    if hasattr(contrast, "loss"):
        rise = (contrast.loss(u + step) - contrast.loss(u - step)) / (2 * step)
        _agree(rise, g, u, "g is not the derivative of G", 1e-6)
    if hasattr(contrast, "at_point"):
        alone = np.array([contrast.at_point(float(v), *contrast.params) for v in u]).T
        for name, found, expected in zip(("G", "g", "g'"), alone, (contrast.loss(u), g, slope), strict=True):
            _agree(expected, found, u, f"at_point is not what the arrays give for {name}", 1e-12)


def _agree(expected, found, u, what, tolerance):
    error = np.abs(found - expected) / (1 + np.abs(expected))
    worst = int(np.argmax(error))
    if not error[worst] <= tolerance:
        raise ValueError(f"{what}: at u = {u[worst]:g} it is {found[worst]:g} instead of {expected[worst]:g}.")


def _name(function):
    return getattr(function, "__name__", repr(function))
