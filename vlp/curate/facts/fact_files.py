"""What was measured once is kept beside what was made of it, and never measured again."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlp.curate.facts.column import Column
from vlp.curate.facts.facts import Fact
from vlp.data import Card
from vlp.data.shards.shard import Shard
from vlp.ground.files import write_whole

VERSION = "2"
FOLDER = ".measured"


@dataclass(frozen=True)
class FactFiles:
    """Facts of all samples of a card's shards, one file per shard and fact."""

    card: Card
    folder: Path

    def name(self, shard: Shard, fact: Fact) -> str:
        """Return the name of a file; another content of the shard, or other members, give another name."""
        known = shard.known
        members = self.card.images, list(self.card.captions.items())  # the first caption is the one that facts see
        identity = (VERSION, shard.location, known.bytes, known.samples, known.tag, members)
        return f"{fact.name}/{hashlib.sha256(repr(identity).encode()).hexdigest()[:32]}.npz"

    def missing(self, shard: Shard, facts: Sequence[Fact]) -> tuple[Fact, ...]:
        """Return the facts of a shard that are not kept yet."""
        return tuple(fact for fact in facts if not zipfile.is_zipfile(self.folder / self.name(shard, fact)))

    def read(self, shard: Shard, fact: Fact) -> Column:
        """Return a fact that is kept."""
        return Column.unpack(self.folder / self.name(shard, fact))

    def keep(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all."""
        with write_whole(self.folder / name) as file:
            file.write(content)
