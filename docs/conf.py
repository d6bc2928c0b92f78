"""Sphinx configuration of gpuica's documentation: `make docs` builds it into docs/_build, without network access."""

import logging
import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from gpuica import __version__  # noqa: E402

project = "gpuica"
author = copyright = "The gpuica developers"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "myst_parser"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

myst_heading_anchors = 3
myst_enable_extensions = ["deflist"]

# The gallery exists only if examples/plot_*.py do.  suppress_warnings cannot select this warning.
logging.getLogger("sphinx.sphinx.directives.other").addFilter(lambda record: "glob pattern" not in str(record.msg))

autosummary_generate = True
autosummary_filename_map = {  # names that differ in case only are one file on some systems
    "gpuica.fastica": "gpuica.fastica-function",
    "gpuica.picard": "gpuica.picard-function",
    "gpuica.stability.stability": "gpuica.stability.stability-function",
}
autodoc_typehints = "none"
autodoc_preserve_defaults = True
numpydoc_show_class_members = False  # docs/_templates/autosummary/class.rst lists the methods
numpydoc_xref_param_type = False

html_theme = "pydata_sphinx_theme"
html_title = "gpuica"
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}

if any(ROOT.glob("examples/plot_*.py")):
    extensions.append("sphinx_gallery.gen_gallery")
    sphinx_gallery_conf = {
        "examples_dirs": str(ROOT / "examples"),
        "gallery_dirs": "auto_examples",
        "filename_pattern": r"/plot_",
        "ignore_pattern": r"(^|/)(?!plot_)[^/]*\.py$",
        "download_all_examples": False,
        "abort_on_example_error": True,
    }

if os.environ.get("GPUICA_DOCS_INTERSPHINX"):  # links into other projects' documentation need network access
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
    }


def skip_inherited(app, what, name, obj, skip, options):
    """Leave out methods that scikit-learn defines: its own documentation describes them."""
    return True if (getattr(obj, "__module__", None) or "").startswith("sklearn.") else None


def escape_formulas(app, what, name, obj, options, lines):
    """Escape the bars and trailing underscores of formulas that docstrings have as plain text, such as |P| / mean_."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...", "..")):
            parts = re.split(r"(`+[^`]*`+_?|\*\*[^*]+\*\*)", line)  # not in literals, roles and names set in bold
            parts[::2] = [re.sub(r"(?<!\\)\||(?<=\w)_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
            lines[number] = "".join(parts)


def setup(app):
    app.connect("autodoc-skip-member", skip_inherited)
    app.connect("autodoc-process-docstring", escape_formulas, priority=900)  # after numpydoc
