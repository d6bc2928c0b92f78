"""The Python code of README.md and docs/*.md runs, and the README's links lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def code(page):
    """(first line, code) of the Python blocks of a page that are not marked `no-test`.

    Blocks within HTML comments count too: readers do not see them, and they define what the visible blocks use.
    """
    text = page.read_text()
    blocks = BLOCK.finditer(text)
    return [(text[: b.start(2)].count("\n"), b[2]) for b in blocks if "no-test" not in b[1].split()]


@pytest.mark.parametrize("page", [page for page in PAGES if code(page)], ids=lambda page: page.name)
def test_code_of_a_page_runs_in_its_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for line, block in code(page):
        exec(compile("\n" * line + block, str(page), "exec"), namespace)  # errors name the page's own line


def test_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\(([^)#:]+)[^):]*\)", (ROOT / "README.md").read_text())
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
