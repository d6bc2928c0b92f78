"""Sparse codes on the CPU: which compiled coder, and whether it needs the Gram matrix."""

from ..fallback import encode_in_batches
from .lars import lars
from .lasso import lasso
from .lasso_products import lasso_products
from .matching import matching_pursuit
from .nonnegative import nonnegative
from .orthogonal import orthogonal
from .vectors import plain

KERNELS = {kernel.__name__: kernel for kernel in (lasso, nonnegative, orthogonal, lars, matching_pursuit)}
MAX_GRAM_BYTES = 1 << 30
MAX_LASSO_GRAM_BYTES = 1 << 19  # for each feature


def encode(X, D, gram, coder):
    """Codes (n, K) of the rows X (n, d), and the number of unfinished rows.  gram: D Dᵀ (K, K), or None."""
    X, D = plain(X), plain(D)
    if gram is None:
        return lasso_products(X, D, coder) if coder.kernel == "lasso" else encode_in_batches(X, D, coder)
    gram = plain(gram)
    C = X @ D.T
    return C, KERNELS[coder.kernel](X, D, gram, C, coder)


def gram_pays(D, coder):
    """Whether D Dᵀ makes a coder faster, and the memory allows it.

    The lasso without it takes less time once D Dᵀ exceeds half a megabyte for each feature.  Measured on one core with
    2 MB of L2, at 16, 64 and 144 features (for 2,000, 2,700 and 4,000 atoms of float32).  At 384 features it takes 1.5
    times as long with up to 12,288 atoms, but from 7,000 on computing D Dᵀ costs what 10,000 rows gain by it.
    """
    (n_atoms, n_features), itemsize = D.shape, D.dtype.itemsize
    most = n_features * MAX_LASSO_GRAM_BYTES if coder.kernel == "lasso" else MAX_GRAM_BYTES
    return coder.kernel in KERNELS and n_atoms**2 * itemsize <= min(most, MAX_GRAM_BYTES)
