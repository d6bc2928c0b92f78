"""Fits that are interrupted or fail leave the estimator unchanged, or with the components found so far."""

from contextlib import contextmanager, suppress

from sklearn.exceptions import ConvergenceWarning

from ..interrupts import defer_interrupts
from ..messages import warn


@contextmanager
def transactional_fit(estimator):
    """In the `with` block, Ctrl-C is deferred; if the block fails before it sets `components_`, the estimator is
    restored.

    After a failed first fit the estimator is not fitted; after a failed later one it has the attributes of the earlier.
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
    """Restore all attributes except parameters to the values in `before`."""
    parameters = set(estimator._get_param_names())
    for name in vars(estimator).keys() - before.keys() - parameters:
        delattr(estimator, name)
    vars(estimator).update({name: value for name, value in before.items() if name not in parameters})


def warn_of_interrupt(message):
    """Issue a ConvergenceWarning; where warnings are errors it must not replace the KeyboardInterrupt."""
    with suppress(ConvergenceWarning):
        warn(message, ConvergenceWarning)
