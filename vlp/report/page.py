"""The page: a head with the numbers to quote, then the sections."""

from __future__ import annotations

from typing import Any

from vlp.html import hover_script
from vlp.html.frame import big_number, big_share, document, head
from vlp.html.words import (
    DOT,
    TIMES,
    count,
    duration,
    interval,
    is_share,
    metric_name,
    number,
    percent,
    quantity,
    short,
    text,
)
from vlp.plan.saved_plan import SavedPlan
from vlp.report import appendix, sections
from vlp.report.charts import spark
from vlp.report.forest import chance
from vlp.report.gained_and_kept import gained_and_kept, reason_to_stop
from vlp.report.gallery import Gallery
from vlp.report.planned import planned
from vlp.report.reading import Record, RecordedRun
from vlp.report.robustness import robustness

ORDER = ("zero_shot", "retrieval")
SHOWN_TASKS = 4


def page(run: RecordedRun, gallery: Gallery | str, plan: SavedPlan | None = None) -> str:
    """Return the whole HTML page; loads nothing from anywhere.

    Args:
        gallery: Retrievals, or why there are none.
        plan: What was expected of the run, if somebody asked.
    """
    parts = [
        _head(run),
        sections.learning(run),
        "" if plan is None else planned(run, plan),
        gained_and_kept(run),
        sections.evaluation(run),
        robustness(run.folder),
        sections.geometry(run),
        appendix.retrievals(gallery),
        appendix.data(run),
        appendix.recipe(run),
    ]
    footer = (
        f"vlp {text(run.provenance.get('versions', {}).get('vlp', ''))}",
        f"<code>vlp report {text(run.folder.name)}</code>",
        "this page loads nothing and keeps full precision in its <code>data</code> elements",
    )
    return document(run.name, "vlp report", "".join(parts), footer, script=hover_script())


def _head(run: RecordedRun) -> str:
    """Return name, state, key numbers and facts."""
    over = (
        f"<span>Pretraining report</span><span>{text(run.date)}</span>",
        f"<span>commit <code>{text(run.provenance.get('commit', 'unknown'))}</code></span>",
        f"<span>seed {text(run.settings.get('seed', ''))}</span>{_state(run)}",
    )
    return head(over, run.name, _lede(run), _figures(run) + _facts(run))


def _state(run: RecordedRun) -> str:
    if run.num_steps is None:
        return f'<span class="state">step {number(run.step)}</span>'
    if run.step >= run.num_steps:
        return '<span class="state done">finished</span>'
    if reason := reason_to_stop(run):
        steps = f"step {number(run.step)} of {number(run.num_steps)}"
        return f'<span class="state done">stopped early: {steps}; {text(reason)}</span>'
    return f'<span class="state open">unfinished: step {number(run.step)} of {number(run.num_steps)}</span>'


def _lede(run: RecordedRun) -> str:
    """Say in a sentence what was trained on what."""
    model, data = run.settings.get("model", {}), run.settings.get("data", {})
    sources = _listed(list(data.get("train", {})))
    terms = _listed([_term(label, entry) for label, entry in run.settings.get("objective", {}).items()])
    return (
        f"An image tower <b>{tower_words(model.get('image', {}))}</b> and a text tower "
        f"<b>{tower_words(model.get('text', {}))}</b>, trained together on <b>{text(sources)}</b> "
        f"with <b>{text(terms)}</b>."
    )


def _term(label: str, entry: dict[str, Any]) -> str:
    name = label if entry.get("type", label) == label else f"{label} ({entry['type']})"
    weight = entry.get("weight", 1.0)
    return name if weight == 1.0 or isinstance(weight, dict) else f"{number(weight)}{TIMES}{name}"


