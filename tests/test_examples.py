"""Examples are self-contained; those named plot_*.py run without torch and without downloads."""

import ast
import importlib.util
import runpy
import warnings
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.py"))
PLOTS = [path for path in EXAMPLES if path.name.startswith("plot_")]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_have_a_title_and_import_no_other_part_of_the_repository(path):
    tree = ast.parse(path.read_text())
    title, line, *_ = ast.get_docstring(tree).splitlines()
    assert line == "=" * len(title)
    imports = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imports |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {name.partition(".")[0] for name in imports} & {"", "benchmarks", "examples", "tests"}


@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("matplotlib", "PIL")),
    reason="needs matplotlib and pillow: pip install 'gpuica[bench]'",
)
@pytest.mark.parametrize("path", PLOTS, ids=lambda path: path.stem)
def test_plots_run(path, monkeypatch, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of matplotlib's import
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    figures = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plt, "show", lambda: figures.extend(plt.get_fignums()))
    try:
        runpy.run_path(str(path))
        assert figures
    finally:
        plt.close("all")
    assert not list(tmp_path.iterdir())
