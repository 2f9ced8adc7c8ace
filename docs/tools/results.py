"""The page of results, out of the JSON files beside the dated reports; nothing on it is typed by hand."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any

from benchmarks import loader_report, objective_report, quickstart_report, step_report
from benchmarks.objective_report import fraction, times
from benchmarks.tables import Table, markdown
from tests.house import ROOT
from vlp.ground import tabular

REPORTS = ROOT / "benchmarks" / "reports"
PREFACE = """\
Made by `make pages` from the JSON files beside the [reports](../benchmarks/README.md): the newest of each theme. Every
report names its machine, commit and versions, and the command that repeats it. Scores are cut and costs are rounded up,
so that nothing looks better than it is. What was tried and did not help is in the [log](log.md)."""
FAULTS = """\
How much a run survives. What marks turned out to be, and what was mended after them, is in the [log](log.md)."""
LOSSES = (("clip", "open_clip.ClipLoss"), ("siglip", "open_clip.SigLipLoss"))
SETS = {"A": "longest side 512", "B": "shortest side 256", "C": "longest side 1,024"}


@dataclass(frozen=True)
class Report:
    """A dated report.

    Args:
        path: Its page; the numbers lie beside.
    """

    path: Path
    theme: str
    found: dict[str, Any]

    @property
    def link(self) -> str:
        """Where it is, seen from `docs/`."""
        return f"../benchmarks/reports/{self.path.name}"

    @property
    def source(self) -> str:
        """A sentence that says where numbers come from, for a page in `docs/`."""
        return self.source_at(self.link)

    def source_at(self, link: str) -> str:
        """Return a sentence that says where numbers come from."""
        about = self.found
        return f"{about['machine']}, {about['date']}, commit `{about['commit']}`: [the report]({link})."


def read_reports(folder: Path = REPORTS) -> list[Report]:
    """Return all reports, newest first."""
    pages = (path for path in sorted(folder.glob("*.md")) if path.with_suffix(".json").is_file())
    found = [
        Report(path, path.stem.partition("_")[0], json.loads(path.with_suffix(".json").read_text(encoding="utf-8")))
        for path in pages
    ]
    return sorted(found, key=lambda report: report.found["date"], reverse=True)


def newest_of(reports: Sequence[Report]) -> dict[str, Report]:
    """Return the newest report of each theme."""
    return {report.theme: report for report in reversed(reports)}


def figures(reports: Sequence[Report], *, from_folder: str) -> dict[str, str]:
    """Return what a section shows of each theme first, and where it comes from.

    Args:
        from_folder: Where the reports lie, seen from the page that shows it.
    """
    newest = newest_of(reports)
    found = {}
    for theme, (_, section) in SECTIONS.items():
        if theme in newest:
            sentence, table, *_ = section(newest[theme].found)
            found[theme] = "\n\n".join(
                [sentence, table, newest[theme].source_at(f"{from_folder}/{newest[theme].path.name}")]
            )
    return found


def results_page(reports: Sequence[Report]) -> str:
    """Return the page."""
    newest = newest_of(reports)
    parts = ["# Results", PREFACE]
    for theme, (title, section) in SECTIONS.items():
        if theme in newest:
            parts += [f"## {title}", *section(newest[theme].found), newest[theme].source]
    held = [
        f"- {SENTENCES[theme](newest[theme].found)} {newest[theme].source}" for theme in SENTENCES if theme in newest
    ]
    parts += ["## Faults", FAULTS, "\n".join(held)]
    parts += [
        "## Targets that were missed",
        words(missed(newest.values())),
        "## All reports",
        words(listing(reports)),
    ]
    return "\n\n".join(parts) + "\n"


def _quickstart(found: dict[str, Any]) -> Iterator[str]:
    rows = [quickstart_report.Row(**row) for row in found["rows"]]
    by_trainer = {name: [row for row in rows if row.trainer == name] for name in quickstart_report.names(rows)}
    yield (
        f"`{found['recipe']}` from scratch, beside open_clip's own trainer with the same towers, pairs, batch size and "
        "schedule: means over seeds."
    )
    yield markdown(quickstart_report.comparison_table(by_trainer))
    yield "What was wanted of it:"
    yield markdown(quickstart_report.target_table(quickstart_report.ours(rows)))


def _objectives(found: dict[str, Any]) -> Iterator[str]:
    results = objective_report.Results(objective_report.Row(**row) for row in found["rows"])
    table: Table = [["loss", "pairs", "CPU time", "relative to open_clip", "memory MB", "of open_clip's"]]
    for name, peer in LOSSES:
        for pairs in (1024, 4096, 16384, 65536):
            seconds, megabytes = (results.median(cost, name, pairs) for cost in ("cpu", "peak_mb"))
            if seconds is not None and megabytes is not None:
                cells = (results.ratio(cost, name, peer, pairs) for cost in ("cpu", "peak_mb"))
                time, memory = (show(x) if x else "" for show, x in zip((times, fraction), cells, strict=True))
                table.append(
                    [
                        f"`{name}`",
                        f"{pairs:,}",
                        f"{ceil(seconds * 100) / 100:,.2f} s",
                        time,
                        f"{ceil(megabytes):,}",
                        memory,
                    ]
                )
    shared = [(pairs, results.speedup("clip", pairs)) for pairs in (4096, 8192)]
    halves = " and ".join(f"{times(ratio)} the time of one at {pairs:,} pairs" for pairs, ratio in shared if ratio)
    yield (
        "One loss, forward and backward, 512-wide float32 embeddings, one thread; memory beyond inputs and gradients."
        + (f" Two processes take {halves}, and every gradient is that of one." if halves else "")
    )
    yield markdown(table)


def _loader(found: dict[str, Any]) -> Iterator[str]:
    results = loader_report.Results(loader_report.Row(**row) for row in found["rows"])
    table: Table = [["images", "workers", "vlp", "open_clip", "ratio"]]
    for kind in found["sets"]:
        for workers in loader_report.WORKERS:
            mine = results.row(loader_report.OURS, kind, workers)
            peer = results.row(loader_report.PEER, kind, workers)
            ratio = results.cheaper("cpu", loader_report.OURS, kind, workers)
            if mine and peer and ratio:
                costs = [f"{loader_report.micros(row.median('cpu'))} us" for row in (mine, peer)]
                table.append([SETS.get(kind, kind), str(workers), *costs, loader_report.speedup(ratio)])
    yield "CPU time of all processes per sample, from JPEG shards to a batch of 256 in memory."
    yield markdown(table)


def _step(found: dict[str, Any]) -> Iterator[str]:
    yield step_report.WHAT
    yield markdown(step_report.table([step_report.Found.from_mapping(each) for each in found["found"]]))


SECTIONS: dict[str, tuple[str, Callable[[dict[str, Any]], Iterator[str]]]] = {
    "quickstart": ("The quickstart", _quickstart),
    "step": ("A training step", _step),
    "objectives": ("The losses", _objectives),
    "loader": ("The loader", _loader),
}


def _chaos(about: dict[str, Any]) -> str:
    found = about["found"]
    broken = sum(bool(one["problems"]) for one in found)
    modes = Counter(one["mode"] for one in found)
    kinds = ", ".join(f"{count:,} x `{mode}`" for mode, count in modes.items())
    return (
        f"**File events** of a training went wrong, one each time ({kinds}): {broken:,} of {len(found):,} are marked."
    )


def _kills(about: dict[str, Any], of: str = "a run") -> str:
    lives = about["found"]
    kills, broken = sum(len(life["kills"]) for life in lives), sum(bool(life["problems"]) for life in lives)
    return f"**Signals** at random instants: {kills:,} in {len(lives):,} lives of {of}, of which {broken:,} are marked."


def _flipped_bits(about: dict[str, Any]) -> str:
    found = about["found"]
    verdicts: Counter[str] = Counter()
    for row in found["bits"]:
        verdicts[row["verdict"]] += row["bits"]
    unheard = verdicts["silent"] + verdicts["traceback"]
    return (
        f"**Bits** of a run folder flipped, one at a time: of {verdicts.total():,}, {unheard:,} were taken over in "
        f"silence or ended without words, and {len(found['resumed']):,} resumes are marked."
    )


def _soak(about: dict[str, Any]) -> str:
    lost = sum(epoch["lost"] for epoch in about["epochs"])
    return (
        f"**{len(about['epochs']):,} epochs** of {about['samples']:,} samples, {about['damaged']:,} of them damaged, "
        f"with {about['restarts']:,} decoding processes killed: {lost:,} samples lost."
    )


SENTENCES: dict[str, Callable[[dict[str, Any]], str]] = {
    "chaos": _chaos,
    "kills": _kills,
    "kills-sharded": partial(_kills, of="a run whose processes write parts"),
    "flipped-bits": _flipped_bits,
    "soak": _soak,
}


def words(table: Table) -> str:
    """Lay out a table of words, which stand on the left."""
    return tabular.markdown(table)


def missed(reports: Iterable[Report]) -> Table:
    """Return every target that the newest reports missed; the exact numbers."""
    table: Table = [["target", "measured", "wanted", "report"]]
    for report in reports:
        for target in report.found.get("targets", []):
            if target["reached"] is False:
                measured = target.get("measured", target.get("mean"))
                sign, limit = ("<=", target["at_most"]) if "at_most" in target else (">=", target["at_least"])
                link = f"[{report.theme}]({report.link})"
                table.append([target["what"], f"{measured:.4g}", f"{sign} {limit:.4g}", link])
    return table if len(table) > 1 else [*table, ["none", "", "", ""]]


def listing(reports: Sequence[Report]) -> Table:
    """Return a line per report, newest first."""
    table: Table = [["report", "date", "machine", "commit", "command"]]
    for report in reports:
        about = report.found
        link = f"[{report.theme}]({report.link})"
        table.append([link, about["date"], about["machine"], f"`{about['commit']}`", f"`{about['command']}`"])
    return table
