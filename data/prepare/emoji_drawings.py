"""Emoji of the vendors that may be trained on, with captions, and of those that are held out, with names."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from emoji_names import emoji_caption, emoji_codes, load_emoji, name_table
from iconify import IconSet
from rendering import Drawing

# Vendors with the padding in pixels that gives them one margin.
VENDORS = {
    "noto": 0.0,
    "noto-v1": 0.0,
    "twemoji": 6.0,
    "emojione": 4.0,
    "emojione-monotone": 4.0,
    "fxemoji": 5.0,
    "streamline-emojis": 3.0,
}


class Emoji:
    """Names, tags and drawings of emoji.

    Args:
        modules: Folder with the npm packages.
    """

    def __init__(self, modules: Path):
        self._emoji = load_emoji(modules)
        self._names = name_table(modules, self._emoji)

    def drawings(self, icons: IconSet, dropped: Counter[str], *, with_tags: bool = True) -> Iterator[Drawing]:
        """Yield the emoji of a vendor, without skin tones and directions.

        Args:
            dropped: How many drawings were left out, by reason; counted on.
            with_tags: Caption with name and tags; else with the name.
        """
        seen: set[str] = set()
        for name, code, variant in emoji_codes(icons.raw, self._names):
            entry = self._emoji.get(code)
            key = f"{icons.prefix}_{code}" + (f"-v{variant}" if variant else "")
            if entry is None or key in seen or "200d-27a1" in code:
                continue
            seen.add(key)
            caption = emoji_caption(entry, random.Random(key)) if with_tags else entry.label
            drawn = icons.drawing(name, caption.lower(), VENDORS.get(icons.prefix, 3.0))
            yield replace(drawn, key=key)
        dropped["hidden, skin tone, flag or no name"] += len(icons.names) - len(seen)
