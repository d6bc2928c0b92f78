"""What a first call waits for: Numba's import and its compiler.  Neither may be cut, and the user learns of the second.

Numba cannot be imported again after half an import, and it runs Python code in callbacks from C while it compiles,
where an interrupt is printed and lost.  Compiled code is kept on disk, so most processes load it in some 0.1 s.
"""

import threading
import time
from functools import cache
from importlib import import_module

from ..device import logger, say_once
from ..interrupts import held

PATIENCE = 1.0  # seconds of compilation that pass without a word
KINDS = {
    "cpu": "contrast",
    "lasso": "lasso",
    "lasso_products": "lasso",
    "orthogonal": "OMP",
    "pursuit": "pursuit",
    "coding": "sparse code",
}


@cache
def compiled(name):
    """The module of this package with that name, whose functions Numba compiles.  Imported once, in one piece."""
    with held():
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
        if self.depth > 1:
            return
        self.held, self.began, self.of = held(), time.perf_counter(), _described(about)
        self.held.__enter__()
        self.warning = threading.Timer(PATIENCE, _warn, [self.of])
        self.warning.daemon = True
        if self.of is not None:
            self.warning.start()

    def end(self):
        self.depth -= 1
        if self.depth:
            return
        self.warning.cancel()
        if self.of is not None:
            logger.info("Compiled the %s in %.1f s.", self.of, time.perf_counter() - self.began)
        self.held.__exit__(None, None, None)


_compilation = _Compilation()


def _described(about):
    """The kernel of an event's data in words; None for what is not this package's."""
    _, _, module = about["dispatcher"].py_func.__module__.partition(f"{__package__}.")
    if not module:
        return None
    dtypes = [str(kind.dtype) for kind in about["args"] if hasattr(kind, "dtype")]
    return f"{KINDS.get(module, module.replace('_', ' '))} kernel" + (f" for {dtypes[0]}" if dtypes else "")


def _warn(what):
    say_once(f"Compiling the {what}. It is done once on each machine, and can take half a minute.")
