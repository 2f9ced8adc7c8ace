"""Charts as inline SVG: colours come from the style sheet, every chart has a title, a description and labelled axes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from vlp.html.axes import Axis, Point, smooth, spread, thin
from vlp.html.frame import figure
from vlp.html.words import number, percent, short, text, ticks

Write = Callable[[float], str]
WIDTH, HEIGHT = 380, 216
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 28
LABEL_HEIGHT, LETTER = 13, 6.1
MARKED = 16
LOG_FROM = 20.0


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Args:
        color: A colour of the style sheet: ink, image, text, cross, plum, amber.
        band: Interval (x, low, high) around some points.
        is_noisy: Draw a running median over the faint raw line.
    """

    label: str
    points: Sequence[Point]
    color: str = "ink"
    band: Sequence[tuple[float, float, float]] = ()
    is_noisy: bool = False

    def values(self) -> list[float]:
        """Return all numbers that must fit on the paper."""
        return [y for _, y in self.points if y is not None] + [y for _, *pair in self.band for y in pair]


def line_chart(
    title: str,
    series: Sequence[Series],
    *,
    unit: str = "",
    zero: bool = False,
    is_share: bool = False,
    allow_log: bool = False,
    x_name: str = "step",
    x_log: bool = False,
) -> str:
    """Draw lines over steps as a figure; the title line shows the last value, or what the pointer is at.

    Args:
        unit: Shown beside the title.
        zero: Start the vertical axis at zero.
        is_share: Write values as percentages.
        allow_log: Use a logarithmic axis where values span more than a factor of 20.
    """
    series = [line for line in series if line.values()]
    if not series:
        return missing(title, "no numbers were logged")
    write = percent if is_share else number
    values = [value for line in series for value in line.values()]
    log = allow_log and min(values) > 0 and max(values) / min(values) > LOG_FROM
    right = label_room(series, write) if len(series) > 1 else RIGHT
    steps = [x for line in series for x, _ in line.points]
    x = Axis(min(steps) if x_log else 0, max(max(steps), min(steps) + 1), LEFT, WIDTH - right, x_log)
    y = Axis(*spread(values, log=log, zero=zero), HEIGHT - BOTTOM, TOP, log)
    drawn = [thin(line.points) for line in series]
    body = [
        frame(x, y, x_name, is_share),
        *(band(line, x, y) for line in series),
        *(curve(line, points, x, y) for line, points in zip(series, drawn, strict=True)),
        end_labels(series, drawn, x.end, y, write) if len(series) > 1 else "",
        f'<line class="cursor" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>',
    ]
    head = f"{unit}, log scale" if log and unit else "log scale" if log else unit
    last = last_number(series[0].points) if len(series) == 1 else None
    said = write(last) if last is not None else ""
    data = hover_data(x, series, drawn, is_share, x_name)
    told = describe(title, series, x_name, write)
    return figure(title, head, said, told, "".join(body), size=(WIDTH, HEIGHT), data=data)


def frame(x: Axis, y: Axis, x_name: str, is_share: bool) -> str:
    """Draw grid lines, tick labels and the name of the horizontal axis."""
    parts = []
    heights = y.ticks()
    labels = [f"{100 * value:g}%" for value in heights] if is_share else ticks(heights)
    for value, label in zip(heights, labels, strict=True):
        parts.append(f'<line class="rule" x1="{x.start}" x2="{x.end}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text class="tick" x="{x.start - 6}" y="{y(value) + 3.5:.1f}" text-anchor="end">{label}</text>')
    parts.append(f'<line class="axis" x1="{x.start}" x2="{x.end}" y1="{y.start}" y2="{y.start}"/>')
    for value in x.ticks():
        anchor = "end" if x(value) > x.end - 8 else "middle"
        parts.append(f'<text class="tick" x="{x(value):.1f}" y="{y.start + 17}" text-anchor="{anchor}">')
        parts.append(f"{short(value)}</text>")
    parts.append(f'<text class="tick name" x="{x.start - 10}" y="{y.start + 17}" text-anchor="end">{x_name}</text>')
    return "".join(parts)


def curve(line: Series, points: Sequence[Point], x: Axis, y: Axis) -> str:
    """Draw one line: raw and smoothed where it is noisy, with dots where points are few."""
    smoothed = smooth(points) if line.is_noisy else points
    parts = []
    if list(smoothed) != list(points):
        parts.append(f'<path class="line raw {line.color}" d="{path(points, x, y)}"/>')
    parts.append(f'<path class="line {line.color}" d="{path(smoothed, x, y)}"/>')
    known = [(x(a), y(b)) for a, b in smoothed if b is not None]
    dots = known if len(known) <= MARKED else known[-1:]
    parts += [f'<circle class="dot {line.color}" cx="{a:.1f}" cy="{b:.1f}" r="2.6"/>' for a, b in dots]
    return "".join(parts)


