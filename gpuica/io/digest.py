"""Digests of what a result depends on: arrays, parameters, functions, and a sample of the rows.

Two values with the same description lead to the same results, in this process or another.  Values that cannot be
described, for instance objects with hidden state, are rejected: a guess could replay the results of another fit.
"""

import dis
import enum
import functools
import hashlib
import os
import sys
import sysconfig
import types
from collections.abc import Mapping
from dataclasses import is_dataclass
from numbers import Integral, Real

import numpy as np
from scipy import special

from ..device import array_device, to_host
from ..device.arrays import as_numpy

SAMPLE_ROWS = 256  # a change of one row in a hundred is detected with a probability of 92 %
COSTLY_SAMPLE_ROWS = 16  # where each row may cost as much as a block of rows
GOLDEN = 0.6180339887498949  # the fractional parts of its multiples are spread evenly, and match no period of the data
GOLDEN_64 = np.uint64(0x9E3779B97F4A7C15)  # the golden section of 2**64
LIBRARIES = tuple({sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib", "purelib", "platlib")})
LABEL_DIGITS = 32  # hexadecimal digits of a digest in a label


class DigestError(TypeError):
    """A value cannot be distinguished from another one."""


def digest(*values):
    """The SHA-256 of the descriptions of the values, as hexadecimal digits."""
    return hashlib.sha256("\n".join(map(describe, values)).encode()).hexdigest()


def label(value):
    """A short text that identifies a value; readable if the description of the value is short."""
    text = describe(value)
    if len(text) <= 60:
        return text
    name = repr(value) if is_dataclass(value) else getattr(value, "__qualname__", type(value).__name__)
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    return f"{name}{shape} sha256:{hashlib.sha256(text.encode()).hexdigest()[:LABEL_DIGITS]}"


def describe(value):
    """A text that identifies a value.  DigestError for values that cannot be described."""
    try:
        return _described(value, {})
    except RecursionError as error:
        raise DigestError(f"{value!r} is nested too deeply to be described") from error


def _described(value, above):
    """above: {id: value} of the values that contain this one."""
    if value is None or value is Ellipsis or isinstance(value, bool | str | complex):
        return repr(value)
    if isinstance(value, np.generic) and value.dtype.kind in "biufcSU":
        return _described(value.item(), above)
    if isinstance(value, Integral):
        return str(int(value))
    if isinstance(value, Real):
        number = float(value)
        return str(int(number)) if number.is_integer() and abs(number) < 2**53 else repr(number)
    if isinstance(value, bytes | bytearray):
        return f"bytes {hashlib.sha256(value).hexdigest()}"
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if id(value) in above:
        return f"recursion {type(value).__name__} {list(above).index(id(value))}"
    above = {**above, id(value): value}
    if isinstance(value, enum.Enum):
        return f"{_name(type(value))}.{value.name}"
    if isinstance(value, os.PathLike):
        return repr(os.fspath(value))
    for kinds, description in _KINDS:
        if isinstance(value, kinds):
            return description(value, above)
    if (hasattr(value, "__array__") and hasattr(value, "shape")) or array_device(value).kind != "cpu":
        return _array(value, above)
    if hasattr(value, "py_func"):  # a function compiled by Numba
        return f"compiled {_described(value.py_func, above)} {_described(getattr(value, 'targetoptions', None), above)}"
    return _object(value, above)


# ---- arrays and collections ------------------------------------------------------------------------------------------
def _array(value, above):
    """Dtype, shape and digest of the elements, in native byte order; for object arrays the elements."""
    array = as_numpy(value)
    if array.dtype.kind == "O":
        return f"array {array.shape} {_described(array.tolist(), above)}"
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(array.shape)
    content = hashlib.sha256(array.reshape(-1).view(np.uint8) if array.size else b"").hexdigest()
    return f"array {array.dtype.str} {array.shape} {content}"


def _sequence(value, above):
    """The type of a list or tuple and its items; nested lists of numbers as one array."""
    if len(value) > 1 and (array := _numbers(value)) is not None:  # a matrix as lists
        return f"{type(value).__name__} {_array(array, above)}"
    return f"{type(value).__name__}[{', '.join(_described(part, above) for part in value)}]"


def _numbers(value):
    """Nested lists of numbers as a matrix; None for any other value."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):
        return None
    return array if array.ndim == 2 and array.dtype.kind in "iuf" else None


def _mapping(value, above):
    parts = sorted(f"{_described(key, above)}: {_described(part, above)}" for key, part in value.items())
    return f"{{{', '.join(parts)}}}"


def _set(value, above):
    return f"{type(value).__name__}{{{', '.join(sorted(_described(part, above) for part in value))}}}"


# ---- code ------------------------------------------------------------------------------------------------------------
def _function(function, above):
    """A library function by its name; others by their code, their defaults and what they refer to."""
    code = function.__code__
    if _of_library(function, code.co_filename) and "<" not in function.__qualname__:
        return f"function {_name(function)}"
    closure = [cell.cell_contents for cell in function.__closure__ or ()]
    refers: dict[str, str] = {}
    for inner in _codes(code):
        refers |= _globals_of(inner, function.__globals__, above)
    state = _code(code, above), function.__defaults__, function.__kwdefaults__, closure, dict(sorted(refers.items()))
    return f"function {_name(function)} {_described(list(state), above)}"


def _codes(code):
    """This code object and those nested in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _code(code, above):
    """The bytecode, constants and names of a code object, without line numbers."""
    constants = [_code(part, above) if isinstance(part, types.CodeType) else part for part in code.co_consts]
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags
    exceptions = getattr(code, "co_exceptiontable", b"")
    return f"code {_described([code.co_code, exceptions, constants, *names, counts], above)}"


def _globals_of(code, scope, above):
    """{name: description} of the globals that a code object reads, with attributes of modules."""
    found = {}
    instructions = [step for step in dis.get_instructions(code) if step.opname not in ("CACHE", "PUSH_NULL")]
    for step, after in zip(instructions, [*instructions[1:], None]):
        if step.opname not in ("LOAD_GLOBAL", "LOAD_NAME") or step.argval not in scope:
            continue
        name, value = step.argval, scope[step.argval]
        if isinstance(value, types.ModuleType) and after is not None and after.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            name, value = f"{name}.{after.argval}", getattr(value, after.argval, None)
        found[name] = _described(value, above)
    return found


def _builtin(function, above):
    """A built-in function by name, or a method by name and object."""
    owner = function.__self__
    if owner is None or isinstance(owner, types.ModuleType | type):
        return f"built-in {_name(function)}"
    return f"method {function.__name__} of {_described(owner, above)}"


def _ufunc(function, above):
    """A ufunc of NumPy or SciPy by name; DigestError for any other."""
    name = function.__name__
    if any(getattr(module, name, None) is function for module in (np, special)):
        return f"ufunc {name}"
    raise DigestError(f"{function!r} is compiled code")


def _class(kind, above):
    """A library class by its name; others by their members and bases."""
    if _of_library(kind, None):
        return f"class {_name(kind)}"
    members: dict[str, str] = {}
    for name, member in vars(kind).items():
        for part in _callables_of(member):
            is_special = name.startswith("__") and getattr(part, "__code__", None) is not None
            if (is_special and part.__code__.co_filename == "<string>") or name == "__repr__":  # of a dataclass
                continue
            members[f"{name}.{len(members)}" if name in members else name] = _described(part, above)
        if not name.startswith("__") and isinstance(
            member, bool | int | float | str | tuple | list | dict | np.ndarray
        ):
            members[name] = _described(member, above)
    bases = [_described(base, above) for base in kind.__bases__]
    return f"class {_name(kind)} {_described([members, bases], above)}"


def _callables_of(member):
    """The functions of a member of a class."""
    if isinstance(member, property):
        return [part for part in (member.fget, member.fset, member.fdel) if part]
    if isinstance(member, functools.cached_property):
        return [member.func]
    member = member.__func__ if isinstance(member, staticmethod | classmethod) else member
    return [member] if isinstance(member, types.FunctionType | functools.partial) or hasattr(member, "py_func") else []


def _object(value, above):
    """An object by its class and the state that a pickle would store."""
    try:
        how, arguments, *rest = value.__reduce_ex__(2)
    except Exception as error:  # objects that cannot be pickled raise errors of many kinds
        raise DigestError(f"{value!r} has a state that cannot be read") from error
    rest = [list(part) if isinstance(part, types.GeneratorType) or hasattr(part, "__next__") else part for part in rest]
    kind = _described(type(value), above)
    return f"object of {kind} by {_described(how, above)} {_described([arguments, rest], above)}"


_KINDS: tuple = (
    (np.ndarray, _array),
    (list | tuple, _sequence),
    (Mapping, _mapping),
    (set | frozenset, _set),
    (types.FunctionType, _function),
    (types.MethodType, lambda f, above: f"method {_described(f.__func__, above)} of {_described(f.__self__, above)}"),
    (types.BuiltinFunctionType, _builtin),
    (types.CodeType, _code),
    (np.ufunc, _ufunc),
    (functools.partial, lambda f, above: f"partial {_described([f.func, f.args, f.keywords], above)}"),
    (slice, lambda part, above: f"slice {_described([part.start, part.stop, part.step], above)}"),
    (np.random.RandomState, lambda rng, above: f"RandomState {_described(rng.get_state(legacy=False), above)}"),
    (type, _class),
)


def _name(value):
    module = getattr(value, "__module__", None) or getattr(getattr(value, "__self__", None), "__name__", "")
    return f"{module}.{getattr(value, '__qualname__', value.__name__)}"


def _of_library(value, filename):
    """Whether a function or class belongs to Python, to an installed package, or to this one."""
    module = getattr(value, "__module__", None) or ""
    if module.partition(".")[0] in (__name__.partition(".")[0], "builtins"):
        return True
    if filename is None:
        filename = getattr(sys.modules.get(module), "__file__", None)
        if filename is None:
            return module in sys.builtin_module_names
    return filename.startswith(LIBRARIES)


# ---- rows ------------------------------------------------------------------------------------------------------------
def spread_indices(n_rows, size=SAMPLE_ROWS):
    """The ascending indices of at most `size` rows spread over all, with the first and the last."""
    within = np.floor(n_rows * (np.arange(size - 1) * GOLDEN % 1)).astype(np.int64)
    return np.unique(np.append(within, n_rows - 1))


class FixedSample:
    """A sample of rows spread over a stream of unknown length: those whose index, times the golden section, has the
    smallest fractional part.

    kept: the rows of the sample, (at most size, n_features); None before the first chunk.
    """

    def __init__(self, size=SAMPLE_ROWS):
        self.size, self.n_rows = size, 0
        self.keys, self.kept = np.zeros(0, np.uint64), None

    def add(self, part):
        """Take the next rows (n, n_features) of the stream into account."""
        keys = np.arange(self.n_rows, self.n_rows + len(part), dtype=np.uint64) * GOLDEN_64
        self.n_rows += len(part)
        full = len(self.keys) == self.size
        chosen = np.flatnonzero(keys < self.keys[-1]) if full else np.arange(len(keys))
        chosen = chosen[np.argsort(keys[chosen], kind="stable")[: self.size]]
        if not len(chosen):
            return
        rows = np.array(to_host(part[array_device(part).put(chosen)]))
        keys = np.append(self.keys, keys[chosen])
        first = np.argsort(keys, kind="stable")[: self.size]
        self.kept = (rows if self.kept is None else np.concatenate([self.kept, rows]))[first]
        self.keys = keys[first]
