"""The workspace of a support, whose layout the kernels for CPUs and GPUs share."""

from typing import Any, NamedTuple


class Support(NamedTuple):
    """The arrays of a support of m atoms, with room for more.

    inverse : (room, room), float64; the inverse of the Gram matrix of the support.
    atoms : (room,), integers; which atoms.
    lists : (N_LISTS, room), float64; a number for each atom in each row, named below.
    """

    inverse: Any
    atoms: Any
    lists: Any


# Rows of `lists` of the atoms; where an atom changes its place, they do too:
COEFFICIENTS = 0
SIGNS = 1
CORRELATIONS = 2  # D_j x, with the data
ENTERED = 3  # the step in which the atom entered
SOLUTION = 4  # the minimiser for the present signs; otherwise scratch
N_MOVED = 5
# Rows that are scratch:
RIGHT_SIDE = 5
COORDINATES = 6  # another atom's coordinates in the support,
INNER_PRODUCTS = 7  # and its inner products with the support's atoms
N_LISTS = 8
