"""Small pictures of what an attack did to an image."""

from __future__ import annotations

from jaxtyping import Float32
from PIL.Image import Image, Resampling, fromarray
from torch import Tensor

from vlp.html.frame import THUMBNAIL_PIXELS, thumbnail

EFFORT = 0  # of the encoder: every attack at every radius has some


def picture_of(pixels: Float32[Tensor, "3 h w"], changed: Float32[Tensor, "3 h w"], radius: float) -> dict[str, str]:
    """Return base64 WebP by name: the `clean` image, the `change` around grey, as strong as it can be, the `attacked`.

    Args:
        radius: What the change is divided by; where nothing may change, it is grey.
    """
    amplified = 0.5 + (changed - pixels) / (2 * radius) if radius else pixels.new_full(pixels.shape, 0.5)
    named = {"clean": pixels, "change": amplified, "attacked": changed}
    return {name: thumbnail(_as_image(each), EFFORT) for name, each in named.items()}


def _as_image(pixels: Float32[Tensor, "3 h w"]) -> Image:
    """Return pixels as a picture; small ones are drawn large, each pixel a square."""
    image = fromarray((pixels * 255).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy())
    times = THUMBNAIL_PIXELS // max(image.size)
    return image.resize((image.width * times, image.height * times), Resampling.NEAREST) if times > 1 else image
