"""Blur: out of focus, behind frosted glass, in motion, while zooming."""

from __future__ import annotations

import math

import numpy as np
import scipy  # whose parts are imported when they are used
from jaxtyping import Float64, Int64
from numpy.random import Generator

from vlp.evaluators.corruptions.noise import Pixels01

DISKS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))  # radius, sigma of the edge
GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))  # sigma, reach, rounds
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))  # radius, sigma
ZOOMS = ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))  # end, step

Colours = Float64[np.ndarray, "h w *c"]


def defocus_blur(pixels: Pixels01, severity: int, _rng: Generator) -> Pixels01:
    """Spread each pixel over a disk with a soft edge."""
    radius, sigma = DISKS[severity - 1]
    kernel = disk(radius, sigma)
    margin = len(kernel) // 2
    padded = np.pad(pixels, ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    return scipy.signal.fftconvolve(padded, kernel[..., None], mode="valid", axes=(0, 1))


def glass_blur(pixels: Pixels01, severity: int, rng: Generator) -> Pixels01:
    """Blur, let pixels take the place of neighbours, blur.

    The published code means to swap two pixels and, as rows of numpy arrays are views, copies one over the other; the
    published images are what that made, so this does the same.
    """
    sigma, reach, rounds = GLASS[severity - 1]
    found = np.floor(_soften(pixels, sigma) * 255) / 255
    for _ in range(rounds):
        rows, columns = glass_sources(found.shape[0], found.shape[1], reach, rng)
        found = found[rows, columns]
    return _soften(found, sigma)


def motion_blur(pixels: Pixels01, severity: int, rng: Generator) -> Pixels01:
    """Smear along a line of a random angle, up to 45 degrees from the horizontal."""
    radius, sigma = MOTION[severity - 1]
    return smear(pixels, radius, sigma, rng.uniform(-45, 45))


def zoom_blur(pixels: Pixels01, severity: int, _rng: Generator) -> Pixels01:
    """Average the image with enlarged copies of its middle."""
    factors = np.arange(1, *ZOOMS[severity - 1])
    return (pixels + sum(enlarge(pixels, factor) for factor in factors)) / (len(factors) + 1)


def disk(radius: int, sigma: float) -> Float64[np.ndarray, "k k"]:
    """Return the kernel of a lens out of focus, of sum 1; a Gaussian of 3 or 5 pixels softens its edge."""
    reach, taps = (8, 3) if radius <= 8 else (radius, 5)
    places = np.arange(-reach, reach + 1)
    flat = (places[:, None] ** 2 + places**2 <= radius**2).astype(np.float64)
    flat /= flat.sum()
    edge = np.exp(-(np.arange(-(taps // 2), taps // 2 + 1) ** 2) / (2 * sigma**2))
    for axis in (0, 1):
        flat = scipy.ndimage.correlate1d(flat, edge / edge.sum(), axis=axis, mode="mirror")
    return flat


def glass_sources(
    height: int, width: int, reach: int, rng: Generator
) -> tuple[Int64[np.ndarray, "h w"], Int64[np.ndarray, "h w"]]:
    """Return the row and the column that each pixel's colour comes from after one round of copies.

    Pixels are visited from the last to the first; each takes the present colour of a neighbour at most `reach` away,
    which is that of yet another one if the neighbour has been visited.
    """
    size = height * width
    places = np.arange(size).reshape(height, width)
    inside = (slice(reach + 1, height - reach + 1), slice(reach + 1, width - reach + 1))
    moves = rng.integers(-reach, reach, size=(*places[inside].shape, 2))
    source = places.copy()
    source[inside] += moves[..., 0] * width + moves[..., 1]
    visited = np.zeros(size, dtype=bool)
    visited[places[inside]] = True
    taken, own = source.reshape(-1), np.arange(size)
    # a neighbour behind in the image has been visited, and shows what it took
    chain = np.where((taken > own) & visited[taken], taken, own)
    while (chain != chain[chain]).any():
        chain = chain[chain]
    rows, columns = np.divmod(taken[chain].reshape(height, width), width)
    return rows, columns


def smear(pixels: Colours, radius: int, sigma: float, degrees: float) -> Colours:
    """Average pixels on a line that begins at each, with weights of half a Gaussian, as ImageMagick's motion blur does.

    Edges are continued outwards. Results are rounded to 8 bits, as that program does.
    """
    steps = np.arange(2 * radius + 1)
    weights = np.exp(-(steps**2) / (2 * sigma**2))
    found = np.zeros_like(pixels)
    height, width = pixels.shape[:2]
    reach = 2 * radius + 1
    padded = np.pad(pixels, [(reach, reach)] * 2 + [(0, 0)] * (pixels.ndim - 2), mode="edge")
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        top = reach + math.ceil(step * math.sin(math.radians(degrees)) - 0.5)
        left = reach + math.ceil(step * math.cos(math.radians(degrees)) - 0.5)
        found += weight * padded[top : top + height, left : left + width]
    return np.round(found * 255) / 255


def enlarge(pixels: Colours, factor: float) -> Colours:
    """Enlarge the middle of a square image to the size of the image, by linear interpolation between its corners."""
    size = len(pixels)
    cut = math.ceil(size / factor)
    start = (size - cut) // 2
    whole = round(cut * factor)
    first = (whole - size) // 2
    places = start + (np.arange(size) + first) * (cut - 1) / max(1, whole - 1)
    low = np.minimum(places.astype(np.int64), start + cut - 1)
    high, share = np.minimum(low + 1, start + cut - 1), places - low
    flat = (-1,) + (1,) * (pixels.ndim - 1)
    rows = pixels[low] + (pixels[high] - pixels[low]) * share.reshape(flat)
    return rows[:, low] + (rows[:, high] - rows[:, low]) * share.reshape(flat[: pixels.ndim - 1])


def _soften(pixels: Pixels01, sigma: float) -> Pixels01:
    return scipy.ndimage.gaussian_filter(pixels, (sigma, sigma, 0), mode="nearest", truncate=4.0)
