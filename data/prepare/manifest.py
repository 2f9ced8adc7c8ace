"""What is told about a data set that was built from many sources: counts, versions, licences, and whom to name."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from iconify import IconSet

LINKS = {
    "MIT": "https://spdx.org/licenses/MIT.html",
    "ISC": "https://spdx.org/licenses/ISC.html",
    "BSD-3-Clause": "https://spdx.org/licenses/BSD-3-Clause.html",
    "Unlicense": "https://spdx.org/licenses/Unlicense.html",
    "Apache-2.0": "https://www.apache.org/licenses/LICENSE-2.0",
    "CC0-1.0": "https://creativecommons.org/publicdomain/zero/1.0/",
    "CC-BY-3.0": "https://creativecommons.org/licenses/by/3.0/",
    "CC-BY-4.0": "https://creativecommons.org/licenses/by/4.0/",
    "CC-BY-SA-4.0": "https://creativecommons.org/licenses/by-sa/4.0/",
    "public domain": "https://creativecommons.org/licenses/publicdomain/",
}


@dataclass
class Source:
    """A set of drawings, and what became of them.

    Args:
        version: Of the set itself, where it says so.
        drawings: All that it has, in all styles.
        kept: Those that are trained on, or evaluated on.
        dropped: The others, by reason.
    """

    title: str
    author: str
    licence: str
    home: str
    version: str
    drawings: int
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of(cls, icons: IconSet) -> Source:
        """Return what a set says about itself."""
        info = icons.info
        author = info.get("author", {})
        home = author.get("url") or info.get("license", {}).get("url", "")
        return cls(info["name"], author.get("name", ""), icons.licence, home, info.get("version", ""), len(icons.names))


def write_manifest(path: Path, about: Mapping[str, Any], parts: Mapping[str, Mapping[str, Source]]) -> None:
    """Write all numbers as JSON.

    Args:
        about: What is known about the whole.
        parts: Training and held-out sources, by name.
    """
    told = {part: {name: _told(source) for name, source in sorted(sources.items())} for part, sources in parts.items()}
    path.write_text(json.dumps({**about, **told}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_licences(path: Path, parts: Mapping[str, Mapping[str, Source]], versions: Sequence[str]) -> None:
    """Write whom to name for what."""
    lines = [
        "# Sources and licences",
        "",
        "Keys begin with the name of the set. All drawings were rendered to 96 px WebP on white; one-colour ones were",
        "given a colour. Nobody named here endorses this data set. Copies must keep this file, and, for MIT, ISC, BSD",
        "and Apache-2.0, the licence texts that the sets' homes hold.",
        "",
        f"Packages: {', '.join(versions)}. Names of emoji: emojibase-data (MIT, Miles Johnson), emojilib (MIT,",
        "Mu-An Chiou), derived from Unicode CLDR (Unicode-3.0).",
    ]
    for part, sources in parts.items():
        lines += [
            "",
            f"## {part}",
            "",
            "| set | pairs | title | author | licence | home |",
            "|---|---|---|---|---|---|",
        ]
        for name, source in sorted(sources.items()):
            if source.kept:
                title = f"{source.title} {source.version}".strip()
                licence = f"[{source.licence}]({LINKS[source.licence]})"
                lines.append(f"| {name} | {source.kept} | {title} | {source.author} | {licence} | {source.home} |")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _told(source: Source) -> dict[str, Any]:
    return {**vars(source), "dropped": {reason: count for reason, count in sorted(source.dropped.items()) if count}}
