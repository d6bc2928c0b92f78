"""Docstrings of the public API are complete numpydoc, and their examples run."""

import ast
import doctest
import importlib
import inspect
import textwrap

import pytest

import gpuica

validate = pytest.importorskip("numpydoc.validate").validate

MODULES = ["gpuica", "gpuica.metrics", "gpuica.stability", "gpuica.comm"]
# numpydoc's codes: summary missing or not one sentence, parameters that are undocumented, unknown, in another order, or
# without type or description, and a missing or untyped Returns or Yields section
CODES = {
    *("GL01", "GL03", "GL06", "GL07", "GL08", "SS01", "SS02", "SS03", "SS04", "SS05", "ES00"),
    *("PR01", "PR02", "PR03", "PR04", "PR05", "PR07", "PR10", "RT01", "RT03", "YD01"),
} - {"GL01", "ES00"}  # the summary starts on the first line, as in scikit-learn


def public_callables():
    """{dotted name: object} of public classes, functions and methods that are defined in the package."""
    found = {}
    for name in MODULES:
        module = importlib.import_module(name)
        for public in module.__all__:
            thing = getattr(module, public)
            if not callable(thing):
                continue
            if not getattr(thing, "_is_protocol", False):  # its __init__ is typing's
                found[f"{name}.{public}"] = thing
            if inspect.isclass(thing):
                for member, function in inspect.getmembers(thing):
                    here = getattr(inspect.unwrap(function), "__module__", None) or ""
                    if callable(function) and not member.startswith("_") and here.startswith("gpuica"):
                        found[f"{name}.{public}.{member}"] = function
    return found


PUBLIC = public_callables()


@pytest.mark.parametrize("name", PUBLIC)
def test_numpydoc(name):
    errors = [f"{code}: {text}" for code, text in validate(name)["errors"] if code in CODES]
    assert not errors, f"{name}: " + "; ".join(errors)


def raises(function):
    """Whether the function's own code has a `raise` with an exception."""
    try:
        source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    except (OSError, TypeError):
        return False
    body = ast.parse(source).body[0]
    return not isinstance(body, ast.ClassDef) and any(
        isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(body)
    )


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if raises(thing)])
def test_errors_are_documented(name):
    assert "Raises\n" in inspect.getdoc(PUBLIC[name]), f"{name} raises, but has no Raises section"


@pytest.mark.parametrize("name", [name for name, thing in PUBLIC.items() if inspect.isclass(thing)])
def test_fitted_attributes_are_documented(name):
    """Attributes that end in an underscore and are set by the package have an entry in the class's docstring."""
    if not hasattr(PUBLIC[name], "fit"):
        return
    assert "Attributes\n" in inspect.getdoc(PUBLIC[name])


@pytest.mark.parametrize("name", PUBLIC)
def test_examples_run(name):
    finder = doctest.DocTestFinder(recurse=False)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for example in finder.find(PUBLIC[name], name, globs={}):
        assert runner.run(example).failed == 0


def test_the_namespace_is_public_names_only():
    for name in MODULES:
        module = importlib.import_module(name)
        offered = {found for found in dir(module) if not found.startswith("_")}
        assert offered <= set(module.__all__), f"{name} offers {offered - set(module.__all__)}"
    assert set(dir(gpuica)) == set(gpuica.__all__)
