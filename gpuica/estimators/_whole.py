"""A fit that does not come to its end leaves an estimator as it was, or with all that the solver had found."""

from contextlib import contextmanager, suppress

from sklearn.exceptions import ConvergenceWarning

from ..interrupts import defer_interrupts
from ..messages import warn


@contextmanager
def transactional_fit(estimator):
    """Ctrl-C is deferred in the `with` block; a block that fails before it sets `components_` changes nothing.

    A first fit that fails leaves an estimator that is not fitted, a later one what the fit before has left.
    """
    before = dict(vars(estimator))
    with defer_interrupts():
        try:
            yield
        except BaseException:
            if vars(estimator).get("components_") is before.get("components_"):
                _restore(estimator, before)
            raise


def _restore(estimator, before):
    """Attributes as they were, those aside that are parameters."""
    parameters = set(estimator._get_param_names())
    for name in vars(estimator).keys() - before.keys() - parameters:
        delattr(estimator, name)
    vars(estimator).update({name: value for name, value in before.items() if name not in parameters})


def warn_of_interrupt(message):
    """A ConvergenceWarning, which does not take the place of the interrupt where warnings are errors."""
    with suppress(ConvergenceWarning):
        warn(message, ConvergenceWarning)