def path(points: Iterable[Point], x: Axis, y: Axis) -> str:
    """Return the path through points, broken where there is no number."""
    parts, pen = [], "M"
    for step, value in points:
        if value is None:
            pen = "M"
            continue
        parts.append(f"{pen}{x(step):.1f} {y(value):.1f}")
        pen = "L"
    return "".join(parts)


def band(line: Series, x: Axis, y: Axis) -> str:
    """Draw the interval around a line, as an area or as whiskers where there is one point only."""
    if len(line.band) < 2:
        whiskers = "".join(f"M{x(step):.1f} {y(low):.1f}V{y(high):.1f}" for step, low, high in line.band)
        return f'<path class="line {line.color}" d="{whiskers}"/>' if whiskers else ""
    there = "L".join(f"{x(step):.1f} {y(high):.1f}" for step, _, high in line.band)
    back = "L".join(f"{x(step):.1f} {y(low):.1f}" for step, low, _ in reversed(line.band))
    return f'<path class="band {line.color}" d="M{there}L{back}Z"/>'


def label_room(series: Sequence[Series], write: Write) -> float:
    """Return the width of the longest label at the end of a line."""
    lasts = [(line.label, last_number(line.points)) for line in series]
    return 14 + LETTER * max(len(label) + 1 + len(write(last)) for label, last in lasts if last is not None)


def end_labels(series: Sequence[Series], drawn: Sequence[Sequence[Point]], left: float, y: Axis, write: Write) -> str:
    """Name each line at its end, pushed apart where lines end together."""
    ends = []
    for line, points in zip(series, drawn, strict=True):
        value = last_number(smooth(points) if line.is_noisy else points)
        last = last_number(line.points)
        if value is not None and last is not None:
            ends.append((y(value) + 3.5, line, write(last)))
    ends.sort(key=lambda end: end[0])
    places = push_apart([place for place, _, _ in ends], TOP + 8, HEIGHT - BOTTOM)
    return "".join(
        f'<text class="label {line.color}" x="{left + 8:.1f}" y="{place:.1f}">{text(line.label)} '
        f'<tspan class="value">{value}</tspan></text>'
        for place, (_, line, value) in zip(places, ends, strict=True)
    )


def push_apart(places: Sequence[float], first: float, last: float) -> list[float]:
    """Move sorted places of labels down, then up, until none overlap."""
    moved: list[float] = []
    for place in places:
        moved.append(max(place, first, moved[-1] + LABEL_HEIGHT if moved else first))
    limit = last
    for index in reversed(range(len(moved))):
        moved[index] = min(moved[index], limit)
        limit = moved[index] - LABEL_HEIGHT
    return moved


def last_number(points: Iterable[Point]) -> float | None:
    """Return the last number of a line."""
    return next((y for _, y in reversed(list(points)) if y is not None), None)


def describe(title: str, series: Sequence[Series], x_name: str, write: Write) -> str:
    """Tell in words what a chart shows, for those who do not see it."""
    told = []
    for line in series:
        known = [(x, y) for x, y in line.points if y is not None]
        if known:
            (first, start), (last, end) = known[0], known[-1]
            told.append(
                f"{line.label or title}: {write(start)} at {x_name} {short(first)}, {write(end)} at {short(last)}, "
                f"between {write(min(y for _, y in known))} and {write(max(y for _, y in known))}"
            )
    return "; ".join(told) + "."


def hover_data(x: Axis, series: Sequence[Series], drawn: Sequence[Sequence[Point]], is_share: bool, x_name: str) -> str:
    """Return what the read-out under the pointer needs."""
    lines = [
        [line.label, [[round(a, 1), None if b is None else float(f"{b:.4g}")] for a, b in points]]
        for line, points in zip(series, drawn, strict=True)
    ]
    box = {"from": x.start, "to": x.end, "width": WIDTH, "low": x.low, "high": x.high, "log": x.log}
    return json.dumps(box | {"share": is_share, "name": x_name, "lines": lines}, separators=(",", ":"))


def missing(title: str, reason: str) -> str:
    """Stand in for a chart that has no data."""
    return (
        f'<figure class="chart"><figcaption><b>{text(title)}</b></figcaption>'
        f'<p class="missing">{text(reason)}</p></figure>'
    )


def spark(points: Sequence[Point], *, color: str = "ink") -> str:
    """Draw a word-sized line; empty where there are fewer than two numbers."""
    known = [(x, y) for x, y in thin(points, 60) if y is not None]
    if len(known) < 2:
        return ""
    x = Axis(known[0][0], known[-1][0], 2, 136)
    y = Axis(*spread([value for _, value in known]), 30, 2)
    step, value = known[-1]
    return (
        '<svg class="spark" viewBox="0 0 140 32" aria-hidden="true">'
        f'<path class="line {color}" d="{path(known, x, y)}"/>'
        f'<circle class="dot {color}" cx="{x(step):.1f}" cy="{y(value):.1f}" r="2.6"/></svg>'
    )
