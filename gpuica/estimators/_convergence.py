"""Texts of ConvergenceWarnings: how far the solution is from convergence, and the remedies that fit the parameters."""

import numpy as np

from ..solvers.stopping import MAX_Z


def describe_fastica(estimator, solution):
    """scikit-learn's sentence, the distance from convergence, and remedies."""
    remaining, k, auto = int((~solution.converged_components).sum()), len(solution.delta), estimator.tol == "auto"
    if not auto and bool((solution.delta < estimator.tol).all()):
        remedy = "raise max_iter" if estimator.algorithm == "picard" else "use a smaller tol, or algorithm='picard'"
        return (
            f"FastICA did not converge: all components changed by less than tol={estimator.tol} in the last of "
            f"{solution.n_iter} iterations, but the gradient of {remaining} of {k} is more than {MAX_Z:.0f} standard "
            f"errors from zero, up to {float(solution.z.max()):.0f} (see gradient_z_). Dependent sources make steps "
            f"short also far from a solution: {remedy}."
        )
    rule = "gradients above their standard errors; see gradient_z_" if auto else f"tol {estimator.tol}; see delta_"
    remedy = " Try fewer components."
    if estimator.algorithm != "picard":
        remedy = " If they oscillate, more iterations do not help: try algorithm='picard', or fewer components."
    return (
        f"FastICA did not converge. Consider increasing {'' if auto else 'tolerance or '}the maximum number of "
        f"iterations. After {solution.n_iter} iterations {remaining} of {k} components had not converged, with a "
        f"largest change of {float(solution.delta.max()):.1e} ({rule}).{remedy}"
    )


def describe_picard(estimator, solution):
    """python-picard's sentence, the distance from convergence, and remedies."""
    remaining, auto = int((~solution.converged_components).sum()), estimator.tol == "auto"
    if len(solution.losses) > estimator.max_iter:
        remedy = "Increase max_iter"
        remedy += "." if auto else ", or use tol='auto', which stops at the precision that the data support."
    else:
        exact = estimator.components_.dtype == np.float64
        remedies = [] if exact else ["precision='float64'"]
        remedies += ["stop_percentile below 100"] if auto else ["a larger tol"]
        remedy = f"No step decreases the loss by more than its rounding error: use {', or '.join(remedies)}."
    return (
        f"Picard did not converge. Final gradient norm: {float(solution.gradient.max()):.4g}. Requested tolerance: "
        f"{estimator.tol}. After {solution.n_iter} iterations {remaining} of {len(solution.delta)} components have not "
        f"converged (converged_components_). {remedy}"
    )
