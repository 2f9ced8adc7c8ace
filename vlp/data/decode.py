"""Bytes to RGB pixels, with a size check before anything is decoded."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from vlp.data.faults import BadSampleError

# Only these decoders see data from the net: others run interpreters (EPS) or have a long record of overflows.
FORMATS = ("JPEG", "PNG", "WEBP")
EXTENSIONS = ("jpg", "jpeg", "png", "webp")


def decode_image(data: bytes, max_pixels: int) -> Image.Image:
    """Decode to RGB; transparent parts become white, 16 bits become 8, animations show their first frame.

    The orientation tag of cameras is ignored, as in open_clip.

    Raises:
        BadSampleError: `oversized_image` (refused by its header) or `corrupt_image`.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        if image.width * image.height > max_pixels:
            raise BadSampleError("oversized_image", f"{image.width} x {image.height} pixels, more than {max_pixels}")
        return _to_rgb(image)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadSampleError("oversized_image", str(error)) from error
    except BadSampleError:
        raise
    # Decoders of broken data raise almost anything: OSError, SyntaxError, struct.error, zlib.error, EOFError, ...
    except Exception as error:
        raise BadSampleError("corrupt_image", f"{type(error).__name__}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
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
