"""How far a fit that did not converge is, and what to do: remedies that fit its settings."""

import numpy as np

from ..solvers.stopping import MAX_Z


def of_fastica(estimator, solution):
    """scikit-learn's sentence, then how far the fit is and what to do with these settings."""
    moving, k, auto = int((~solution.converged_components).sum()), len(solution.delta), estimator.tol == "auto"
    if not auto and bool((solution.delta < estimator.tol).all()):
        remedy = "raise max_iter" if estimator.algorithm == "picard" else "use a smaller tol, or algorithm='picard'"
        return (
            f"FastICA did not converge: no component moved by tol={estimator.tol} in the last of {solution.n_iter} "
            f"iterations, but the gradient of {moving} of {k} is more than {MAX_Z:.0f} standard errors from 0, up to "
            f"{float(solution.z.max()):.0f} (see gradient_z_). Where sources depend on each other, steps are short "
            f"far from a solution too: {remedy}."
        )
    rule = "gradients above their standard errors; see gradient_z_" if auto else f"tol {estimator.tol}; see delta_"
    remedy = " Try fewer components."
    if estimator.algorithm != "picard":
        remedy = " If they oscillate, more iterations do not help: try algorithm='picard', or fewer components."
    return (
        f"FastICA did not converge. Consider increasing {'' if auto else 'tolerance or '}the maximum number of "
        f"iterations. After {solution.n_iter} iterations {moving} of {k} components still moved, the worst by "
        f"{float(solution.delta.max()):.1e} ({rule}).{remedy}"
    )


def of_picard(estimator, solution):
    """python-picard's sentence, then how far the fit is and what to do with these settings."""
    left, auto = int((~solution.converged_components).sum()), estimator.tol == "auto"
    if len(solution.losses) > estimator.max_iter:
        remedy = "Increase max_iter"
        remedy += "." if auto else ", or use tol='auto', which asks for no more than the data can tell."
    else:
        exact = estimator.components_.dtype == np.float64
        remedies = [] if exact else ["precision='float64'"]
        remedies += ["stop_percentile below 100"] if auto else ["a larger tol"]
        remedy = f"No step lowers the loss by more than its rounding: use {', or '.join(remedies)}."
    return (
        f"Picard did not converge. Final gradient norm: {float(solution.gradient.max()):.4g}. Requested tolerance: "
        f"{estimator.tol}. After {solution.n_iter} iterations {left} of {len(solution.delta)} components have not "
        f"converged (converged_components_). {remedy}"
    )
