"""How many bytes tensors take, those that share memory counted once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from vlp.ground import dist
from vlp.strategies.base import Strategy


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Return the bytes of the memory behind tensors; of those that are split over processes, this process's part."""
    storages = [dist.own_part(tensor).untyped_storage() for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def kept_by(used: Iterable[Strategy]) -> Iterator[Tensor]:
    """Yield what strategies keep from step to step: averages, teachers, queues."""
    for strategy in used:
        yield from {**(strategy.weights() or {}), **strategy.state_dict()}.values()
        yield from strategy.held()
