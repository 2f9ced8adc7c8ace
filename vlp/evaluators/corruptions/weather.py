"""Weather: snow, frost, fog."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy.random import Generator

from vlp.evaluators.corruptions.blur import enlarge, smear
from vlp.evaluators.corruptions.ice import draw_ice, plasma
from vlp.evaluators.corruptions.noise import Pixels01

# mean and spread of flakes, enlargement, least brightness, radius and sigma of their fall, share of the picture
SNOW = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
FROST = ((1.0, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))  # weight of the picture, of the ice
FOG = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))  # weight, how fast details fade
GREY = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def snow(pixels: Pixels01, severity: int, rng: Generator) -> Pixels01:
    """Whiten the picture and let flakes fall over it, from both sides."""
    mean, spread, factor, least, radius, sigma, share = SNOW[severity - 1]
    flakes = enlarge(rng.normal(mean, spread, size=pixels.shape[:2]), factor)
    flakes = np.floor(np.where(flakes < least, 0, flakes).clip(0, 1) * 255) / 255
    flakes = smear(flakes, int(radius), sigma, rng.uniform(-135, -45))[..., None]
    whiter = np.maximum(pixels, (pixels @ GREY)[..., None] * 1.5 + 0.5)
    return share * pixels + (1 - share) * whiter + flakes + flakes[::-1, ::-1]


def frost(pixels: Pixels01, severity: int, rng: Generator) -> Pixels01:
    """Lay ice over the picture."""
    picture, ice = FROST[severity - 1]
    return picture * pixels + ice * draw_ice(len(pixels), rng)


def fog(pixels: Pixels01, severity: int, rng: Generator) -> Pixels01:
    """Lay a fractal cloud over the picture, and keep its brightest value."""
    weight, decay = FOG[severity - 1]
    brightest = pixels.max()
    clouded = pixels + weight * cloud(len(pixels), decay, rng)[..., None]
    return clouded * brightest / (brightest + weight)


def cloud(size: int, decay: float, rng: Generator) -> Float64[np.ndarray, "h h"]:
    """Return a corner of a fractal from 0 to 1 whose side is the next power of two."""
    return plasma(1 << (size - 1).bit_length(), decay, rng)[:size, :size]
