"""Kernels for CPUs, compiled by Numba; one thread each, without the GIL.

Modules of the same name in `kernels.cuda` have functions of the same names.  Only here: `lars`; `lasso`, which works on
the Gram matrix (`kernels.cuda.lasso` corresponds to `lasso_products`); `elementary` functions, and loops over
`vectors`.  Arrays and numbers that several functions share are NamedTuples, which Numba passes as their fields.
"""
