"""What terms want to know of similarity matrices, asked at once, so that those who ask the same share a walk."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from vlp.ground import dist
from vlp.pairs import Block, Numerics, Pairs, Request, Stats, TileMemory, kernel_of, mask_of, pair_stats

Standpoint = tuple[str | None, int | None]
"""Where a term stands: behind a head, and at a width; None is the towers, and all coordinates."""


class Asking(Protocol):
    """A term, as far as it asks."""

    def plan(self, pairs: Pairs, /) -> Mapping[str, Sequence[Request]]:
        """Return what it wants to know, by block."""


def ask(
    seen: Mapping[Standpoint, Pairs],
    asking: Mapping[Standpoint, Iterable[Asking]],
    group: dist.Group,
    *,
    memory: TileMemory,
    numerics: Numerics,
) -> dict[Standpoint, Stats]:
    """Return the answers to all terms, by place.

    Args:
        seen: What the terms of each place see.
        asking: The terms of each place.
        memory: As of `pair_stats`; `numerics` likewise.
    """
    blocks: dict[str, Block] = {}
    wanted: dict[str, list[Request]] = {}
    names: dict[str, tuple[Standpoint, str]] = {}
    for place, pairs in seen.items():
        for block, requests in _by_block(asking[place], pairs).items():
            name = f"{block} of {place}"
            names[name], wanted[name], blocks[name] = (place, block), requests, _block_for(block, requests, pairs)
    found: dict[Standpoint, Stats] = {place: {} for place in seen}
    for (name, request), answer in pair_stats(blocks, wanted, group, memory=memory, numerics=numerics).items():
        place, block = names[name]
        found[place][block, request] = answer
    return found


def _by_block(asking: Iterable[Asking], pairs: Pairs) -> dict[str, list[Request]]:
    wanted: dict[str, list[Request]] = {}
    for term in asking:
        for block, requests in term.plan(pairs).items():
            wanted.setdefault(block, []).extend(requests)
    return wanted


def _block_for(name: str, requests: Iterable[Request], pairs: Pairs) -> Block:
    """Return a block with what the requests read beside embeddings."""
    kernels = [kernel for request in requests if (kernel := kernel_of(request)) is not None]
    has_labels = any(mask_of(request) == "label" for request in requests)
    return pairs.block(name, labels=has_labels, references={kernel.of for kernel in kernels})
