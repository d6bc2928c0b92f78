"""Kernels of `gpuica.kernels.cuda` as plain Python, one thread a block: no races to be seen, but ten times as fast as
Numba's simulator, so that many problems can be tried.  For processes that have the simulator.
"""

import itertools
import math
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np


def _array(shape, dtype):
    """Numbers that are seen where they are read before they are written."""
    return np.full(shape, math.nan if "float" in str(dtype) else -99).astype(str(dtype))


def _cuda(block, grid, dynamic):
    """What a kernel of one thread sees as `cuda`."""
    return SimpleNamespace(
        threadIdx=SimpleNamespace(x=0),
        blockDim=SimpleNamespace(x=1),
        blockIdx=SimpleNamespace(x=block[0], y=block[1]),
        gridDim=SimpleNamespace(x=grid[0], y=grid[1]),
        syncthreads=lambda: None,
        syncthreads_or=lambda flag: flag,
        syncwarp=lambda: None,
        shfl_down_sync=lambda mask, value, delta: value,
        shfl_xor_sync=lambda mask, value, bits: value,
        shared=SimpleNamespace(
            array=lambda shape, dtype: _array(shape or dynamic // np.dtype(str(dtype)).itemsize, dtype)
        ),
    )


@contextmanager
def running(*modules):
    """In the `with` block the kernels of these modules run so, and `launch` in them launches them so."""
    before = {module: dict(vars(module)) for module in modules}

    def launch(kernel, grid, block, *arguments, shared=0, about=""):
        size = grid if isinstance(grid, tuple) else (grid, 1)
        for at in itertools.product(*map(range, size)):
            for module in modules:
                module.cuda = _cuda(at, size, shared)
            kernel(*arguments)

    try:
        for module in modules:
            for name, value in before[module].items():
                if hasattr(value, "fn"):
                    setattr(module, name, value.fn)
                elif name == "launch":
                    module.launch = launch
        yield
    finally:
        for module in modules:
            vars(module).update(before[module])
