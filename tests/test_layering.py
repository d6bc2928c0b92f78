"""Who may import whom, read from the sources with `ast`; and what `import gpuica` may load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import gpuica

ROOT = Path(gpuica.__file__).parent
MODULES = sorted(path.relative_to(ROOT).with_suffix("") for path in ROOT.rglob("*.py"))

# a module (or every module of a folder) -> what of the package it may import; ARCHITECTURE.md has the reasons
ALLOWED = {
    "estimators": {
        *("estimators", "rows", "io", "oracle", "solvers", "contrasts", "coders", "comm", "messages", "device"),
        *("_version", "interrupts", "code_oracle"),
    },
    "stability": {"device"},
    "metrics": {"metrics", "io", "rows", "oracle", "solvers", "contrasts", "device"},
    "code_oracle": {"oracle", "sums", "solvers"},
    "oracle": {"sums", "device", "solvers"},
    "sums": {"kernels", "device"},
    "kernels": {"kernels", "device", "contrasts", "coders", "interrupts"},
    "rows": {"io", "rows", "device", "interrupts"},
    "io": {"io", "device", "interrupts"},
    "solvers": {"solvers", "kernels", "device"},
    "contrasts": set(),
    "comm": set(),
    "messages": set(),
    "coders": {"coders"},
    "device": {"device", "interrupts"},
    "interrupts": set(),
    "_version": set(),
}
HEAVY = {"cupy", "dask", "distributed", "matplotlib", "mpi4py", "numba", "torch"}  # not loaded by `import gpuica`
DOOR = ("device", "__init__")  # the only module that imports cupy


def imports(module):
    """(package-internal top-level names, other top-level names) that a module imports anywhere in its text."""
    inside, outside = set(), set()
    folder = module.parent if module.name != "__init__" else module
    depth = len(module.parts)
    for node in ast.walk(ast.parse((ROOT / module).with_suffix(".py").read_text())):
        if isinstance(node, ast.Import):
            outside |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside.add(node.module.partition(".")[0])
        elif isinstance(node, ast.ImportFrom):
            target = module.parts[: depth - node.level] + tuple((node.module or "").split(".") if node.module else ())
            inside |= {target[0]} if target else {alias.name for alias in node.names}
    assert "gpuica" not in outside, f"{module} imports its own package absolutely: {folder}"
    return inside, outside


@pytest.mark.parametrize("module", [m for m in MODULES if m.parts != ("__init__",)], ids=str)
def test_a_module_imports_only_what_its_layer_may(module):
    layer = module.parts[0]
    inside, outside = imports(module)
    assert inside <= ALLOWED[layer], f"{module} may import {ALLOWED[layer]}, not {inside - ALLOWED[layer]}"
    if layer not in ("estimators", "stability"):
        assert "sklearn" not in outside, "scikit-learn is known to the estimators only"
    if module.parts != DOOR:
        assert "cupy" not in outside, "cupy is imported by device.py only"
    if module.name not in ("arrays", "comm"):
        assert "torch" not in outside, "torch is known to arrays and to comm only"
    if module.parts != ("rows", "dask"):
        assert not {"dask", "distributed"} & outside, "dask is known to rows/dask.py only"
    assert "mpi4py" not in outside, "a communicator of mpi4py is handed over, never looked for"


@pytest.mark.parametrize("module", MODULES, ids=str)
def test_cuda_is_known_to_the_door_and_to_its_kernels_only(module):
    if module.parts == DOOR or module.parts[:2] == ("kernels", "cuda"):
        return
    for node in ast.walk(ast.parse((ROOT / module).with_suffix(".py").read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            names = [node.module, *(f"{node.module}.{name}" for name in names)]
        elif isinstance(node, ast.ImportFrom):
            continue
        assert not any(name.startswith("numba.cuda") for name in names), f"{module} imports numba.cuda"


def test_every_layer_has_a_rule():
    assert {m.parts[0] for m in MODULES} - {"__init__"} == set(ALLOWED)


def test_import_is_light():
    script = f"import sys, gpuica; print(*sorted({HEAVY} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_warnings_point_at_the_caller():
    """`messages.warn` finds the caller's line; a stack level written by hand is right from one depth only."""
    for module in MODULES:
        text = (ROOT / module).with_suffix(".py").read_text()
        assert "warnings.warn(" not in text, f"{module} warns by itself: use messages.warn"


def test_files_stay_short():
    for module in MODULES:
        lines = (ROOT / module).with_suffix(".py").read_text().count("\n")
        assert lines <= 350, f"{module} has {lines} lines: look for the missing noun"
