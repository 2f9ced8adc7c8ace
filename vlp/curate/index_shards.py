"""Write indices beside the shards and a summary beside the card, with checksums of all that was read for them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from vlp.curate.parallel import map_in_order, num_shards, progress
from vlp.data import Card
from vlp.data.faults import BadSampleError
from vlp.data.shards.index import build_index, index_in_memory
from vlp.data.shards.shard import Shard, open_shards
from vlp.data.shards.summary import Known, summary_beside, summary_in_cache, write_summary
from vlp.ground.cores import usable_cores
from vlp.ground.files import write_whole
from vlp.ground.types import RecipeError


@dataclass(frozen=True)
class Indexed:
    """What one shard holds.

    Args:
        index: Where its index lies.
        fresh: Whether that was there already.
    """

    location: str
    known: Known
    index: Path
    fresh: bool


@dataclass(frozen=True)
class Indices:
    """The indices of a card, and its summary."""

    card: str
    summary: Path
    shards: tuple[Indexed, ...]

    @property
    def samples(self) -> int:
        """Samples of all shards."""
        return sum(shard.known.samples for shard in self.shards)

    def __str__(self) -> str:
        num_bytes = sum(max(shard.known.bytes, 0) for shard in self.shards)
        num_fresh = sum(shard.fresh for shard in self.shards)
        built = len(self.shards) - num_fresh
        lines = [f"warning: {shard.location}: {shard.known.fault}" for shard in self.shards if shard.known.fault]
        lines += [
            f"{self.card}: {self.samples:,} samples, {num_bytes / 1e6:,.1f} MB, {num_shards(len(self.shards))}",
            f"{built} indices built, {num_fresh} were there, in {self.shards[0].index.parent}",
            f"summary: {self.summary}",
        ]
        return "\n".join(lines)


def index_card(card: Card, *, workers: int | None = None) -> Indices:
    """Build the indices that are missing or belong to an older content of their shard; fetch remote shards for it.

    Args:
        workers: Processes; all cores when absent.

    Raises:
        RecipeError: A shard cannot be read, or neither its folder nor the cache can be written.
    """
    shards = open_shards(card)
    indexed = []
    with progress(len(shards), "shards") as bar:
        for one in map_in_order(index_shard, shards, usable_cores() if workers is None else workers):
            indexed.append(one)
            bar.update()
    known = {one.location: one.known for one in indexed}
    for path in (summary_beside(card), summary_in_cache(card)):
        try:
            write_summary(path, card, known)
        except OSError:
            continue
        return Indices(card.name, path, tuple(indexed))
    raise _no_place(summary_in_cache(card))


def index_shard(shard: Shard) -> Indexed:
    """Index one shard.

    Raises:
        RecipeError: It cannot be read, or its index not be written.
    """
    try:
        tar, index = shard.open()
    except BadSampleError as error:
        raise RecipeError(f"{error}; the other indices are kept") from error
    footer, path, fresh = index.footer, index.path, index.footer.has_checksums
    if not fresh:
        content = build_index(tar, footer.fault, checksums=True)
        footer, path = index_in_memory(content).footer, _write(content, shard)
    sha256 = shard.known.sha256 if shard.is_packed else footer.tar_sha256
    known = replace(shard.known, samples=footer.samples, fault=footer.fault, sha256=sha256, lost=footer.lost)
    return Indexed(shard.location, known, path, fresh)


def _write(content: bytes, shard: Shard) -> Path:
    places = shard.home.index_places()
    for path in places:
        try:
            with write_whole(path) as file:
                file.write(content)
        except OSError:
            continue
        return path
    raise _no_place(places[-1])


def _no_place(path: Path) -> RecipeError:
    return RecipeError(f"cannot write into {path.parent}; set XDG_CACHE_HOME to a folder with room")
