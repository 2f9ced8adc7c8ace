"""What is left under attack, and whether that can be believed: from the record of `vlp robust`, nothing computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from vlp.evaluators.record import Record, read_record
from vlp.html.frame import gap, section
from vlp.html.words import exact, interval, metric_name, text
from vlp.report.charts import Series, line_chart
from vlp.run.folder import robust_records

TITLE = "Robustness"
COLORS = ("image", "text", "cross", "plum", "amber")
ASIDE = "quiet"
WHOSE = (("clean", "ink"), ("attacked", "text"))


def robustness(run: Path) -> str:
    """Return the section about the newest record of a run; nothing for a run that was not attacked."""
    records = robust_records(run)
    record = read_record(records[-1]) if records else None
    return "" if record is None else section(TITLE, _note(record), section_body(record))


def section_body(record: Record) -> str:
    """Return all that is told of a record."""
    gates = [(task["task"], gate) for task in record["tasks"] for gate in task.get("gates", ())]
    failed = "".join(
        gap(f"{task}: {gate['name'].replace('_', ' ')} failed: {gate['said']}")
        for task, gate in gates
        if not gate["is_passed"]
    )
    return failed + _gates(gates) + "".join(map(_task, record["tasks"]))


def _note(record: Record) -> str:
    asked = sum(len(task.get("gates", ())) for task in record["tasks"])
    said = "all passed" if record["is_believable"] else "not all passed: these numbers say nothing about robustness"
    when = "" if record.get("step") is None else f" of step {record['step']}"
    return (
        f"Attacks of <code>{text(record['attacks'])}</code> on <code>{text(record['weights'])}</code> weights{when}, "
        f"in float32; {asked} gates, {said}."
    )


def _gates(gates: Sequence[tuple[str, Record]]) -> str:
    """List what was asked of the numbers, and what was found."""
    rows = "".join(
        f"<tr><td>{text(task)}</td><td>{text(gate['name'].replace('_', ' '))}</td>"
        f"<td>{'passed' if gate['is_passed'] else '<b>failed</b>'}</td><td>{text(gate['said'])}</td></tr>"
        for task, gate in gates
    )
    head = "<tr><th>task</th><th>gate</th><th></th><th>found</th></tr>"
    table = f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>'
    return f"<details><summary>Gates</summary>{table}</details>" if rows else ""


def _task(task: Record) -> str:
    head = f"<h3>{text(task['task'])}</h3>"
    if "error" in task:
        return head + gap(f"failed: {task['error']}")
    if "attacks" not in task:
        return head + _table(task, [("as it is", "", task["metrics"])])
    entries = [each for each in (*task["attacks"], *task["worst"]) if not each.get("is_probe")]
    rows = [("clean", "", task["clean"])]
    rows += [(each["label"], f"{each['radius']:g}{each['unit']}", each["metrics"]) for each in entries]
    charts = "".join(_charts(task, entries))
    grid = f'<div class="grid">{charts}</div>' if charts else ""
    return head + grid + _table(task, rows) + _pictures(task) + _examples(entries)


# ---------------------------------------- numbers
def _table(task: Record, rows: Sequence[tuple[str, str, Record]]) -> str:
    name = task["main_metric"]
    body = "".join(
        f"<tr><td>{text(label)}</td><td>{text(radius)}</td>"
        f'<td class="n">{exact(name, metrics[name]["value"])}</td>'
        f'<td class="n quiet">{interval(name, metrics[name])}</td>'
        f'<td class="n quiet">{metrics[name]["count"]}</td><td>{_taken(metrics)}</td></tr>'
        for label, radius, metrics in rows
    )
    head = (
        f'<th>attack</th><th>radius</th><th class="n">{text(metric_name(name))}</th>'
        '<th class="n">95&nbsp;% interval</th><th class="n">n</th><th>attack success</th>'
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _taken(metrics: Record) -> str:
    """Say which share of what was found before an attack it took, among the first k."""
    rates: dict[str, dict[str, float]] = {}
    for name, metric in metrics.items():
        direction, success, k = name.rpartition("success@")
        if success:
            rates.setdefault(metric_name(direction).strip(", "), {})[k] = metric["value"]
    return "<br>".join(
        f"{text(direction)} {', '.join(f'{100 * rate:.0f}' for rate in found.values())}&nbsp;% at {', '.join(found)}"
        for direction, found in rates.items()
    )


# ---------------------------------------- charts
def _charts(task: Record, entries: Sequence[Record]) -> Iterator[str]:
    name = task["main_metric"]
    of_pixels = [each for each in entries if each["unit"] == "/255"]
    labels = [label for label in dict.fromkeys(each["label"] for each in of_pixels)]
    series = [
        _over_radius(task, [each for each in of_pixels if each["label"] == label], name, _color(number, label))
        for number, label in enumerate(labels)
    ]
    series = [line for line in series if len(line.points) > 2]
    if series:
        title = f"{metric_name(name)} over the radius"
        yield line_chart(title, series, unit="steps of 1/255", is_share=True, zero=True, x_name="radius")
    if task.get("diagnostics"):
        yield from _of_features(task["diagnostics"])


def _over_radius(task: Record, entries: Sequence[Record], name: str, color: str) -> Series:
    found = [(0.0, task["clean"][name]), *((each["radius"], each["metrics"][name]) for each in entries)]
    band = [(radius, metric["low"], metric["high"]) for radius, metric in found if metric["low"] is not None]
    is_worst = "settings" not in entries[0]
    return Series(entries[0]["label"], [(r, m["value"]) for r, m in found], color, band if is_worst else ())


def _color(number: int, label: str) -> str:
    return "ink" if label == "worst case" else ASIDE if label == "random_signs" else COLORS[number % len(COLORS)]


def _of_features(found: Record) -> Iterator[str]:
    """Draw how alike features are before and after the attack, and to those of the next block."""
    by_block = [(float(number), each["value"]) for number, each in enumerate(found["cka_by_block"], 1)]
    if len(by_block) > 1:
        band = [(float(number), each["low"], each["high"]) for number, each in enumerate(found["cka_by_block"], 1)]
        yield line_chart(
            "Clean and attacked features",
            [Series("", by_block, "cross", [each for each in band if None not in each])],
            unit=f"CKA by block, {found['attack']} at {found['radius']:g}/255",
            zero=True,
            x_name="block",
        )
        between = found["cka_between_blocks"]
        nexts = {
            name: [(float(number + 1), rows[number][number + 1]) for number in range(len(rows) - 1)]
            for name, rows in between.items()
        }
        means = {name: fmean(value for _, value in points) for name, points in nexts.items()}
        yield line_chart(
            "Each block and the next",
            [Series(f"{name}, mean {means[name]:.2f}", nexts[name], color) for name, color in WHOSE],
            unit="CKA",
            zero=True,
            x_name="block",
        )
    yield _shape(found)


def _shape(found: Record) -> str:
    """Say what the attack does to the embedding space."""
    rows = {"CKA of embeddings, clean and attacked": {"attacked": found["cka_of_embeddings"]}, **found["geometry"]}
    body = "".join(
        f"<tr><td>{text(metric_name(name))}</td>"
        + "".join(f'<td class="n">{_number(each.get(whose))}</td>' for whose, _ in WHOSE)
        + "</tr>"
        for name, each in rows.items()
    )
    head = '<tr><th>embeddings</th><th class="n">clean</th><th class="n">attacked</th></tr>'
    return f"<div><table><thead>{head}</thead><tbody>{body}</tbody></table></div>"


def _number(metric: dict[str, Any] | None) -> str:
    return "" if metric is None else f'<data value="{metric["value"]!r}">{metric["value"]:.3f}</data>'


# ---------------------------------------- what it looks like
def _pictures(task: Record) -> str:
    shown = task.get("pictures")
    if not shown or not shown["samples"]:
        return ""
    where = f"{text(shown['attack'])} at {shown['radius']:g}{text(shown['unit'])}"
    note = f'<p class="plain">{where}; the change is drawn around grey, as strong as it can be.</p>'
    return f'{note}<div class="attacked">{"".join(map(_sample, shown["samples"]))}</div>'


def _sample(sample: Record) -> str:
    images = "".join(
        f'<li><img src="data:image/webp;base64,{sample[name]}" alt="{text(said)}"><span>{text(said)}</span></li>'
        for name, said in (("clean", "image"), ("change", "change"), ("attacked", "attacked"))
    )
    names = "".join(_found(sample, when) for when in ("before", "after"))
    return f"<article><ol>{images}</ol><dl>{names}</dl></article>"


def _found(sample: Record, when: str) -> str:
    listed = ", ".join(f"<b>{text(name)}</b>" if name in sample["right"] else text(name) for name in sample[when])
    return f"<div><dt>{when}</dt><dd>{listed}</dd></div>"


def _examples(entries: Sequence[Record]) -> str:
    """Show captions before and after the attacks that wrote into them."""
    rows = "".join(
        f"<tr><td>{text(each['label'])}</td><td>{text(example['before'])}</td><td>{text(example['after'])}</td>"
        f'<td class="n">{example["rank_before"]}</td><td class="n">{example["rank_after"]}</td></tr>'
        for each in entries
        for example in each.get("examples", ())
    )
    head = (
        "<tr><th>attack</th><th>caption</th><th>after the attack</th>"
        '<th class="n">rank of its image</th><th class="n">after</th></tr>'
    )
    return f'<div class="scroll"><table><thead>{head}</thead><tbody>{rows}</tbody></table></div>' if rows else ""
