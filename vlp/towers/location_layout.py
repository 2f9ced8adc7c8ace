"""Where captions, and captions of regions beside their boxes, lie in the one row of tokens that a decoder reads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from numpy.typing import NDArray

from vlp.ground.region_rows import RegionRows

SIDES = 4  # of a box
REGION_PARTS = 4  # a caption and its box, a box and its caption


class RegionLayout(NamedTuple):
    """Two sequences per sample, one behind the other: a region's caption and then its box, and the other way round.

    Args:
        tokens: Of both; sides of boxes are words behind all others.
        parts: Which part each token belongs to: 0 a caption, 1 the box behind it, 2 a box, 3 the caption behind it; -1
            where there is no token.
        length: Of one of the sequences.
    """

    tokens: Int64[NDArray[np.int64], "n m"]
    parts: Int64[NDArray[np.int64], "n m"]
    length: int

    @property
    def is_word(self) -> Bool[NDArray[np.bool_], "n m"]:
        """Where there is a token."""
        found: NDArray[np.bool_] = self.parts >= 0
        return found

    @property
    def counts(self) -> Int64[NDArray[np.int64], "n 4"]:
        """How many tokens each part of each sample has."""
        return np.stack([(self.parts == part).sum(axis=1) for part in range(REGION_PARTS)], axis=1)


def lay_out_regions(regions: RegionRows, num_start: int, num_words: int, bins: int) -> RegionLayout:
    """Lay out the regions of a batch.

    Args:
        num_start: Tokens before the first word of a caption.
        num_words: Words of the vocabulary, behind which whole numbers from 0 to `bins` follow.
    """
    words, counts = regions.tokens[:, num_start:], np.maximum(regions.lengths - num_start, 0)
    longest = int(counts.max())
    words, there = words[:, :longest], (counts > 0)[:, None]
    sides = num_words + np.rint(regions.boxes.astype(np.float64) * bins).astype(np.int64).clip(0, bins)
    size, length = len(words), longest + SIDES
    is_caption = np.arange(longest) < counts[:, None]
    first = np.zeros((size, length), dtype=np.int64), np.full((size, length), -1)
    second = np.zeros((size, length), dtype=np.int64), np.full((size, length), -1)
    first[0][:, :longest], first[1][:, :longest] = words, np.where(is_caption, 0, -1)
    behind = np.where(there, counts[:, None] + np.arange(SIDES), longest + np.arange(SIDES))
    np.put_along_axis(first[0], behind, sides, axis=1)
    np.put_along_axis(first[1], behind, np.where(there, 1, -1), axis=1)
    second[0][:, :SIDES], second[1][:, :SIDES] = sides, np.where(there, 2, -1)
    second[0][:, SIDES:], second[1][:, SIDES:] = words, np.where(is_caption, 3, -1)
    tokens, parts = (np.concatenate(both, axis=1) for both in zip(first, second, strict=True))
    return RegionLayout(tokens, parts, length)
