"""One sample as facts see it; each part is read when it is first asked for, and only once."""

from __future__ import annotations

import io
from functools import cached_property

from PIL import Image

from vlp.curate.facts.measure import WORD
from vlp.data import Captions
from vlp.data.faults import net
from vlp.data.pixels.decode import FORMATS, MOST_PIXELS, decode_image
from vlp.data.samples import Sample


class View:
    """A sample of a shard. Every part may raise BadSampleError.

    Args:
        sample: Where it lies.
    """

    def __init__(self, sample: Sample):
        self.sample = sample

    @cached_property
    def key(self) -> str:
        """Name of the sample in its shard."""
        return self.sample.shard.key(self.sample.place)

    @cached_property
    def caption(self) -> str:
        """The first caption of the first key that the card names."""
        return Captions().first(self.sample)

    @cached_property
    def words(self) -> list[str]:
        """Words of the caption in small letters, without punctuation."""
        return WORD.findall(self.caption.lower())

    @cached_property
    def data(self) -> bytes:
        """The encoded image."""
        return self.sample.read_image()

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height, from the header."""
        with net("corrupt_image"), Image.open(io.BytesIO(self.data), formats=FORMATS) as image:
            return image.size

    @cached_property
    def image(self) -> Image.Image:
        """The pixels."""
        return decode_image(self.data, MOST_PIXELS)
