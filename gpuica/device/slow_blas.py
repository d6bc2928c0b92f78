"""A message where OpenBLAS does not use what the processor has."""

import os
from functools import cache

from . import log_once
from .threads import blas_architectures

AVX2_KERNELS = {"Haswell", "Zen"}  # as OpenBLAS calls them
AVX512 = {
    "avx512f",
    "avx512bw",
    "avx512dq",
    "avx512vl",
}  # flags of a processor on which OpenBLAS's SkylakeX kernels run


@cache
def report_slow_kernels():
    """Log, once, where OpenBLAS uses kernels without AVX-512 on a processor that has it: they take twice the time.

    OpenBLAS up to 0.3.31 does so on AMD's Zen 5.
    """
    slow = blas_architectures() & AVX2_KERNELS
    if slow and "OPENBLAS_CORETYPE" not in os.environ and _processor_flags() >= AVX512:
        log_once(
            "OpenBLAS uses kernels for AVX2, although this processor has AVX-512: products take about twice the time. "
            "Set the environment variable OPENBLAS_CORETYPE=SkylakeX before Python starts."
        )


def _processor_flags():
    """The flags of the processor, on Linux; elsewhere none."""
    try:
        with open("/proc/cpuinfo") as file:
            return set(next((line for line in file if line.startswith("flags")), "").split())
    except OSError:
        return set()
