"""From the results of all phases to a page, and to a short table for the terminal."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.cases import BAD, MISSED, PASSED, SKIPPED
from benchmarks.tables import Table, listed, markdown, percent, slug

Rows = Sequence[Mapping[str, Any]]
WIDTHS = (46, 44, 64)

NOTES = """\
Each phase is a process of its own with a limit of time, and each case ends alone when it crashes or hangs. Expectations
are estimates for an H100, made from counted operations before anything ran on one; `missed` is worse than expected but
right. Failed, crashed, cut and not reached are faults. The share is that of what the hardware allows: of the bandwidth
or the products that such a card is known to reach in phase A, of the time that the matrix products of a step or a loss
would take at that speed in C and E, of the pairs per second without reading in G."""
TOY_NOTES = """\
This run was on a CPU: sizes are those of toys, speeds mean nothing, and what needs CUDA was skipped. It shows that the
check itself works."""


def write_report(folder: Path, about: Mapping[str, Any], phases: Mapping[str, str], rows: Rows) -> Path:
    """Write the page and, beside it, all numbers as JSON; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"gpu_{slug(about['machine'])}_{about['date']}.md"
    page.write_text(page_text(about, phases, rows), encoding="utf-8")
    record = {**about, "phases": dict(phases), "rows": list(rows)}
    page.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return page


def page_text(about: Mapping[str, Any], phases: Mapping[str, str], rows: Rows) -> str:
    """Return the report."""
    sections = [
        f"# GPU check on {about['machine']}, {about['date']}",
        f"Commit `{about['commit']}`. {verdict(rows)}",
        f"Again: `{about['command']}`",
        TOY_NOTES if about["device"] == "cpu" else NOTES,
    ]
    for letter, title in phases.items():
        own = [row for row in rows if row["phase"] == letter]
        if own:
            sections += [f"## {letter}: {title}", markdown(table(own))]
        said = [f"- {row['case']}: {note}" for row in own for note in row["notes"]]
        sections += ["\n".join(said)] if said else []
    return "\n\n".join([*sections, "## Versions", listed(about["versions"])]) + "\n"


def table(rows: Rows) -> Table:
    """Return one line per case."""
    lines = [["case", "expected", "measured", "of the floor", "verdict"]]
    for row in rows:
        status = row["status"] if row["status"] in (PASSED, SKIPPED) else f"**{row['status']}**"
        lines.append([row["case"], row["expected"], row["measured"], _share(row), status])
    return lines


def short_table(rows: Rows, counted: Sequence[str]) -> str:
    """Return what a terminal shows last.

    Args:
        counted: Phases with so many cases that those which passed are only counted.
    """
    lines = []
    for row in rows:
        if row["phase"] in counted and row["status"] == PASSED:
            continue
        texts = (row["case"], row["expected"], row["measured"])
        cells = [text[:width].ljust(width) for text, width in zip(texts, WIDTHS, strict=True)]
        lines.append(f"{row['phase']}  {row['status']:11s} {' '.join(cells)} {_share(row):>8s}")
    for letter in counted:
        number = sum(row["phase"] == letter and row["status"] == PASSED for row in rows)
        lines += [f"{letter}  {PASSED:11s} {number} more cases"] if number else []
    return "\n".join(lines)


def verdict(rows: Rows) -> str:
    """Return how many cases ended how."""
    counts = Counter(row["status"] for row in rows)
    words = ", ".join(f"{number} {status}" for status, number in counts.items())
    return f"{len(rows)} cases: {words}." if rows else "No case."


def has_failed(rows: Rows) -> bool:
    """Whether anything is wrong; to be slower than expected is not."""
    return not rows or any(row["status"] in BAD for row in rows)


def missed(rows: Rows) -> int:
    """Return how many cases are worse than expected."""
    return sum(row["status"] == MISSED for row in rows)


def _share(row: Mapping[str, Any]) -> str:
    return "" if row["share"] is None else percent(row["share"])
