"""Build the indices that the stream reads at its start: ahead of training, on all cores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vlp.curate.cards import num_shards, open_card
from vlp.curate.parallel import map_in_order, num_cpus, progress
from vlp.data.cache import cache_path
from vlp.data.files import OpenFiles
from vlp.data.shards import Shard
from vlp.types import RecipeError


@dataclass(frozen=True)
class Indexed:
    """What one shard holds; `fresh` when its index was there already."""

    path: Path
    samples: int
    bytes: int
    fresh: bool
    fault: str


@dataclass(frozen=True)
class Indices:
    """The indices of a card."""

    card: str
    folder: Path
    shards: tuple[Indexed, ...]

    @property
    def samples(self) -> int:
        """Samples of all shards."""
        return sum(shard.samples for shard in self.shards)

    def __str__(self) -> str:
        num_bytes = sum(shard.bytes for shard in self.shards)
        num_fresh = sum(shard.fresh for shard in self.shards)
        built = len(self.shards) - num_fresh
        lines = [f"warning: {shard.path}: {shard.fault}" for shard in self.shards if shard.fault]
        lines += [
            f"{self.card}: {self.samples:,} samples, {num_bytes / 1e6:,.1f} MB, {num_shards(len(self.shards))}",
            f"{built} indices built, {num_fresh} were there, in {self.folder}",
        ]
        return "\n".join(lines)


def index_card(name: str, *, workers: int | None = None) -> Indices:
    """Build the indices that are missing or belong to an older content of their shard.

    Args:
        name: Name of the card, or the path of its file.
        workers: Processes; all cores when absent.

    Raises:
        RecipeError: A shard is missing, or the cache cannot be written.
    """
    card = open_card(name)
    paths = card.paths()
    shards = []
    with progress(len(paths), "shards") as bar:
        for shard in map_in_order(index_shard, paths, num_cpus() if workers is None else workers):
            shards.append(shard)
            bar.update()
    return Indices(card.name, cache_path(paths[0], "").parent, tuple(shards))


def index_shard(path: Path) -> Indexed:
    """Index one shard.

    Raises:
        RecipeError: The cache cannot be written.
    """
    cached = cache_path(path, ".npz")
    fresh = cached.exists()
    before = cached.stat().st_mtime_ns if fresh else 0
    index = Shard(path, OpenFiles()).index
    if not cached.exists():
        raise RecipeError(f"cannot write an index into {cached.parent}; set XDG_CACHE_HOME to a folder with room")
    # A broken index is written anew under its name.
    return Indexed(path, len(index), path.stat().st_size, fresh and cached.stat().st_mtime_ns == before, index.fault)
