"""The one kit for pages and charts: style, frame, words, axes, histograms."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent


def style_sheet() -> str:
    """Return the style sheet of every page."""
    return (HERE / "style.css").read_text(encoding="utf-8")


def hover_script() -> str:
    """Return the script that shows the numbers of a chart under the pointer."""
    return (HERE / "hover.js").read_text(encoding="utf-8")
