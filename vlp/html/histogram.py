"""Histograms as inline SVG, dressed by the style sheet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vlp.html.frame import figure
from vlp.html.words import text

WIDTH, HEIGHT = 380, 190
TOP, BOTTOM = 12, 28
BINS = 32


def histogram(
    title: str,
    unit: str,
    values: NDArray[Any],
    color: str,
    *,
    log: bool = False,
    write: Callable[[float], str] = "{:,.0f}".format,
) -> str:
    """Draw how values are distributed; what lies beyond the 99.5th percentile is put into the last bin.

    Args:
        color: A colour of the style sheet: ink, image, text, cross, plum, amber.
        log: Bins of equal ratio instead of equal width.
        write: Turns a value into the label of a tick.
    """
    edges = _edges(values, log)
    counts, _ = np.histogram(np.clip(values, edges[0], edges[-1]), edges)
    median = float(np.median(values))
    places = np.linspace(2, WIDTH - 2, len(edges))
    floor = HEIGHT - BOTTOM
    heights = counts / counts.max() * (floor - TOP)
    bars = "".join(
        f'<rect class="area {color}" x="{left:.1f}" width="{right - left - 1:.1f}" y="{floor - height:.1f}" '
        f'height="{height:.1f}"><title>{text(write(low))} to {text(write(high))}: {count:,}</title></rect>'
        for left, right, height, low, high, count in zip(
            places, places[1:], heights, edges, edges[1:], counts, strict=False
        )
    )
    last = len(edges) - 1
    ends = {0: "start", **({last // 2: "middle"} if last > 1 else {}), last: "end"}
    ticks = "".join(
        f'<text class="tick" x="{places[place]:.1f}" y="{floor + 16}" text-anchor="{anchor}">'
        f"{text(write(edges[place]))}</text>"
        for place, anchor in ends.items()
    )
    said = f"median {write(median)}, largest {write(float(values.max()))}"
    axis = f'<line class="axis" x1="2" x2="{WIDTH - 2}" y1="{floor}" y2="{floor}"/>'
    return figure(title, unit, said, f"{said} of {len(values):,}", bars + axis + ticks, size=(WIDTH, HEIGHT))


def _edges(values: NDArray[Any], log: bool) -> NDArray[np.float64]:
    """Return the edges of the bins; whole numbers get bins of a whole width."""
    low, high = float(values.min()), float(np.quantile(values, 0.995))
    if log:
        low = max(low, 1e-9)
        return np.geomspace(low, max(high, low * 1.1), BINS + 1)
    if np.issubdtype(values.dtype, np.integer):
        width = max(1, -(-(int(high) + 1 - int(low)) // BINS))
        return np.arange(int(low), int(high) + 1 + width, width, dtype=np.float64)
    return np.linspace(low, high if high > low else low + 1, BINS + 1)
