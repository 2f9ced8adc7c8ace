"""Dataset cards: which shards a data set is made of, and what is known about them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from braceexpand import braceexpand
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vlp.explain import explain
from vlp.types import RecipeError


class Card(BaseModel):
    """A data set on a local disk.

    Args:
        name: What the data set is called.
        shards: One pattern or a list: `*` and `?` match existing files, `{000..127}` lists files that must exist.
            Relative to the card; `$VARIABLE` and `~` are expanded.
        samples: Number of samples in all shards; checked at every start.
        captions: Where captions are, with weights: `txt` is a member of each sample, `json.NAME` a key of its
            JSON member.
        sha256: Checksum per shard, named relative to the card; checked by `verify`.
        licence: Terms of use.
        home: Where the data comes from.
        folder: Where the card lies; not part of the file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    shards: str | tuple[str, ...]
    samples: int | None = Field(None, ge=1)
    captions: dict[str, Annotated[float, Field(gt=0)]] = Field({"txt": 1.0}, min_length=1)
    sha256: dict[str, str] = {}
    licence: str = ""
    home: str = ""
    folder: Path = Field(Path(), exclude=True)

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], path: Path) -> Card:
        """Check the settings of a card.

        Args:
            mapping: What stands in the file.
            path: The file; shards are found relative to its folder.

        Raises:
            RecipeError: A mistake; names the file, the key and the nearest valid name.
        """
        try:
            return cls(**{**mapping, "folder": path.parent.resolve()})
        except ValidationError as error:
            raise RecipeError(explain(error, cls, [(str(path), mapping)])) from error

    @property
    def fingerprint(self) -> str:
        """A checksum of the card's checksums, or of the shards' names and sizes where it has none."""
        known = self.sha256 or {path.name: str(path.stat().st_size) for path in self.paths()}
        return hashlib.sha256(json.dumps(sorted(known.items())).encode()).hexdigest()

    def paths(self) -> list[Path]:
        """Return the shards in order of their names.

        Raises:
            RecipeError: A pattern matches nothing, or a shard is missing or may not be read.
        """
        patterns = [self.shards] if isinstance(self.shards, str) else list(self.shards)
        found = {path for pattern in patterns for path in self._expand(pattern)}
        found |= {self.folder / name for name in self.sha256}
        missing = [str(path) for path in sorted(found) if not os.access(path, os.R_OK)]
        if missing:
            raise RecipeError(
                f"card '{self.name}': cannot read {len(missing)} of {len(found)} shards: {', '.join(missing[:5])}"
                f"{', ...' if len(missing) > 5 else ''}; fetch them, or change `shards`"
            )
        return sorted(found)

    def verify(self) -> None:
        """Compare every shard with its checksum; reads all bytes.

        Raises:
            RecipeError: A shard differs.
        """
        for name, expected in self.sha256.items():
            with (self.folder / name).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                    raise RecipeError(f"card '{self.name}': {name} differs from its sha256; fetch it again")

    def _expand(self, pattern: str) -> list[Path]:
        paths: list[Path] = []
        for text in braceexpand(os.path.expandvars(pattern)):
            path = self.folder / Path(text).expanduser()
            if not any(letter in text for letter in "*?["):
                paths.append(path)
                continue
            anchor = Path(path.anchor)
            matches = list(anchor.glob(str(path.relative_to(anchor))))
            if not matches:
                raise RecipeError(f"card '{self.name}': shards: no file matches {path}")
            paths += matches
        return paths
