"""Scales and ticks: from values to places on the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median

Point = tuple[float, float | None]
DRAWN = 240
SMOOTH_FROM = 40


@dataclass(frozen=True)
class Axis:
    """A scale that maps `low`..`high` onto `start`..`end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, number: int = 4) -> list[float]:
        """Return round values inside the range, about as many as asked for."""
        if self.log:
            return self._log_ticks(number)
        step = nice_step(self.high - self.low, number)
        first = math.ceil(self.low / step - 1e-9)
        return [round(k * step, 12) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]

    def _log_ticks(self, number: int) -> list[float]:
        powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1,), (1, 3), (1, 2, 5)):
            found = [f * 10.0**p for p in powers for f in factors if self.low <= f * 10.0**p <= self.high]
            if len(found) >= 3:
                return found[:: -(-len(found) // (number + 2))]
        return found


def nice_step(size: float, number: int) -> float:
    """Return the 1, 2, 2.5 or 5 times a power of ten that cuts `size` into nearest to `number` pieces."""
    power = 10.0 ** math.floor(math.log10(size / number))
    return min((factor * power for factor in (1, 2, 2.5, 5, 10)), key=lambda step: abs(size / step - number))


def spread(values: Sequence[float], *, log: bool = False, zero: bool = False) -> tuple[float, float]:
    """Return a range that holds all values with a little air; never empty."""
    low, high = min(values), max(values)
    if log:
        factor = max((high / low) ** 0.06, 1.05)
        return low / factor, high * factor
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    air = (high - low) * 0.07 or abs(high) * 0.1 or 1.0
    return (low if zero and low == 0 else low - air), high + air


def thin(points: Sequence[Point], limit: int = DRAWN) -> list[Point]:
    """Average neighbours until at most `limit` points are left; a stretch without numbers stays a gap."""
    size = -(-len(points) // limit)
    if size <= 1:
        return list(points)
    thinned: list[Point] = []
    for start in range(0, len(points), size):
        part = points[start : start + size]
        numbers = [y for _, y in part if y is not None]
        thinned.append((fmean(x for x, _ in part), fmean(numbers) if numbers else None))
    return thinned


def window(num_points: int) -> int:
    """Width of the running median; 1 where there are too few points to smooth."""
    return max(5, num_points // 20) | 1 if num_points >= SMOOTH_FROM else 1


def smooth(points: Sequence[Point]) -> list[Point]:
    """Centred running median; at the ends its window is cut off."""
    half = window(len(points)) // 2
    smoothed: list[Point] = []
    for place, (x, y) in enumerate(points):
        near = [v for _, v in points[max(0, place - half) : place + half + 1] if v is not None]
        smoothed.append((x, None if y is None or not near else median(near)))
    return smoothed
