"""The page of `vlp data inspect`: loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

import vlp
from vlp.curate.facts.facts import HEADER, LENGTH
from vlp.curate.inspect_facts import Inspected
from vlp.curate.parallel import num_shards
from vlp.data import Card
from vlp.html.frame import big_number, big_share, document, head, section, table
from vlp.html.histogram import histogram
from vlp.html.words import text


@dataclass(frozen=True)
class ShownSample:
    """A sample to show; the thumbnail is empty where the image cannot be decoded."""

    key: str
    thumbnail: str
    caption: str


@dataclass(frozen=True)
class Group:
    """An image that occurs several times, byte by byte, and some of its captions."""

    times: int
    thumbnail: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Findings:
    """Everything that the page shows.

    Args:
        repeated_captions: Samples whose caption, in small letters, another sample has too.
        repeated_images: Images that equal an earlier one.
    """

    samples: Inspected
    seed: int
    pictures: tuple[ShownSample, ...]
    captions: tuple[tuple[str, int], ...]
    words: tuple[tuple[str, int], ...]
    distinct_captions: int
    repeated_captions: int
    repeated_images: int
    groups: tuple[Group, ...]
    kinds: Mapping[str, int]


OWN_STYLE = """
.sheet { display: grid; grid-template-columns: repeat(auto-fill, minmax(96px, 1fr)); gap: 18px 14px; }
.sheet figure { min-width: 0; }
.sheet img, .sheet .broken { display: block; width: 100%; aspect-ratio: 1; object-fit: contain; background: #fff;
  border-radius: 3px; outline: 1px solid var(--rule); }
.sheet .broken { background: var(--grid); }
.sheet figcaption { margin-top: 6px; font-size: 11.5px; line-height: 1.35; color: var(--soft); overflow-wrap: anywhere;
  display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; }
.sheet.twins { grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); gap: 0 44px;
  align-items: start; margin-top: 34px; }
.words { columns: 3; column-gap: 24px; font-size: 13.5px; font-variant-numeric: tabular-nums; }
.words div { display: flex; justify-content: space-between; border-top: 1px solid var(--grid); padding: 3px 0;
  break-inside: avoid; gap: 8px; }
.words dd { color: var(--soft); }
.lede a { color: inherit; }
td:first-child { overflow-wrap: anywhere; }
"""


def page(card: Card, found: Findings) -> str:
    """Return the whole page."""
    parts = [_head(card, found), _sheet(found), _captions(found), _images(found), _twins(found), _left_out(found)]
    command = f"<code>vlp data inspect {text(card.name)} --seed {found.seed}</code>"
    footer = (f"vlp {vlp.__version__}", command, "this page loads nothing")
    return document(card.name, "vlp data", "".join(parts), footer, style=OWN_STYLE)


def _head(card: Card, found: Findings) -> str:
    sides = np.minimum(*found.samples.sides)
    captions, images = (count / len(found.samples) for count in (found.repeated_captions, found.repeated_images))
    cells = [
        big_number("samples", f"in {num_shards(len(card.locations()))}", f"{found.samples.samples:,}", ""),
        big_number("shorter side", "median, in pixels", f"{np.median(sides):.0f}", f"{sides.min()} to {sides.max()}"),
        big_number("captions that others have too", "in small letters", big_share(captions), ""),
        big_number("images that repeat another", "byte by byte", big_share(images), ""),
    ]
    home = text(card.home)
    if home.startswith("http") and " " not in home:
        home = f'<a href="{home}">{home}</a>'
    licence = f"Licence: <b>{text(card.licence)}</b>" if card.licence else "The card names <b>no licence</b>"
    over = ("<span>Data set</span>", f"<span>captions: {text(', '.join(card.captions))}</span>")
    lede = f"{licence}{f', from {home}' if home else ''}."
    return head(over, card.name, lede, f'<div class="figures">{"".join(cells)}</div>')


def _image(thumbnail: str, name: str) -> str:
    if not thumbnail:
        return f'<div class="broken" title="{text(name)}: cannot be decoded"></div>'
    return f'<img src="data:image/webp;base64,{thumbnail}" alt="" title="{text(name)}" loading="lazy">'


def _sheet(found: Findings) -> str:
    figures = "".join(
        f'<figure>{_image(shown.thumbnail, shown.key)}<figcaption title="{text(shown.caption)}">'
        f"{text(shown.caption)}</figcaption></figure>"
        for shown in found.pictures
    )
    note = f"{len(found.pictures)} samples drawn at random with seed {found.seed}."
    return section("Samples", note, f'<div class="sheet">{figures}</div>')


def _captions(found: Findings) -> str:
    lengths = found.samples.of(LENGTH)
    charts = histogram("Characters", "of a caption", lengths["characters"], "text")
    charts += histogram("Words", "of a caption, split at spaces", lengths["pieces"], "text")
    words = "".join(f"<div><dt>{text(word)}</dt><dd>{count:,}</dd></div>" for word, count in found.words)
    common = _counts(("caption", "times"), found.captions) if found.captions else _plain("No caption occurs twice.")
    among = f"{found.distinct_captions:,} distinct ones among {len(found.samples):,}"
    return section(
        "Captions",
        f"{among}; the first caption of each sample counts.",
        f'<div class="grid">{charts}</div><div class="columns"><div><h3>Most common captions</h3>{common}</div>'
        f'<div><h3>Most common words</h3><dl class="words">{words}</dl></div></div>',
    )


def _images(found: Findings) -> str:
    widths, heights = found.samples.sides
    num_bytes = found.samples.of(HEADER)["bytes"]
    charts = [
        histogram("Shorter side", "pixels", np.minimum(widths, heights), "image"),
        histogram("Aspect", "width by height", widths / heights, "image", log=True, write="{:.2f}".format),
        histogram("File size", "kB", num_bytes / 1000, "image", log=True, write="{:,.1f}".format),
    ]
    sizes, counts = np.unique(np.stack([widths, heights]), axis=1, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:10]
    common = [(f"{sizes[0, k]} x {sizes[1, k]}", int(counts[k])) for k in order]
    note = f"{num_bytes.sum() / 1e6:,.1f} MB of encoded images."
    return section(
        "Images",
        note,
        f'<div class="grid">{"".join(charts)}</div><div class="columns">'
        f"<div><h3>Most common sizes</h3>{_counts(('pixels', 'images'), common)}</div>"
        f"<div><h3>File types</h3>{_counts(('type', 'images'), found.kinds.items())}</div></div>",
    )


def _twins(found: Findings) -> str:
    if not found.groups:
        return section("Duplicates", "", _plain("No two images are equal byte by byte."))
    figures = "".join(
        f"<figure>{_image(group.thumbnail, '')}<figcaption><b>{group.times} times</b> "
        f"{text(' | '.join(group.captions))}</figcaption></figure>"
        for group in found.groups
    )
    note = f"{found.repeated_images:,} images repeat another byte by byte; the most frequent ones, with their captions."
    return section("Duplicates", note, f'<div class="sheet twins">{figures}</div>')


def _left_out(found: Findings) -> str:
    faults = found.samples.faults
    if not faults:
        return ""
    note = "Not part of the numbers above. <code>vlp data verify</code> names them and also decodes the pixels."
    return section("Left out", note, _counts(("reason", "samples"), faults.most_common()))


def _counts(titles: tuple[str, str], rows: Iterable[tuple[str, int]]) -> str:
    return table(titles, ((name, f"{count:,}") for name, count in rows))


def _plain(said: str) -> str:
    return f'<p class="plain">{said}</p>'
