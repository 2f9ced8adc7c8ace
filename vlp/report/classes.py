"""Zero-shot results class by class: how many are right, and what the wrong ones were taken for."""

from __future__ import annotations

from typing import Any

from vlp.html.frame import figure
from vlp.html.words import text
from vlp.report.charts import WIDTH
from vlp.report.reading import Record

SHOWN = 24
ROW = 15
LEFT = 128


def order(details: dict[str, Any]) -> list[int]:
    """Return the classes that have samples, best first."""
    hits, sizes = details["hits_per_class"], details["samples_per_class"]
    known = [number for number, size in enumerate(sizes) if size]
    return sorted(known, key=lambda number: (-hits[number] / sizes[number], -sizes[number], number))


def class_chart(record: Record) -> str:
    """Draw the share of hits of each class, best first; of many classes the best and the worst."""
    details = record.get("details", {})
    if "hits_per_class" not in details:
        return ""
    classes = order(details)
    note = f"hits of samples, {len(classes)} classes"
    if len(classes) > SHOWN:
        note = f"hits of samples, the best and worst {SHOWN // 2} of {len(classes)}"
        classes = classes[: SHOWN // 2] + classes[-SHOWN // 2 :]
    right, body, told = WIDTH - 42, [], []
    for place, number in enumerate(classes):
        name = details["class_names"][number]
        hits, size = details["hits_per_class"][number], details["samples_per_class"][number]
        y, end = 8 + place * ROW, LEFT + hits / size * (right - LEFT)
        told.append(f"{name}: {hits} of {size}")
        body.append(
            f'{_name(name, y)}<line class="rule" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>'
            f'<line class="stem" x1="{LEFT}" x2="{end:.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot ink" cx="{end:.1f}" cy="{y}" r="3"/>'
            f'<text class="tick" x="{WIDTH}" y="{y + 3.5}" text-anchor="end">{hits}/{size}</text>'
        )
    size_ = (WIDTH, 12 + len(classes) * ROW)
    return figure(f"{record['task']}: class by class", note, "", f"{'; '.join(told)}.", "".join(body), size=size_)


def can_show_confusion(details: dict[str, Any]) -> bool:
    """Whether the confusion matrix is known and small enough to be read."""
    return "confusion" in details and len(order(details)) <= SHOWN


def confusion_chart(record: Record) -> str:
    """Draw, for each class, what its images were taken for; classes in the order of the chart beside it."""
    details = record["details"]
    classes = order(details)
    pitch = (WIDTH - LEFT) / len(details["class_names"])
    columns = classes + [number for number in range(len(details["class_names"])) if number not in classes]
    body = []
    for row, truth in enumerate(classes):
        y = 1 + row * ROW
        body.append(_name(details["class_names"][truth], y + ROW / 2 - 1))
        for column, guess in enumerate(columns):
            number = details["confusion"][truth][guess]
            share = number / details["samples_per_class"][truth]
            kind = "right" if guess == truth else "wrong"
            shade = f' style="fill-opacity:{0.12 + 0.88 * share:.2f}"' if number else ""
            body.append(
                f'<rect class="cell {kind if number else "none"}" x="{LEFT + column * pitch:.1f}" y="{y}" '
                f'width="{pitch - 1.5:.1f}" height="{ROW - 1.5}"{shade}/>'
            )
    description = f"{_worst(details, classes)} Rows are true classes, columns predictions, both best first."
    size = (WIDTH, 12 + len(classes) * ROW)
    head = "rows true, columns predicted"
    return figure(f"{record['task']}: confusion", head, "", description, "".join(body), size=size)


def _worst(details: dict[str, Any], classes: list[int]) -> str:
    names = details["class_names"]
    pairs = [(details["confusion"][a][b], a, b) for a in classes for b in range(len(names)) if a != b]
    number, truth, guess = max(pairs, default=(0, 0, 0))
    return (
        f"Most frequent mistake: {names[truth]} taken for {names[guess]}, {number} times." if number else "No mistakes."
    )


def _name(name: str, y: float) -> str:
    label = name if len(name) <= 19 else f"{name[:18]}\N{HORIZONTAL ELLIPSIS}"
    return f'<text class="tick" x="{LEFT - 8}" y="{y + 3.5}" text-anchor="end">{text(label)}</text>'
