"""Sparse coding against a given dictionary, drop-in for scikit-learn's."""

import time
from numbers import Integral, Real

import numpy as np
from scipy.sparse import hstack, issparse
from sklearn.base import BaseEstimator, TransformerMixin, _fit_context
from sklearn.decomposition import SparseCoder as SklearnSparseCoder
from sklearn.utils import check_array
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.validation import check_is_fitted

from ..coders import CODERS, accepts, as_coder
from ..rows import open_rows
from ._encode import check_dictionary, encode, times_dictionary
from ._parameters import checks_parameters
from ._results import to_output
from ._shell import InputData, check_input
from ._spread import select_device

MOST_ROUNDS = 2**31 - 1  # what a kernel can count to
# A fit's alpha is also that of these coders, unless transform_alpha is given.
FOLLOWS_ALPHA = tuple(name for name in CODERS if accepts(name, "alpha"))


class SparseCoding(TransformerMixin, BaseEstimator):
    """The part of an estimator that has a dictionary and gives codes; a subclass has scikit-learn's parameters."""

    def _dictionary(self):
        """The dictionary (K, d), on the host."""
        return self.components_

    def _transform_coder(self, D):
        """The coder that the parameters of the transform name."""
        alpha = self.transform_alpha
        if alpha is None and self.transform_algorithm in FOLLOWS_ALPHA:
            alpha = getattr(self, "alpha", None)
        return as_coder(
            self.transform_algorithm,
            D.shape,
            alpha=alpha,
            n_nonzero=self.transform_n_nonzero_coefs,
            positive=self.positive_code,
            max_iter=min(self.transform_max_iter, MOST_ROUNDS),
        )

    @checks_parameters
    def transform(self, X, y=None, *, out=None):
        """Codes of X against the dictionary.

        X : array of shape (n_samples, n_features), of any kind that `fit` takes.  y is ignored.
        out : for codes larger than memory: the path of a .npy file, or an array (n_samples, n_components) that rows can
            be assigned to (zarr, h5py, memmap); with sparse_output a directory for files codes-00000.npz, ..., which
            scipy.sparse.load_npz reads, and which get their names when all are complete.  Not with split_sign.
        Returns an array (n_samples, n_components), or (n_samples, 2 * n_components) with split_sign, of the kind of X;
        a scipy.sparse.csr_array with sparse_output; `out` if it is given, or the list of files.
        """
        check_is_fitted(self)
        given, D = check_input(self, X, reset=False), np.asarray(self._dictionary())
        return self._codes(given, D, self._transform_coder(D), out)

    def _codes(self, given, D, coder, out):
        if out is not None and self.split_sign:
            raise ValueError("out= needs split_sign=False: split the codes when they are read.")
        C = encode(self, given, D, coder, out)
        if out is not None:
            return C
        if self.sparse_output:
            return hstack([C.maximum(0), (-C).maximum(0)], format="csr") if self.split_sign else C
        if self.split_sign:
            both = np.empty_like(C, shape=(C.shape[0], 2 * C.shape[1]))
            both[:, : C.shape[1]] = C.clip(0, None)
            both[:, C.shape[1] :] = (-C).clip(0, None)
            C = both
        return given.back(C)

    @checks_parameters
    def inverse_transform(self, X, *, out=None):
        """The rows that codes stand for: X @ dictionary.

        X : array or scipy sparse matrix of shape (n_samples, n_components), or (n_samples, 2 * n_components) with
        split_sign.  out : as for `transform`; for dense codes.
        Returns an array of shape (n_samples, n_features), of the kind of X; of NumPy for a sparse matrix.
        """
        check_is_fitted(self)
        D = np.asarray(self._dictionary())
        given = (
            InputData(check_array(X, accept_sparse="csr"), D.dtype, None)
            if issparse(X)
            else check_input(self, X, reset=None)
        )
        C, expected = given.array, len(D) * (2 if self.split_sign else 1)
        if C.shape[1] != expected:
            raise ValueError(
                "The number of components in the code is different from the number of components in the dictionary."
                f"Expected {expected}, got {C.shape[1]}."
            )
        if self.split_sign:
            D = np.concatenate([D, -D])
        if issparse(C):
            return C @ D
        device = select_device(self, given, work=2 * C.shape[0] * D.size)
        with device.active():
            dtype = np.result_type(given.dtype, D.dtype)
            rows = open_rows(C, dtype=dtype, device=device, prepare=given.prepare())
            return to_output(
                self, given, device, rows, times_dictionary, (device.put(D.astype(dtype)),), D.shape[1], out
            )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


class Settable:
    """An attribute of instances, in place of a property of a parent class."""

    def __set_name__(self, owner, name):
        self.name = name

    def __get__(self, instance, owner):
        if instance is None:
            return self
        if self.name not in vars(instance):
            raise AttributeError(f"{owner.__name__} has no attribute {self.name!r} before it is fitted")
        return vars(instance)[self.name]

    def __set__(self, instance, value):
        vars(instance)[self.name] = value


