"""Folders and tables to WebDataset shards, unit by unit: any number of processes writes the same bytes."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from vlp.curate.parallel import map_in_order, num_shards, progress
from vlp.curate.sources.columns import Columns
from vlp.curate.sources.open_source import open_source
from vlp.curate.sources.rows import Source
from vlp.curate.sources.unit import RECORDS, Unit, UnitRecord, pack_unit
from vlp.curate.sources.writer import PARTIAL
from vlp.data.faults import Faults
from vlp.ground.cores import usable_cores
from vlp.ground.files import write_text
from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError

QUARANTINE = "quarantine.jsonl"
SETTINGS, LOCK = "settings.json", "lock"


@dataclass(frozen=True)
class Limits:
    """How large shards get, and when a pack gives up.

    Args:
        samples: Rows of the source that share a shard.
        megabytes: Largest shard; more rows overflow into further shards.
        bad: Share of rows that may be unusable; fewer than a thousand rows count as a thousand.
    """

    samples: int = 10_000
    megabytes: int = 1000
    bad: float = 0.01

    @classmethod
    def parse(cls, text: str) -> Limits:
        """Read `samples=1000,megabytes=200,bad=0.05`.

        Raises:
            RecipeError: Another key, or no such number.
        """
        fields = {"samples": int, "megabytes": int, "bad": float}
        found: dict[str, Any] = {}
        for part in filter(None, text.split(",")):
            key, _, value = part.partition("=")
            if key not in fields:
                raise RecipeError(f"--limits {part}: unknown limit (known: {', '.join(fields)}){nearest(key, fields)}")
            try:
                found[key] = fields[key](value)
            except ValueError as error:
                raise RecipeError(f"--limits {part}: '{value}' is no number") from error
        limits = cls(**found)
        if limits.samples < 1 or limits.megabytes < 1 or not 0 <= limits.bad <= 1:
            raise RecipeError(f"--limits {text}: samples and megabytes must be at least 1, bad a share from 0 to 1")
        return limits


@dataclass
class Packed:
    """What a pack did.

    Args:
        card: The card it wrote.
        rows: Rows of the source in these samples; with those left out, all that it has.
        kept: Samples that an earlier pack had written.
    """

    card: Path
    name: str
    samples: int
    rows: int
    shards: int
    bytes: int
    kept: int
    faults: Faults

    def __str__(self) -> str:
        lines = [
            f"{self.samples:,} samples of {self.rows:,} rows in {num_shards(self.shards)}, {self.bytes / 1e6:.1f} MB"
            + (f" ({self.kept:,} samples kept from an earlier pack)" if self.kept else "")
        ]
        if self.faults.total:
            quarantine = self.card.parent / QUARANTINE
            lines += [f"{self.faults.total:,} rows left out, listed in {quarantine}:", self.faults.table()]
        return "\n".join([*lines, f"in a recipe: 'data.train={{{self.name}: {{card: {self.card}}}}}'"])


def pack(
    source: Path,
    to: Path,
    *,
    columns: str = "",
    limits: str = "",
    workers: int | None = None,
    split: str = "",
    encoding: str = "",
) -> Packed:
    """Write a source as shards with a card; what an earlier, interrupted pack finished is kept.

    Args:
        source: A folder of images, a table, or a saved Hugging Face dataset.
        to: Folder for shards and card; its name becomes the name of the data set.
        columns: Names of the columns, as `Columns.parse` reads them.
        limits: Sizes and budget, as `Limits.parse` reads them.
        workers: Processes; all cores when absent.
        split: Which split of a dataset with several.
        encoding: Of a CSV or TSV, where it is neither UTF-8 nor UTF-16.

    Raises:
        RecipeError: A mistake in the arguments or the source, too many bad rows, or an interruption.
    """
    given, bounds = Columns.parse(columns), Limits.parse(limits)
    opened = open_source(source, given, split=split, encoding=encoding)
    to = to.expanduser().resolve()
    with _claimed(to, _settings(source, given, bounds, split, encoding)):
        try:
            records, faults = _pack_units(opened, to, bounds, usable_cores() if workers is None else workers)
        except KeyboardInterrupt as error:
            raise RecipeError("interrupted; the same command continues where it stopped") from error
        _write_quarantine(to, records)
        if not any(record.samples for record in records):
            raise RecipeError(f"{source}: not one row can be used:\n{faults.table()}\n{to / QUARANTINE} lists them")
        _remove_leftovers(to, records)
        return _summary(to, _write_card(to, records), records, faults)


def _pack_units(source: Source, to: Path, limits: Limits, workers: int) -> tuple[list[UnitRecord], Faults]:
    units = (
        Unit(to, number, rows, source.caption_keys, limits.megabytes * 1_000_000, to.name)
        for number, rows in enumerate(source.units(limits.samples))
    )
    records: list[UnitRecord] = []
    faults = Faults()
    with contextlib.closing(map_in_order(pack_unit, units, workers)) as results, progress(None, "rows") as bar:
        for record in results:
            records.append(record)
            faults.add(record.faults)
            faults.delivered += record.samples
            bar.update(record.rows + sum(fault.samples for fault in record.faults))
            _check_budget(to, records, faults, limits.bad)
    return records, faults


def _check_budget(to: Path, records: list[UnitRecord], faults: Faults, budget: float) -> None:
    try:
        faults.check(budget)
    except RecipeError as error:
        _write_quarantine(to, records)
        raise RecipeError(
            f"{faults.total} of {faults.delivered + faults.total} rows cannot be used, more than bad={budget:g} "
            f"allows:\n{faults.table()}\n"
            f"repair the source ({to / QUARANTINE} lists them), or allow more with --limits bad=SHARE; "
            "finished shards are kept"
        ) from error


def _settings(source: Path, columns: Columns, limits: Limits, split: str, encoding: str) -> dict[str, Any]:
    """Return what shapes the shards: two packs that differ in it do not share a folder."""
    return {
        "source": str(source.expanduser().resolve()),
        "columns": dataclasses.asdict(columns),
        "samples": limits.samples,
        "megabytes": limits.megabytes,
        "split": split,
        **({"encoding": encoding} if encoding else {}),
    }


@contextlib.contextmanager
def _claimed(to: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Own the folder: nobody else writes into it, and what lies there comes from the same pack.

    Raises:
        RecipeError: It holds something else, or is being written.
    """
    known = to / RECORDS / SETTINGS
    if to.exists() and not to.is_dir():
        raise RecipeError(f"--to {to}: a file; name a folder")
    if not known.exists() and to.is_dir() and any(entry.name != RECORDS for entry in to.iterdir()):
        raise RecipeError(f"--to {to}: not empty, and not written by `vlp data pack`; choose a new folder")
    try:
        known.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RecipeError(f"--to {to}: cannot be written ({error.strerror})") from error
    with (known.parent / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RecipeError(f"--to {to}: another pack is writing into it; wait for it or stop it") from error
        _check_settings(known, settings, to)
        yield


def _check_settings(known: Path, settings: dict[str, Any], to: Path) -> None:
    if not known.exists():
        write_text(known, json.dumps(settings, indent=1) + "\n")
        return
    before = {"split": "", **json.loads(known.read_text(encoding="utf-8"))}
    changed = [f"{key}: {before.get(key)} -> {value}" for key, value in settings.items() if before.get(key) != value]
    if changed:
        raise RecipeError(
            f"--to {to}: holds a pack with other settings:\n  " + "\n  ".join(changed) + "\n"
            "take the changes back, choose a new folder, or remove this one"
        )


def _write_quarantine(to: Path, records: list[UnitRecord]) -> None:
    lines = [json.dumps(fault.as_dict()) + "\n" for record in records for fault in record.faults]
    if lines:
        write_text(to / QUARANTINE, "".join(lines))
    else:
        (to / QUARANTINE).unlink(missing_ok=True)


def _remove_leftovers(to: Path, records: list[UnitRecord]) -> None:
    """Delete what killed packs left, and shards of rows that the source no longer has; this folder is ours."""
    shards = {shard.name for record in records for shard in record.shards}
    for path in to.iterdir():
        if path.name.endswith(PARTIAL) or (path.suffix == ".tar" and path.name not in shards):
            path.unlink()
    for path in (to / RECORDS).glob("[0-9]*.json"):
        if int(path.stem) >= len(records):
            path.unlink()


def _write_card(to: Path, records: list[UnitRecord]) -> Path:
    """Write the card, keeping keys and comments that somebody added to an earlier one."""
    path = to / f"{to.name}.yaml"
    yaml = YAML()
    yaml.width = 120
    card = yaml.load(path) if path.exists() else {"licence": "", "home": ""}
    captions: Counter[str] = Counter()
    for record in records:
        captions.update(record.captions)
    card |= {
        "name": to.name,
        "shards": "*.tar",
        "samples": sum(record.samples for record in records),
        "captions": dict.fromkeys(sorted(captions), 1.0),
        "sha256": {shard.name: shard.sha256 for record in records for shard in record.shards},
    }
    partial = path.with_name(path.name + PARTIAL)
    yaml.dump(card, partial)
    partial.replace(path)
    return path


def _summary(to: Path, card: Path, records: list[UnitRecord], faults: Faults) -> Packed:
    shards = [shard for record in records for shard in record.shards]
    kept = sum(record.samples for record in records if record.kept)
    rows = sum(record.rows for record in records)
    return Packed(
        card, to.name, faults.delivered, rows, len(shards), sum(shard.bytes for shard in shards), kept, faults
    )
