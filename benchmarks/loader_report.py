"""From costs of single rounds to a page: how much cheaper a batch is than the peer's, and where the rest goes."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.objective_report import Target, tenths
from benchmarks.tables import Table, beside, listed, markdown, slug

PEER, OURS = "open_clip", "vlp"
CHEAPER = {"A": 3.5, "B": 4.5, "C": 2.5}
WORKERS = (0, 1, 2)
EXACT, FAST = "exact", "fast"
# (way to decode, sets, of the mean, of the worst)
FIDELITY = ((EXACT, "ABC", 69.0, 54.0), (FAST, "C", 45.0, 36.0))
STAGES = ("read", "caption", "open and draw", "decode", "cut and resize", "copy", "tokenise")


@dataclass
class Row:
    """One case over all rounds.

    Args:
        name: Whose loader, or which part.
        kind: Name of the set.
        workers: Processes that decode.
        seconds: Seconds per sample of each round, by what was measured.
    """

    name: str
    kind: str
    workers: int = 0
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def median(self, what: str) -> float:
        """Return the median over the rounds."""
        return statistics.median(self.seconds[what])


class Results:
    """Rows, and what follows from several of them."""

    def __init__(self, rows: Iterable[Row]):
        self._rows = {(row.name, row.kind, row.workers): row for row in rows if row.seconds}

    def row(self, name: str, kind: str, workers: int = 0) -> Row | None:
        """Return what was measured of a case."""
        return self._rows.get((name, kind, workers))

    def cheaper(self, what: str, name: str, kind: str, workers: int) -> float | None:
        """Return the peer's cost relative to that of a case with as many workers."""
        mine, peer = self.row(name, kind, workers), self.row(PEER, kind, workers)
        return peer.median(what) / mine.median(what) if mine and peer else None


def speedup(ratio: float) -> str:
    """Return a ratio with two digits, cut."""
    return f"{math.floor(round(ratio * 100, 9)) / 100:.2f} x"


def decibels(value: float) -> str:
    """Return one digit, cut."""
    return f"{math.floor(round(value * 10, 9)) / 10:.1f} dB"


def micros(seconds: float) -> str:
    """Return microseconds, rounded up; tenths where there are few."""
    value = seconds * 1e6
    return f"{math.ceil(round(value, 6)):,}" if value >= 20 else f"{math.ceil(round(value * 10, 6)) / 10:.1f}"


def targets(rows: Sequence[Row], fidelity: dict[str, dict[str, list[float]]]) -> list[Target]:
    """Compare what was measured with what was promised."""
    found = Results(rows)
    listing = [
        Target(
            f"set {kind}, {workers} workers: CPU time of open_clip relative to ours",
            found.cheaper("cpu", OURS, kind, workers),
            speedup,
            at_least=limit,
        )
        for kind, limit in CHEAPER.items()
        for workers in WORKERS
    ]
    for way, kinds, mean, worst in FIDELITY:
        for kind in kinds:
            values = fidelity.get(kind, {}).get(way)
            what = f"set {kind}: {way} crops against Pillow's"
            listing.append(Target(f"{what}, mean", values and statistics.fmean(values), decibels, at_least=mean))
            listing.append(Target(f"{what}, worst", values and min(values), decibels, at_least=worst))
    return listing


NOTES = """\
A ready batch is 256 images of 224 x 224 pixels, decoded, cropped (share of the area 0.9 to 1, no flip: open_clip's
default) and resized, and their captions as tokens, in memory. open_clip's are normalised float32, ours uint8, for ours
are normalised on the device. Every number is the median over rounds of fresh processes, and the rounds go through all
cases in turn. CPU time is user and system time of all processes; wall time is that of a consumer that does nothing
else. open_clip runs its own `get_wds_dataset` with its own training transform; one epoch warms up and one is measured,
both made of whole passes, so that nothing is left in a buffer. Our stream has no end: its clock starts after one pass,
and stops after so many batches (32 and more) that what its processes have in hand at both moments hardly counts.
Ratios are those of the medians with as many workers on both sides, and are cut; costs are rounded up."""
STAGE_NOTES = """\
Each stage alone, over the whole set, in a process of its own; `rest` is what a batch without workers takes beyond the
sum. The codec's line decodes every image in full and does nothing else. The last one decodes to gray at 1/8: nearly
nothing but reading the Huffman codes, which no decoder of whole images can leave out."""
FIDELITY_NOTES = """\
Peak signal-to-noise ratio of crops against Pillow's from the same boxes (decode in full, cut, resize), over up to 200
images of each set. Fast crops differ from exact ones most where a set's images are large."""


