"""Contrasts: derivatives by finite differences, scalar code against array code, and what a callable can return."""

import numpy as np
import pytest

from gpuica import Exp, LogCosh, check_contrast
from gpuica.contrasts import CONTRASTS, Custom, as_contrast

from . import naive

U = np.linspace(-6, 6, 101)


@pytest.mark.parametrize("name", CONTRASTS)
def test_a_contrast_is_its_formula(name):
    contrast = as_contrast(name)
    g, slope = contrast.at(U)
    np.testing.assert_allclose(contrast.loss(U), [naive.G[name](u) for u in U], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(g, [naive.g[name](u) for u in U], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(slope, [naive.slope[name](u) for u in U], rtol=1e-10, atol=1e-14)
    check_contrast(name)


def test_logcosh_takes_alpha():
    contrast = LogCosh(1.7)
    np.testing.assert_allclose(contrast.loss(U), [naive.G["logcosh"](u, 1.7) for u in U], rtol=1e-12, atol=1e-14)
    check_contrast(contrast)


def test_exp_takes_alpha():
    contrast = Exp(0.1)
    np.testing.assert_allclose(contrast.at(U)[0], [u * np.exp(-0.05 * u * u) for u in U], rtol=1e-12)
    check_contrast(contrast)


def test_logcosh_does_not_overflow():
    assert np.isfinite(LogCosh().loss(np.array([1e4, -1e300]))).all()


class Wrong(LogCosh):
    def at(self, u, xp=np):
        g, slope = super().at(u, xp)
        return g, slope + 1e-3


class WrongLoss(LogCosh):
    def loss(self, u, xp=np):
        return super().loss(u, xp) * 1.001


class WrongPoint(LogCosh):
    @staticmethod
    def at_point(u, alpha):
        G, g, slope = LogCosh.at_point(u, alpha)
        return G, g, slope * 1.001


@pytest.mark.parametrize(
    ("contrast", "complaint"),
    [
        (Wrong(), "g' is not the derivative of g"),
        (WrongLoss(), "g is not the derivative of G"),
        (WrongPoint(), "at_point differs from the array code for g'"),
        (lambda x: (x**3, (2 * x**2).mean(axis=-1)), "g' is not the derivative of g"),
    ],
)
def test_check_contrast_finds_the_error(contrast, complaint):
    with pytest.raises(ValueError, match=complaint):
        check_contrast(contrast)


def test_check_contrast_accepts_a_right_callable():
    check_contrast(lambda x: (x**3, (3 * x**2).mean(axis=-1)))


@pytest.mark.parametrize(
    "nonsense",
    [np.tanh, lambda x: None, lambda x: (x, x, x), lambda x: (x[:1], x.mean(-1)), lambda x: (x, np.float64(1))],
)
def test_the_error_for_a_wrong_callable_says_what_is_needed(nonsense):
    with pytest.raises(ValueError, match="must return"):
        Custom(nonsense).at(np.ones((3, 5)))


@pytest.mark.parametrize("alpha", [0, 0.99, 2.01, -1])
@pytest.mark.parametrize("fun", ["logcosh", "exp", "cube"])
def test_alpha_is_checked_for_every_contrast(fun, alpha):
    with pytest.raises(ValueError, match=r"alpha must be in \[1,2\]"):
        as_contrast(fun, {"alpha": alpha})
