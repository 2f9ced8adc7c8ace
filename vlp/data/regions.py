"""Regions of an image that have captions of their own: which one is shown this time, and where in the view it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32
from numpy.typing import NDArray

from vlp.data.faults import BadSampleError, net
from vlp.data.samples import Sample
from vlp.data.texts.captions import Captions
from vlp.data.texts.sample_texts import values_under
from vlp.ground.randomness import Draws
from vlp.ground.region_rows import RegionRows
from vlp.ground.tokenizing import Tokenizer
from vlp.ground.types import RecipeError

Box = tuple[float, float, float, float]
Row = Float32[NDArray[np.float32], " 5"]

BEYOND = 1e-3  # of the image: what boxes may stick out, which detectors round
MOST_SHOWN = 100  # letters of a region that is wrong


@dataclass(frozen=True)
class Region:
    """A part of an image.

    Args:
        box: Left, top, right and bottom in shares of the width and height of what it is a part of.
        caption: What is there.
    """

    box: Box
    caption: str


class Regions:
    """Draw one of the regions of an image that a view shows, and say where in the view it is.

    A sample names its regions under a key of its JSON member: a list of `{"box": [x0, y0, x1, y1], "caption": TEXT}`,
    corners in shares of the image's width and height from its top left, so that a resized copy keeps them. Samples
    without the key, and images whose regions are all cut off, have none.

    Args:
        key: Where regions are: `json.NAME` is a key of the JSON member; null uses what the card says (`regions`).
        least_visible: Share of a region's area that a view must show; a region that is seen less is none.
    """

    def __init__(self, *, key: str | None = None, least_visible: float = 0.5):
        if not 0 < least_visible <= 1:
            raise RecipeError(f"data.regions.least_visible: {least_visible} is not a share in (0, 1]")
        self.key = key
        self.least_visible = least_visible

    def __call__(
        self, sample: Sample, size: tuple[int, int], cut: Row, captions: Captions, draws: Draws
    ) -> Region | None:
        """Return one region, its box in shares of a view.

        Args:
            size: Width and height of the picture in pixels.
            cut: What the view shows of it, as `Batch.cuts` has it.
            captions: Tidies what the region's caption says.

        Raises:
            BadSampleError: What stands under the key are no regions.
        """
        key = self.key or sample.card.regions
        seen = [
            Region(box, region.caption)
            for region in (read_regions(sample, key, captions) if key else ())
            if (box := self._within(region.box, size, cut)) is not None
        ]
        return draws.choice(seen) if seen else None

    def _within(self, box: Box, size: tuple[int, int], cut: Row) -> Box | None:
        """Return a box of a picture as a box of the view, clipped; None where too little of it is left."""
        *shown, flip = cut.tolist()
        x0, x1, of_width = _along(box[0::2], size[0], shown[0::2])
        y0, y1, of_height = _along(box[1::2], size[1], shown[1::2])
        if of_width * of_height < self.least_visible:
            return None
        return (1 - x1, y0, 1 - x0, y1) if flip else (x0, y0, x1, y1)


def _along(sides: Sequence[float], length: int, shown: Sequence[float]) -> tuple[float, float, float]:
    """Return where a box begins and ends along one side of a view, in shares of it, and which share of it is seen."""
    start, stop = shown
    first, last = ((side * length - start) / (stop - start) for side in sides)
    begin, end = max(first, 0.0), min(last, 1.0)
    if last <= first:  # rounded to nothing
        return begin, end, 0.0
    return begin, end, max(end - begin, 0.0) / (last - first)


@net("bad_region")
def read_regions(sample: Sample, key: str, captions: Captions) -> list[Region]:
    """Return all regions of a sample, boxes in shares of the image; none where it has no such key.

    Raises:
        BadSampleError: What stands there are no regions.
    """
    found = [value for value in values_under(sample, key, {}) if value is not None]
    return [
        _region(value, key, captions)
        for values in found
        for value in (values if isinstance(values, list) else [values])
    ]


def _region(value: Any, key: str, captions: Captions) -> Region:
    told = value if isinstance(value, dict) else {}
    box = told["box"] if isinstance(told.get("box"), list) else []
    said = captions.tidy(told["caption"], key) if isinstance(told.get("caption"), str) else ""
    if said and len(box) == 4 and all(map(_is_inside, box)):
        left, top, right, bottom = (min(max(float(side), 0.0), 1.0) for side in box)
        if left < right and top < bottom:
            return Region((left, top, right, bottom), said)
    raise BadSampleError(
        "bad_region",
        f"'{key}': {str(value)[:MOST_SHOWN]}: a box has left, top, right and bottom in shares of the image, from 0 to "
        "1, and a caption",
    )


def _is_inside(side: Any) -> bool:
    """Whether a side of a box lies in the image; NaN does not."""
    return isinstance(side, int | float) and -BEYOND <= side <= 1 + BEYOND


def region_rows(regions: Sequence[Region | None], tokenizer: Tokenizer) -> RegionRows:
    """Return the regions of some samples as a batch has them."""
    tokens, lengths = tokenizer(["" if region is None else region.caption for region in regions])
    there = np.array([region is not None for region in regions])
    boxes = [(0.0, 0.0, 0.0, 0.0) if region is None else region.box for region in regions]
    return RegionRows(np.array(boxes, dtype=np.float32), tokens.numpy(), np.where(there, lengths.numpy(), 0))