def write_report(
    folder: Path, about: dict[str, Any], rows: Sequence[Row], fidelity: dict[str, dict[str, list[float]]]
) -> Path:
    """Write the page and, beside it, all numbers as JSON; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"loader_{slug(about['machine'])}_{about['date']}.md"
    page.write_text(page_text(about, rows, fidelity), encoding="utf-8")
    record = {
        **about,
        "rows": [asdict(row) for row in rows],
        "fidelity": fidelity,
        "targets": [target.record() for target in targets(rows, fidelity)],
    }
    page.with_suffix(".json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return page


def page_text(about: dict[str, Any], rows: Sequence[Row], fidelity: dict[str, dict[str, list[float]]]) -> str:
    """Return the report."""
    verdicts = [["target", "measured", "wanted", "verdict"], *(each.cells() for each in targets(rows, fidelity))]
    sections = [
        f"# Loader on {about['machine']}, {about['date']}",
        f"Commit `{about['commit']}`, {about['rounds']} rounds of {about['rounds_wanted']}."
        + beside(about["peer_versions"]),
        f"Again: `{about['command']}`",
        *("## Targets", markdown(verdicts)),
        *("## A ready batch, microseconds per sample", markdown(batch_table(rows)), NOTES),
        *("## Where the time goes, microseconds of CPU per sample", markdown(stage_table(rows)), STAGE_NOTES),
        *("## Fidelity", markdown(fidelity_table(fidelity)), FIDELITY_NOTES),
        *("## Sets", markdown([["set", "samples", "mean KB"], *([k, *map(str, v)] for k, v in about["sets"].items())])),
        *("## Versions", f"vlp: {listed(about['versions'])}"),
        *([f"open_clip: {listed(about['peer_versions'])}"] if about["peer_versions"] else []),
    ]
    return "\n\n".join(sections) + "\n"


def batch_table(rows: Sequence[Row]) -> Table:
    """Return one line per loader, set and number of workers."""
    table = [["loader", "set", "workers", "CPU", "p10 .. p90", "wall", "p10 .. p90", "CPU x", "wall x"]]
    found = Results(rows)
    for row in rows:
        if "wall" not in row.seconds:
            continue
        cells = [row.name, row.kind, str(row.workers)]
        for what in ("cpu", "wall"):
            low, middle, high = map(micros, tenths(row.seconds[what]))
            cells += [middle, f"{low} .. {high}"]
        for what in ("cpu", "wall"):
            ratio = None if row.name == PEER else found.cheaper(what, row.name, row.kind, row.workers)
            cells.append(speedup(ratio) if ratio else "")
        table.append(cells)
    return table


def stage_table(rows: Sequence[Row]) -> Table:
    """Return one line per stage, one column per set."""
    found = Results(rows)
    kinds = [kind for kind in CHEAPER if found.row("stages", kind) and found.row("codec", kind)]
    table = [["stage", *kinds]]
    stages = {kind: found.row("stages", kind) for kind in kinds}
    table += [[name, *(micros(row.median(name)) for row in stages.values() if row)] for name in STAGES]
    whole = {kind: found.row(OURS, kind) for kind in kinds}
    if all(whole.values()):
        sums = [sum(row.median(name) for name in STAGES) for row in stages.values() if row]
        batches = [row.median("cpu") for row in whole.values() if row]
        table.append(["rest", *(micros(max(0.0, all_ - part)) for all_, part in zip(batches, sums, strict=True))])
        table.append(["a ready batch", *map(micros, batches)])
    codec = [row for kind in kinds if (row := found.row("codec", kind))]
    table.append(["codec alone, in full", *(micros(row.median("cpu")) for row in codec)])
    table.append(["codec alone, gray at 1/8", *(micros(row.median("entropy")) for row in codec)])
    peer = [micros(row.median("open_clip tokenise")) for row in stages.values() if row]
    return [*table, ["open_clip's tokeniser", *peer]]


def fidelity_table(fidelity: dict[str, dict[str, list[float]]]) -> Table:
    """Return one line per set and way to decode."""
    table = [["set", "decoding", "mean", "worst"]]
    for kind, ways in fidelity.items():
        table += [[kind, way, decibels(statistics.fmean(each)), decibels(min(each))] for way, each in ways.items()]
    return table
