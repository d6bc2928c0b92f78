"""The first call of a kernel: the import of Numba and compilation.  Neither is interrupted, and a long compilation is
announced.

Numba cannot be imported again after half an import, and while it compiles it runs Python code in callbacks from C,
where an interrupt is printed and lost.  Compiled code is cached on disk, so most processes load it in some 0.1 s.
"""

import threading
import time
from contextlib import contextmanager
from functools import cache
from importlib import import_module

from ..device import log_once, logger
from ..interrupts import block_interrupts

PATIENCE = 1.0  # seconds of compilation before it is announced
# What a module's kernels are called in messages, where that is not the module's name.
DESCRIPTIONS = {
    "codes": "sparse code",
    "lars": "LARS",
    "lasso_products": "lasso",
    "lasso_row": "lasso",
    "matching": "matching pursuit",
    "nonnegative": "non-negative OMP",
    "orthogonal": "OMP",
    "rounded_orthogonal": "OMP",
}


@cache
def import_kernels(name):
    """The module of kernels with that name, "cpu.lasso"; its import, with that of Numba, is not interrupted."""
    with block_interrupts():
        module = import_module(f".{name}", __package__)
        from numba.core import event

        _announce(event)
    return module


@cache
def _announce(event):
    """Register for the compilations that Numba's module `event` reports."""

    class Watch(event.Listener):  # type: ignore[name-defined]
        def on_start(self, what):
            _compilation.begin(what.data)

        def on_end(self, what):
            _compilation.end()

    event.register("numba:compile", Watch())


class _Compilation(threading.local):
    """The compilation of a thread: of a kernel, and within it of the functions that it calls."""

    depth = 0

    def begin(self, about):
        """Count a compilation that begins; the outermost one is announced."""
        self.depth += 1
        if self.depth == 1:
            self.block = announced(about["dispatcher"].py_func, about["args"])
            self.block.__enter__()

    def end(self):
        """Count a compilation that ends."""
        self.depth -= 1
        if not self.depth:
            self.block.__exit__(None, None, None)


_compilation = _Compilation()


@contextmanager
def announced(function, arguments, once="on each machine"):
    """A context in which a kernel is compiled, without interrupts; a message is logged where it takes long.

    function: the kernel in Python.  arguments: Numba's types of its arguments, or arrays.  once: "on each machine",
    for the message.
    """
    kernel, began = _described(function, arguments), time.perf_counter()
    warning = threading.Timer(PATIENCE, _warn, [kernel, once])
    warning.daemon = True
    with block_interrupts():
        if kernel:
            warning.start()
        try:
            yield
        finally:
            warning.cancel()
            if kernel:
                logger.info("Compiled the %s in %.1f s.", kernel, time.perf_counter() - began)


def _described(function, arguments):
    """A description of the kernel; "" for functions of other packages."""
    _, _, module = function.__module__.partition(f"{__package__}.")
    if not module:
        return ""
    dtypes = [str(argument.dtype) for argument in arguments if hasattr(argument, "dtype")]
    name = module.rpartition(".")[2]
    return f"{DESCRIPTIONS.get(name, name)} kernel" + (f" for {dtypes[0]}" if dtypes else "")


def _warn(kernel, once):
    log_once(f"Compiling the {kernel}. It is done once {once}, and can take half a minute.")
