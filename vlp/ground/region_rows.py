"""What a batch says of one region of each of its images: where it is, and what is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64
from numpy.typing import NDArray


@dataclass(frozen=True)
class RegionRows:
    """A box in the first view of each image, and its caption.

    In arrays on the CPU, so that nothing waits for the device, and no wrapper of a model moves it there.

    Args:
        boxes: Left, top, right and bottom in shares of the view's width and height; zeros where there is none.
        tokens: Of the caption, with what the tokenizer puts around it.
        lengths: How many of them; 0 where an image has no region.
    """

    boxes: Float32[NDArray[np.float32], "n 4"]
    tokens: Int64[NDArray[np.int64], "n l"]
    lengths: Int64[NDArray[np.int64], " n"]

    def narrow(self, start: int, size: int) -> RegionRows:
        """Return the regions of the samples `start` to `start + size`."""
        rows = slice(start, start + size)
        return RegionRows(self.boxes[rows], self.tokens[rows], self.lengths[rows])

    @classmethod
    def join(cls, parts: Sequence[RegionRows]) -> RegionRows:
        """Put regions one behind the other, those of fewer tokens filled up."""
        width = max(part.tokens.shape[1] for part in parts)
        tokens = [np.pad(part.tokens, ((0, 0), (0, width - part.tokens.shape[1]))) for part in parts]
        boxes, lengths = (np.concatenate([getattr(part, name) for part in parts]) for name in ("boxes", "lengths"))
        return cls(boxes, np.concatenate(tokens), lengths)
