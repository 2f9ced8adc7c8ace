"""What all shards of a card hold, in one small file, so that a start opens none of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlp.data.shards.cache import cache_name
from vlp.data.shards.cards import Card
from vlp.data.shards.remote import is_remote
from vlp.ground.cache_folder import cache_folder
from vlp.ground.files import write_whole

VERSION = 2


@dataclass(frozen=True)
class Known:
    """What is known of a shard before it is opened.

    Args:
        fault: Why it cannot be read to its end; empty for a sound one.
        bytes: Its size; -1 where nobody knows.
        tag: A word that changes when it does: time of change of a file, version of a remote one.
        sha256: Its checksum, where somebody has read all of it.
        lost: How many samples the fault may have cost.
        packing: How it is compressed; empty for a plain tar.
    """

    samples: int
    fault: str = ""
    bytes: int = -1
    tag: str = ""
    sha256: str = ""
    lost: int = 0
    packing: str = ""


def summary_beside(card: Card) -> Path:
    """Return where a summary that travels with its card lies."""
    return card.folder / f"{card.name}.shards.json"


def summary_in_cache(card: Card) -> Path:
    """Return where this machine keeps a summary of its own."""
    return cache_folder("summaries") / f"{cache_name(str(card.folder), card.name)}.json"


def read_summaries(card: Card) -> tuple[dict[str, Known], dict[str, Known]]:
    """Return what the card's summary and that of this machine know of its shards, by location."""
    return _read(summary_beside(card), card), _read(summary_in_cache(card), card)


def write_summary(path: Path, card: Card, known: Mapping[str, Known]) -> None:
    """Write a summary.

    Raises:
        OSError: The folder cannot be written.
    """
    shards = {_shorten(card, location): asdict(shard) for location, shard in known.items()}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(shard)}" for name, shard in shards.items())
    with write_whole(path) as file:
        file.write(f'{{"version": {VERSION}, "shards": {{\n{lines}\n}}}}\n'.encode())


def keep_in_cache(card: Card, known: Mapping[str, Known]) -> None:
    """Write this machine's own summary; without one the next start takes longer, nothing else."""
    with contextlib.suppress(OSError):
        write_summary(summary_in_cache(card), card, known)


def _read(path: Path, card: Card) -> dict[str, Known]:
    try:
        values = json.loads(path.read_bytes())
        if values["version"] != VERSION:
            return {}
        return {_lengthen(card, name): _known(shard) for name, shard in values["shards"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _known(told: Mapping[str, Any]) -> Known:
    samples, size, lost = (int(told[name]) for name in ("samples", "bytes", "lost"))
    fault, tag, sha256, packing = (str(told[name]) for name in ("fault", "tag", "sha256", "packing"))
    return Known(samples, fault, size, tag, sha256, lost, packing)


def _shorten(card: Card, location: str) -> str:
    """Name a shard relative to its card where it can be, so that both can be moved together."""
    return location.removeprefix(f"{card.folder}/")


def _lengthen(card: Card, name: str) -> str:
    return name if is_remote(name) or name.startswith("/") else f"{card.folder}/{name}"
