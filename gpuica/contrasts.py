"""Contrast functions, the measures of non-Gaussianity that ICA optimises.

A contrast is a scalar function G with its first two derivatives g and g'.  Each one is written twice: `loss` and `at`
on arrays of any library, the definition and the fallback, and `at_point` on one number, which the kernels compile.
`check_contrast` compares the two, and the derivatives with finite differences.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from math import exp, log1p, tanh
from numbers import Real
from typing import Any, Protocol

import numpy as np

real = float  # the working type inside `at_point`; kernels compiled for float32 substitute float32


class Contrast(Protocol):
    """The attributes of a contrast that sums over rows use.

    `loss` is optional for FastICA with one start.  So is a static method `at_point(u, *params)` -> (G, g, g') of one
    number: kernels are compiled from it, and without it `loss` and `at` are evaluated on arrays.
    """

    @property
    def params(self) -> tuple[float, ...]:
        """The arguments of `at_point` after u."""

    def loss(self, u: Any, xp: Any = np) -> Any:
        """G(u), of the shape of u.  xp: numpy or cupy."""

    def at(self, u: Any, xp: Any = np) -> tuple[Any, Any]:
        """g(u) and g'(u), each of the shape of u."""


ARRAYS = "u : array\n    Arguments.\nxp : module, default=numpy\n    Array library of u: numpy or cupy.\n"
FLOAT = "u : float\n    Argument.\n"
DERIVATIVES = "g : {0}\n    g(u).\nslope : {0}\n    g'(u)."
DOCUMENTATION = {  # of a contrast's methods: summary, parameters, results
    "loss": ("Evaluate G.", ARRAYS, "G : array\n    G(u), of the shape of u."),
    "at": ("Evaluate the derivatives of G.", ARRAYS, DERIVATIVES.format("array of the shape of u")),
    "at_point": ("Evaluate G, g and g' at one number.", FLOAT, f"G : float\n    G(u).\n{DERIVATIVES.format('float')}"),
}


def documented(contrast: Any) -> Any:
    """Class decorator that writes the docstrings of a contrast's methods."""
    for name, (summary, parameters, results) in DOCUMENTATION.items():
        if name == "at_point" and "alpha" in contrast.__annotations__:
            parameters += "alpha : float\n    Parameter of the contrast.\n"
        method = getattr(contrast, name)
        method.__doc__ = f"{summary}\n\nParameters\n----------\n{parameters}\nReturns\n-------\n{results}\n"
    return contrast


@documented
@dataclass(frozen=True)
class LogCosh:
    """The contrast G(u) = log cosh(αu) / α, the default of FastICA: robust, and suitable for most sources.

    Its derivatives are g(u) = tanh(αu) and g'(u) = α (1 - tanh²(αu)).

    Parameters
    ----------
    alpha : float, default=1.0
        α, in [1, 2].

    See Also
    --------
    Exp, Cube : Other contrasts.

    References
    ----------
    A. Hyvärinen, IEEE Transactions on Neural Networks 10(3), 1999, equations (2.13) to (2.15).

    Examples
    --------
    >>> from gpuica import FastICA, LogCosh
    >>> FastICA(fun=LogCosh(1.5)).fun
    LogCosh(alpha=1.5)
    """

    alpha: float = 1.0

    @property
    def params(self) -> Any:
        return (float(self.alpha),)

    def loss(self, u: Any, xp: Any = np) -> Any:
        size = xp.abs(u)
        return size + (xp.log1p(xp.exp(-2 * self.alpha * size)) - math.log(2)) / self.alpha

    def at(self, u: Any, xp: Any = np) -> Any:
        t = xp.tanh(self.alpha * u)
        return t, self.alpha * (1 - t * t)

    @staticmethod
    def at_point(u: Any, alpha: float) -> Any:
        v = alpha * u
        t = tanh(v)
        size = abs(v)
        G = (size + log1p(exp(real(-2) * size)) - real(0.6931471805599453)) * (real(1) / alpha)
        return G, t, alpha * (real(1) - t * t)


@documented
@dataclass(frozen=True)
class Exp:
    """The contrast G(u) = -exp(-αu²/2) / α, for very peaked sources, or where outliers must be ignored.

    Its derivatives are g(u) = u exp(-αu²/2) and g'(u) = (1 - αu²) exp(-αu²/2).

    Parameters
    ----------
    alpha : float, default=1.0
        α > 0.  FastICA's fun="exp" has α = 1 and Picard's 0.1, as in scikit-learn and python-picard.

    See Also
    --------
    LogCosh : The default.

    References
    ----------
    Hyvärinen 1999, as for `LogCosh`.

    Examples
    --------
    >>> from gpuica import Exp
    >>> float(Exp(0.5).loss(0.0))
    -2.0
    """

    alpha: float = 1.0

    @property
    def params(self) -> Any:
        return (float(self.alpha),)

    def loss(self, u: Any, xp: Any = np) -> Any:
        return -xp.exp(-0.5 * self.alpha * u * u) / self.alpha

    def at(self, u: Any, xp: Any = np) -> Any:
        square = self.alpha * u * u
        e = xp.exp(-0.5 * square)
        return u * e, (1 - square) * e

    @staticmethod
    def at_point(u: Any, alpha: float) -> Any:
        square = alpha * u * u
        e = exp(real(-0.5) * square)
        return -e * (real(1) / alpha), u * e, (real(1) - square) * e


@documented
@dataclass(frozen=True)
class Cube:
    """The contrast G(u) = u⁴/4, which is kurtosis: fast, but sensitive to outliers.

    Its derivatives are g(u) = u³ and g'(u) = 3u².

    References
    ----------
    Hyvärinen 1999, as for `LogCosh`.

    Examples
    --------
    >>> from gpuica import Cube
    >>> Cube().at(2.0)
    (8.0, 12.0)
    """

    params = ()

    def loss(self, u: Any, xp: Any = np) -> Any:
        return (u * u) ** 2 / 4

    def at(self, u: Any, xp: Any = np) -> Any:
        square = u * u
        return square * u, 3 * square

    @staticmethod
    def at_point(u: Any) -> Any:
        square = u * u
        return real(0.25) * square * square, square * u, real(3) * square


@dataclass(frozen=True)
class Custom:
    """A callable in scikit-learn's form: function(x, **kwargs) -> (g(x), mean of g'(x) along the last axis).

    It must work element by element: it is called on blocks x (n_components, n_block).  `at` takes u (n_block,
    n_components).  G is not known, so it cannot be used where the loss is needed.
    """

    function: Callable
    kwargs: tuple[tuple[str, Any], ...] = ()

    params = ()

    def at(self, u: Any, xp: Any = np) -> Any:
        x = u.T.copy()  # the function may overwrite its argument
        result = self.function(x, **dict(self.kwargs))
        name = f"the contrast function {_name(self.function)}"
        g, slope = _pair(result, name, "mean of g'(x) over the last axis", xp)
        if g.shape != x.shape or slope.shape not in (x.shape, x.shape[:-1]):
            raise ValueError(
                f"{name} was given x of shape {x.shape} and must return g(x) of that shape and g'(x) averaged over its "
                f"last axis, of shape {x.shape[:-1]}; it returned shapes {g.shape} and {slope.shape}."
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

    def loss(self, u: Any, xp: Any = np) -> Any:
        u = xp.asarray(u)
        return xp.asarray(self.density.log_lik(u.T.ravel())).reshape(u.T.shape).T

    def at(self, u: Any, xp: Any = np) -> Any:
        y = u.T.copy()
        g, slope = _pair(self.density.score_and_der(y), f"score_and_der of {_name(self.density)}", "g'(x)", xp)
        if g.shape != y.shape or slope.shape != y.shape:
            raise ValueError(
                f"score_and_der of {_name(self.density)} was given y of shape {y.shape} and must return two arrays of "
                f"that shape; it returned shapes {g.shape} and {slope.shape}."
            )
        return g.T, slope.T


CONTRASTS: dict[str, type] = {"logcosh": LogCosh, "exp": Exp, "cube": Cube}
SYNONYMS = {"tanh": "logcosh"}  # names in python-picard
NAMES = {*CONTRASTS, *SYNONYMS}


def is_density(fun: Any) -> Any:
    """Whether fun has the methods of python-picard's densities."""
    return all(callable(getattr(fun, method, None)) for method in ("log_lik", "score_and_der"))


def as_contrast(fun: Any, fun_args: dict[str, Any] | None = None) -> Any:
    """The contrast of scikit-learn's arguments `fun` and `fun_args`.

    fun: "logcosh" (also "tanh"), "exp", "cube", a callable in scikit-learn's form, a contrast, or a density in
    python-picard's form.  fun_args: dict or None.
    Raises ValueError for alpha outside [1, 2], whatever fun is (scikit-learn's rule); TypeError for any other fun.
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


def _known(density: Any) -> Any:
    """The contrast equal to one of python-picard's own densities, for which there are kernels; else None."""
    kind = type(density)
    ours = {"Tanh": LogCosh, "Exp": Exp, "Cube": Cube}.get(kind.__name__)
    if kind.__module__ != "picard.densities" or ours is None or not set(vars(density)) <= {"alpha"}:
        return None
    return ours(*map(float, vars(density).values()))


def _pair(result: Any, of: Any, second: Any, xp: Any) -> Any:
    """The two arrays that a function returned, or a ValueError that says what it must return."""
    if not (isinstance(result, tuple | list) and len(result) == 2):
        raise ValueError(f"{of} must return a tuple (g(x), {second}), but returned {type(result).__name__}.")
    return [xp.asarray(part) for part in result]


def check_contrast(contrast: Any, points: Any = None) -> Any:
    """Check a contrast's derivatives by finite differences, and `at_point` against `at` and `loss`.

    Parameters
    ----------
    contrast : {'logcosh', 'exp', 'cube'}, callable, contrast or density
        A contrast is an object with `params`, `loss(u, xp)` and `at(u, xp)`, such as `LogCosh`; a callable is in
        scikit-learn's form, a density in python-picard's.
    points : array-like of shape (n_points,), default=None
        The arguments u to check at; None for 41 points from -4 to 4.

    Raises
    ------
    ValueError
        If one of G, g and g' is wrong; the message says which, where, and by how much.

    Examples
    --------
    >>> from gpuica import check_contrast
    >>> check_contrast("logcosh")
    >>> check_contrast(lambda x: (x**3, (2 * x**2).mean(axis=-1)))
    Traceback (most recent call last):
        ...
    ValueError: g' is not the derivative of g: at u = -4 it is 32 instead of 48.
    """
    contrast = as_contrast(contrast)
    u = np.linspace(-4, 4, 41) if points is None else np.asarray(points, dtype=np.float64)

    def at(v: Any) -> Any:  # one row per point, so that a callable's own average over the last axis is g' itself
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
            _agree(expected, found, u, f"at_point differs from the array code for {name}", 1e-12)


def _agree(expected: Any, found: Any, u: Any, what: Any, tolerance: Any) -> None:
    """ValueError unless found agrees with expected, (n,) each at u, up to a tolerance relative to 1 + |expected|."""
    error = np.abs(found - expected) / (1 + np.abs(expected))
    worst = int(np.argmax(error))
    if not error[worst] <= tolerance:
        raise ValueError(f"{what}: at u = {u[worst]:g} it is {found[worst]:g} instead of {expected[worst]:g}.")


def _name(function: Any) -> Any:
    """The name of a function for messages."""
    return getattr(function, "__name__", repr(function))
