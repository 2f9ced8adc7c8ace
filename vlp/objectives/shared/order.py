"""A random order of the whole batch that neither its arrangement nor the number of processes can change."""

from __future__ import annotations

from jaxtyping import Int64
from torch import Tensor

from vlp.pairs import Pairs


def hashed_order(pairs: Pairs, salt: int) -> Int64[Tensor, " b"]:
    """Return the positions of the whole batch in an order that follows from sample ids, step and salt alone."""
    by_id = pairs.everyones_ids.argsort(stable=True)
    draws = pairs.gather(pairs.draws(1, salt)[:, 0])
    return by_id[draws[by_id].argsort(stable=True)]  # equal draws stay in the order of their ids
