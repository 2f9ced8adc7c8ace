"""The pair engine: streamed statistics of similarity matrices, and the view of a batch that terms get."""

from vlp.ground.draws import pick
from vlp.pairs.derived import DerivedPairs
from vlp.pairs.engine.split_products import Numerics
from vlp.pairs.engine.tiles import TileMemory
from vlp.pairs.engine.walk import pair_stats
from vlp.pairs.functions import SOFTPLUS, Kernel, Pointwise, affinity, below, fade, given, nearness, tilt
from vlp.pairs.numbers import at_least_float32
from vlp.pairs.pairs import Pairs
from vlp.pairs.prefix import PrefixPairs
from vlp.pairs.products import products_at
from vlp.pairs.requests import (
    HIST,
    KMEAN,
    LSE,
    MAP,
    TOPK,
    WMEAN,
    WSUM,
    Axis,
    Block,
    Mask,
    Request,
    Side,
    Stats,
    kernel_of,
    mask_of,
)

__all__ = [
    "HIST",
    "KMEAN",
    "LSE",
    "MAP",
    "SOFTPLUS",
    "TOPK",
    "WMEAN",
    "WSUM",
    "Axis",
    "Block",
    "DerivedPairs",
    "Kernel",
    "Mask",
    "Numerics",
    "Pairs",
    "Pointwise",
    "PrefixPairs",
    "Request",
    "Side",
    "Stats",
    "TileMemory",
    "affinity",
    "at_least_float32",
    "below",
    "fade",
    "given",
    "kernel_of",
    "mask_of",
    "nearness",
    "pair_stats",
    "pick",
    "products_at",
    "tilt",
]
