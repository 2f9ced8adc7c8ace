"""What came of the kills, as a page and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.dated_report import write_page
from benchmarks.tables import markdown

SHARDED = "kills-sharded"  # a report of its own


def write_report(folder: Path, command: str, lives: Sequence[Any]) -> Path:
    """Write what was done; return the page."""
    broken = [life for life in lives if life.problems]
    kills = [(f"{life.ranks}{', sharded' * life.sharded}", kill) for life in lives for kill in life.kills]
    targets = sorted({kill.target for _, kill in kills})
    count = Counter((ranks, kill.signal, kill.target) for ranks, kill in kills)
    table = [["signal", "processes", *(f"to {target}" for target in targets)]]
    for ranks, name in sorted({(ranks, kill.signal) for ranks, kill in kills}):
        table.append([name, ranks, *(str(count[ranks, name, target] or "") for target in targets)])
    inside = sum("checkpoints" in kill.hit for _, kill in kills)
    asleep = sum(kill.steps == 0 for _, kill in kills)
    sections = [
        f"{len(kills):,} kills in {len(lives):,} lives of a run, each followed by a resume; {len(broken):,} lives "
        f"broke a promise. {inside:,} kills came within milliseconds of a file event inside a save, {asleep:,} before "
        "the first step of a start.",
        markdown(table),
    ]
    if broken:
        listing = [
            f"- life {life.number}, {life.ranks} processes{', sharded' * life.sharded}, {life.workers} decoding: "
            + "; ".join(life.problems)
            for life in broken
        ]
        sections += ["## Broken", "\n".join(listing)]
    found = [{name: value for name, value in asdict(life).items() if name not in ("said", "commit")} for life in lives]
    if all(life.sharded for life in lives):
        return write_page(folder, SHARDED, "Kills of sharded trainings", command, sections, found)
    return write_page(folder, "kills", "Kills", command, sections, found)
