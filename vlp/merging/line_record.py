"""What was found on a line: the record, the card, the export, and the lines on a screen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlp.evaluators.comparison.differences import Comparison, compare
from vlp.evaluators.comparison.score_folders import Contestant, read_run
from vlp.evaluators.comparison.side_by_side import as_json, as_markdown, as_text
from vlp.evaluators.record import Record
from vlp.export import ExportReport, export_model
from vlp.ground.files import write_text
from vlp.ground.provenance import commit, versions
from vlp.ground.tabular import aligned, markdown
from vlp.merging.chosen_point import Point, rule_in_words
from vlp.merging.contributors import Contributor, data_of, origins_of
from vlp.run.folder import INTERPOLATION
from vlp.towers.dual import DualEncoder

MODEL = "model"
HOW = (
    "The point {share:g} of the way from the weights of a start to those of an end (WiSE-FT, Wortsman et al. 2022, "
    "arXiv:2109.01903). It was chosen for {rule}, on one half of the samples of each task (own: {own}; kept: {kept}). "
    "The scores under Results are those of the other half, which no choice has seen."
)


@dataclass(frozen=True)
class LineReport:
    """What was written, and why this point.

    Args:
        points: A row for each point under a heading, on the choosing half.
        rule: What it was chosen for, and the tasks of which.
        comparison: Start, the chosen point and end, on the reporting half.
    """

    points: Sequence[Sequence[str]]
    rule: str
    comparison: Comparison
    export: ExportReport
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = ["on the choosing half:", *aligned(self.points, right=range(4)), f"chosen: {self.rule}", ""]
        parts += ["on the reporting half, which has chosen nothing:", as_text(self.comparison), ""]
        return "\n".join([*parts, *self.notes, str(self.export)])


def write_line(
    model: DualEncoder,
    to: Path,
    *,
    ends: tuple[Contributor, Contributor],
    points: Sequence[Point],
    best: Point,
    most_lost: float | None,
    reported: Mapping[float, Sequence[Record]],
    folders: Mapping[float, Path],
    run: Path | None,
    notes: Sequence[str],
) -> LineReport:
    """Write the export and the record, of which the run that the end belongs to gets a copy for its report.

    Args:
        model: With the weights of the best point.
        reported: Records on the reporting half by share: of the start, the best point and the end.
        folders: Where these records are.
        notes: What a reader should know of such models.
    """
    rule, rows = rule_in_words(most_lost), _rows(points, best)
    comparison = _compare(folders, best)
    record = _record(ends, points, best, rule, reported, comparison)
    made = [
        HOW.format(share=best.share, rule=rule, own=_names(best.own), kept=_names(best.kept)),
        markdown([("share", "model", "SHA-256 of its weights"), *_contributors(ends, best.share)], right=(0,)),
        "On the choosing half:",
        markdown(rows, right=range(4)),
        "On the reporting half:",
        as_markdown(comparison),
        *notes,
    ]
    report = export_model(
        model,
        to / MODEL,
        name=to.name,
        recipe_text="",
        results=reported[best.share],
        data_note=data_of(ends),
        origins=origins_of(ends),
        further={"Between two models": "\n\n".join(made)},
        files={INTERPOLATION: record},
    )
    for place in (to, run):
        if place is not None:
            write_text(place / INTERPOLATION, json.dumps(record, indent=2, allow_nan=False) + "\n")
    told = f"{rule} (own: {_names(best.own)}; kept: {_names(best.kept)})"
    return LineReport(rows, told, comparison, report, tuple(notes))


def _names(records: Sequence[Record]) -> str:
    return ", ".join(record["task"] for record in records)


def _compare(folders: Mapping[float, Path], best: Point) -> Comparison:
    """Compare start, the chosen point and end, which may be two of the three."""
    names = {best.share: f"share {best.share:g}, chosen", 0.0: "start", 1.0: "end"}
    models = [Contestant(names[share], (read_run(folders[share]),)) for share in sorted(folders)]
    return compare(models, [record["task"] for record in (*best.own, *best.kept)])


def _rows(points: Sequence[Point], best: Point) -> list[tuple[str, ...]]:
    rows = [
        (
            f"{point.share:g}",
            f"{point.own_score:.4f}",
            f"{point.kept_score:.4f}",
            f"{point.mean:.4f}",
            _mark(point, best),
        )
        for point in points
    ]
    return [("share of the end", "own", "kept", "mean", ""), *rows]


def _mark(point: Point, best: Point) -> str:
    return "chosen" if point.share == best.share else ""


def _contributors(ends: tuple[Contributor, Contributor], share: float) -> list[tuple[str, str, str]]:
    start, end = ends
    return [(f"{1 - share:.4g}", start.name, start.sha256), (f"{share:.4g}", end.name, end.sha256)]


def _record(
    ends: tuple[Contributor, Contributor],
    points: Sequence[Point],
    best: Point,
    rule: str,
    reported: Mapping[float, Sequence[Record]],
    comparison: Comparison,
) -> dict[str, Any]:
    start, end = ends
    return {
        "start": {"model": start.name, "sha256": start.sha256},
        "end": {"model": end.name, "sha256": end.sha256},
        "own": [record["task"] for record in best.own],
        "kept": [record["task"] for record in best.kept],
        "rule": rule,
        "share": best.share,
        "points": [
            {
                "share": point.share,
                "own": point.own_score,
                "kept": point.kept_score,
                "scores": _scores([*point.own, *point.kept]),
            }
            for point in points
        ],
        "reported": [{"share": share, "scores": _scores(records)} for share, records in sorted(reported.items())],
        "comparison": {key: value for key, value in json.loads(as_json(comparison)).items() if key != "models"},
        "versions": versions(),
        "commit": commit(),
    }


def _scores(records: Sequence[Record]) -> dict[str, Any]:
    """Return the main metric of each task with its interval."""
    return {
        record["task"]: {"metric": record["main_metric"], **record["metrics"][record["main_metric"]]}
        for record in records
    }
