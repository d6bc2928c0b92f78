"""How compiled coders report that a row ended: integers, since kernels keep them in arrays."""

FINISHED = 0
UNFINISHED = 1  # the code is valid, but max_iter was reached, or its residual is above the target
ILL_CONDITIONED = 2  # the precision of the Gram matrix does not suffice: another form of the coder recomputes the row
NO_ROOM = 3  # the support outgrew its workspace: the row continues, or starts again, in a larger one

# Rows of the lasso that have not ended.
RUNNING = -1
REFACTORED = -2  # the inverse of the support's Gram matrix was recomputed in this round
STUCK = -3  # no atom could enter: the inverse is recomputed in the next round
