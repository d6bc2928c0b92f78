"""Dictionary learning by mini-batches, drop-in for scikit-learn's."""

from functools import partial
from numbers import Integral

import numpy as np
from sklearn.base import _fit_context
from sklearn.decomposition import MiniBatchDictionaryLearning as SklearnMiniBatch
from sklearn.utils._param_validation import Interval, StrOptions, validate_params
from sklearn.utils.extmath import randomized_svd

from ..code_oracle import CodeOracle, finite_cost
from ..device import to_host
from ..device.transfers import download
from ..interrupts import interruptible
from ..solvers.dictionary import EarlyStopping, FitState, SufficientStatistics, one_batch, online
from ._encode import open_for_coding
from ._learner import ADDED, Learner
from ._parameters import checks_parameters, refuse_overflow
from ._progress import Pace, print_line, say_resumed
from ._resume import for_callback
from ._shell import locate_nonfinite
from ._spread import random_state_for
from ._unfinished import warn_of_unfinished
from ._whole import transactional_fit


class MiniBatchDictionaryLearning(Learner, SklearnMiniBatch):
    """Dictionary learning by mini-batches; scikit-learn's `MiniBatchDictionaryLearning`.

    Mairal, Bach, Ponce, Sapiro, "Online dictionary learning for sparse coding", ICML 2009.  Parameters and attributes
    are scikit-learn's and those that `DictionaryLearning` adds (dict_init comes before init), and:

    Parameters
    ----------
    batch_size : int or "auto", default=256
        "auto": at least 256, and as many rows as atoms up to 4096: in smaller batches a large dictionary's atoms are
        each used less than once.
    memory : int, default=None
        Rows whose codes the update of the atoms remembers, an exponential window.  None: scikit-learn's weights, about
        batch_size squared, which is more than a pass over small data; 10 to 30 rows an atom learn in fewer passes.
    """

    _parameter_constraints: dict = {
        **SklearnMiniBatch._parameter_constraints,
        **ADDED,
        "memory": [Interval(Integral, 1, None, closed="left"), None],
        "batch_size": [*SklearnMiniBatch._parameter_constraints["batch_size"], StrOptions({"auto"})],
    }

    def __init__(
        self,
        n_components=None,
        *,
        alpha=1,
        max_iter=1_000,
        fit_algorithm="lars",
        n_jobs=None,
        batch_size=256,
        shuffle=True,
        dict_init=None,
        transform_algorithm="omp",
        transform_n_nonzero_coefs=None,
        transform_alpha=None,
        verbose=False,
        split_sign=False,
        random_state=None,
        positive_code=False,
        positive_dict=False,
        transform_max_iter=1000,
        callback=None,
        tol=1e-3,
        max_no_improvement=10,
        device="auto",
        sparse_output=False,
        init="svd",
        dead_atoms="resample",
        update="block_descent",
        memory=None,
        memory_limit=None,
        checkpoint=None,
    ):
        SklearnMiniBatch.__init__(
            self,
            n_components,
            alpha=alpha,
            max_iter=max_iter,
            fit_algorithm=fit_algorithm,
            n_jobs=n_jobs,
            batch_size=batch_size,
            shuffle=shuffle,
            dict_init=dict_init,
            transform_algorithm=transform_algorithm,
            transform_n_nonzero_coefs=transform_n_nonzero_coefs,
            transform_alpha=transform_alpha,
            verbose=verbose,
            split_sign=split_sign,
            random_state=random_state,
            positive_code=positive_code,
            positive_dict=positive_dict,
            transform_max_iter=transform_max_iter,
            callback=callback,
            tol=tol,
            max_no_improvement=max_no_improvement,
        )
        self.device = device
        self.sparse_output = sparse_output
        self.init = init
        self.dead_atoms = dead_atoms
        self.update = update
        self.memory = memory
        self.memory_limit = memory_limit
        self.checkpoint = checkpoint

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Learn the atoms from X, array of shape (n_samples, n_features) of any kind.  y is ignored."""
        with transactional_fit(self):
            self._fit(X)
        return self

    def _fit(self, X):
        given, shape, coder, device = self._taken(X)
        n_rows = given.shape[0]
        self.device_ = str(device)
        with device.active(), self._snapshots(given, shape, coder, device) as (oracle, snapshots):
            self._random_state = rng = snapshots.rng
            with locate_nonfinite(self, given):
                learned = FitState(device.put(self._begin(given, oracle, shape)))
            batch_size = min(self._batch_rows(shape[0]), n_rows)
            self._batches_of_pass = -(-n_rows // batch_size)
            n_steps = self.max_iter * self._batches_of_pass
            stop = EarlyStopping(n_rows, shape[0], self.tol, self.max_no_improvement)
            draws = rng.get_state()
            snapshots.restore(learned, device.put, n_steps, self._statistics, stop)
            say_resumed(self, learned)
            batches = self._batches(oracle, batch_size, rng, draws, learned.n_iter)
            solve = partial(
                online,
                *(learned, self._statistics, batches),
                max_steps=n_steps,
                stop=self._watched(stop, n_steps),
                report=partial(self._report, snapshots, stop),
                **self._policies(rng, oracle.xp),
            )
            try:
                self._learn(given, learned, solve)
            except KeyboardInterrupt:
                self._statistics.to(download)
                raise
            snapshots.keep(learned, self._statistics, stop, at_once=True)
            self._statistics.to(download)  # a pickle loads without a GPU
        device.release_for_torch()
        warn_of_unfinished(learned.n_unfinished, batch_size, coder)

    @checks_parameters  # the next does so before the first call only
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(self, X, y=None):
        """Update the atoms with X (n_samples, n_features) as one mini-batch.  y is ignored."""
        with transactional_fit(self):
            self._partial_fit(X)
        return self

    def _partial_fit(self, X):
        first = not hasattr(self, "components_")
        given, shape, coder, device = self._taken(X, reset=first)
        with device.active():
            oracle = CodeOracle(open_for_coding(given, shape[0], device).upload(), coder)
            if first:
                self._random_state = random_state_for(self.random_state, given)
                D = device.put(self._begin(given, oracle, shape))
                self.n_steps_, self.n_replaced_ = 0, 0
            else:
                D = device.put(self.components_.astype(given.dtype, copy=False))
                self._statistics.to(device.put)
            try:
                D, cost, replaced, n_unfinished = one_batch(
                    oracle, D, self._statistics, self.n_steps_, **self._policies(self._random_state, oracle.xp)
                )
            finally:
                self._statistics.to(download)  # a pickle loads without a GPU
            finite_cost(cost)
        D = to_host(D)
        refuse_overflow(D.dtype, D)
        self.components_ = D
        self.n_steps_ += 1
        self.n_replaced_ += replaced
        self.device_ = str(device)
        warn_of_unfinished(n_unfinished, given.shape[0], coder)

    def _begin(self, given, oracle, shape):
        """The first atoms, on the host; statistics of nothing."""
        self._statistics = SufficientStatistics(shape, given.dtype, oracle.xp, self.memory)
        if self.dict_init is not None:
            return self._checked(self.dict_init, "dict_init", shape, given.dtype)
        decompose = partial(_randomised_atoms, k=shape[0], rng=self._random_state)
        return self._initial(given, oracle, shape, self._random_state, decompose)

    def _batches(self, oracle, size, rng, draws, skip):
        """Oracles of the batches after the first `skip`, their order drawn as it was at first, in the state `draws`."""
        if not self.shuffle:
            return oracle.batches(size, None, skip)
        if not skip:
            return oracle.batches(size, rng)
        then = np.random.RandomState()
        then.set_state(draws)
        return oracle.batches(size, then, skip)

    def _store(self, learned):
        super()._store(learned)
        self.costs_ = np.array(learned.costs)
        self.n_steps_ = learned.n_iter
        self.n_iter_ = np.ceil(self.n_steps_ / self._batches_of_pass)

    def _batch_rows(self, n_atoms):
        return min(max(256, n_atoms), 4096) if self.batch_size == "auto" else int(self.batch_size)

    @property
    def _A(self):
        """scikit-learn's name of Σ c cᵀ (K, K)."""
        return self._statistics.A

    @property
    def _B(self):
        """scikit-learn's name of Σ x cᵀ (n_features, K)."""
        return self._statistics.B.T

    def _watched(self, stop, n_steps):
        """The rule to stop, which prints how it goes if the fit is verbose: the first step, then one every two seconds
        and the last; with verbose=2 all."""
        pace = Pace()

        def checked(step, D, old, cost, batch_rows):
            return stop(step, D, old, finite_cost(cost), batch_rows)

        def reporting(step, D, old, cost, batch_rows):
            ended, number = checked(step, D, old, cost, batch_rows), f"{step + 1}/{n_steps}"
            if pace.is_due() or self.verbose > 1 or ended or step + 1 == n_steps:
                epoch = step // self._batches_of_pass + 1
                average = "" if stop.average is None else f", ewa cost: {stop.average:.4g}"
                print_line(self, f"Minibatch step {number}, epoch {epoch}: mean batch cost: {cost:.4g}{average}")
            if ended:
                print_line(self, f"Converged ({stop.why}) at step {number}")
            return ended

        return reporting if self.verbose else checked

    def _report(self, snapshots, stop, learned):
        snapshots.keep(learned, self._statistics, stop)
        if self.callback is not None and not learned.converged:
            last = for_callback(self, i=learned.n_iter - 1, dictionary=learned.D, batch_cost=learned.costs[-1])
            with interruptible():
                self.callback({**last, "self": self})


