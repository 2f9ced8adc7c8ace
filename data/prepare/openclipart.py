"""Open Clip Art of Debian's `openclipart-svg`: captions from title, subjects and folders."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from xml.etree import ElementTree

from emoji_names import BAD_WORDS
from manifest import Source
from rendering import Drawing

NAME = "openclipart"
SVG = "usr/share/openclipart/svg"
# Logos of firms and programs, hundreds of one star, named by letters, and what is no picture of anything.
LEFT_OUT = ("logos", "computer/icons/etiquette-theme/apps", "computer/icons/flat-theme/applications",
            "computer/icons/lemon-theme/apps", "shapes/stars", "recreation/games/cards", "signs_and_symbols/led",
            "special", "people/clothing/pantyhose", "unsorted/duplicates")  # fmt: skip
MOST_TAGS = 4
MOST_FILES = 3  # with one title; more of them is the name of a collection, or of who drew it
LARGEST = 1_000_000  # bytes; traced photographs that take minutes to draw
WORK = "{http://web.resource.org/cc/}Work"
DC, LI = "{http://purl.org/dc/elements/1.1/}", "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}li"
DULL = {
    "misc", "unsorted", "icons", "svg", "clip art", "clipart", "image", "media", "black and white", "contour",
    "outlined", "hash", "icon", "mapsym", "action", "theme", "flat theme", "lemon theme", "lemon theme icon",
    "etiquette theme", "united nations member", "color", "colour", "public", "externalsource", "vector",
}  # fmt: skip


def source(package: Path, version: str) -> Source:
    """Return what is told about the package."""
    count = sum(1 for _ in (package / SVG).rglob("*.svg"))
    home = "https://openclipart.org"
    return Source("Open Clip Art", "the artists of openclipart.org", "public domain", home, version, count)


def drawings(package: Path, held_out: Collection[str], dropped: Counter[str]) -> Iterator[Drawing]:
    """Yield the pictures of the unpacked package.

    Args:
        held_out: Keys of pictures that are evaluated on.
        dropped: How many pictures were left out, by reason; counted on.
    """
    root, paths = package / SVG, sorted((package / SVG).rglob("*.svg"))
    described = {path: _described(path) for path in paths}
    seen: set[str] = set()
    titles = Counter(title for title, _ in described.values())
    for path in paths:
        place, data = path.relative_to(root).as_posix(), path.read_bytes()
        key = f"oc-{hashlib.sha1(data).hexdigest()[:12]}"
        title, subjects = described[path]
        if not title or titles[title] > MOST_FILES:
            title = _words(path.stem)
        reason = _unwanted(place, data, title)
        if key in held_out:
            reason = "held out"
        elif key in seen:
            reason = "same file"
        if reason:
            dropped[reason] += 1
            continue
        seen.add(key)
        tags = dict.fromkeys([*(_words(part) for part in place.split("/")[:-1]), *subjects])
        different = [tag for tag in tags if tag not in DULL and tag != title and len(tag) > 2]
        yield Drawing(key, NAME, ", ".join([title, *different[:MOST_TAGS]]), data.decode("utf-8", "replace"), crop=True)


def _unwanted(place: str, data: bytes, title: str) -> str:
    if place.startswith(LEFT_OUT):
        return "folder"
    if len(data) > LARGEST:
        return "too large"
    if sum(character.isalpha() for character in title) < 3 or not title.isascii():
        return "no name"
    return "unwanted word" if BAD_WORDS & set(title.split()) else ""


def _described(path: Path) -> tuple[str, list[str]]:
    """Return title and subjects that a file gives."""
    try:
        work = next(ElementTree.parse(path).iter(WORK), None)
    except ElementTree.ParseError:
        return "", []
    if work is None:
        return "", []
    subjects = [_words(item.text or "") for item in work.iter(LI)]
    return _words(work.findtext(f"{DC}title") or ""), [word for word in subjects if re.fullmatch("[a-z -]+", word)]


def _words(text: str) -> str:
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])|[_,.\-]+", " ", text).lower()
    return " ".join(re.sub(r"\b(aj|svg|ganson|rollandin|architetto francesco|\d+)\b", "", spaced).split())
