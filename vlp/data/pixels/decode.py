"""Bytes to RGB pixels; sizes are judged by the header, before anything is decoded."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from vlp.data.faults import BadSampleError, net

EXTENSIONS = ("jpg", "jpeg", "png", "webp")
# What is larger is no sample: the one limit of training, packing, filters and checks.
MOST_PIXELS = 1 << 26
MOST_BYTES = 1 << 26
FORMATS = ("JPEG", "PNG", "WEBP")
# Only these decoders of Pillow see data from the net: others run interpreters (EPS) or have a long record of overflows,
# and joining the EXIF segments of a JPEG of 60 MB takes 20 s.
PILLOW_FORMATS = ("PNG", "WEBP")

JPEG = b"\xff\xd8\xff"
# Of the factors that libjpeg offers these alone have vector code: a 5/8 scale is slower than full size.
JPEG_FACTORS = (8, 4, 2, 1)
# What may stand before the header of a frame: DHT, DQT, DRI, APP0 to APP15, COM.
JPEG_TABLES = frozenset(bytes((0xFF, kind)) for kind in (0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))
JPEG_BASELINE = (b"\xff\xc0", b"\xff\xc1")
SCAN = b"\xff\xda"
# Encoders write about ten. A scan of a hundred bytes may walk through 10^8 coefficients, and a file hold 10^5 scans.
MOST_SCANS = 100

PNG = b"\x89PNG\r\n\x1a\n"
# Pillow bounds what one chunk inflates to (1 MB) and all texts together (64 MB), not how many chunks there are.
MOST_CHUNKS = 10_000


class Picture(Protocol):
    """An encoded image of which only the header was read."""

    @property
    def width(self) -> int:
        """Columns at full size."""

    @property
    def height(self) -> int:
        """Rows at full size."""

    @property
    def factors(self) -> tuple[int, ...]:
        """By how much it can be reduced while it is decoded, strongest first; ends with 1."""

    def pixels(self, factor: int = 1, *, fast: bool = False) -> NDArray[np.uint8]:
        """Decode to RGB of shape (height, width, 3), each side divided by `factor` and rounded up.

        Args:
            factor: One of `factors`.
            fast: Whether colours may be a little coarser than the codec could make them.

        Raises:
            BadSampleError: `corrupt_image`.
        """


@dataclass(frozen=True)
class JpegPicture:
    """A JPEG of any colour model; inks are taken as inverted, as Pillow and all programs that write them do.

    Args:
        colours: Its colour model, in the words of libjpeg-turbo; `subsampling`: of its chroma.
    """

    width: int
    height: int
    data: bytes
    colours: str = ""
    subsampling: str = ""
    factors = JPEG_FACTORS

    @net("corrupt_image")
    def pixels(self, factor: int = 1, *, fast: bool = False) -> NDArray[np.uint8]:
        """Decode, skipping the high frequencies that a reduced picture does not show."""
        least_height, least_width = -(-self.height // factor), -(-self.width // factor)
        # Strict: a file that ends too early, or whose codes are wrong, is no picture with a gray half.
        return simplejpeg.decode_jpeg(
            self.data, fastupsample=fast, min_height=least_height, min_width=least_width, strict=True
        )


@dataclass(frozen=True)
class PillowPicture:
    """A PNG or WebP."""

    image: Image.Image
    factors = (1,)

    @property
    def width(self) -> int:
        """Columns."""
        return self.image.width

    @property
    def height(self) -> int:
        """Rows."""
        return self.image.height

    @net("corrupt_image")
    def pixels(self, factor: int = 1, *, fast: bool = False) -> NDArray[np.uint8]:  # noqa: ARG002
        """Decode at full size."""
        assert factor == 1
        return np.asarray(to_rgb(self.image))


def format_of(data: bytes) -> str:
    """Return which of `FORMATS` a content says it has, whatever its file is called; empty for none of them."""
    if data.startswith(JPEG):
        return "JPEG"
    if data.startswith(PNG):
        return "PNG"
    return "WEBP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def check_bytes(num_bytes: int, max_bytes: int = MOST_BYTES) -> None:
    """Refuse an encoded image by its size.

    Raises:
        BadSampleError: `oversized_image`.
    """
    if num_bytes > max_bytes:
        raise BadSampleError("oversized_image", f"{num_bytes} bytes, more than {max_bytes}")


@net("corrupt_image")
def open_picture(data: bytes, max_pixels: int = MOST_PIXELS) -> Picture:
    """Read the header of an image.

    Raises:
        BadSampleError: `oversized_image` (refused by its header) or `corrupt_image`.
    """
    picture = _open_jpeg(data) if data.startswith(JPEG) else _open_with_pillow(data)
    if picture.width * picture.height > max_pixels:
        raise BadSampleError("oversized_image", f"{picture.width} x {picture.height} pixels, more than {max_pixels}")
    return picture


def decode_image(data: bytes, max_pixels: int = MOST_PIXELS) -> Image.Image:
    """Decode to RGB; transparent parts become white, 16 bits become 8, animations show their first frame.

    The orientation tag of cameras is ignored, as in open_clip.

    Raises:
        BadSampleError: `oversized_image` (refused by its header) or `corrupt_image`.
    """
    return Image.fromarray(open_picture(data, max_pixels).pixels())


def _open_jpeg(data: bytes) -> JpegPicture:
    height, width, colours, subsampling = simplejpeg.decode_jpeg_header(data)
    if frame_of(data) not in JPEG_BASELINE and data.count(SCAN) > MOST_SCANS:
        raise BadSampleError("corrupt_image", f"JPEG: more than {MOST_SCANS} scans")
    return JpegPicture(width, height, data, colours, subsampling)


def frame_of(data: bytes) -> bytes:
    """Return the marker of the frame: counting the scans of every file would cost 5 % of its decoding."""
    position = 2
    while (marker := data[position : position + 2]) in JPEG_TABLES:
        position += 2 + int.from_bytes(data[position + 2 : position + 4])
    return marker


def _open_with_pillow(data: bytes) -> PillowPicture:
    if data.startswith(PNG):
        _check_chunks(data)
    try:
        return PillowPicture(Image.open(io.BytesIO(data), formats=PILLOW_FORMATS))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSampleError("oversized_image", str(error)) from error
    except UnidentifiedImageError as error:  # its words have an address in memory, another one each time
        kind = format_of(data)
        raise BadSampleError("corrupt_image", f"damaged {kind}" if kind else "neither JPEG, PNG nor WebP") from error


def _check_chunks(data: bytes) -> None:
    """Refuse a PNG whose small print would take seconds."""
    position, chunks, profiles = len(PNG), 0, 0
    while position < len(data):
        chunks += 1
        profiles += data[position + 4 : position + 8] == b"iCCP"
        if chunks > MOST_CHUNKS or profiles > 1:
            raise BadSampleError("corrupt_image", f"PNG: {chunks} chunks, {profiles} of them colour profiles")
        position += 12 + int.from_bytes(data[position : position + 4])


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode: 16 bits become 8, transparent parts become white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        image.load()
        return image
    if image.mode.startswith("I"):
        # convert("RGB") would clip 16-bit values at 255 and give a white image.
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")
