"""Sparse codes on the CPU: which compiled coder, and whether it needs the Gram matrix."""

from ..fallback import encode_in_batches
from .codes import compress
from .int8 import has_int8_products
from .lars import lars
from .lasso import lasso
from .lasso_products import compressed_lasso_products, lasso_products
from .matching import matching_pursuit
from .nonnegative import nonnegative
from .orthogonal import orthogonal
from .rounded_orthogonal import Rounded, compressed_rounded_orthogonal, rounded, rounded_orthogonal
from .screening import Screen, screen
from .vectors import plain

KERNELS = {kernel.__name__: kernel for kernel in (lasso, nonnegative, orthogonal, lars, matching_pursuit)}
MAX_GRAM_BYTES = 1 << 30
# For each feature, with products of integers and of float32.  On one core with 2 MB of L2, the lasso takes less time
# without it from 8 to 16 MB on with 64 features, from 40 to 60 MB with 384; without integers from twice as much.
MAX_LASSO_GRAM_BYTES = {True: 1 << 17, False: 1 << 18}


def encode(X, D, prepared, coder):
    """Codes (n, K) of the rows X (n, d), and the number of unfinished rows.  prepared: see `prepare`."""
    X, D = plain(X), plain(D)
    if coder.kernel == "lasso" and (prepared is None or isinstance(prepared, Screen)):
        return lasso_products(X, D, prepared or screen(D), coder)
    if isinstance(prepared, Rounded):
        return rounded_orthogonal(X, D, prepared, coder)
    if prepared is None:
        return encode_in_batches(X, D, coder)
    gram = plain(prepared)
    C = X @ D.T
    return C, KERNELS[coder.kernel](X, D, gram, C, coder)


def encode_compressed(X, D, prepared, coder):
    """As `encode`, with codes in the form of `codes.compress`."""
    if isinstance(prepared, Screen):
        return compressed_lasso_products(plain(X), plain(D), prepared, coder)
    if isinstance(prepared, Rounded):
        return compressed_rounded_orthogonal(plain(X), plain(D), prepared, coder)
    C, n_unfinished = encode(X, D, prepared, coder)
    return compress(C), n_unfinished


def prepare(D, coder):
    """What a coder needs of the dictionary D (K, d): D Dᵀ (K, K), or a rounded form, or None."""
    if gram_pays(D, coder):
        form = rounded(plain(D), coder)
        return D @ D.T if form is None else form
    return screen(plain(D)) if coder.kernel == "lasso" else None


def gram_pays(D, coder):
    """Whether D Dᵀ makes a coder faster, and the memory allows it."""
    (n_atoms, n_features), itemsize = D.shape, D.dtype.itemsize
    of_lasso = n_features * MAX_LASSO_GRAM_BYTES[has_int8_products()]
    most = min(of_lasso, MAX_GRAM_BYTES) if coder.kernel == "lasso" else MAX_GRAM_BYTES
    return coder.kernel in KERNELS and n_atoms**2 * itemsize <= most
