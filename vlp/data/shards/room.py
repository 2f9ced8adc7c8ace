"""Whether the cache can hold the shards that a run reads at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vlp.data.shards.cards import Card
from vlp.data.shards.shard import Shard
from vlp.ground.types import RecipeError


def check_cache(cards: Iterable[Card], shuffled: Iterable[Sequence[Shard]], shuffle_shards: int | None) -> None:
    """Refuse a cache that cannot hold the copies that are read at the same time.

    Args:
        cards: Of all sources.
        shuffled: Shards that are shuffled together, or a few of them at a time; each sequence apart from the others.
        shuffle_shards: How many; None stands for all.

    Raises:
        RecipeError: They would be deleted and fetched over and over again.
    """
    sizes = [
        sorted((shard.known.bytes for shard in dict.fromkeys(shards) if shard.is_remote), reverse=True)
        for shards in shuffled
    ]
    limits = {card.name: limit for card in cards if (limit := card.limit_bytes) is not None}
    needed = sum(sum(group[:shuffle_shards]) for group in sizes)
    if not limits or needed <= min(limits.values()):
        return
    name, limit = min(limits.items(), key=lambda item: item[1])
    window = "all shards" if shuffle_shards is None else f"{shuffle_shards} shards"
    each = " of each source" if len([group for group in sizes if group]) > 1 else ""
    fitting = int(limit // max(1, sum(group[0] for group in sizes if group))) // 2
    raise RecipeError(
        f"card '{name}': data.shuffle_shards={'null' if shuffle_shards is None else shuffle_shards} reads "
        f"{window}{each} at a time, {needed / 1e9:.1f} GB, and cache_gb is {limit / 1e9:g}; "
        f"set data.shuffle_shards={max(1, fitting)}, or raise the card's cache_gb"
    )
