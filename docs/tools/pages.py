"""What is made of the pages: `python -m docs.tools.pages` writes it anew, with `--check` it says what is out of date.

The parts that pages show are the files of `docs/snippets`; the picture of the house comes from the imports in the code;
the page of results, and the figures in the README, from the reports. (`vlp describe --page` makes the pages about
parts.)
"""

from __future__ import annotations

import argparse
import difflib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from docs.tools.house import draw
from docs.tools.results import figures, read_reports, results_page
from tests.house import ROOT

DOCS = ROOT / "docs"
README = ROOT / "README.md"
SNIPPETS = DOCS / "snippets"
SHOWN = re.compile(r"(\]\(snippets/([\w./-]+)\)[^\n]*\n\n```\w+\n)(.*?)(```)", flags=re.DOTALL)
"""A link to a file of `docs/snippets`, and the block after it, which shows the file."""
MEASURED = re.compile(r"(<!-- measured: ([\w-]+) -->\n\n)(.*?)(\n\n<!-- end -->)", flags=re.DOTALL)
"""Where the figures of a theme stand."""


def shown_in(text: str) -> dict[str, str]:
    """Return the files that a page shows, and how it shows them."""
    return {name: block for _, name, block, _ in SHOWN.findall(text)}


def with_snippets(text: str) -> str:
    """Return a page with the files as they are."""
    return SHOWN.sub(lambda found: found[1] + (SNIPPETS / found[2]).read_text(encoding="utf-8") + found[4], text)


def with_figures(text: str) -> str:
    """Return a page with the figures of the newest reports."""
    newest = figures(read_reports(), from_folder="benchmarks/reports")
    return MEASURED.sub(lambda found: found[1] + newest[found[2]] + found[4], text)


def made() -> Iterator[tuple[Path, str]]:
    """Yield each file that is made, wholly or in part, and what should stand in it."""
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if shown_in(text):
            yield page, with_snippets(text)
    yield DOCS / "images" / "house.svg", draw()
    yield DOCS / "results.md", results_page(read_reports())
    yield README, with_figures(README.read_text(encoding="utf-8"))


def main() -> None:
    """Write or check; the exit code is 1 where something is out of date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, and show the differences")
    check = parser.parse_args().check
    stale = False
    for path, text in made():
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        if old == text:
            continue
        stale = True
        if check:
            name = str(path.relative_to(ROOT))
            sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), text.splitlines(True), name, "made anew"))
        else:
            path.write_text(text, encoding="utf-8")
    sys.exit(int(check and stale))


if __name__ == "__main__":
    main()
