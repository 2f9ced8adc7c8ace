"""From rows of numbers to a page: means and ranges, targets reached or missed, both trainers side by side."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.tables import Table, beside, listed, markdown, percent, slug


@dataclass(frozen=True)
class Row:
    """One training: what it cost and what it reached.

    Args:
        trainer: `vlp`, or open_clip with the name of an augmentation.
        samples: Pairs seen in the whole training.
        wall_seconds: Of the whole command, imports and evaluations inside it included.
        cpu_seconds: User and system time of all its processes.
        peak_bytes: Largest memory of all its processes together.
        scores: `task/metric` values.
        command: What was run, in the root of the project.
    """

    trainer: str
    seed: int
    samples: int
    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int
    scores: dict[str, float]
    command: str

    @property
    def samples_per_second(self) -> float:
        """Pairs seen per second of the whole command."""
        return self.samples / self.wall_seconds

    def summary(self) -> str:
        """Return the scores that have a target in a few words."""
        return ", ".join(f"{target.label} {percent(self.scores[target.metric])}" for target in QUALITY)


@dataclass(frozen=True)
class Target:
    """A score that the mean over the seeds must reach."""

    label: str
    metric: str
    at_least: float


@dataclass(frozen=True)
class Limit:
    """A cost that no seed may exceed."""

    label: str
    cost: str
    at_most: float
    shown: Callable[[float], str]
    wanted: str


def minutes(seconds: float) -> str:
    """Return minutes with one digit, rounded up."""
    return f"{math.ceil(round(seconds / 6, 9)) / 10:.1f} min"


def gigabytes(size: float) -> str:
    """Return 10^9 bytes with two digits, rounded up."""
    return f"{math.ceil(size / 1e7) / 100:.2f} GB"


QUALITY = (
    Target("emoji24 acc1", "emoji24/acc1", 0.36),
    Target("clipart-folders acc1", "clipart-folders/acc1", 0.32),
    Target("photos-cc0 acc1", "photos-cc0/acc1", 0.20),
    Target("emoji-retrieval mean R@10", "emoji-retrieval/mean_recall@10", 0.40),
)
LIMITS = (
    Limit("training wall time", "wall_seconds", 12 * 60, minutes, "<= 12 min, every seed"),
    Limit("peak memory", "peak_bytes", 4_000_000_000 - 1, gigabytes, "< 4 GB, every seed"),
)
# (heading, metric): what stands in the comparison; the first four have targets
COMPARED = (
    *((target.label, target.metric) for target in QUALITY),
    ("emoji-retrieval mean R@1", "emoji-retrieval/mean_recall@1"),
    ("clipart-retrieval mean R@10", "clipart-retrieval/mean_recall@10"),
    ("clipart-retrieval mean R@1", "clipart-retrieval/mean_recall@1"),
)
NOTES = """\
Time and memory are of the whole training command, from its start to its end: imports and, for vlp, the evaluations
that the recipe asks for during training. Processor time is user and system time of all processes; memory is the sum
of their proportional set sizes, sampled twice a second. Pairs per second are pairs seen over that wall time. Both
sides read the same shards with as many workers and threads, train towers of the same configuration on the same number
of pairs (open_clip counts in equal epochs and shares of workers, so a few more) with the same batch size, precision,
learning rate, warm-up, schedule, weight decay and gradient clipping, and are scored by `vlp eval`. What else the
recipe does (caption and image augmentation, averaged weights, its objective) open_clip's trainer does not; its
augmentations are those of its default and of its published CLIPA scripts. Percentages are cut, never rounded up."""


def write_report(folder: Path, about: dict[str, Any], rows: Sequence[Row]) -> Path:
    """Write the page and, beside it, all numbers as JSON; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"quickstart_{slug(about['machine'])}_{about['date']}.md"
    page.write_text(page_text(about, rows), encoding="utf-8")
    record = {**about, "rows": [asdict(row) for row in rows], "targets": target_records(ours(rows))}
    page.with_suffix(".json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return page


def page_text(about: dict[str, Any], rows: Sequence[Row]) -> str:
    """Return the report."""
    mine = ours(rows)
    seeds = ", ".join(str(row.seed) for row in mine)
    by_trainer = {trainer: [row for row in rows if row.trainer == trainer] for trainer in names(rows)}
    overrides = f" with `{' '.join(about['overrides'])}`" if about["overrides"] else ""
    sections = [
        f"# Quickstart on {about['machine']}, {about['date']}",
        f"Recipe `{about['recipe']}`{overrides}, commit `{about['commit']}`, seeds {seeds}."
        + beside(about["peer_versions"]),
        f"Again: `{about['command']}`",
        "## Targets",
        markdown(target_table(mine)),
        "## Side by side",
        markdown(comparison_table(by_trainer)),
        NOTES,
        "## Every training",
        markdown(row_table(rows)),
        "## Commands",
        *(f"{trainer}:\n\n```\n{of_trainer[0].command}\n```" for trainer, of_trainer in by_trainer.items()),
        "## Versions",
        f"vlp: {listed(about['versions'])}",
        *([f"open_clip: {listed(about['peer_versions'])}"] if about["peer_versions"] else []),
    ]
    return "\n\n".join(sections) + "\n"


def target_records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Compare each target with the mean over the seeds, and each limit with the worst seed."""
    records: list[dict[str, Any]] = []
    for target in QUALITY:
        numbers = spread([row.scores[target.metric] for row in rows])
        reached = numbers["mean"] >= target.at_least
        records.append({"what": target.label, **numbers, "at_least": target.at_least, "reached": reached})
    for limit in LIMITS:
        numbers = spread([value_of(row, limit.cost) for row in rows])
        reached = numbers["high"] <= limit.at_most
        records.append({"what": limit.label, **numbers, "at_most": limit.at_most, "reached": reached})
    return records


def target_table(rows: Sequence[Row]) -> Table:
    """Return the targets, what was reached, and whether that suffices."""
    table = [["target", f"mean of {len(rows)}", "range", "wanted", "reached"]]
    wanted: list[tuple[Callable[[float], str], str]] = [
        (percent, f">= {percent(target.at_least)}") for target in QUALITY
    ]
    wanted += [(limit.shown, limit.wanted) for limit in LIMITS]
    for record, (shown, words) in zip(target_records(rows), wanted, strict=True):
        between = f"{shown(record['low'])} .. {shown(record['high'])}"
        verdict = "yes" if record["reached"] else "**no**"
        table.append([record["what"], shown(record["mean"]), between, words, verdict])
    return table


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the mean, the smallest and the largest."""
    return {"mean": statistics.fmean(values), "low": min(values), "high": max(values)}


def comparison_table(by_trainer: dict[str, list[Row]]) -> Table:
    """Return means per trainer, side by side; costs also relative to the first trainer."""
    table = [["mean", *by_trainer]]
    table.append(["seeds", *(str(len(rows)) for rows in by_trainer.values())])
    for label, metric in COMPARED:
        values = [statistics.fmean(row.scores[metric] for row in rows) for rows in by_trainer.values()]
        table.append([label, *map(percent, values)])
    costs = (
        ("wall time", "wall_seconds", minutes),
        ("processor time", "cpu_seconds", minutes),
        ("pairs per second", "samples_per_second", whole),
        ("peak memory", "peak_bytes", gigabytes),
        ("pairs seen", "samples", whole),
    )
    for label, name, shown in costs:
        values = [statistics.fmean(value_of(row, name) for row in rows) for rows in by_trainer.values()]
        cells = [f"{shown(value)} (x {value / values[0]:.2f})" for value in values[1:]]
        table.append([label, shown(values[0]), *cells])
    return table


def row_table(rows: Sequence[Row]) -> Table:
    """Return one line per training."""
    table = [["trainer", "seed", *(label for label, _ in COMPARED[:5]), "wall", "cpu", "pairs/s", "memory"]]
    for row in rows:
        scores = [percent(row.scores[metric]) for _, metric in COMPARED[:5]]
        costs = [minutes(row.wall_seconds), minutes(row.cpu_seconds), whole(row.samples_per_second)]
        table.append([row.trainer, str(row.seed), *scores, *costs, gigabytes(row.peak_bytes)])
    return table


def value_of(row: Row, name: str) -> float:
    """Return one of a row's costs by its name."""
    return {**asdict(row), "samples_per_second": row.samples_per_second}[name]


def ours(rows: Sequence[Row]) -> list[Row]:
    """Return the rows of vlp."""
    return [row for row in rows if row.trainer == "vlp"]


def names(rows: Sequence[Row]) -> list[str]:
    """Return the trainers in the order of their first row."""
    return list(dict.fromkeys(row.trainer for row in rows))


def whole(value: float) -> str:
    """Return a number without its fraction."""
    return f"{math.floor(value):,}"