def _listed(words: list[str]) -> str:
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def tower_words(section: dict[str, Any]) -> str:
    """Describe a tower of the recipe in a few words."""
    parts = [str(section.get("name") or section.get("type", "unknown"))]
    if "layers" in section and "width" in section:
        parts.append(f"{section['layers']}{TIMES}{section['width']}")
    if section.get("patch_size"):
        parts.append(f"patch {section['patch_size']}")
    if section.get("image_size"):
        size = section["image_size"]
        parts.append(f"{TIMES.join(map(str, size)) if isinstance(size, list) else size} px")
    if section.get("context_length"):
        parts.append(f"{section['context_length']} tokens")
    return text(", ".join(parts))


def _figures(run: RecordedRun) -> str:
    """Show the main metric of up to four tasks in large figures."""
    newest = {task: found[-1] for task in run.evaluations if (found := run.measured(task))}
    scored = [record for record in newest.values() if record["evaluator"] != "geometry"]
    scored.sort(key=lambda record: ORDER.index(record["evaluator"]) if record["evaluator"] in ORDER else len(ORDER))
    shown = scored[:SHOWN_TASKS]
    if len(shown) < SHOWN_TASKS:
        shown += [record for record in newest.values() if record["evaluator"] == "geometry"][: SHOWN_TASKS - len(shown)]
    if shown:
        return f'<div class="figures">{"".join(_figure(run, record) for record in shown)}</div>'
    loss = run.last("loss")
    if loss is None:
        return ""
    return (
        f'<div class="figures"><div><p class="big"><data value="{loss!r}">{number(loss)}</data></p>'
        f'<p class="what">loss at the last logged step</p>{spark(run.curve("loss"))}</div></div>'
    )


def _figure(run: RecordedRun, record: Record) -> str:
    name = record["main_metric"]
    metric = record["metrics"][name]
    shown = quantity(name, metric["value"])
    if is_share(name):
        shown = big_share(metric["value"])
    said = [interval(name, metric)] if interval(name, metric) else []
    guess = chance(record, name)
    if guess is not None:
        said.append(f"chance {percent(guess)}")
    points = [
        (r["step"] or 0, r["metrics"][name]["value"]) for r in run.measured(record["task"]) if name in r["metrics"]
    ]
    value = f'<data value="{metric["value"]!r}">{shown}</data>'
    return big_number(record["task"], metric_name(name), value, f" {DOT} ".join(said) or "&nbsp;", spark(points))


def _facts(run: RecordedRun) -> str:
    """List the size of the run."""
    facts: list[tuple[str, str, str]] = []
    train, parameters = run.settings.get("train", {}), run.num_parameters
    if parameters:
        aside = f"{short(parameters['image'])} image, {short(parameters['text'])} text"
        facts.append(("parameters", count(parameters["all"]), aside))
    samples, epoch = run.last("samples"), run.last("epoch")
    if samples is not None:
        facts.append(("pairs seen", count(samples), f"{number(epoch)} passes" if epoch is not None else ""))
    length = f"{TIMES} {number(train['batch_size'])} pairs" if "batch_size" in train else ""
    facts.append(("steps", number(run.step), length))
    if run.lines:
        middle = run.middle("samples_per_second")
        speed = "" if middle is None else f"{number(middle)} pairs/s (median)"
        facts.append(("time", duration(run.lines[-1]["seconds"]), speed))
    for key, name in (("loss", "last loss"), ("scale", "logit scale")):
        value = run.last(key)
        if value is not None:
            facts.append((name, f'<data value="{value!r}">{number(value)}</data>', ""))
    skipped, bad = run.last("skipped_steps"), run.last("bad_samples")
    if skipped is not None and bad is not None:
        facts.append(("skipped steps", number(skipped), f"{number(bad)} bad samples"))
    graphs = run.last("compiled_graphs")
    compiled = "" if graphs is None else f"{number(graphs)} compiled graphs"
    facts.append(("precision", text(train.get("precision", "unknown")), compiled))
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}<span>{aside}</span></dd></div>" for name, value, aside in facts)
    return f'<dl class="facts">{cells}</dl>'
