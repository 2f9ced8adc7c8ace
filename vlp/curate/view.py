"""One sample as facts see it; each part is read when it is first asked for, and only once."""

from __future__ import annotations

import io
from functools import cached_property

from PIL import Image

from vlp.curate.measure import WORD
from vlp.curate.rows import MAX_BYTES, MAX_PIXELS
from vlp.data import Captions
from vlp.data.faults import BadSampleError
from vlp.data.pixels.decode import EXTENSIONS, FORMATS, decode_image
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
        kind = next((kind for kind in EXTENSIONS if kind in self.sample.members), None)
        if kind is None:
            raise BadSampleError("missing_image", "no image")
        if self.sample.size(kind) > MAX_BYTES:
            raise BadSampleError("oversized_image", f"{self.sample.size(kind)} bytes, more than {MAX_BYTES}")
        return self.sample.read(kind)

    @cached_property
    def size(self) -> tuple[int, int]:
        """Width and height, from the header."""
        try:
            with Image.open(io.BytesIO(self.data), formats=FORMATS) as image:
                return image.size
        # As in `decode_image`: decoders of broken data raise almost anything.
        except Exception as error:
            raise BadSampleError("corrupt_image", str(error)) from error

    @cached_property
    def image(self) -> Image.Image:
        """The pixels."""
        return decode_image(self.data, MAX_PIXELS)
