"""How Sphinx makes a site of the Markdown pages: `make site`. The pages themselves stay plain Markdown."""

from __future__ import annotations

from pathlib import Path

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
    "Start": (
        "Tutorial </docs/tutorial>",
        "docs/concepts",
        "docs/glossary",
        "docs/troubleshooting",
        "docs/from-open-clip",
    ),
    "Train": (
        "Losses </docs/terms>",
        "Settings </docs/reference>",
        "docs/weights",
        "docs/finetuning",
        "docs/optimizers",
        "docs/widths",
        "docs/heads",
        "docs/views",
        "docs/forgetting",
        "docs/stages",
        "docs/mining",
        "docs/distillation",
        "docs/robustness",
        "docs/captioning",
        "docs/clusters",
        "docs/reproducibility",
        "docs/trackers",
    ),
    "Data": (
        "docs/add-a-dataset",
        "Cards, shards, captions </data/README>",
        "docs/filtering",
        "Shipped data </data/embedded/LICENSES>",
    ),
    "Evaluate and use": (
        "eval/README",
        "docs/tasks",
        "Comparing models </docs/evaluation>",
        "Records </eval/results/README>",
        "docs/python-api",
    ),
    "Extend": (
        *("docs/add-a-term", "docs/add-a-strategy", "docs/add-an-evaluator", "docs/add-a-tower", "docs/add-a-source"),
        *("docs/add-a-rule", "docs/architecture", "CONTRIBUTING"),
    ),
    "Evidence": ("docs/results", "benchmarks/README", "docs/log", "CHANGELOG"),
}
"""The contents of the site, group by group, with shorter titles for some; a page that is missing here is an error."""
BELOW = {"docs/results": "benchmarks/reports/*"}
"""Pages that stand below another."""

nitpicky = True
myst_heading_anchors = 4
highlight_language = "text"
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_title = "vlp"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False


def add_navigation(_app: Sphinx, page: str, source: list[str]) -> None:
    """Give pages their part of the contents, which their Markdown need not show."""
    groups = NAVIGATION if page == root_doc else {"": (BELOW[page],)} if page in BELOW else {}
    for caption, pages in groups.items():
        entries = "\n".join(name if "<" in name else f"/{name}" for name in pages)
        heading = f":caption: {caption}\n" if caption else ""
        source[0] += f"\n\n```{{toctree}}\n:hidden:\n:glob:\n{heading}\n{entries}\n```\n"


def lead_to_first_page(app: Sphinx, error: Exception | None) -> None:
    """Let the top of the site lead to its first page, which lies where its source does."""
    if error is None and app.builder.name == "html":
        first = f"{root_doc}.html"
        page = f'<!doctype html><meta http-equiv="refresh" content="0; url={first}"><a href="{first}">{project}</a>\n'
        Path(app.outdir, "index.html").write_text(page, encoding="utf-8")


def setup(app: Sphinx) -> None:
    """Register what happens between reading and writing."""
    app.connect("source-read", add_navigation)
    app.connect("build-finished", lead_to_first_page)
