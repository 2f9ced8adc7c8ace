"""Textures that are drawn, not loaded: clouds, and ice on a window."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64
from numpy.random import Generator
from PIL import Image, ImageDraw, ImageFilter

# Mean colour and contrast of the photographs of ice that the published code draws from: the second stands there twice.
PHOTOGRAPHS = (
    ((0.30, 0.58, 0.65), 0.061),
    ((0.79, 0.81, 0.84), 0.077),
    ((0.79, 0.81, 0.84), 0.077),
    ((0.54, 0.60, 0.65), 0.105),
    ((0.44, 0.48, 0.53), 0.140),
)
SWING = 100.0
FEATHERS = 70
BRANCHING = np.radians(60)  # ice crystals are hexagonal


def plasma(size: int, decay: float, rng: Generator) -> Float64[np.ndarray, "h h"]:
    """Return a fractal from 0 to 1 by the diamond-square algorithm, whose edges fit together.

    Args:
        size: A power of two.
        decay: By how much random steps shrink each time that the distance of points halves.
    """
    points = np.zeros((1, 1))
    swing = SWING
    while len(points) < size:

        def step(around: Float64[np.ndarray, "n n"], swing: float = swing) -> Float64[np.ndarray, "n n"]:
            return around / 4 + swing * rng.uniform(-swing, swing, size=around.shape)

        below, right = np.roll(points, -1, axis=0), np.roll(points, -1, axis=1)
        middle = step(points + below + right + np.roll(below, -1, axis=1))
        finer = np.empty((2 * len(points), 2 * len(points)))
        finer[::2, ::2], finer[1::2, 1::2] = points, middle
        finer[::2, 1::2] = step(points + right + middle + np.roll(middle, 1, axis=0))
        finer[1::2, ::2] = step(points + below + middle + np.roll(middle, 1, axis=1))
        points, swing = finer, swing / decay
    points -= points.min()
    return points / points.max()


def draw_ice(size: int, rng: Generator) -> Float64[np.ndarray, "h h 3"]:
    """Draw feathers of ice on a cloud, with the mean colour and the contrast of one of five photographs."""
    colour, spread = PHOTOGRAPHS[rng.integers(len(PHOTOGRAPHS))]
    canvas = Image.new("L", (2 * size, 2 * size))
    draw = ImageDraw.Draw(canvas)
    for _ in range(FEATHERS):
        _draw_feather(draw, 2 * size, rng)
    lines = np.asarray(canvas.resize((size, size), Image.Resampling.BOX), dtype=np.float64)
    haze = canvas.filter(ImageFilter.GaussianBlur(12)).resize((size, size), Image.Resampling.BOX)
    relief = lines + np.asarray(haze, dtype=np.float64)
    power = 1 << (size - 1).bit_length()
    relief = relief / relief.std() + 0.6 * _standard(plasma(power, 1.8, rng)[:size, :size])
    return (np.array(colour) + spread * _standard(relief)[..., None]).clip(0, 1)


def _draw_feather(draw: ImageDraw.ImageDraw, side: int, rng: Generator) -> None:
    """Draw a stem and barbs that leave it on both sides, shorter towards its tip."""
    start = rng.uniform(0, side, size=2)
    angle, length = rng.uniform(0, 2 * np.pi), side * rng.uniform(0.1, 0.45)
    bright = rng.uniform(90, 255)
    tip = start + length * _direction(angle)
    _line(draw, start, tip, bright, 3)
    for share in np.arange(0.05, 1, 5 / length):
        root = start + share * (tip - start)
        for turn in (-BRANCHING, BRANCHING):
            barb = 0.3 * length * (1 - share) * rng.uniform(0.4, 1)
            _line(draw, root, root + barb * _direction(angle + turn), bright * rng.uniform(0.3, 1), 2)


def _direction(angle: float) -> Float64[np.ndarray, " 2"]:
    return np.array([np.cos(angle), np.sin(angle)])


def _line(draw: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray, bright: float, width: int) -> None:
    draw.line([*start.tolist(), *end.tolist()], fill=int(bright), width=width)


def _standard(values: Float64[np.ndarray, "h w"]) -> Float64[np.ndarray, "h w"]:
    return (values - values.mean()) / values.std()
