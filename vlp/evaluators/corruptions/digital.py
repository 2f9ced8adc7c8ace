"""What cameras and files do: brightness, contrast, elastic shifts, coarse pixels, JPEG."""

from __future__ import annotations

import io

import numpy as np
import scipy  # whose parts are imported when they are used
from jaxtyping import Float64
from numpy.random import Generator
from PIL import Image

from vlp.evaluators.corruptions.noise import Pixels01

BRIGHTER = (0.1, 0.2, 0.3, 0.4, 0.5)
CONTRAST = (0.4, 0.3, 0.2, 0.1, 0.05)
# how far pixels move, over how many pixels the movement is smoothed, how far corners move; of 244 pixels, as published
ELASTIC = ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
ELASTIC_SIDE = 244
COARSE = (0.6, 0.5, 0.4, 0.3, 0.25)
QUALITY = (25, 18, 15, 10, 7)


def brightness(pixels: Pixels01, severity: int, _rng: Generator) -> Pixels01:
    """Raise the value of hue, saturation and value; that scales the colours of a pixel, and makes black grey."""
    value = pixels.max(axis=2, keepdims=True)
    raised = np.minimum(value + BRIGHTER[severity - 1], 1)
    return np.where(value > 0, pixels * raised / np.maximum(value, 1e-9), raised)


def contrast(pixels: Pixels01, severity: int, _rng: Generator) -> Pixels01:
    """Move colours towards their mean over the image."""
    mean = pixels.mean(axis=(0, 1), keepdims=True)
    return (pixels - mean) * CONTRAST[severity - 1] + mean


def elastic_transform(pixels: Pixels01, severity: int, rng: Generator) -> Pixels01:
    """Move three corners of the middle, then every pixel by a smooth random field."""
    reach, sigma, shift = (ELASTIC_SIDE * share for share in ELASTIC[severity - 1])
    moved = move_corners(pixels, shift, rng)
    rows, columns = np.indices(pixels.shape[:2]).astype(np.float64)
    fields = [
        reach * scipy.ndimage.gaussian_filter(rng.uniform(-1, 1, size=rows.shape), sigma, mode="reflect", truncate=3)
        for _ in range(2)
    ]
    return sample(moved, rows + fields[0], columns + fields[1], "reflect")


def pixelate(pixels: Pixels01, severity: int, _rng: Generator) -> Pixels01:
    """Average over boxes."""
    image = to_image(pixels)
    small = [int(side * COARSE[severity - 1]) for side in image.size]
    coarse = image.resize((small[0], small[1]), Image.Resampling.BOX)
    return to_pixels(coarse.resize(image.size, Image.Resampling.BOX))


def jpeg_compression(pixels: Pixels01, severity: int, _rng: Generator) -> Pixels01:
    """Compress hard."""
    return to_pixels(through_jpeg(to_image(pixels), QUALITY[severity - 1]))


def through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    """Return what is left of an image that was saved."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("RGB")


def move_corners(pixels: Pixels01, shift: float, rng: Generator) -> Pixels01:
    """Map three corners of the middle third to places at most `shift` away, and everything else with them."""
    height, width = pixels.shape[:2]
    middle, third = np.array([height // 2, width // 2]), min(height, width) // 3
    corners = middle + third * np.array([[1, 1], [-1, 1], [-1, -1]], dtype=np.float64)
    places = corners + rng.uniform(-shift, shift, size=corners.shape)
    ones = np.ones((3, 1))
    back = np.linalg.solve(np.hstack([places, ones]), corners)  # of a step down, a step right, the origin
    rows, columns = np.indices((height, width))
    found = rows[..., None] * back[0] + columns[..., None] * back[1] + back[2]
    return sample(pixels, found[..., 0], found[..., 1], "mirror")


def sample(
    pixels: Pixels01, rows: Float64[np.ndarray, "h w"], columns: Float64[np.ndarray, "h w"], border: str
) -> Pixels01:
    """Return colours between pixels, by linear interpolation."""
    channels = [
        scipy.ndimage.map_coordinates(pixels[..., channel], (rows, columns), order=1, mode=border)
        for channel in range(3)
    ]
    return np.stack(channels, axis=2)


def to_image(pixels: Pixels01) -> Image.Image:
    """Return 8 bits per colour; fractions are cut off, as in the published code."""
    return Image.fromarray((pixels.clip(0, 1) * 255).astype(np.uint8))


def to_pixels(image: Image.Image) -> Pixels01:
    """Return colours from 0 to 1; `to_image` gives the same image back."""
    return np.asarray(image, dtype=np.float64) / 255
