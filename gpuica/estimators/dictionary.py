"""Dictionary learning on all rows at once, drop-in for scikit-learn's."""

import time
from functools import partial

from scipy.linalg import svd
from sklearn.base import _fit_context
from sklearn.decomposition import DictionaryLearning as SklearnDictionaryLearning
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils._param_validation import StrOptions, validate_params
from sklearn.utils.extmath import svd_flip

from ..device import to_host
from ..interrupts import interruptible
from ..messages import warn
from ..solvers.dictionary import FitState, alternate
from ._encode import encode
from ._learner import ADDED, INITIAL, Learner
from ._parameters import real_matrix
from ._progress import print_line, say_resumed
from ._resume import for_callback
from ._shell import locate_nonfinite
from ._unfinished import warn_of_unfinished
from ._whole import transactional_fit


class DictionaryLearning(Learner, SklearnDictionaryLearning):
    """Atoms D (unit ball) and codes C that minimise Σ ½‖x - c D‖² + alpha ‖c‖₁; scikit-learn's `DictionaryLearning`.

    Mairal, Bach, Ponce, Sapiro, "Online learning for matrix factorization and sparse coding", JMLR 2010: codes of all
    rows, one sweep over the atoms, and again.  Parameters and attributes are scikit-learn's, and:

    Parameters
    ----------
    fit_algorithm, transform_algorithm : str
        Any coder of `SparseCoder`; "lars" and "cd" of a fit are the two names of the lasso.  Pursuits take
        transform_n_nonzero_coefs atoms, in the fit too.
    transform_alpha : float
        For pursuits, if given: the squared residual at which a row is done.
    n_jobs : int or None
        Accepted; all cores that are allowed work in any case.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Where to work.
    sparse_output : bool, default=False
        Codes of `transform` as scipy.sparse.csr_array.
    init : {"svd", "data"} or array (n_components, n_features), default="svd"
        First atoms: scikit-learn's, rows of X drawn at random, or given ones.  dict_init and code_init together come
        before it, as in scikit-learn.
    dead_atoms : {"resample", "worst", "keep"}, default="resample"
        An atom that no code uses becomes a random row with a little noise (scikit-learn), one of the rows that the
        dictionary serves worst, or stays.
    update : {"block_descent", "least_squares", "approximate_ksvd"}, default="block_descent"
        How atoms are found from codes; `gpuica.solvers.atoms`.
    memory_limit : int, str or None, default=None
        Bytes, or a text as "2GB", that may be used beyond X; None: what is free.
    checkpoint : path or None, default=None
        A directory where the state of the fit is kept, every half minute and at the end.  A fit that was interrupted
        and is run again with the same checkpoint, data and parameters goes on there, to the same answer.  Other data or
        parameters, and a lower max_iter than was reached, are refused (docs/streaming.md).

    Attributes
    ----------
    converged_ : bool
        Whether the cost came to rest, by tol, before max_iter.
    n_replaced_ : int
        Unused atoms replaced, in all iterations.
    device_ : str
        Where the fit ran.
    """

    _parameter_constraints: dict = {
        **SklearnDictionaryLearning._parameter_constraints,
        **ADDED,
        "code_init": INITIAL,
    }

    def __init__(
        self,
        n_components=None,
        *,
        alpha=1,
        max_iter=1000,
        tol=1e-8,
        fit_algorithm="lars",
        transform_algorithm="omp",
        transform_n_nonzero_coefs=None,
        transform_alpha=None,
        n_jobs=None,
        code_init=None,
        dict_init=None,
        callback=None,
        verbose=False,
        split_sign=False,
        random_state=None,
        positive_code=False,
        positive_dict=False,
        transform_max_iter=1000,
        device="auto",
        sparse_output=False,
        init="svd",
        dead_atoms="resample",
        update="block_descent",
        memory_limit=None,
        checkpoint=None,
    ):
        SklearnDictionaryLearning.__init__(
            self,
            n_components,
            alpha=alpha,
            max_iter=max_iter,
            tol=tol,
            fit_algorithm=fit_algorithm,
            transform_algorithm=transform_algorithm,
            transform_n_nonzero_coefs=transform_n_nonzero_coefs,
            transform_alpha=transform_alpha,
            n_jobs=n_jobs,
            code_init=code_init,
            dict_init=dict_init,
            callback=callback,
            verbose=verbose,
            split_sign=split_sign,
            random_state=random_state,
            positive_code=positive_code,
            positive_dict=positive_dict,
            transform_max_iter=transform_max_iter,
        )
        self.device = device
        self.sparse_output = sparse_output
        self.init = init
        self.dead_atoms = dead_atoms
        self.update = update
        self.memory_limit = memory_limit
        self.checkpoint = checkpoint

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Learn the atoms from X, array of shape (n_samples, n_features) of any kind.  y is ignored."""
        with transactional_fit(self):
            self._fit(X)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def fit_transform(self, X, y=None):
        """Learn the atoms from X (n_samples, n_features); return the codes (n_samples, n_components) of the fit.

        As in scikit-learn these are the codes of the last iteration, by fit_algorithm, against the atoms before their
        last update.  One more pass over X.
        """
        with transactional_fit(self):
            given, coder, learned = self._fit(X)
            C = encode(self, given, to_host(learned.coded_with), coder)
        return C if self.sparse_output else given.back(C)

    def _fit(self, X):
        """Fit; return `InputData`, the coder and what was learned."""
        given, shape, coder, device = self._taken(X)
        self.device_ = str(device)
        with device.active(), self._snapshots(given, shape, coder, device) as (oracle, snapshots):
            rng = snapshots.rng
            if self.code_init is not None and self.dict_init is not None:
                self._check_code_init(given.shape[0])
                D = self._checked(self.dict_init, "dict_init", shape, given.dtype)
            else:
                with locate_nonfinite(self, given):
                    D = self._initial(given, oracle, shape, rng, _exact_atoms)
            learned = FitState(device.put(D))
            snapshots.restore(learned, device.put, self.max_iter)
            say_resumed(self, learned)
            solve = partial(
                alternate,
                *(oracle, learned),
                max_iter=self.max_iter,
                tol=self.tol,
                report=self._reporter(snapshots),
                **self._policies(rng, oracle.xp),
            )
            self._learn(given, learned, solve)
            snapshots.keep(learned, at_once=True)
        device.release_for_torch()
        warn_of_unfinished(learned.n_unfinished, given.shape[0], coder)
        if self.max_iter and not learned.converged:
            warn(self._what_is_left(), ConvergenceWarning)
        return given, coder, learned

    def _check_code_init(self, n_rows):
        """ValueError for codes that are not those of n_rows rows.  What they are is not used: all rows are coded."""
        C = real_matrix(self.code_init, "code_init")
        if C.ndim != 2 or len(C) != n_rows:
            raise ValueError(f"code_init has shape {C.shape}, but must have a row for each of the {n_rows} rows of X.")

    def _store(self, learned):
        super()._store(learned)
        self.error_ = learned.costs
        self.n_iter_ = learned.n_iter

    def _what_is_left(self):
        fall = (self.error_[-2] - self.error_[-1]) / self.error_[-1] if len(self.error_) > 1 else float("inf")
        return (
            f"{type(self).__name__} did not converge: in the last of {self.n_iter_} iterations the cost still fell by "
            f"{fall:.1e} of itself (tol {self.tol}). Increase max_iter or tol."
        )

    def _reporter(self, snapshots):
        began = time.perf_counter()

        def report(learned):
            n_iter, D, costs = learned.n_iter, learned.D, learned.costs
            snapshots.keep(learned)
            if self.verbose:
                seconds = time.perf_counter() - began
                print_line(self, f"iteration {n_iter}, {seconds:.1f} s, current cost {costs[-1]:.4g}")
            if self.callback is not None and n_iter % 5 == 1:
                state = for_callback(self, ii=n_iter - 1, dictionary=D, errors=costs, current_cost=costs[-1])
                with interruptible():
                    self.callback(state)

        return report


@validate_params(
    {
        "X": ["array-like"],
        "method": [StrOptions({"lars", "cd"})],
        "return_n_iter": ["boolean"],
        "method_max_iter": DictionaryLearning._parameter_constraints["transform_max_iter"],
    },
    prefer_skip_nested_validation=False,
)
def dict_learning(
    X,
    n_components,
    *,
    alpha,
    max_iter=100,
    tol=1e-8,
    method="lars",
    n_jobs=None,
    dict_init=None,
    code_init=None,
    callback=None,
    verbose=False,
    random_state=None,
    return_n_iter=False,
    positive_dict=False,
    positive_code=False,
    method_max_iter=1000,
    device="auto",
):
    """Dictionary learning as a function; scikit-learn's `dict_learning`.

    X : array of shape (n_samples, n_features).  method is `DictionaryLearning`'s fit_algorithm, method_max_iter its
    transform_max_iter; the other parameters have its names.

    Returns
    -------
    code : array of shape (n_samples, n_components), of the kind of X.
    dictionary : ndarray of shape (n_components, n_features).
    errors : list of the cost after every iteration.
    n_iter : int, if asked for.
    """
    estimator = DictionaryLearning(
        n_components=n_components,
        alpha=alpha,
        max_iter=max_iter,
        tol=tol,
        fit_algorithm=method,
        n_jobs=n_jobs,
        dict_init=dict_init,
        code_init=code_init,
        callback=callback,
        verbose=verbose,
        random_state=random_state,
        positive_dict=positive_dict,
        positive_code=positive_code,
        transform_max_iter=method_max_iter,
        device=device,
    ).set_output(transform="default")
    code = estimator.fit_transform(X)
    returned = code, estimator.components_, estimator.error_
    return (*returned, estimator.n_iter_) if return_n_iter else returned


def _exact_atoms(X):
    """S Vᵀ of X = U S Vᵀ, signs as scikit-learn's `svd_flip` by U."""
    U, S, V = svd(X, full_matrices=False)
    return S[:, None] * svd_flip(U, V)[1]