@validate_params(
    {
        "X": ["array-like"],
        "return_code": ["boolean"],
        "method": [StrOptions({"cd", "lars"})],
        "method_max_iter": MiniBatchDictionaryLearning._parameter_constraints["transform_max_iter"],
    },
    prefer_skip_nested_validation=False,
)
def dict_learning_online(
    X,
    n_components=2,
    *,
    alpha=1,
    max_iter=100,
    return_code=True,
    dict_init=None,
    callback=None,
    batch_size=256,
    verbose=False,
    shuffle=True,
    n_jobs=None,
    method="lars",
    random_state=None,
    positive_dict=False,
    positive_code=False,
    method_max_iter=1000,
    tol=1e-3,
    max_no_improvement=10,
    device="auto",
):
    """Dictionary learning by mini-batches, as a function; scikit-learn's `dict_learning_online`.

    X : array of shape (n_samples, n_features).  method is `MiniBatchDictionaryLearning`'s fit_algorithm,
    method_max_iter its transform_max_iter; the other parameters have its names.

    Returns
    -------
    code : array of shape (n_samples, n_components), of the kind of X, if return_code: the lasso of all rows.
    dictionary : ndarray of shape (n_components, n_features).
    """
    estimator = MiniBatchDictionaryLearning(
        n_components=n_components,
        alpha=alpha,
        max_iter=max_iter,
        n_jobs=n_jobs,
        fit_algorithm=method,
        batch_size=batch_size,
        shuffle=shuffle,
        dict_init=dict_init,
        random_state=random_state,
        transform_algorithm="lasso_" + method,
        transform_alpha=alpha,
        positive_code=positive_code,
        positive_dict=positive_dict,
        transform_max_iter=method_max_iter,
        verbose=verbose,
        callback=callback,
        tol=tol,
        max_no_improvement=max_no_improvement,
        device=device,
    ).set_output(transform="default")
    estimator.fit(X)
    return (estimator.transform(X), estimator.components_) if return_code else estimator.components_


def _randomised_atoms(X, k, rng):
    """S Vᵀ of the k first singular vectors, drawn as scikit-learn draws them."""
    _, S, V = randomized_svd(X, k, random_state=rng)
    return S[:, None] * V
