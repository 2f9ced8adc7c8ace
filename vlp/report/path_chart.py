"""One score over another: where a model went, point by point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vlp.html.axes import Axis, spread
from vlp.html.frame import figure
from vlp.html.words import percent, text
from vlp.report.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, frame, path

NEAR, BESIDE, LEGEND = 26, 7, 17


@dataclass(frozen=True)
class Waypoint:
    """One point of a path.

    Args:
        kept: Score on the horizontal axis.
        own: Score on the vertical one.
        name: What the point is called.
        is_named: Write its name beside it.
        is_chosen: Draw a ring around it.
    """

    kept: float
    own: float
    name: str
    is_named: bool = False
    is_chosen: bool = False


@dataclass(frozen=True)
class Path:
    """A line through points, in a colour of the style sheet."""

    label: str
    color: str
    points: Sequence[Waypoint]


def path_chart(title: str, unit: str, paths: Sequence[Path]) -> str:
    """Draw paths of shares between 0 and 1; both axes are in percent."""
    everything = [point for each in paths for point in each.points]
    x = Axis(*spread([100 * point.kept for point in everything]), LEFT, WIDTH - RIGHT)
    y = Axis(*spread([point.own for point in everything]), HEIGHT - BOTTOM, TOP)
    body = [frame(x, y, "kept", is_share=True)]
    for each in paths:
        body.append(f'<path class="line {each.color}" d="{path([(100 * p.kept, p.own) for p in each.points], x, y)}"/>')
        body += [_dot(point, each.color, x, y) for point in each.points]
    told = "; ".join(
        f"{each.label}: "
        + ", ".join(f"{point.name} keeps {percent(point.kept)} and has {percent(point.own)}" for point in each.points)
        for each in paths
    )
    for place, each in enumerate(paths):
        top = HEIGHT + place * LEGEND
        body.append(f'<line class="line {each.color}" x1="{LEFT}" x2="{LEFT + 18}" y1="{top + 8}" y2="{top + 8}"/>')
        body.append(f'<text class="label {each.color}" x="{LEFT + 24}" y="{top + 12}">{text(each.label)}</text>')
    return figure(title, unit, "", f"{told}.", "".join(body), size=(WIDTH, HEIGHT + len(paths) * LEGEND + 4))


def _dot(point: Waypoint, color: str, x: Axis, y: Axis) -> str:
    left, top = x(100 * point.kept), y(point.own)
    drawn = f'<circle class="dot {color}" cx="{left:.1f}" cy="{top:.1f}" r="3"/>'
    if point.is_chosen:
        drawn += f'<circle class="line {color}" cx="{left:.1f}" cy="{top:.1f}" r="6.5"/>'
    if point.is_named:
        is_right = left > (LEFT + WIDTH) / 2
        place, anchor = (left - BESIDE - 2, "end") if is_right else (left + BESIDE + 2, "start")
        height = top - BESIDE if top > TOP + NEAR else top + 2 * BESIDE
        drawn += (
            f'<text class="label {color}" x="{place:.1f}" y="{height:.1f}" text-anchor="{anchor}">'
            f"{text(point.name)}</text>"
        )
    return f"<g><title>{text(point.name)}</title>{drawn}</g>"
