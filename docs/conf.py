"""How Sphinx makes a site of the Markdown pages: `make site`. The pages themselves stay plain Markdown."""

from __future__ import annotations

from sphinx.application import Sphinx

project = "vlp"
author = "the vlp authors"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "data/README.md",
    "data/embedded/LICENSES.md",
    "eval/README.md",
    "eval/results/README.md",
    "benchmarks/README.md",
    "benchmarks/reports/*.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
]
"""The source is the project's root, so that links between pages are the same here and on a code host."""
exclude_patterns = [".*", "vlp", "tests", "build", "runs", "exports", "recipes", "data/prepare", "docs/snippets"]

NAVIGATION = {
    "Start": ("docs/tutorial", "docs/python-api", "docs/from-open-clip", "docs/troubleshooting"),
}
"""The contents of the site, group by group; a page that is missing here is an error."""

nitpicky = True
myst_heading_anchors = 4
highlight_language = "text"
html_theme = "furo"
html_title = "vlp"
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False


def add_navigation(_app: Sphinx, page: str, source: list[str]) -> None:
    """Give the first page the contents, which its Markdown need not show."""
    if page == root_doc:
        for caption, pages in NAVIGATION.items():
            entries = "\n".join(f"/{name}" for name in pages)
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{entries}\n```\n"


def setup(app: Sphinx) -> None:
    """Register what happens between reading and writing."""
    app.connect("source-read", add_navigation)
