"""The site is built as strictly as `make site` says: what leads nowhere ends the build."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from sphinx.cmd.build import build_main

ROOT = Path(__file__).resolve().parent.parent.parent
RULE = re.search(r"^site:.*\n\t\$\(BIN\)/sphinx-build (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)

pytestmark = [  # of MyST, which Sphinx tells what will change
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::PendingDeprecationWarning"),
]


@pytest.fixture
def build(tmp_path, monkeypatch):
    """Build a site of two pages by the project's settings; return the exit code and the folder."""

    def run(text: str, **files: str) -> tuple[int, Path]:
        folder = tmp_path / "docs"
        (folder / "static").mkdir(parents=True)
        (folder / "static" / "site.css").write_text("")
        conf = (ROOT / "docs" / "conf.py").read_text(encoding="utf-8")
        (folder / "conf.py").write_text(f'{conf}\nNAVIGATION = {{"Start": ("docs/one",)}}\nBELOW = {{}}\n')
        (folder / "index.md").write_text("# First\n\n[one](one.md#part)\n")
        (folder / "one.md").write_text(f"# One\n\n## Part\n\n{text}\n")
        (tmp_path / "script.py").write_text("pass\n")
        for name, content in files.items():
            (folder / f"{name}.md").write_text(content)
        monkeypatch.chdir(tmp_path)
        return build_main(shlex.split(RULE[1])), tmp_path / "build" / "site"

    return run


def test_links_that_lead_somewhere_are_fine(build):
    code, site = build("[back](index.md), [a file](../script.py), [here](#part)")
    assert code == 0
    page = (site / "docs" / "one.html").read_text()
    assert 'href="index.html"' in page and 'href="#part"' in page and "script.py" in page
    assert "One" in (site / "docs" / "index.html").read_text()
    assert 'url=docs/index.html"' in (site / "index.html").read_text()


@pytest.mark.parametrize(
    "text",
    [
        "[gone](gone.md)",
        "[gone](index.md#gone)",
        "[gone](#gone)",
        "[gone](../gone.py)",
        "![gone](images/gone.svg)",
        "```yaml\na: [\n```\n\n# One again\n\n#### Too deep",
    ],
)
def test_what_leads_nowhere_or_stands_wrong_ends_the_build(build, text, capsys):
    code, _ = build(text)
    assert code != 0
    assert "docs/one.md" in capsys.readouterr().err


def test_a_page_that_no_contents_name_ends_the_build(build, capsys):
    code, _ = build("fine", two="# Two\n")
    assert code != 0
    assert "two.md" in capsys.readouterr().err


def test_pages_need_no_syntax_of_the_generator():
    inside = [path.relative_to(ROOT) for path in ROOT.rglob("*.md")]
    pages = [path for path in inside if not any(part.startswith(".") or part == "build" for part in path.parts)]
    assert len(pages) > 20
    for page in pages:
        text = (ROOT / page).read_text(encoding="utf-8")
        assert not re.search(r"^ *(```+|:::+) *\{", text, flags=re.MULTILINE), f"{page}: a directive"
        assert not re.search(r"\{(ref|doc|term|numref|eq)\}`", text), f"{page}: a role"
