"""What came of the faults, as a page and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.dated_report import write_page
from benchmarks.file_events import MODES
from benchmarks.tables import markdown


def write_report(folder: Path, command: str, outcomes: Sequence[Any]) -> Path:
    """Write what was found; return the page."""
    broken = [one for one in outcomes if one.problems]
    modes = [mode for mode in MODES if any(one.mode == mode for one in outcomes)]
    tried = Counter((one.scene, one.ranks, one.mode) for one in outcomes)
    failed = Counter((one.scene, one.ranks, one.mode) for one in broken)
    table = [["part of a run's life", "processes", *modes]]
    for scene, ranks in sorted({(one.scene, one.ranks) for one in outcomes}):
        counts = [(failed[scene, ranks, mode], tried[scene, ranks, mode]) for mode in modes]
        table.append([scene, str(ranks), *(f"{bad} / {total:,}" if total else "" for bad, total in counts)])
    sections = [
        f"{len(outcomes):,} file events of trainings went wrong, each in a training of its own that was resumed and "
        f"compared with an undisturbed one; {len(broken):,} broke a promise. Each cell: broken / tried.",
        markdown(table),
        "\n".join(f"- `{mode}`: {MODES[mode]}" for mode in modes),
    ]
    if broken:
        listing = [
            f"- {one.scene}, {one.ranks} processes, `{one.mode}` at {one.event.kind} of `{one.event.path}`: "
            + "; ".join(one.problems)
            for one in broken
        ]
        sections += ["## Broken", "\n".join(listing)]
    found = [{name: value for name, value in asdict(one).items() if name not in ("said", "commit")} for one in outcomes]
    return write_page(folder, "chaos", "Faults at file events", command, sections, found)
