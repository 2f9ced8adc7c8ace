"""The sections of the page; each one says in a line what is missing instead of failing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vlp.html.axes import window
from vlp.html.frame import gap, section
from vlp.html.words import ARROW, count, is_share, metric_name, number, text
from vlp.report.charts import Series, line_chart
from vlp.report.classes import can_show_confusion, class_chart, confusion_chart
from vlp.report.distributions import histogram_chart, ridge_chart
from vlp.report.forest import forest_table, metric_table, recall_chart
from vlp.report.planned import PARTS, PASSING, memory_of
from vlp.report.reading import Point, Record, RecordedRun
from vlp.run.clock import diagnose

Wanted = tuple[tuple[str, str, str], ...]
TERM_COLORS = ("ink", "plum", "amber", "cross", "image", "text")
RECALL: Wanted = (
    ("image_to_text_recall@5", f"image{ARROW}text", "image"),
    ("text_to_image_recall@5", f"text{ARROW}image", "text"),
)
RANK: Wanted = (
    ("image_to_text_median_rank", f"image{ARROW}text", "image"),
    ("text_to_image_median_rank", f"text{ARROW}image", "text"),
)
ACCURACY: Wanted = (("acc1", "top-1", "ink"), ("acc5", "top-5", "plum"))
GEOMETRY: tuple[tuple[str, str, Wanted, bool], ...] = (
    ("Modality gap", "distance of the two centroids", (("modality_gap", "", "ink"),), True),
    ("Alignment", "squared distance of matching pairs", (("alignment", "", "cross"),), True),
    (
        "Uniformity",
        "log kernel, lower is more even",
        (
            ("uniformity_image", "image", "image"),
            ("uniformity_text", "text", "text"),
            ("cross_uniformity", "cross", "cross"),
        ),
        False,
    ),
    (
        "Mean cosine of different samples",
        "",
        (
            ("mean_cosine_image", "image", "image"),
            ("mean_cosine_text", "text", "text"),
            ("mean_cosine_cross", "cross", "cross"),
        ),
        False,
    ),
    (
        "Effective rank",
        "dimensions in use",
        (("effective_rank_image", "image", "image"), ("effective_rank_text", "text", "text")),
        True,
    ),
    ("Matching against other pairs", "", (("auc", "AUC", "cross"), ("overlap", "overlap", "plum")), True),
)


def learning(run: RecordedRun) -> str:
    """Draw loss, rate, scale, gradients and speed over the steps."""
    if not run.lines:
        return section("Learning", "", gap("metrics.jsonl holds no line: no step was logged."))
    charts = [_losses(run), _line(run, "Learning rate", "learning_rate", zero=True)]
    charts.append(_line(run, "Logit scale", "scale", unit="inverse temperature"))
    if any(value for _, value in run.curve("bias")):
        charts.append(_line(run, "Logit bias", "bias"))
    norms = [("image", "image"), ("text", "text")]
    series = [Series(side, run.curve(f"gradient_norm/{side}"), color, is_noisy=True) for side, color in norms]
    charts.append(
        line_chart("Gradient norm", [line for line in series if line.points], unit="by tower", allow_log=True)
    )
    speed = Series("", run.curve("samples_per_second"), is_noisy=True)
    charts.append(line_chart("Speed", [speed], unit="pairs per second", zero=True))
    charts.append(_waits(run))
    wide = window(min(240, len(run.lines)))
    note = f"{count(len(run.lines))} logged lines. "
    note += f"Faint: as logged; solid: running median of {wide}." if wide > 1 else "As logged, not smoothed."
    note += _waiting(run) + _memory(run)
    return section("Learning", note, f'<div class="grid">{"".join(charts)}</div>')


def _waits(run: RecordedRun) -> str:
    """Draw what went into waiting for data, and what else a device had nothing to do for."""
    idle = run.curve("device_idle")
    data = Series("for data" if idle else "", run.curve("data_wait"), "amber", is_noisy=True)
    all_of_it = [Series("device idle", idle, is_noisy=True)] if idle else []
    return line_chart("Waiting for data", [data, *all_of_it], unit="share of time", zero=True, is_share=True)


def _waiting(run: RecordedRun) -> str:
    """Say what the run waited for, from medians of all its lines."""
    needed, more = ("samples_per_second", "data_wait", "decode_rate"), ("device_idle", "work_ahead")
    middles = {name: middle for name in (*needed, *more) if (middle := run.middle(name)) is not None}
    wanted = run.settings.get("data", {}).get("workers", 0)
    workers = run.last("workers")  # how many there were, which runs did not log before they could be `auto`
    said = diagnose(middles, wanted if workers is None else round(workers)) if middles.keys() >= set(needed) else ""
    return f" The run is {said}." if said else ""


def _memory(run: RecordedRun) -> str:
    """Say what takes the memory of a device, where lines tell it."""
    parts = [(part, memory_of(run, part)) for part in (*PARTS, PASSING)]
    said = [f"{number(value)} {part}" for part, value in parts if value]
    return f" Memory of a process in GB: {', '.join(said)}." if said else ""


def _losses(run: RecordedRun) -> str:
    labels = sorted({key for line in run.lines for key in line if key.startswith("loss/")})
    total = Series("total", run.curve("loss"), "ink", is_noisy=True)
    if len(labels) <= 1:
        term = labels[0].removeprefix("loss/") if labels else ""
        alone = Series("", total.points, "ink", is_noisy=True)
        return line_chart("Loss", [alone], unit=term, allow_log=True)
    terms = [
        Series(label.removeprefix("loss/"), run.curve(label), TERM_COLORS[1 + place % 5], is_noisy=True)
        for place, label in enumerate(labels)
    ]
    return line_chart("Loss", [total, *terms], unit="by term, unweighted", allow_log=True)


def _line(run: RecordedRun, title: str, key: str, *, unit: str = "", zero: bool = False) -> str:
    return line_chart(title, [Series("", run.curve(key))], unit=unit, zero=zero)


def evaluation(run: RecordedRun) -> str:
    """Tabulate every metric with its interval, and draw what the records allow."""
    title, newest = "Evaluation", run.newest()
    scored = {task: record for task, record in newest.items() if record.get("evaluator") != "geometry"}
    scored = dict(sorted(scored.items(), key=lambda item: (item[1].get("evaluator") != "zero_shot", item[0])))
    if not scored:
        return section(title, "", gap("No evaluation was recorded: set evaluation.tasks, or run `vlp eval`."))
    failed = "".join(gap(f"{task} failed: {r['error']}") for task, r in scored.items() if "error" in r)
    records = {task: run.measured(task) for task in scored}
    latest = [found[-1] for found in records.values() if found]
    charts = []
    for task, found in records.items():
        if found:
            charts.append(charts_of(task, found))
    note = "Point and 95&nbsp;% interval of the newest weights; an orange tick marks chance where the counts tell it."
    body = forest_table(latest) + f'<div class="grid">{"".join(charts)}</div>' if latest else ""
    return section(title, note if latest else "", failed + body + _alone(latest, records))


def _alone(latest: Sequence[Record], records: Mapping[str, Sequence[Record]]) -> str:
    """Say why there are no curves."""
    is_alone = bool(latest) and all(len(found) <= 1 for found in records.values())
    return gap("One evaluation so far: curves over the steps need two.") if is_alone else ""


def charts_of(task: str, records: Sequence[Record]) -> str:
    """Draw what the records of a task tell beyond the table: over the steps, and beneath the newest numbers."""
    last = records[-1]
    details, kind = last.get("details", {}), last["evaluator"]
    if kind == "zero_shot":
        beneath = confusion_chart(last) if can_show_confusion(details) else recall_chart(last)
        return over_time(task, "accuracy", records, ACCURACY) + class_chart(last) + beneath
    if kind == "retrieval":
        curves = over_time(task, "recall at 5", records, RECALL) + over_time(task, "median rank", records, RANK)
        return curves + recall_chart(last)
    name = str(last["main_metric"])
    return over_time(task, metric_name(name), records, ((name, "", "ink"),))


def over_time(task: str, said: str, records: Sequence[Record], wanted: Wanted) -> str:
    """Draw metrics over the steps with their intervals; the main metric where the wanted ones were not measured.

    Args:
        said: What the wanted metrics are called together.
    """
    if len(records) == 1:
        return ""
    if not _series(records, wanted):
        main = str(records[-1]["main_metric"])
        wanted, said = ((main, "", "ink"),), metric_name(main)
    is_percent = all(is_share(name) for name, _, _ in wanted)
    series = _series(records, wanted)
    return line_chart(f"{task}: {said}", series, is_share=is_percent, zero=is_percent, allow_log=not is_percent)


def _series(records: Sequence[Record], wanted: Wanted) -> list[Series]:
    return [
        Series(label, _values(records, name), color, band=_band(records, name))
        for name, label, color in wanted
        if _values(records, name)
    ]


def _values(records: Sequence[Record], name: str) -> list[Point]:
    return [(r["step"] or 0, r["metrics"][name]["value"]) for r in records if name in r["metrics"]]


def _band(records: Sequence[Record], name: str) -> list[tuple[float, float, float]]:
    found = [(record["step"] or 0, record["metrics"].get(name, {})) for record in records]
    return [(step, m["low"], m["high"]) for step, m in found if m.get("low") is not None and m.get("high") is not None]


def geometry(run: RecordedRun) -> str:
    """Draw the shape of the embedding space over the steps, and where scores lie."""
    title = "Geometry"
    tasks = [task for task, record in run.newest().items() if record.get("evaluator") == "geometry"]
    measured = [task for task in tasks if run.measured(task)]
    failed = "".join(
        gap(f"{task} failed: {run.newest()[task]['error']}") for task in tasks if "error" in run.newest()[task]
    )
    if not measured:
        return section(title, "", failed or gap("Not measured: add the task `geometry` to evaluation.tasks."))
    body = "".join(_geometry_of(run.measured(task), task if len(measured) > 1 else "") for task in measured)
    note = "The two modalities on the unit sphere: how far apart, how evenly spread, how well told apart."
    return section(title, note, failed + body)


def _geometry_of(records: list[Record], name: str) -> str:
    heading = f"<h3>{text(name)}</h3>" if name else ""
    histograms = [record for record in records if "histogram" in record.get("details", {})]
    charts = ""
    if histograms:
        charts += histogram_chart(histograms[-1])
        charts += ridge_chart(histograms) if len(histograms) > 1 else ""
    for title, unit, wanted, zero in GEOMETRY if len(records) > 1 else ():
        series = _series(records, wanted)
        if series:
            charts += line_chart(title, series, unit=unit, zero=zero, is_share=is_share(wanted[0][0]))
    return f'{heading}<div class="grid">{charts}</div>{metric_table(records[-1])}'
