"""The house as a picture: floors of rooms, and the imports between them, as they are in the code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, permutations
from textwrap import wrap
from xml.sax.saxutils import escape

from docs.tools.rooms import GROUND, Room, arrows, rooms
from tests.house import FLOOR, FLOORS

MARGIN, HEAD, GAP, BETWEEN = 18, 66, 10, 36
ROOM, WIDE_ROOM, CHANNEL = 122, 380, 16
MOST = max(map(len, FLOORS))
WIDTH = 2 * MARGIN + MOST * ROOM + (MOST - 1) * GAP
LOW, HIGH, LINES = 53, 114, 5
LETTERS = {ROOM: 15, WIDE_ROOM: 52, WIDTH - 2 * MARGIN: 105}  # of the widest usual font
SWEEPS, FEW = 2, 5
STYLE = """
  .paper { fill: #fcfbf8; stroke: #e4e0d8; }
  .room { fill: #ffffff; stroke: #b9b3a7; }
  .open { fill: #eaf3fb; stroke: #0a68b4; }
  .ground { fill: #f1eee7; stroke: #b9b3a7; }
  .arrow { fill: none; stroke: #8d877b; stroke-width: 1.4; }
  .head { fill: #8d877b; }
  text { font-family: Inter, system-ui, "Segoe UI", Roboto, Helvetica, Arial, sans-serif; fill: #5d5a54; }
  .name { font-size: 15.5px; font-weight: 600; fill: #1c1b19; }
  .title { font-size: 16px; font-weight: 600; fill: #1c1b19; }
  .words { font-size: 12px; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #141412; stroke: #32312d; }
    .room { fill: #1f1f1c; stroke: #5f5c55; }
    .open { fill: #13293b; stroke: #6cb6f5; }
    .ground { fill: #24231f; stroke: #5f5c55; }
    .arrow { stroke: #928e85; }
    .head { fill: #928e85; }
    text { fill: #b8b4aa; }
    .name, .title { fill: #eceae4; }
    }
"""


@dataclass
class Place:
    """A room, or a channel through which an arrow to a lower floor passes."""

    key: str
    floor: int
    width: float
    height: float
    room: Room | None = None
    x: float = 0.0
    y: float = 0.0

    @property
    def middle(self) -> float:
        """Where its centre lies."""
        return self.x + self.width / 2


def draw() -> str:
    """Return the SVG."""
    places, links = _layout()
    height = max(place.y + place.height for place in places.values()) + MARGIN
    body = [*_arrows(places, links), *(line for place in places.values() if place.room for line in _box(place))]
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'aria-label="The rooms of vlp and what they import">\n<style>{STYLE}</style>'
    )
    paper = f'<rect class="paper" x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.0f}" rx="10"/>'
    return "\n".join([head, paper, *_legend(), *body, "</svg>"]) + "\n"


def _layout() -> tuple[dict[str, Place], list[tuple[str, str]]]:
    """Return all places where they belong, and the pairs of them that lines join."""
    places = {name: _place(name, room) for name, room in rooms().items()}
    links: list[tuple[str, str]] = []
    for upper, lower in arrows():
        above = upper
        for floor in range(FLOOR[upper] - 1, FLOOR[lower], -1):
            channel = f"{lower} through {floor}"
            places.setdefault(channel, Place(channel, floor, CHANNEL, 0))
            links.append((above, channel))
            above = channel
        links.append((above, lower))
    links = list(dict.fromkeys(links))
    floors = [[key for key, place in places.items() if place.floor == number] for number in range(len(FLOORS))]
    _stack(floors, places)
    found = [_tidy(floors, turn, places, links) for turn in range(max(map(len, FLOORS)))]
    for keys in min(found)[-1]:
        _spread(keys, places)
    return places, links


def _tidy(
    floors: Sequence[Sequence[str]], turn: int, places: Mapping[str, Place], links: Sequence[tuple[str, str]]
) -> tuple[int, float, list[list[str]]]:
    """Turn the lowest floors around and order all of them; return crossings, length of lines and the order."""
    ordered = [[*keys[turn:], *keys[:turn]] for keys in floors]
    for keys in ordered:
        _spread(keys, places)
    for _ in range(SWEEPS):
        for number in (*range(len(ordered)), *reversed(range(len(ordered)))):
            _order(ordered[number], places, links)
    return *_cost(links, places), ordered


def _place(name: str, room: Room) -> Place:
    alone = len(FLOORS[FLOOR[name]]) == 1
    width = WIDTH - 2 * MARGIN if name == GROUND else WIDE_ROOM if alone else ROOM
    return Place(name, FLOOR[name], width, LOW if alone else HIGH, room)


def _stack(floors: Sequence[Sequence[str]], places: Mapping[str, Place]) -> None:
    top = float(HEAD)
    for keys in reversed(floors):
        height = max(places[key].height for key in keys)
        for key in keys:
            places[key].y, places[key].height = top, height
        _spread(keys, places)
        top += height + BETWEEN


def _spread(keys: Sequence[str], places: Mapping[str, Place]) -> None:
    """Put the places of a floor side by side, in the middle of the page."""
    wide = sum(places[key].width for key in keys) + GAP * (len(keys) - 1)
    left = (WIDTH - wide) / 2
    for key in keys:
        places[key].x = left
        left += places[key].width + GAP


def _order(keys: list[str], places: Mapping[str, Place], links: Sequence[tuple[str, str]]) -> None:
    """Choose the order of a floor in which lines cross least, and are shortest."""
    mine = [link for link in links if keys and (link[0] in keys or link[1] in keys)]

    def cost(order: tuple[str, ...]) -> tuple[int, float]:
        _spread(order, places)
        return _cost(mine, places)

    keys[:] = min(_other_orders(keys), key=cost)
    _spread(keys, places)


def _other_orders(keys: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield all orders of a few places; of many, those in which two have changed places."""
    if len(keys) <= FEW:
        yield from permutations(keys)
        return
    yield tuple(keys)
    for one, other in combinations(range(len(keys)), 2):
        order = list(keys)
        order[one], order[other] = order[other], order[one]
        yield tuple(order)


def _cost(links: Sequence[tuple[str, str]], places: Mapping[str, Place]) -> tuple[int, float]:
    """Return how often lines cross, and how far they lead sideways."""
    crossings = sum(_cross(places, *two) for two in combinations(links, 2))
    return crossings, sum(_length(places, link) for link in links)


def _cross(places: Mapping[str, Place], one: tuple[str, str], other: tuple[str, str]) -> bool:
    (a, b), (c, d) = ((places[upper], places[lower]) for upper, lower in (one, other))
    return a.floor == c.floor and (a.middle - c.middle) * (b.middle - d.middle) < 0


def _length(places: Mapping[str, Place], link: tuple[str, str]) -> float:
    return abs(places[link[0]].middle - places[link[1]].middle)


def _arrows(places: Mapping[str, Place], links: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield the lines; those of one room leave and arrive side by side."""
    for upper, lower in links:
        start, end = places[upper], places[lower]
        x1 = _port(start, lower, [b for a, b in links if a == upper], places)
        x2 = _port(end, upper, [a for a, b in links if b == lower], places)
        y1, y2 = start.y + start.height, end.y - (5 if end.room else 0)
        bend = (y2 - y1) * 0.55
        path = f"M{x1:.1f} {y1:.1f}C{x1:.1f} {y1 + bend:.1f} {x2:.1f} {y2 - bend:.1f} {x2:.1f} {y2:.1f}"
        if end.room is None:
            path += f"V{end.y + end.height:.1f}"
        yield f'<path class="arrow" d="{path}"/>'
        if end.room is not None:
            yield f'<path class="head" d="M{x2 - 4:.1f} {y2 - 2:.1f}h8l-4 7z"/>'


def _port(place: Place, other: str, others: Sequence[str], places: Mapping[str, Place]) -> float:
    if place.room is None:
        return place.middle
    step = min(24.0, place.width / (len(others) + 1))
    rank = sorted(others, key=lambda key: places[key].middle).index(other)
    return place.middle + step * (rank - (len(others) - 1) / 2)


def _box(place: Place) -> Iterator[str]:
    room = place.room
    assert room is not None
    kind = "ground" if room.name == GROUND else "open" if room.takes_parts else "room"
    size = f'width="{place.width:.1f}" height="{place.height:.1f}"'
    yield f'<rect class="{kind}" x="{place.x:.1f}" y="{place.y:.1f}" {size} rx="7"/>'
    left = place.x + 11
    yield f'<text class="name" x="{left:.1f}" y="{place.y + 22:.1f}">{escape(room.name)}</text>'
    lines = wrap(room.words, LETTERS[int(place.width)], max_lines=_num_lines(place), placeholder=" ...")
    for number, line in enumerate(lines):
        yield f'<text class="words" x="{left:.1f}" y="{place.y + 41 + 14.5 * number:.1f}">{escape(line)}</text>'


def _num_lines(place: Place) -> int:
    return 1 if place.height == LOW else LINES


def _legend() -> Iterator[str]:
    yield f'<text class="title" x="{MARGIN}" y="32">The rooms of vlp: each imports lower ones only</text>'
    yield f'<rect class="open" x="{MARGIN}" y="43" width="14" height="10" rx="2"/>'
    words = (
        "takes parts of yours, found by name. Arrows: imports that do not follow from others; all rooms import ground."
    )
    yield f'<text class="words" x="{MARGIN + 21}" y="52">{words}</text>'
