"""The structure of the package, as ARCHITECTURE.md states it: layers, no import circles, short files and functions."""

import ast
import inspect
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import gpuica

ROOT = Path(gpuica.__file__).parent
ARCHITECTURE = ROOT.parent / "ARCHITECTURE.md"
FILES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))
HEAVY = {"cupy", "dask", "distributed", "matplotlib", "mpi4py", "numba", "torch"}  # not loaded by `import gpuica`
# third-party package -> the only files that can import it
CONFINED = {
    "cupy": {"device/__init__.py"},
    "torch": {"device/arrays.py", "comm.py"},
    "dask": {"rows/dask.py"},
    "distributed": {"rows/dask.py"},
    "mpi4py": set(),
    "matplotlib": {"stability.py"},
}
MAX_LINES = {"file": 350, "function": 60}


def module_of(file):
    """("rows", "host") of rows/host.py, ("rows",) of rows/__init__.py."""
    parts = file.with_suffix("").parts
    return parts[:-1] if parts[-1] == "__init__" else parts


MODULES = {module_of(file): file for file in FILES}


def tree(file):
    return ast.parse((ROOT / file).read_text())


def imports(file):
    """(files of the package, names of other modules) that a file imports, also within functions."""
    inside, outside = set(), set()
    package = module_of(file) if file.name == "__init__.py" else module_of(file)[:-1]
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            outside |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] + tuple(
                (node.module or "").split(".") if node.module else ()
            )
            for alias in node.names:
                target = (*base, alias.name) if (*base, alias.name) in MODULES else base
                inside.add(MODULES[target])
    return inside - {file}, outside


def table():
    """{layer: layers that it can import} of the table in ARCHITECTURE.md; a layer is a folder or a file of the root."""
    rows = re.findall(r"^\| `([\w./]+)` \|[^|]*\|([^|]*)\|$", ARCHITECTURE.read_text(), re.MULTILINE)
    return {layer: set(re.findall(r"`([\w./]+)`", allowed)) for layer, allowed in rows}


def layer_of(file):
    return file.parts[0] + ("/" if len(file.parts) > 1 else "")


@pytest.mark.skipif(not ARCHITECTURE.exists(), reason="an installed package has no ARCHITECTURE.md")
@pytest.mark.parametrize("file", FILES, ids=str)
def test_a_file_imports_only_layers_that_the_table_allows(file):
    if file.parts == ("__init__.py",):
        return
    layer = layer_of(file)
    imported = {layer_of(other) for other in imports(file)[0]}
    allowed = table()[layer] | {layer}
    assert imported <= allowed, f"{file} imports {sorted(imported - allowed)}"


@pytest.mark.skipif(not ARCHITECTURE.exists(), reason="an installed package has no ARCHITECTURE.md")
def test_the_table_is_complete_and_acyclic():
    layers = table()
    assert set(layers) == {layer_of(file) for file in FILES} - {"__init__.py"}
    TopologicalSorter(layers).prepare()  # raises CycleError


def test_no_import_circles():
    graph = {str(file): {str(other) for other in imports(file)[0]} for file in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("file", FILES, ids=str)
def test_third_party_packages_are_confined(file):
    outside = imports(file)[1]
    for package, files in CONFINED.items():
        if str(file) not in files:
            assert not any(name.split(".")[0] == package for name in outside), f"{file} imports {package}"
    if layer_of(file) not in ("estimators/", "input/", "stability.py"):
        assert not any(name.startswith("sklearn") for name in outside), f"{file} imports scikit-learn"
    if file.parts[:2] != ("kernels", "cuda") and str(file) != "device/__init__.py":
        assert not any(name.startswith("numba.cuda") for name in outside), f"{file} imports numba.cuda"
    assert not any(name.split(".")[0] == "gpuica" for name in outside), f"{file} imports its own package absolutely"


def test_import_is_light():
    script = f"import sys, gpuica; print(*sorted({HEAVY} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_solvers_do_not_depend_on_rows_or_devices():
    """Solvers see an oracle: no chunk, no row, no device beyond the array library of their matrices."""
    for file in FILES:
        if layer_of(file) == "solvers/":
            assert not {layer_of(other) for other in imports(file)[0]} & {"rows/", "io/", "sums.py", "oracle.py"}


@pytest.mark.parametrize("file", FILES, ids=str)
def test_warnings_point_at_the_caller(file):
    """`messages.warn` finds the caller's line; a stack level is right for one depth of calls only."""
    assert "warnings.warn(" not in (ROOT / file).read_text() or file.parts == ("messages.py",)


@pytest.mark.parametrize("file", FILES, ids=str)
def test_files_and_functions_are_short(file):
    text = (ROOT / file).read_text()
    assert text.count("\n") <= MAX_LINES["file"], f"{file} is too long"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            first = node.body[1] if ast.get_docstring(node, clean=False) and len(node.body) > 1 else node.body[0]
            length = node.end_lineno - first.lineno + 1  # the signature and the docstring do not count
            assert length <= MAX_LINES["function"], f"{file}: {node.name} has {length} lines"


def test_one_level_of_inheritance_below_an_estimator():
    for name in gpuica.__all__:
        thing = getattr(gpuica, name)
        if inspect.isclass(thing) and hasattr(thing, "fit"):
            ours = [base for base in thing.__mro__[1:] if base.__module__.startswith("gpuica")]
            assert len(ours) <= 1, f"{name} inherits from {ours}"
