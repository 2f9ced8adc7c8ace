"""What tells the data of one start from those of another: every shard's content, what is kept, where captions are."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from vlp.data.faults import BadSampleError
from vlp.data.samples import SampleSet
from vlp.data.shards.cards import Card
from vlp.data.shards.open_files import OpenFiles
from vlp.data.shards.shard import THREADS, Shard
from vlp.ground.files import sha256_of

SHOWN = 5
GZIP_TRAILER_BYTES = 8


@dataclass(frozen=True)
class ShardMark:
    """What is known of the content of a shard.

    Args:
        sha256: Its checksum, where somebody has read all of it.
        tag: The version that its server tells.
        index: Checksum of the keys, places and sizes of its members, of local shards without another checksum.
    """

    name: str
    samples: int
    bytes: int
    sha256: str = ""
    tag: str = ""
    index: str = ""

    def differs(self, other: ShardMark) -> bool:
        """Whether both are known to have different contents; where they tell different things, sizes decide."""
        if self.samples != other.samples or (self.bytes != other.bytes and min(self.bytes, other.bytes) >= 0):
            return True
        told = ((self.sha256, other.sha256), (self.tag, other.tag), (self.index, other.index))
        return next((one != two for one, two in told if one and two), False)


@dataclass(frozen=True)
class Fingerprint:
    """What is known of a data set.

    Args:
        captions: Where captions are, with weights.
        keep: Checksum of the list of kept samples; empty where all are used.
        shards: In the order of their samples.
    """

    captions: Mapping[str, float]
    keep: str
    shards: tuple[ShardMark, ...]

    @classmethod
    def from_mapping(cls, told: Mapping[str, Any]) -> Fingerprint:
        """Return what `asdict` made plain."""
        return cls(dict(told["captions"]), str(told["keep"]), tuple(ShardMark(**mark) for mark in told["shards"]))

    def changes(self, now: Fingerprint) -> list[str]:
        """Say in words what is no longer as it was."""
        before, after = {mark.name: mark for mark in self.shards}, {mark.name: mark for mark in now.shards}
        replaced = [name for name in before if name in after and before[name].differs(after[name])]
        said = []
        if len(self.shards) != len(now.shards):
            said.append(f"{len(self.shards)} shards -> {len(now.shards)}")
        said += _each("removed", [name for name in before if name not in after])
        said += _each("added", [name for name in after if name not in before])
        said += _each("replaced", replaced)
        if not said and list(before) != list(after):
            said.append("the shards come in another order")
        if self.keep != now.keep:
            said.append("another list of kept samples")
        if dict(self.captions) != dict(now.captions):
            said.append(f"captions {dict(self.captions)} -> {dict(now.captions)}")
        return said


def fingerprints(samples: SampleSet, before: Mapping[str, Fingerprint]) -> dict[str, Fingerprint]:
    """Return what is known of each data set of a run, by label.

    Args:
        before: What was known earlier; what it says of a local shard is found out again, so that it can be compared.
    """
    marks = {label: {mark.name: mark for mark in found.shards} for label, found in before.items()}
    return {label: _fingerprint(card, samples, label, marks.get(label, {})) for label, card in samples.cards.items()}


def _fingerprint(card: Card, samples: SampleSet, label: str, before: Mapping[str, ShardMark]) -> Fingerprint:
    shards = list(dict.fromkeys(part.shard for part in samples.parts[samples.places[label]]))
    names = _short_names([shard.location for shard in shards])
    with ThreadPoolExecutor(THREADS) as pool:
        marks = tuple(pool.map(_mark, shards, names, map(before.get, names)))
    keep = "" if card.keep is None else hashlib.sha256((card.folder / card.keep).read_bytes()).hexdigest()
    texts = card.captions if card.documents is None else {card.documents: 1.0}
    return Fingerprint(texts, keep, marks)


def _mark(shard: Shard, name: str, before: ShardMark | None) -> ShardMark:
    known = shard.known
    if shard.is_remote:
        return ShardMark(name, known.samples, known.bytes, known.sha256, known.tag)
    wants_index = bool(before.index) if before else not known.sha256
    index = _index_sum(shard) if wants_index else ""
    sha256 = _sha256(shard) if before and before.sha256 and not known.sha256 else known.sha256
    return ShardMark(name, known.samples, known.bytes, sha256, index=index)


def _sha256(shard: Shard) -> str:
    """Read a whole shard, as only a shard needs that was replaced, or lost its index."""
    try:
        return sha256_of(Path(shard.location))
    except OSError:
        return ""


def _index_sum(shard: Shard) -> str:
    """Return a checksum of what an index says of the members; of a packed tar its last bytes, where gzip keeps one."""
    try:
        if shard.is_packed:
            with Path(shard.location).open("rb") as file:
                file.seek(max(0, shard.known.bytes - GZIP_TRAILER_BYTES))
                return file.read().hex()
        _, index = shard.home.open(OpenFiles())  # of its own, as threads must not share one
    except (BadSampleError, OSError):
        return ""
    return index.structure_sha256()


def _short_names(locations: Sequence[str]) -> list[str]:
    """Return what tells the shards apart: a data set that moves as a whole is the same one."""
    parts = [PurePosixPath(location.split("?")[0]).parts for location in locations]
    common = 0
    while all(len(part) > common + 1 and part[: common + 1] == parts[0][: common + 1] for part in parts):
        common += 1
    return ["/".join(part[common:]) for part in parts]


def _each(what: str, names: Sequence[str]) -> list[str]:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return [f"shard {', '.join(names[:SHOWN])}{more}: {what}"] if names else []
