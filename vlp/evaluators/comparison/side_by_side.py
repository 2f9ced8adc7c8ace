"""A comparison on paper: aligned text, Markdown, CSV and strict JSON."""

from __future__ import annotations

import csv
import io
from dataclasses import fields
from string import ascii_uppercase
from typing import Any

from vlp.evaluators.comparison.bootstrap import NUM_RESAMPLES, Difference
from vlp.evaluators.comparison.differences import LEVEL, Comparison, PairRow
from vlp.evaluators.record import Record, to_json
from vlp.ground.tabular import aligned, interval, markdown

NUM_LEFT = 2  # columns of words; numbers follow, the verdict stands last


def as_text(comparison: Comparison) -> str:
    """Return aligned columns for a terminal, what the letters stand for above and what to know below."""
    lines = aligned(_cells(comparison), right=_numbers(comparison))
    return "\n".join([*_legend(comparison), "", *lines, "", *_notes(comparison)])


def as_markdown(comparison: Comparison) -> str:
    """Return a Markdown table with the legend and the notes."""
    lines = markdown(_cells(comparison), right=_numbers(comparison))
    said = [f"- {note}" for note in (*_legend(comparison), *_notes(comparison))]
    return "\n".join([lines, "", *said]).replace("~", "\\~")


def as_csv(comparison: Comparison) -> str:
    """Return one line per comparison with full precision; notes are left to the other forms."""
    file = io.StringIO()
    rows = [_plain(row, comparison) for row in comparison.rows]
    writer = csv.DictWriter(file, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().rstrip("\n")


def as_json(comparison: Comparison) -> str:
    """Return strict JSON: models, comparisons, what was refused, and notes."""
    record: Record = {
        "models": {
            letter: {"name": model.name, "folders": [str(run.folder) for run in model.runs]}
            for letter, model in zip(_letters(comparison), comparison.models, strict=True)
        },
        "resamples": NUM_RESAMPLES,
        "level": LEVEL,
        "correction": f"Holm, {comparison.num_compared} comparisons",
        "rows": [_plain(row, comparison) for row in comparison.rows],
        "refused": comparison.refused,
        "notes": list(comparison.notes),
    }
    return to_json(record).rstrip("\n")


def _plain(row: PairRow, comparison: Comparison) -> dict[str, Any]:
    letters = _letters(comparison)
    names = [field.name for field in fields(Difference) if field.name != "value"]
    found = {name: getattr(row.difference, name, None) for name in names}
    return {
        "task": row.task,
        "metric": row.metric,
        "first": letters[row.pair[0]],
        "second": letters[row.pair[1]],
        "first_value": row.values[0],
        "second_value": row.values[1],
        "count": row.count,
        "difference": row.values[1] - row.values[0],
        **found,
        "corrected_p": row.corrected_p,
        "test": row.test,
        "distinguishable": row.is_distinguishable,
        "better": None if row.better is None else letters[row.better],
    }


def _cells(comparison: Comparison) -> list[list[str]]:
    letters = _letters(comparison)
    two = len(comparison.models) == 2
    heading = ["task", "metric", *(["A", "B"] if two else ["pair", "first", "second"]), "difference", "95 % interval"]
    cells = [[*heading, "P(better)", "p", "test", "verdict"]]
    for row in comparison.rows:
        found = row.difference
        pair = [] if two else [f"{letters[row.pair[0]]} {letters[row.pair[1]]}"]
        values = [f"{value:.4f}" for value in row.values]
        if found is None:
            numbers = [f"{row.values[1] - row.values[0]:+.4f}", "", "", ""]
        else:
            numbers = [
                f"{found.value:+.4f}",
                interval(found.low, found.high, "+"),
                f"{found.probability:.3f}",
                _p(row.corrected_p),
            ]
        cells.append([row.task, row.metric, *pair, *values, *numbers, row.test, _verdict(row, letters)])
    return cells


def _numbers(comparison: Comparison) -> range:
    """Return the columns between the words at the left and the verdict at the end."""
    return range(NUM_LEFT, len(_cells(comparison)[0]) - 1)


def _verdict(row: PairRow, letters: list[str]) -> str:
    if row.difference is None:
        return "? no interval"
    if not row.is_distinguishable:
        return "~ not distinguishable"
    return "different" if row.better is None else f"{letters[row.better]} is better"


def _p(value: float | None) -> str:
    return "" if value is None else "<0.001" if value < 0.001 else f"{value:.3f}"


def _letters(comparison: Comparison) -> list[str]:
    """A, B, ... Z, A2, B2, ..."""
    return [
        ascii_uppercase[place % 26] + (str(place // 26 + 1) if place >= 26 else "")
        for place in range(len(comparison.models))
    ]


def _legend(comparison: Comparison) -> list[str]:
    lines = []
    for letter, model in zip(_letters(comparison), comparison.models, strict=True):
        seeds = f" ({len(model.runs)} seeds)" if len(model.runs) > 1 else ""
        lines.append(f"{letter} = {model.name}{seeds}")
    return lines


def _notes(comparison: Comparison) -> list[str]:
    count = comparison.num_compared
    said = [
        f"difference: second minus first, with a 95 % interval of its own; P(better): that the higher one is higher; "
        f"p: corrected for {count} comparison{'s' * (count != 1)} (Holm); ~: p above {LEVEL}",
    ]
    sizes = [len(model.runs) for model in comparison.models]
    if max(sizes) == 1:
        said.append("one run of each model: the numbers speak of these weights, not of another training seed")
    elif min(sizes) == 1:
        letters = [each for each, size in zip(_letters(comparison), sizes, strict=True) if size == 1]
        said.append(f"one seed of {', '.join(letters)}: what another seed would change there is not in the intervals")
    said += comparison.notes
    return said + [f"{task}: NOT COMPARED, {reason}" for task, reason in comparison.refused.items()]
