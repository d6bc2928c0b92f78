"""Tolerances and limits that several compiled coders share; `coders.support` has those of the definitions.

Dictionaries are indexed by the bytes of a number: 4 for float32, 8 for float64.
"""

# ---- pursuits --------------------------------------------------------------------------------------------------------
# Share of an atom's square outside the span of the support below which the Gram matrix, which loses as many digits as
# the atom is close to the span, is not accurate enough.
GRAM_DEPENDENCE_TOL = {4: 1e-2, 8: 1e-6}
# By how much the residual of a code may exceed the one that the pursuit updated, in units of ‖x‖².
RESIDUAL_DRIFT_TOL = {4: 1e-5, 8: 1e-11}
# How close to the target, in units of ‖x‖², the updated residual cannot decide whether the target is reached.
TARGET_TOL = {4: 1e-6, 8: 1e-14}
# Determinant of the Gram matrix of a support of unit atoms above which the residual of its code needs no check: the
# smallest eigenvalue is at most e times smaller, and rounding relative to it raises ‖x - c D‖² by less than
# RESIDUAL_DRIFT_TOL.
SAFE_DETERMINANT = {4: 1e-3, 8: 1e-9}
# Range of squared correlations in which the dtype keeps its relative precision.
MIN_SQUARE = {4: 1e-28, 8: 1e-280}
MAX_SQUARE = {4: 1e35, 8: 1e300}

# ---- lasso -----------------------------------------------------------------------------------------------------------
# By how much |D (x - c D)| may exceed alpha, in units of the row's largest |D x|: the rounding of that product.
OPTIMALITY_TOL = {4: 2e-6, 8: 1e-10}
# Share of an atom's square outside the span of the support below which the inverse of their Gram matrix, which loses
# the digits of that share, is not accurate enough.
LASSO_DEPENDENCE_TOL = {4: 1e-4, 8: 1e-9}
# Share of an atom's square outside the span of the support below which that share is measured on the data.
NEAR_DEPENDENCE = 1e-3
MAX_ENTERING = 6  # atoms that enter the support in one step of the working set,
ENTRY_SHARE = 0.6  # all of them with at least this share of the largest violation
