"""Sparse coding with a given dictionary, drop-in for scikit-learn's."""

from numbers import Integral, Real
from typing import Any, Self

from sklearn.base import _fit_context
from sklearn.decomposition import SparseCoder as SklearnSparseCoder
from sklearn.utils._param_validation import Interval

from ..input import check_input
from ._codes import check_dictionary, coder_for_transform
from ._dictionary import CODING_CONSTRAINTS, DictionaryEstimator


class InstanceAttribute:
    """A class attribute that hides a read-only property of a parent class, so that instances can set the name.

    Until an instance sets it, access raises AttributeError; after that Python finds the value on the instance, because
    this descriptor has no `__set__`.
    """

    def __set_name__(self, owner: Any, name: Any) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: Any) -> Any:
        if instance is None:
            return self
        raise AttributeError(f"{owner.__name__} has no attribute {self.name!r} before it is fitted")


class SparseCoder(DictionaryEstimator, SklearnSparseCoder):
    """Sparse codes of rows for a fixed dictionary, on CPUs or GPUs.

    Computes for each row x of X a code c with few non-zeros such that x ≈ c D, where D is the dictionary.  A drop-in
    replacement of `sklearn.decomposition.SparseCoder`; `transform` does not require a call of `fit`.

    Parameters
    ----------
    dictionary : array-like of shape (n_components, n_features)
        Atoms, the rows of D.  They need not have norm 1.
    transform_algorithm : {"lasso_lars", "lasso_cd", "fista", "threshold", "lars", "omp", "nnomp", "ormp", \
            "matching_pursuit", "gradient_pursuit", "topk"}, default="omp"
        Coder.  Its objective or algorithm is given in the Notes.
    transform_n_nonzero_coefs : int, default=None
        Number of non-zeros of a code, for all coders but the lasso and "threshold".  None means n_features / 10,
        rounded down, but at least 1.
    transform_alpha : float, default=None
        For the lasso, the weight of the l1 penalty; for "threshold", the threshold; None means 1 for both.
        For "omp", "nnomp", "ormp", "matching_pursuit" and "gradient_pursuit", the squared residual ‖x - c D‖² at which
        a code is complete, which then replaces `transform_n_nonzero_coefs`.  "lars" and "topk" do not use it.
    split_sign : bool, default=False
        Whether to return the positive parts of the codes and the absolute values of their negative parts in separate
        columns, 2 * n_components in total.
    n_jobs : int, default=None
        Not used, for compatibility with scikit-learn: all available cores are used.
    positive_code : bool, default=False
        Whether codes are constrained to be non-negative, for the lasso, "threshold" and "topk".
    transform_max_iter : int, default=1000
        Maximum number of iterations for the lasso of a row: proximal gradient steps of "fista", rounds over the atoms
        of the other lasso coders.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Device for the computation.  "auto" means the device of X if X is a device array, and otherwise a GPU if there
        is one and the amount of work justifies the transfer.
    sparse_output : bool, default=False
        Whether to return codes as a `scipy.sparse.csr_array`.
    memory_limit : int or str, default=None
        Memory budget in bytes, or as a string such as "2GB", in addition to X.  None means the free memory.

    Attributes
    ----------
    n_components_ : int
        Number of atoms.
    n_features_in_ : int
        Number of features seen by `fit`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features seen by `fit`, if X had names that are all strings.

    See Also
    --------
    sparse_encode : The same as a function.
    DictionaryLearning : Learn the dictionary, with all rows in each iteration.
    MiniBatchDictionaryLearning : Learn the dictionary from mini-batches.

    Notes
    -----
    With q = x Dᵀ, the correlations of a row with the atoms, the code c of the row x is:

    - "lasso_lars", "lasso_cd": argmin ½‖x - c D‖² + alpha ‖c‖₁, by an active-set method, to the precision of the
      dtype; two names of one coder, for compatibility.
    - "fista": the same minimum, by accelerated proximal gradient steps [1]_ until the relative duality gap is 1e-6.
    - "threshold": sign(q) max(|q| - alpha, 0).
    - "lars": least angle regression [2]_ up to the number of atoms.
    - "omp": orthogonal matching pursuit [3]_: the atom of largest |D (x - c D)| enters, then c is the least-squares
      solution on the atoms that have entered.
    - "nnomp": OMP with c ≥ 0 [4]_.
    - "ormp": order-recursive matching pursuit [5]_: the atom enters that reduces ‖x - c D‖² most.
    - "matching_pursuit": one coefficient is updated per step [6]_.
    - "gradient_pursuit": all selected coefficients are updated along the gradient per step [7]_.
    - "topk": the entries of q of largest magnitude, all others 0.

    Codes that are unfinished, because a row needs more than `transform_max_iter` iterations or because a pursuit
    cannot continue, are counted in one ConvergenceWarning.

    References
    ----------
    .. [1] A. Beck and M. Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems",
       SIAM Journal on Imaging Sciences 2, 2009.
    .. [2] B. Efron, T. Hastie, I. Johnstone and R. Tibshirani, "Least angle regression", Annals of Statistics 32, 2004.
    .. [3] Y. Pati, R. Rezaiifar and P. Krishnaprasad, "Orthogonal matching pursuit", Asilomar Conference, 1993.
    .. [4] A. Bruckstein, M. Elad and M. Zibulevsky, "On the uniqueness of nonnegative sparse solutions to
       underdetermined systems of equations", IEEE Transactions on Information Theory 54, 2008.
    .. [5] S. Chen, S. Billings and W. Luo, "Orthogonal least squares methods and their application to non-linear
       system identification", International Journal of Control 50, 1989.
    .. [6] S. Mallat and Z. Zhang, "Matching pursuits with time-frequency dictionaries", IEEE Transactions on Signal
       Processing 41, 1993.
    .. [7] T. Blumensath and M. Davies, "Gradient pursuits", IEEE Transactions on Signal Processing 56, 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from gpuica import SparseCoder
    >>> D = np.array([[1.0, 0.0, 0.0], [0.0, 0.6, 0.8], [0.0, 0.8, -0.6]])
    >>> coder = SparseCoder(D, transform_algorithm="lasso_cd", transform_alpha=0.5)
    >>> coder.transform(np.array([[3.0, 0.0, 0.0], [0.0, 1.2, 1.6]]))
    array([[2.5, 0. , 0. ],
           [0. , 1.5, 0. ]])
    """

    n_components_: Any = InstanceAttribute()  # read-only properties in scikit-learn before 1.8
    n_features_in_: Any = InstanceAttribute()
    _parameter_constraints: dict = {  # scikit-learn before 1.8 has none
        **CODING_CONSTRAINTS,
        "dictionary": ["array-like"],
        "transform_n_nonzero_coefs": [Interval(Integral, 1, None, closed="left"), None],
        "transform_alpha": [Interval(Real, 0, None, closed="left"), None],
        "split_sign": ["boolean"],
        "n_jobs": [Integral, None],
        "positive_code": ["boolean"],
        "transform_max_iter": [Interval(Integral, 0, None, closed="left")],
    }

    def __init__(
        self,
        dictionary: Any,
        *,
        transform_algorithm: str = "omp",
        transform_n_nonzero_coefs: int | None = None,
        transform_alpha: float | None = None,
        split_sign: bool = False,
        n_jobs: int | None = None,
        positive_code: bool = False,
        transform_max_iter: int = 1000,
        device: str = "auto",
        sparse_output: bool = False,
        memory_limit: int | str | None = None,
    ) -> None:
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
    def fit(self, X: Any, y: Any = None) -> Self:
        """Validate the parameters and X; nothing is learned.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows: an array of NumPy, CuPy, PyTorch or Dask, a DataFrame, a memory map, or paths of files.
        y : None
            Ignored.

        Returns
        -------
        self : SparseCoder
            The estimator.

        Raises
        ------
        ValueError
            If X or the dictionary is not a finite real matrix, if their numbers of features differ, or if the coder
            does not support the parameters.
        """
        data = check_input(self, X, reset=True)
        D = self._dictionary(data.shape[1])
        coder_for_transform(self, D.shape)
        self.n_components_ = len(D)
        return self

    def _dictionary(self, n_features: Any = None) -> Any:
        return check_dictionary(self.dictionary, n_features)
