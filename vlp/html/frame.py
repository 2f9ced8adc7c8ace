"""What pages are made of: the document, its head, sections, tables, charts in their frames, small pictures.

Arguments of type `Markup` are HTML already; all others are escaped here, so that names and captions are passed as they
are.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from typing import TypeAlias

from PIL.Image import Image, Resampling

from vlp.html import style_sheet
from vlp.html.words import DOT, text

Markup: TypeAlias = str
THUMBNAIL_PIXELS = 144


def document(
    name: str, kind: str, body: Markup, footer: Sequence[Markup], *, style: str = "", script: str = ""
) -> Markup:
    """Return a whole page that loads nothing.

    Args:
        name: What the page is about, and `kind`, who made it: the title of its window.
        style: Rules beside those of the style sheet.
    """
    code = f"<script>{script}</script>" if script else ""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{text(name)} {DOT} {text(kind)}</title><style>{style_sheet()}{style}</style></head><body><main>{body}"
        f"<footer>{f' {DOT} '.join(footer)}</footer></main>{code}</body></html>\n"
    )


def head(over: Sequence[Markup], title: str, lede: Markup, below: Markup) -> Markup:
    """Return the top of a page: small words, a large name, a sentence, and what to know first.

    Args:
        over: `<span>` each.
    """
    return (
        f'<header class="head"><p class="over">{"".join(over)}</p><h1>{text(title)}</h1>'
        f'<p class="lede">{lede}</p>{below}</header>'
    )


def section(title: str, note: Markup, body: Markup) -> Markup:
    """Put a titled section around its body."""
    name = title.lower().replace(" ", "-")
    return f'<section id="{text(name)}"><header><h2>{text(title)}</h2><p>{note}</p></header>{body}</section>'


def gap(reason: str) -> Markup:
    """Say what is missing."""
    return f'<p class="missing">{text(reason)}</p>'


def big_number(name: str, what: str, value: Markup, aside: Markup, below: Markup = "") -> Markup:
    """Return a number to quote, with its name and what else to know of it."""
    return (
        f'<div><p class="what"><b>{text(name)}</b> {text(what)}</p><p class="big">{value}</p>'
        f'<p class="aside">{aside}</p>{below}</div>'
    )


def big_share(share: float) -> Markup:
    """Return a share as large figures show it."""
    return f"{100 * share:.1f}<small>%</small>"


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Return a table whose last column holds numbers."""
    *names, last = titles
    top = "".join(f"<th>{text(name)}</th>" for name in names) + f'<th class="n">{text(last)}</th>'
    body = "".join(
        f'<tr>{"".join(f"<td>{text(cell)}</td>" for cell in cells)}<td class="n">{text(number)}</td></tr>'
        for *cells, number in rows
    )
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def figure(
    title: str,
    unit: str,
    said: str,
    description: str,
    body: Markup,
    *,
    size: tuple[int, int],
    data: str = "",
    css: str = "",
) -> Markup:
    """Put a chart into its frame: title line and drawing.

    Args:
        said: What the title line says at its end.
        description: The chart in words.
        data: What the read-out under the pointer needs.
    """
    read_out = f' data-hover="{text(data)}"' if data else ""
    return (
        f'<figure class="chart {css}"><figcaption><b>{text(title)}</b> <span class="unit">{text(unit)}</span>'
        f"<output>{text(said)}</output></figcaption>"
        f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img"{read_out}><title>{text(title)}</title>'
        f"<desc>{text(description)}</desc>{body}</svg></figure>"
    )


def thumbnail(image: Image, effort: int) -> str:
    """Return a small WebP as base64 text.

    Args:
        effort: Of the encoder, 0 to 6: a page of hundreds of pictures can spare the last percent.
    """
    small = image.convert("RGB")
    small.thumbnail((THUMBNAIL_PIXELS, THUMBNAIL_PIXELS), Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "WEBP", quality=78, method=effort)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
