"""What a first call waits for: Numba's import and its compiler.  Neither may be cut, and the user learns of the second.

Numba cannot be imported again after half an import, and it runs Python code in callbacks from C while it compiles,
where an interrupt is printed and lost.  Compiled code is kept on disk, so most processes load it in some 0.1 s.
"""

import threading
import time
from contextlib import contextmanager
from functools import cache
from importlib import import_module

from ..device import log_once, logger
from ..interrupts import block_interrupts

PATIENCE = 1.0  # seconds of compilation that pass without a word
KINDS = {
    "cpu.contrast": "contrast",
    "cuda.contrast": "contrast",
    "cpu.lasso": "lasso",
    "cpu.lasso_products": "lasso",
    "cpu.orthogonal": "OMP",
    "cpu.pursuit": "pursuit",
    "cpu.coding": "sparse code",
    "cuda.codes": "sparse code",
}


@cache
def compiled(name):
    """The module of this package with that name, whose functions Numba compiles.  Imported once, in one piece."""
    with block_interrupts():
        module = import_module(f".{name}", __package__)
        from numba.core import event

        _announce(event)
    return module


@cache
def _announce(event):
    """Watch the compilations of an `event` module of Numba's, from now on."""

    class Watch(event.Listener):  # type: ignore[name-defined]
        def on_start(self, what):
            _compilation.begin(what.data)

        def on_end(self, what):
            _compilation.end()

    event.register("numba:compile", Watch())


class _Compilation(threading.local):
    """That of a thread: a kernel, and within it the functions that it calls."""

    depth = 0

    def begin(self, about):
        self.depth += 1
        if self.depth == 1:
            self.block = announced(about["dispatcher"].py_func, about["args"])
            self.block.__enter__()

    def end(self):
        self.depth -= 1
        if not self.depth:
            self.block.__exit__(None, None, None)


_compilation = _Compilation()


@contextmanager
def announced(function, arguments, once="on each machine"):
    """A kernel is compiled in the `with` block, which no interrupt cuts; that is logged once it takes long.

    function: the kernel in Python.  arguments: Numba's types of its arguments, or arrays.  once: how often that is.
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
    """The kernel in words; "" for what is not this package's."""
    _, _, module = function.__module__.partition(f"{__package__}.")
    if not module:
        return ""
    dtypes = [str(argument.dtype) for argument in arguments if hasattr(argument, "dtype")]
    kind = KINDS.get(module, module.rpartition(".")[2].replace("_", " "))
    return f"{kind} kernel" + (f" for {dtypes[0]}" if dtypes else "")


def _warn(kernel, once):
    log_once(f"Compiling the {kernel}. It is done once {once}, and can take half a minute.")
