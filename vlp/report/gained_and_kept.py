"""What a run that started from weights has gained, and what it has kept: a table with tests, and the way there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from pydantic import ValidationError

from vlp.evaluators.comparison.differences import LEVEL, Comparison, PairRow, compare
from vlp.evaluators.comparison.score_folders import Contestant, ScoredRun
from vlp.evaluators.comparison.task_scores import sign_of
from vlp.evaluators.record import read_record
from vlp.ground.tabular import interval
from vlp.ground.types import RecipeError
from vlp.html.frame import gap, section
from vlp.html.words import MINUS, metric_name, text
from vlp.recipe.scoring_and_saving import EvaluationSection
from vlp.report.path_chart import Path, Waypoint, path_chart
from vlp.report.reading import Record, RecordedRun
from vlp.run.folder import INTERPOLATION, evaluations_of
from vlp.run.score_history import ScoreHistory, kept_tasks, own_tasks

TITLE = "Gained and kept"
Scores = Mapping[str, Record]


def gained_and_kept(run: RecordedRun) -> str:
    """Compare the start with the end, and draw own score over kept score; nothing for a run without scored start."""
    steps = _by_step(run)
    line = read_record(run.folder / INTERPOLATION)
    if (0 not in steps or len(steps) < 2) and line is None:
        return ""
    own, kept = _kinds(run, line)
    history = _history(run, steps)
    parts, notes = [], []
    if 0 in steps and len(steps) > 1:
        best = history.best_step() if history else None
        last = best or max(steps)
        notes.append(f"Before the first step, and after step {last}{', the best one' if best else ''}.")
        parts.append(_table(run, steps, last, own, kept))
    drawn = _paths(steps, line, own, kept, history)
    if drawn:
        parts.append(
            f'<div class="grid">{path_chart("Own score over kept score", "means over tasks, in %", drawn)}</div>'
        )
        notes.append(f"Own: {text(', '.join(own))}; kept: {text(', '.join(kept))}.")
    elif not kept:
        parts.append(gap("evaluation.kept names no task: nothing to draw own scores over."))
    return section(TITLE, " ".join(notes), "".join(parts))


def reason_to_stop(run: RecordedRun) -> str:
    """Return which rule of `evaluation.stop_when` ended the run, in words; empty where none did."""
    history = _history(run, _by_step(run))
    return "" if history is None else history.verdict


def _by_step(run: RecordedRun) -> dict[int, dict[str, Record]]:
    """Return the records of the weights that the run evaluates, by step and task."""
    wanted = run.settings.get("evaluation", {}).get("weights", "model")
    found: dict[int, dict[str, Record]] = {}
    for records in run.evaluations.values():
        for record in records:
            if record.get("step") is not None and record.get("weights") == wanted and record.get("metrics"):
                found.setdefault(record["step"], {})[record["task"]] = record
    return found


def _section_of(run: RecordedRun) -> EvaluationSection | None:
    try:
        return EvaluationSection.model_validate(run.settings.get("evaluation", {}))
    except ValidationError:  # of a later version
        return None


def _history(run: RecordedRun, steps: Mapping[int, Scores]) -> ScoreHistory | None:
    evaluation = _section_of(run)
    if evaluation is None:
        return None
    history = ScoreHistory(evaluation)
    try:
        for step, records in sorted(steps.items()):
            history.add(step, list(records.values()))
    except RecipeError:  # a rule that names no metric has ended nothing
        return None
    return history


def _kinds(run: RecordedRun, line: Record | None) -> tuple[list[str], list[str]]:
    """Return own and kept tasks as the recipe has them, or else as they were when the line was scored."""
    evaluation = _section_of(run)
    kept = kept_tasks(evaluation) if evaluation else []
    if kept and evaluation:
        newest = run.newest()
        good = [task for task in own_tasks(evaluation) if task in newest and _is_good(newest[task])]
        return good, [task for task in kept if task in newest and _is_good(newest[task])]
    return (list(line["own"]), list(line["kept"])) if line else ([], [])


def _is_good(record: Record) -> bool:
    return "main_metric" in record and sign_of(record["evaluator"], record["main_metric"]) > 0


# ---------------------------------------- the table
def _table(run: RecordedRun, steps: Mapping[int, Scores], last: int, own: Sequence[str], kept: Sequence[str]) -> str:
    contestants = [
        Contestant(name, (ScoredRun(evaluations_of(run.folder, step), dict(steps[step])),))
        for name, step in (("before", 0), ("after", last))
    ]
    try:
        comparison = compare(contestants)
    except RecipeError as error:
        return gap(str(error))
    kinds = dict.fromkeys(kept, "kept") | dict.fromkeys(own, "own")
    rows = sorted(comparison.rows, key=lambda row: ("own", "kept", "").index(kinds.get(row.task, "")))
    body = "".join(_row(row, kinds.get(row.task, "")) for row in rows)
    head = "<th>task</th><th></th><th>metric</th>" + "".join(
        f'<th class="n">{title}</th>' for title in ("before", "after", "difference", "95&nbsp;% interval", "p")
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}<th>verdict</th></tr></thead><tbody>{body}</tbody></table></div>'
        f"{_refusals(comparison)}"
    )


def _row(row: PairRow, kind: str) -> str:
    found = row.difference
    values = "".join(f'<td class="n"><data value="{value!r}">{value:.4f}</data></td>' for value in row.values)
    spread = "" if found is None else interval(found.low, found.high, "+").replace("-", MINUS)
    change = f"{row.values[1] - row.values[0]:+.4f}".replace("-", MINUS)
    p = "" if row.corrected_p is None else "&lt;0.001" if row.corrected_p < 0.001 else f"{row.corrected_p:.3f}"
    return (
        f"<tr><td>{text(row.task)}</td><td>{kind}</td><td>{text(metric_name(row.metric))}</td>{values}"
        f'<td class="n">{change}</td><td class="n quiet">{spread}</td>'
        f'<td class="n">{p}</td><td>{_verdict(row)}</td></tr>'
    )


def _verdict(row: PairRow) -> str:
    if row.better is None:
        return "different" if row.is_distinguishable else "no more than chance" if row.difference else "no interval"
    return "gained" if row.better == 1 else "lost"


def _refusals(comparison: Comparison) -> str:
    note = (
        f"Tests of the same samples; p is corrected for {comparison.num_compared} comparisons (Holm), and a verdict "
        f"needs at most {LEVEL}."
    )
    refused = "".join(gap(f"{task}: not compared, {reason}") for task, reason in comparison.refused.items())
    return f'<p class="plain">{note}</p>{refused}'


# ---------------------------------------- the chart
def _paths(
    steps: Mapping[int, Scores],
    line: Record | None,
    own: Sequence[str],
    kept: Sequence[str],
    history: ScoreHistory | None,
) -> list[Path]:
    if not own or not kept:
        return []
    paths, tasks = [], (*own, *kept)
    whole = {step: found for step, found in sorted(steps.items()) if all(task in found for task in tasks)}
    if len(whole) > 1:
        best = history.best_step() if history else None
        ends = {min(whole), max(whole), best}
        points = [
            Waypoint(_mean(found, kept), _mean(found, own), f"step {step}", step in ends, step == best)
            for step, found in whole.items()
        ]
        paths.append(Path("the run, step by step", "ink", points))
    if line is not None:
        paths.append(
            Path(
                "between its start and its end, on half of the samples",
                "plum",
                [_waypoint(point, line) for point in line["points"]],
            )
        )
    return paths


def _mean(found: Scores, tasks: Sequence[str]) -> float:
    return fmean(found[task]["metrics"][found[task]["main_metric"]]["value"] for task in tasks)


def _waypoint(point: Mapping[str, Any], line: Record) -> Waypoint:
    is_chosen = point["share"] == line["share"]
    return Waypoint(point["kept"], point["own"], f"share {point['share']:g}", is_chosen, is_chosen)
