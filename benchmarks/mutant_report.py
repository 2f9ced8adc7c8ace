"""From results of mutants to a page: how many were noticed, and why the others were not."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import listed, markdown, percent, slug
from vlp.ground.provenance import commit, machine, versions
from vlp.ground.yaml import read_yaml

EXPLAINED = Path(__file__).with_name("mutants.yaml")
KILLED, SURVIVED, HUNG, UNCLEAR = "killed", "survived", "hung", "unclear"
UNEXPLAINED = "**a test is missing**"
ABOUT = """A mutant is a copy of the project with one small fault. It is killed where a test that belongs to its file
fails, and counts as noticed where these tests hang; it is unclear where that test fails without the fault too. Mutants
are drawn at random from all that a room has."""


@dataclass(frozen=True)
class Result:
    """What came of one mutant.

    Args:
        outcome: `killed` where a test failed, `hung` where the tests took too long, `survived` where all passed,
            `unclear` where the test that failed does so without the fault.
        noticed_by: The first test that failed.
        source: Checksum of the file without the fault.
        tests: Checksum of the tests.
    """

    path: str
    name: str
    operator: str
    outcome: str
    noticed_by: str
    source: str
    tests: str


def reasons() -> dict[tuple[str, str], str]:
    """Return why known survivors may survive, by file and name."""
    every = read_yaml(EXPLAINED)
    return {(path, name): reason for path, entries in every.items() for name, reason in entries.items()}


def write_report(
    folder: Path,
    command: str,
    possible: Mapping[str, int],
    drawn: Mapping[str, int],
    found: Mapping[str, Sequence[Result]],
) -> tuple[Path, int]:
    """Write a page and all results as JSON; return the page, and how many survivors have no explanation.

    Args:
        possible: Number of all mutants of each room.
        drawn: Number of those that were drawn.
        found: Results of those that have run.
    """
    known = reasons()
    about = {
        "command": command,
        "commit": commit(),
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions(),
        "possible": dict(possible),
        "drawn": dict(drawn),
    }
    stem = f"mutants_{slug(about['machine'])}_{about['date']}"
    folder.mkdir(parents=True, exist_ok=True)
    record = {**about, "results": {room: [asdict(result) for result in results] for room, results in found.items()}}
    (folder / f"{stem}.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    page = folder / f"{stem}.md"
    page.write_text(report_page(about, found, known), encoding="utf-8")
    survivors = [result for results in found.values() for result in results if result.outcome == SURVIVED]
    return page, sum((result.path, result.name) not in known for result in survivors)


def report_page(
    about: Mapping[str, Any], found: Mapping[str, Sequence[Result]], known: Mapping[tuple[str, str], str]
) -> str:
    """Return the page."""
    head = ["room", "possible", "drawn", "run", KILLED, HUNG, UNCLEAR, SURVIVED, "explained", "noticed, or explained"]
    table = [head]
    for room, results in found.items():
        explained = sum(result.outcome == SURVIVED and (result.path, result.name) in known for result in results)
        outcomes = (KILLED, HUNG, UNCLEAR, SURVIVED)
        killed, hung, *others = (sum(result.outcome == outcome for result in results) for outcome in outcomes)
        counts = [about["possible"][room], about["drawn"][room], len(results), killed, hung, *others, explained]
        share = percent((killed + hung + explained) / len(results)) if results else ""
        table.append([room, *(f"{count:,}" for count in counts), share])
    survived = [["file", "fault", "why no test notices"]] + [
        [f"`{result.path}`", f"`{result.name}`", known.get((result.path, result.name), UNEXPLAINED)]
        for results in found.values()
        for result in results
        if result.outcome == SURVIVED
    ]
    return (
        "\n\n".join(
            [
                f"# Mutants on {about['machine']}, {about['date']}",
                f"Commit `{about['commit']}`. Again: `{about['command']}`",
                ABOUT,
                markdown(table),
                "## Survivors",
                markdown(survived),
                "## Versions",
                listed(about["versions"]),
            ]
        )
        + "\n"
    )
