"""Noise: of sensors, of few photons, of lost pixels."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy.random import Generator

GAUSSIAN = (0.08, 0.12, 0.18, 0.26, 0.38)
PHOTONS = (60, 25, 12, 5, 3)
LOST = (0.03, 0.06, 0.09, 0.17, 0.27)

Pixels01 = Float64[np.ndarray, "h w 3"]
"""Colours of an image, from 0 to 1."""


def gaussian_noise(pixels: Pixels01, severity: int, rng: Generator) -> Pixels01:
    """Add numbers of a normal distribution."""
    return pixels + rng.normal(scale=GAUSSIAN[severity - 1], size=pixels.shape)


def shot_noise(pixels: Pixels01, severity: int, rng: Generator) -> Pixels01:
    """Count photons: white is so many on average."""
    white = PHOTONS[severity - 1]
    return rng.poisson(pixels * white) / white


def impulse_noise(pixels: Pixels01, severity: int, rng: Generator) -> Pixels01:
    """Set a share of the numbers, each colour for itself, to 0 or 1."""
    lost = rng.random(pixels.shape) <= LOST[severity - 1]
    return np.where(lost, rng.random(pixels.shape) <= 0.5, pixels)
