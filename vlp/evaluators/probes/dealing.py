"""Work that falls into pieces, dealt to all processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from vlp.ground import dist

Piece = TypeVar("Piece")


def deal(num_pieces: int, work: Callable[[int], Piece]) -> list[Piece]:
    """Do each piece on one process, and return all of them, in their order, on every process.

    Args:
        work: Holds no collective; what it returns travels.
    """
    with dist.together():
        mine = {piece: work(piece) for piece in range(dist.rank(), num_pieces, dist.world_size())}
    done = {piece: found for part in dist.gather_objects(mine) for piece, found in part.items()}
    return [done[piece] for piece in range(num_pieces)]
