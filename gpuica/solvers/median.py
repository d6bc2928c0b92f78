"""The geometric median of the rows, the point with the least sum of distances to them: a center that a few rows of
enormous norm cannot move.

Weiszfeld, Tôhoku Mathematical Journal 43, 1937.  A step from a point that is a row itself: Vardi and Zhang, "The
multivariate L1-median and associated data depth", PNAS 97(4), 2000.
"""


def geometric_median(oracle, *, tol=1e-4, max_iter=100):
    """The point m (d,) with the least E |x - m|, in float64.  One pass per iteration, some ten of them.

    oracle: answers `mean`, the start, and `weiszfeld_sums`.  tol: stop when E (x - m) / |x - m|, 0 at the median and of
    length 1 far from all rows, is shorter: the next step would be tol times the (harmonic) mean distance.  n rows
    tell that mean to 1 / sqrt(n) only.
    """
    xp = oracle.xp
    m = oracle.mean()
    for _ in range(max_iter):
        pull, nearness, here = oracle.weiszfeld_sums(m)
        size, here = float(xp.sqrt((pull * pull).sum())), float(here[0])
        if size <= here + tol:  # rows on m hold it there
            break
        m = m + (1 - here / size) * pull / nearness
    return m
