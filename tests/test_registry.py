"""The registry of coders: what a coder declares is all that the estimators need."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from sklearn.utils._param_validation import StrOptions

from gpuica import SparseCoder
from gpuica.coders import CODERS, accepts, as_coder, register, supports_positive


@dataclass(frozen=True)
class Largest:
    """The correlation x D_j of the n_nonzero largest, cut at 0: a coder of one line, without a kernel."""

    n_nonzero: int
    names: ClassVar[dict[str, dict]] = {"largest": {}}
    kernel: ClassVar[None] = None
    unfinished: ClassVar[str] = ""

    def encode(self, X, D, xp=np):
        Q = xp.maximum(X @ D.T, 0)
        return xp.where(xp.sort(Q, axis=1)[:, -self.n_nonzero, None] <= Q, Q, 0), 0

    def penalty(self, C):
        return 0.0


def test_a_new_coder_is_one_decorated_class(monkeypatch, rng):
    monkeypatch.setattr("gpuica.coders.registry.CODERS", dict(CODERS))
    register(Largest)
    # in a module of gpuica.coders the decorator runs before the estimators read the names
    monkeypatch.setitem(SparseCoder._parameter_constraints, "transform_algorithm", [StrOptions({"largest"})])
    X, D = rng.normal(size=(5, 4)), np.eye(4)
    coder = SparseCoder(D, transform_algorithm="largest", transform_n_nonzero_coefs=1)
    largest = np.arange(4) == X.argmax(axis=1)[:, None]
    np.testing.assert_array_equal(coder.fit_transform(X), np.where(largest, np.maximum(X, 0), 0))
    with pytest.raises(ValueError, match="Positive constraint not supported for 'largest'"):
        coder.set_params(positive_code=True).transform(X)


PARAMETERS = {  # name -> parameters that users choose
    "lasso_lars": {"alpha", "positive", "max_iter"},
    "lasso_cd": {"alpha", "positive", "max_iter"},
    "fista": {"alpha", "positive", "max_iter"},
    "omp": {"n_nonzero", "target"},
    "nnomp": {"n_nonzero", "target"},
    "ormp": {"n_nonzero", "target"},
    "lars": {"n_nonzero"},
    "matching_pursuit": {"n_nonzero", "target"},
    "gradient_pursuit": {"n_nonzero", "target"},
    "topk": {"n_nonzero", "positive"},
    "threshold": {"alpha", "positive"},
}


def test_parameters_of_all_coders():
    every = set().union(*PARAMETERS.values())
    assert set(CODERS) == set(PARAMETERS)
    assert {name: {what for what in every if accepts(name, what)} for name in CODERS} == PARAMETERS
    assert {name for name in CODERS if supports_positive(name)} == {
        *("lasso_lars", "lasso_cd", "fista", "nnomp", "topk", "threshold")
    }


@pytest.mark.parametrize("name", PARAMETERS)
def test_coders_get_the_parameters_that_apply(name):
    coder = as_coder(name, (30, 12), max_iter=7)
    assert getattr(coder, "alpha", 1.0) == 1
    assert getattr(coder, "max_iter", 7) == 7
    assert getattr(coder, "n_nonzero", 1) == 1
    if accepts(name, "target"):  # in place of a number of atoms
        assert as_coder(name, (30, 12), alpha=0.5, n_nonzero=3) == replace(coder, n_nonzero=30, target=0.5)
    if accepts(name, "n_nonzero"):
        with pytest.raises(ValueError, match="n_nonzero_coefs=31 is more than the 30 atoms"):
            as_coder(name, (30, 12), n_nonzero=31)
