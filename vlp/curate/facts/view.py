"""One sample as facts see it; each part is read when it is first asked for, and only once."""

from __future__ import annotations

import re
from functools import cached_property

from PIL import Image

from vlp.data import Captions
from vlp.data.pixels.decode import Picture, open_picture
from vlp.data.samples import Sample

CAPTIONS = Captions()
WORD = re.compile(r"\w[\w'-]*")


def words_of(text: str) -> list[str]:
    """Return the words of a text in small letters, without punctuation."""
    return WORD.findall(text.lower())


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
        return CAPTIONS.first(self.sample)

    @cached_property
    def words(self) -> list[str]:
        """Words of the caption."""
        return words_of(self.caption)

    @cached_property
    def data(self) -> bytes:
        """The encoded image."""
        return self.sample.read_image()

    @cached_property
    def picture(self) -> Picture:
        """The header of the image, judged as training judges it."""
        return open_picture(self.data)

    @cached_property
    def image(self) -> Image.Image:
        """The pixels."""
        return Image.fromarray(self.picture.pixels())
