"""Icon sets of npm `@iconify/json`: licences, which sets may be trained on, names and tags, and their SVG."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rendering import SIZE, Drawing

# SPDX names; share-alike, non-commercial and font licences are not among them.
ALLOWED = ("MIT", "ISC", "BSD-3-Clause", "Apache-2.0", "Unlicense", "CC0-1.0", "CC-BY-3.0", "CC-BY-4.0")
CORRECTED = {"fxemoji": "CC-BY-4.0"}  # the metadata give the licence of the code

# Evaluated on, never trained on.
HELD_OUT_ICONS = ("carbon", "iconoir", "healthicons", "game-icons", "temaki")
HELD_OUT_EMOJI = ("openmoji", "fluent-emoji-flat", "fluent-emoji-high-contrast", "fluent-emoji")
HELD_OUT = re.compile("|".join((*HELD_OUT_ICONS, "openmoji", "fluent-.*")))

LEFT_OUT = {
    "pinhead": "holds the drawings of temaki",
    **dict.fromkeys(("cif", "circle-flags", "flag", "flagpack"), "named by country codes"),
    **dict.fromkeys(("bx", "bxs", "heroicons-outline", "heroicons-solid"), "superseded by a set that is taken"),
    **dict.fromkeys(("fa-regular", "fa-solid", "fa6-regular", "fa6-solid"), "superseded by a set that is taken"),
    "streamline-guidance": "superseded by a set that is taken",
    **dict.fromkeys(("fa-brands", "fa6-brands", "devicon-line", "devicon-original"), "logos"),
    **dict.fromkeys(("svg-spinners", "line-md"), "animated"),
}
LOGOS = {"Logos", "Programming"}
NO_LOGOS = {"codicon"}  # filed under Programming

COLOURS = ("#212121", "#37474f", "#4e342e", "#1565c0", "#2e7d32", "#b71c1c", "#6a1b9a", "#e65100")


@dataclass(frozen=True)
class IconSet:
    """One icon set.

    Args:
        raw: What its JSON file says.
    """

    raw: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> IconSet:
        """Read the file of a set."""
        return cls(json.loads(path.read_text(encoding="utf-8")))

    @property
    def prefix(self) -> str:
        """Name of the set."""
        return str(self.raw["prefix"])

    @property
    def info(self) -> Mapping[str, Any]:
        """Title, author, licence, category and more."""
        info: Mapping[str, Any] = self.raw["info"]
        return info

    @property
    def coloured(self) -> bool:
        """Whether icons have colours of their own."""
        return bool(self.info.get("palette"))

    @property
    def licence(self) -> str:
        """SPDX name."""
        return CORRECTED.get(self.prefix, self.info.get("license", {}).get("spdx", "none"))

    @property
    def names(self) -> list[str]:
        """Names of all icons, in order."""
        return sorted(self.raw["icons"])

    def is_hidden(self, name: str) -> bool:
        """Return whether the set keeps an icon for old pages only."""
        return bool(self.raw["icons"][name].get("hidden"))

    @cached_property
    def categories(self) -> dict[str, list[str]]:
        """Categories of each icon, in readable words."""
        result: dict[str, list[str]] = {}
        for category, names in sorted(self.raw.get("categories", {}).items()):
            spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", category.replace("-", " ")).lower()
            for name in names:
                result.setdefault(name, []).append(" ".join(spaced.split()))
        return result

    @cached_property
    def aliases(self) -> dict[str, list[str]]:
        """Further names of each icon, without those of its mirror images."""
        result: dict[str, list[str]] = {}
        for alias, target in sorted(self.raw.get("aliases", {}).items()):
            if set(target) == {"parent"}:
                result.setdefault(target["parent"], []).append(alias)
        return result

    def drawing(self, name: str, caption: str, pad: float | None = None) -> Drawing:
        """Return an icon as a drawing; the colour of a one-colour icon depends on its key alone.

        Args:
            pad: Margin in pixels; by default one that makes up for sets that have none.
        """
        if pad is None:
            pad = 0.0 if "Has Padding" in self.info.get("tags", []) else 5.0
        svg = icon_svg(self.raw, name, pad, COLOURS[digest(f"{self.prefix}-{name}")[0] % len(COLOURS)])
        return Drawing(f"{self.prefix}_{name}", self.prefix, caption, svg, one_colour=not self.coloured)


def digest(key: str) -> bytes:
    """Return what a choice for a key depends on, wherever and however often it is made."""
    return hashlib.sha256(key.encode()).digest()


def why_left_out(icons: IconSet) -> str:
    """Return why no drawing of a set is trained on; nothing where they are."""
    if HELD_OUT.fullmatch(icons.prefix):
        return "held out"
    if icons.licence not in ALLOWED:
        return f"licence {icons.licence}"
    if icons.info.get("hidden"):
        return "hidden"
    if icons.info.get("category") in LOGOS and icons.prefix not in NO_LOGOS:
        return "logos"
    return LEFT_OUT.get(icons.prefix, "")


def icon_svg(icons: Mapping[str, Any], name: str, pad: float, color: str) -> str:
    """Build a square SVG of one iconify icon with ``pad`` of 96 pixels on each side."""
    icon = icons["icons"][name]
    left, top = (icon.get(key, icons.get(key, 0)) for key in ("left", "top"))
    width, height = (icon.get(key, icons.get(key, 16)) for key in ("width", "height"))
    side = max(width, height) / (1 - 2 * pad / SIZE)
    x, y = left + width / 2 - side / 2, top + height / 2 - side / 2
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'width="{SIZE}" height="{SIZE}" viewBox="{x:.5f} {y:.5f} {side:.5f} {side:.5f}" '
        f'color="{color}">{icon["body"]}</svg>'
    )
