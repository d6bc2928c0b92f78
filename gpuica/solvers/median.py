"""The geometric median, the point with the least sum of distances to the rows: a robust center of the data.

Weiszfeld, Tôhoku Mathematical Journal 43, 1937.  A step from a point that is a row itself: Vardi and Zhang, "The
multivariate L1-median and associated data depth", PNAS 97(4), 2000.
"""

from .protocol import MedianOracle


def geometric_median(oracle: MedianOracle, *, tol=1e-4, max_iter=100):
    """The point m (d,) with the least E |x - m|, in float64.  One pass per iteration, some ten of them.

    oracle: a `protocol.MedianOracle`.  tol: stop when |E (x - m) / |x - m||, which is 0 at the median and 1 far from
    all rows, is smaller: the next step would be tol times the (harmonic) mean distance.  From n rows that mean is known
    to 1 / sqrt(n) only.
    """
    xp = oracle.xp
    m = oracle.mean()
    for _ in range(max_iter):
        gradient, inverse, at_m = oracle.weiszfeld_sums(m)
        size, at_m = float(xp.sqrt((gradient * gradient).sum())), float(at_m[0])
        if size <= at_m + tol:  # 0 is a subgradient: rows at m contribute a ball of this radius
            break
        m = m + (1 - at_m / size) * gradient / inverse
    return m
