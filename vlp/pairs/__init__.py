"""The pair engine: streamed statistics of similarity matrices, and the view of a batch that terms get."""

from vlp.pairs.engine import pair_stats
from vlp.pairs.pairs import Pairs
from vlp.pairs.requests import LSE, MAP, SOFTPLUS, WMEAN, Axis, Block, Mask, Pointwise, Request, Side, Stats

__all__ = [
    "LSE",
    "MAP",
    "SOFTPLUS",
    "WMEAN",
    "Axis",
    "Block",
    "Mask",
    "Pairs",
    "Pointwise",
    "Request",
    "Side",
    "Stats",
    "pair_stats",
]
