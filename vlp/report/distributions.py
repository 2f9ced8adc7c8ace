"""Where scores lie: matching pairs against all others, at the end and on the way there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from vlp.html.axes import Axis
from vlp.html.frame import figure
from vlp.html.words import number, short, text
from vlp.report.charts import LEFT, RIGHT, TOP, WIDTH

WIDE = (780, 292)
ROWS = 6
LABEL = 155  # width of the longest name
NEAR = 190  # peaks closer than this have their names pushed to either side


def shares(histogram: dict[str, Any], side: str) -> list[float]:
    """Return the share of pairs in each bin."""
    total = sum(histogram[side]) or 1
    return [value / total for value in histogram[side]]


def reach(histograms: Sequence[dict[str, Any]]) -> tuple[float, float]:
    """Return the range of cosines that occur, with one empty bin on each side."""
    edges = histograms[0]["edges"]
    used = [
        place
        for histogram in histograms
        for side in ("positive", "negative")
        for place, value in enumerate(histogram[side])
        if value
    ]
    if not used:
        return edges[0], edges[-1]
    return edges[max(0, min(used) - 1)], edges[min(len(edges) - 1, max(used) + 2)]


def area(edges: Sequence[float], heights: Sequence[float], x: Axis, y: Axis) -> str:
    """Return the outline of a histogram from its first to its last bin in use, closed along the base."""
    used = [place for place, height in enumerate(heights) if height]
    if not used:
        return ""
    steps = "".join(
        f"L{x(edges[place]):.1f} {y(heights[place]):.1f}H{x(edges[place + 1]):.1f}"
        for place in range(used[0], used[-1] + 1)
    )
    return f"M{x(edges[used[0]]):.1f} {y.start:.1f}{steps}V{y.start:.1f}Z"


def histogram_chart(record: dict[str, Any]) -> str:
    """Draw the cosines of matching and of all other pairs of one evaluation, for wide and for narrow screens."""
    return _histogram(record, WIDE, "wide") + _histogram(record, (WIDTH, 250), "narrow")


def _histogram(record: dict[str, Any], size: tuple[int, int], css: str) -> str:
    histogram, metrics = record["details"]["histogram"], record["metrics"]
    edges = histogram["edges"]
    x = Axis(*reach([histogram]), LEFT, size[0] - 4)
    sides = {side: shares(histogram, side) for side in ("negative", "positive")}
    y = Axis(0, max(max(heights) for heights in sides.values()) * 1.2, size[1] - 42, TOP)
    frames = [
        f'<line class="rule" x1="{x.start}" x2="{x.end}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        f'<text class="tick" x="{x.start - 6}" y="{y(tick) + 3.5:.1f}" text-anchor="end">{100 * tick:g}%</text>'
        for tick in y.ticks()
    ]
    areas = [f'<path class="area {side}" d="{area(edges, heights, x, y)}"/>' for side, heights in sides.items()]
    means = {side: metrics[f"{side}_mean"]["value"] for side in sides if f"{side}_mean" in metrics}
    labels = [_peak_label(side, sides, edges, means if css == "wide" else {}, x, y) for side in sides]
    axis = _cosine_axis(x, y.start, 8 if css == "wide" else 4, "cosine of image and text")
    body = "".join([*frames, *areas, *labels, axis])
    pairs = record["details"]["pairs"]
    description = (
        f"Histogram of cosines over {pairs} matching pairs and {pairs * (pairs - 1)} others; "
        f"means {number(means.get('positive'))} and {number(means.get('negative'))}."
    )
    unit = f"share of pairs by cosine, step {short(record['step'] or 0)}"
    return figure("Scores", unit, "", description, body, size=size, css=css)


def _peak_label(
    side: str,
    sides: dict[str, list[float]],
    edges: Sequence[float],
    means: dict[str, float],
    x: Axis,
    y: Axis,
) -> str:
    """Name a distribution above its peak, clear of the other one."""
    heights, other = sides[side], sides["positive" if side == "negative" else "negative"]
    peak = max(range(len(heights)), key=heights.__getitem__)
    middle = x((edges[peak] + edges[peak + 1]) / 2)
    top = max(heights[peak], *other[max(0, peak - 2) : peak + 3])
    told = f' <tspan class="value">mean {number(means[side])}</tspan>' if side in means else ""
    there = x(edges[max(range(len(other)), key=other.__getitem__)])
    is_left = middle < there or (side == "negative" and middle <= there + 8)
    anchor = "middle"
    if abs(middle - there) < NEAR:
        last = x.end - (LABEL if means else 0)
        anchor, middle = ("end", middle - 10) if is_left else ("start", min(middle + 10, last))
    name = "matching pairs" if side == "positive" else "all other pairs"
    return (
        f'<text class="label {side}" x="{middle:.1f}" y="{y(top) - 8:.1f}" text-anchor="{anchor}">{name}{told}</text>'
    )


def _cosine_axis(x: Axis, floor: float, num_ticks: int, name: str) -> str:
    ticks = "".join(
        f'<text class="tick" x="{x(tick):.1f}" y="{floor + 16}" text-anchor="middle">{short(tick)}</text>'
        for tick in x.ticks(num_ticks)
    )
    return (
        f'<line class="axis" x1="{x.start}" x2="{x.end}" y1="{floor}" y2="{floor}"/>{ticks}'
        f'<text class="tick name" x="{x.end}" y="{floor + 33}" text-anchor="end">{name}</text>'
    )


def ridge_chart(records: Sequence[dict[str, Any]]) -> str:
    """Draw the distributions of up to six evaluations above each other, the newest below."""
    step = max(1, -(-(len(records) - 1) // (ROWS - 1)))
    chosen = [*records[:-1][::step], records[-1]]
    histograms = [record["details"]["histogram"] for record in chosen]
    x = Axis(*reach(histograms), LEFT + 8, WIDTH - RIGHT)
    base, height = TOP + 18, WIDE[1] - 42
    pitch = (height - base) / len(chosen)
    body = []
    for row, (record, histogram) in enumerate(zip(chosen, histograms, strict=True), 1):
        floor = base + row * pitch
        tallest = max(max(shares(histogram, side)) for side in ("positive", "negative"))
        y = Axis(0, tallest, floor, floor - pitch * (1.25 if row > 1 else 0.95))
        for side in ("negative", "positive"):
            outline = area(histogram["edges"], shares(histogram, side), x, y)
            body.append(f'<path class="area {side}" d="{outline}"/>')
        body.append(f'<line class="axis" x1="{x.start}" x2="{x.end}" y1="{floor:.1f}" y2="{floor:.1f}"/>')
        label = short(record["step"] or 0)
        body.append(f'<text class="tick" x="{x.start - 8}" y="{floor - 3:.1f}" text-anchor="end">{label}</text>')
    body.append(f'<text class="tick name" x="{x.start - 8}" y="{TOP + 4}" text-anchor="end">step</text>')
    body.append(_cosine_axis(x, height, 4, "cosine"))
    told = ", ".join(text(short(record["step"] or 0)) for record in chosen)
    description = f"Histograms of cosines of matching and other pairs at steps {told}; each row is scaled to its peak."
    return figure("Scores on the way", "by step", "", description, "".join(body), size=(WIDTH, WIDE[1]))
