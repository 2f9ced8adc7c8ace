"""What web captions carry that no caption means: addresses, markup, file names, rows of exclamation marks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

Rubbish = Literal["urls", "tags", "file_names", "repeats"]

# Each takes time in proportion to the text, also for texts made to be slow: captions come from strangers.
PATTERNS: dict[Rubbish, tuple[re.Pattern[str], str]] = {
    "tags": (re.compile(r"<(?:!--|/?[a-z])[^<>]*>", re.IGNORECASE), " "),
    "urls": (re.compile(r"\b(?:https?://|www\.)[^\s<>\"]+", re.IGNORECASE), " "),
    "file_names": (
        re.compile(
            r"(?<!\S)\S+\.(?:jpe?g|png|gif|webp|bmp|tiff?|heic|svg|avif)(?!\w)"
            r"|\b(?:IMG|DSC[NF]?|PICT|PXL|MVI|VID|GOPR|SAM|DJI)(?:[-_ ]\d{3,12}|\d{4,12})(?:[-_]\d{1,12}){0,3}\b",
            re.IGNORECASE,
        ),
        " ",
    ),
    "repeats": (re.compile(r"([^\w\s])\1+"), r"\1"),
}


def remove(text: str, rubbish: Sequence[Rubbish]) -> str:
    """Return a text without the kinds of rubbish that are named."""
    for kind, (pattern, instead) in PATTERNS.items():
        if kind in rubbish:
            text = pattern.sub(instead, text)
    return text