class SparseCoder(SparseCoding, SklearnSparseCoder):
    """Codes against a fixed dictionary; scikit-learn's `SparseCoder`, on CPU or GPU.

    Parameters
    ----------
    dictionary : array of shape (n_components, n_features)
        Atoms, of norm 1 or not.
    transform_algorithm : str, default="omp"
        "lasso_lars" and "lasso_cd" (the same solution, found the fastest way), "lars", "omp", "threshold" as in
        scikit-learn; also "fista", "nnomp" (non-negative OMP), "ormp" (order-recursive OMP), "matching_pursuit",
        "gradient_pursuit", "topk".
        `gpuica.coders` has their formulas.
    transform_n_nonzero_coefs : int, default=None
        Atoms of a row, for all but the lasso coders and "threshold".  None: n_features / 10, at least 1.
    transform_alpha : float, default=None
        Penalty of the lasso, threshold; for "omp" and the other pursuits, if given, the squared residual at which a row
        is done, in place of a number of atoms.  None: 1, and no residual.
    split_sign : bool, default=False
        Codes as their positive parts beside their negative parts.
    n_jobs : int or None
        Accepted; all cores that are allowed work in any case.
    positive_code : bool, default=False
        Codes >= 0; for the lasso coders, "threshold" and "topk".
    transform_max_iter : int, default=1000
        Rounds (steps, for "fista") of a lasso code; rows that need more are counted in a ConvergenceWarning.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Where to work.
    sparse_output : bool, default=False
        Codes as scipy.sparse.csr_array: dense codes of 1M rows x 16,384 atoms are 65 GB.
    memory_limit : int, str or None, default=None
        Bytes, or a text as "2GB", that may be used beyond X; None: what is free.
    """

    n_components_, n_features_in_ = Settable(), Settable()  # before scikit-learn 1.8 read-only properties
    _parameter_constraints: dict = {  # before scikit-learn 1.8 there are none
        "dictionary": ["array-like"],
        "transform_algorithm": [StrOptions(set(CODERS))],
        "transform_n_nonzero_coefs": [Interval(Integral, 1, None, closed="left"), None],
        "transform_alpha": [Interval(Real, 0, None, closed="left"), None],
        "split_sign": ["boolean"],
        "n_jobs": [Integral, None],
        "positive_code": ["boolean"],
        "transform_max_iter": [Interval(Integral, 0, None, closed="left")],
        "device": [str],
        "sparse_output": ["boolean"],
        "memory_limit": [Interval(Integral, 1, None, closed="left"), str, None],
    }

    def __init__(
        self,
        dictionary,
        *,
        transform_algorithm="omp",
        transform_n_nonzero_coefs=None,
        transform_alpha=None,
        split_sign=False,
        n_jobs=None,
        positive_code=False,
        transform_max_iter=1000,
        device="auto",
        sparse_output=False,
        memory_limit=None,
    ):
        SklearnSparseCoder.__init__(
            self,
            dictionary,
            transform_algorithm=transform_algorithm,
            transform_n_nonzero_coefs=transform_n_nonzero_coefs,
            transform_alpha=transform_alpha,
            split_sign=split_sign,
            n_jobs=n_jobs,
            positive_code=positive_code,
            transform_max_iter=transform_max_iter,
        )
        self.device = device
        self.sparse_output = sparse_output
        self.memory_limit = memory_limit

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the parameters and X (n_samples, n_features); nothing is learned.  y is ignored."""
        given = check_input(self, X, reset=True)
        D = check_dictionary(self.dictionary, given.shape[1])
        self._transform_coder(D)
        self.n_components_ = len(D)
        return self

    @checks_parameters
    def transform(self, X, y=None, *, out=None):
        """Codes of X against the dictionary; see `SparseCoding.transform`.  Needs no fit."""
        given = check_input(self, X, reset=False)
        D = check_dictionary(self.dictionary, given.shape[1])
        return self._codes(given, D, self._transform_coder(D), out)

    def _dictionary(self):
        return check_dictionary(self.dictionary)


@validate_params(
    {
        "dictionary": ["array-like"],
        "algorithm": SparseCoder._parameter_constraints["transform_algorithm"],
        "n_nonzero_coefs": SparseCoder._parameter_constraints["transform_n_nonzero_coefs"],
        "alpha": SparseCoder._parameter_constraints["transform_alpha"],
        "max_iter": SparseCoder._parameter_constraints["transform_max_iter"],
        "positive": ["boolean"],
        "n_jobs": [Integral, None],
        "verbose": ["verbose"],
        "device": [str],
        "sparse_output": ["boolean"],
    },
    prefer_skip_nested_validation=True,
)
def sparse_encode(
    X,
    dictionary,
    *,
    gram=None,
    cov=None,
    algorithm="lasso_lars",
    n_nonzero_coefs=None,
    alpha=None,
    copy_cov=True,
    init=None,
    max_iter=1000,
    n_jobs=None,
    check_input=True,
    verbose=0,
    positive=False,
    device="auto",
    sparse_output=False,
):
    """Codes C of X against a dictionary D, X ~ C D; scikit-learn's `sparse_encode`, on CPU or GPU.

    X : array of shape (n_samples, n_features).
    dictionary : array of shape (n_components, n_features)
    algorithm, n_nonzero_coefs, alpha, max_iter, positive, device, sparse_output : as for `SparseCoder`.
    verbose : whether to print a line before the codes are made and one after.
    gram, cov, copy_cov, init, n_jobs, check_input : accepted, and not needed: a code does not depend on them.

    Returns an array (n_samples, n_components) of the kind of X, or a scipy.sparse.csr_array.
    """
    coder = SparseCoder(
        dictionary,
        transform_algorithm=algorithm,
        transform_n_nonzero_coefs=n_nonzero_coefs,
        transform_alpha=alpha,
        positive_code=positive,
        transform_max_iter=max_iter,
        device=device,
        sparse_output=sparse_output,
    )
    if not verbose:
        return coder.transform(X)
    began = time.perf_counter()
    print(f"[sparse_encode] coding by {algorithm!r}", flush=True)
    codes = coder.transform(X)
    seconds = time.perf_counter() - began
    print(f"[sparse_encode] codes of shape {codes.shape}, {seconds:.1f} s", flush=True)
    return codes
