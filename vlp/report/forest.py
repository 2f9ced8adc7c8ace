"""What an evaluation record says: all metrics on one scale, and recall at every rank."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from typing import Any

from vlp.html.words import ARROW, count, exact, interval, is_share, metric_name, text
from vlp.report.charts import Series, line_chart
from vlp.report.reading import Record


def chance(record: Record, name: str) -> float | None:
    """Return what guessing scores, where the counts of a record tell it."""
    details = record.get("details", {})
    classes = len(details.get("class_names", ()))
    if classes and name in ("acc1", "mean_per_class_recall", "acc1_strict"):
        return 1 / classes
    if classes and name == "acc5":
        return min(1.0, 5 / classes)
    images, captions = details.get("images"), details.get("captions")
    _, at, k = name.partition("@")
    if not (images and captions and at and k.isdigit()):
        return None
    if name.startswith("text_to_image") or images == captions:
        return min(1.0, int(k) / in_a_fold(details, "images"))
    return None


def in_a_fold(details: Mapping[str, Any], what: str) -> int:
    """Return how many images or captions a query of retrieval searches among, where folds are of one size."""
    return -(-details[what] // details.get("folds", 1))


def forest_table(records: Sequence[Record]) -> str:
    """Tabulate metrics of all tasks; shares stand as point and interval on one common scale."""
    bodies = "".join(_task_rows(record) for record in records)
    scale = "".join(f'<span style="left:{place}%">{place}</span>' for place in (0, 25, 50, 75, 100))
    return (
        '<div class="scroll"><table class="forest"><thead><tr><th>metric</th><th class="n">value</th>'
        f'<th class="n">95&nbsp;% interval</th><th class="scale"><div>{scale}</div></th>'
        f'<th class="n">n</th></tr></thead>{bodies}</table></div>'
    )


def _task_rows(record: Record) -> str:
    when = f"step {record['step']}" if record.get("step") is not None else str(record.get("model"))
    weights = "" if record.get("weights") in (None, "model") else f", {record['weights']} weights"
    head = (
        f'<tr class="task"><th colspan="5" scope="rowgroup">{text(record["task"])} '
        f"<span>{text(record['evaluator'].replace('_', ' '))}, {text(when)}{text(weights)}</span></th></tr>"
    )
    rows = "".join(
        f"<tr{' class=main' if name == record.get('main_metric') else ''}><td>{text(metric_name(name))}</td>"
        f'<td class="n">{exact(name, metric["value"])}</td><td class="n quiet">{interval(name, metric)}</td>'
        f'<td class="scale">{_whisker(record, name)}</td><td class="n quiet">{count(metric["count"])}</td></tr>'
        for name, metric in record["metrics"].items()
    )
    return f"<tbody>{head}{rows}</tbody>"


def _whisker(record: Record, name: str) -> str:
    if not is_share(name):
        return ""
    metric = record["metrics"][name]
    parts = []
    guess = chance(record, name)
    if guess is not None:
        parts.append(f'<s style="left:{100 * guess:.2f}%" title="chance {100 * guess:.1f} %"></s>')
    if metric.get("low") is not None and metric.get("high") is not None:
        left, wide = 100 * metric["low"], 100 * (metric["high"] - metric["low"])
        parts.append(f'<u style="left:{left:.2f}%;width:{wide:.2f}%"></u>')
    parts.append(f'<b style="left:{100 * metric["value"]:.2f}%"></b>')
    return f"<div>{''.join(parts)}</div>"


def metric_table(record: Record) -> str:
    """List every metric of a record in columns."""
    cells = "".join(
        f"<div><dt>{text(metric_name(name))}</dt><dd>{exact(name, metric['value'])}"
        f"{_aside(interval(name, metric))}</dd></div>"
        for name, metric in record["metrics"].items()
    )
    return f'<dl class="metrics">{cells}</dl>'


def _aside(said: str) -> str:
    return f" <span>{said}</span>" if said else ""


def recall_chart(record: Record) -> str:
    """Draw recall at every k from the ranks of a record, against guessing."""
    details = record.get("details", {})
    ranks = details.get("ranks")
    if isinstance(ranks, dict):
        num_items = {"image_to_text": in_a_fold(details, "captions"), "text_to_image": in_a_fold(details, "images")}
        series = [
            _recalls(ranks[direction], num_items[direction], label, color)
            for direction, label, color in (
                ("image_to_text", f"image{ARROW}text", "image"),
                ("text_to_image", f"text{ARROW}image", "text"),
            )
        ]
        size = in_a_fold(details, "images")
    elif ranks and details.get("class_names"):
        size = len(details["class_names"])
        series = [_recalls(ranks, size, "right class", "ink")]
    else:
        return ""
    guess = Series("chance", [(k, k / size) for k in _grid(size)], "quiet")
    title = f"{record['task']}: {'recall' if isinstance(ranks, dict) else 'right class'} within k"
    return line_chart(title, [*series, guess], is_share=True, zero=True, x_name="k", x_log=True)


def _recalls(ranks: Sequence[int], num_items: int, label: str, color: str) -> Series:
    ordered = sorted(ranks)
    points = [(k, bisect.bisect_right(ordered, k) / len(ordered)) for k in _grid(num_items)]
    return Series(label, points, color)


def _grid(size: int) -> list[int]:
    """Return about ten values of k per decade, up to a quarter of the items: beyond it guessing does well."""
    last = min(size, max(10, size // 4))
    return sorted({round(10 ** (k / 10)) for k in range(61) if 10 ** (k / 10) < last} | {last})
