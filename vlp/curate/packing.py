"""Units of a source to shards in a folder that belongs to one pack at a time; finished ones are kept."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlp.curate.parallel import map_in_order, num_shards, progress
from vlp.curate.sources.unit import RECORDS, Unit, UnitRecord, pack_unit
from vlp.curate.sources.writer import PARTIAL
from vlp.data.faults import Faults
from vlp.ground.files import write_text
from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError

QUARANTINE = "quarantine.jsonl"
SETTINGS, LOCK = "settings.json", "lock"
ABSENT: dict[str, Any] = {
    "split": "",
    "configuration": "",
    "encoding": "",
}  # what it means that a setting is not written down


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

    def changed(self, text: str) -> Limits:
        """Return these with what `samples=1000,megabytes=200,bad=0.05` names.

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
        limits = replace(self, **found)
        if limits.samples < 1 or limits.megabytes < 1 or not 0 <= limits.bad <= 1:
            raise RecipeError(f"--limits {text}: samples and megabytes must be at least 1, bad a share from 0 to 1")
        return limits


@dataclass(frozen=True)
class Tally:
    """What a pack did.

    Args:
        rows: Rows of the source in these samples; with those left out, all that it has.
        kept: Samples that an earlier pack had written.
    """

    folder: Path
    samples: int
    rows: int
    shards: int
    bytes: int
    kept: int
    faults: Faults

    def __str__(self) -> str:
        kept = f" ({self.kept:,} samples kept from an earlier pack)" if self.kept else ""
        size = f"{num_shards(self.shards)}, {self.bytes / 1e6:.1f} MB{kept}"
        lines = [f"{self.samples:,} samples of {self.rows:,} rows in {size}"]
        if self.faults.total:
            lines += [
                f"{self.faults.total:,} rows left out, listed in {self.folder / QUARANTINE}:",
                self.faults.table(),
            ]
        return "\n".join(lines)


@contextlib.contextmanager
def claimed(to: Path, settings: dict[str, Any]) -> Iterator[None]:
    """Own a folder: nobody else writes into it, and what lies there comes from a pack with the same settings.

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
        try:
            yield
        except KeyboardInterrupt as error:
            raise RecipeError("interrupted; the same command continues where it stopped") from error


def _check_settings(known: Path, settings: dict[str, Any], to: Path) -> None:
    if not known.exists():
        write_text(known, json.dumps(settings, indent=1) + "\n")
        return
    before, now = ABSENT | json.loads(known.read_text(encoding="utf-8")), ABSENT | settings
    changed = [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in dict.fromkeys([*now, *before])
        if before.get(key) != now.get(key)
    ]
    if changed:
        raise RecipeError(
            f"--to {to}: holds a pack with other settings:\n  " + "\n  ".join(changed) + "\n"
            "take the changes back, choose a new folder, or remove this one"
        )


def pack_units(units: Iterable[Unit], to: Path, budget: float, workers: int) -> tuple[list[UnitRecord], Tally]:
    """Write the shards of units into a claimed folder, list the rows left out, and remove what earlier packs left.

    Args:
        budget: Share of rows that may be unusable.
        workers: Processes.

    Raises:
        RecipeError: Too many rows cannot be used, or all.
    """
    records: list[UnitRecord] = []
    faults = Faults()
    with contextlib.closing(map_in_order(pack_unit, units, workers)) as results, progress(None, "rows") as bar:
        for record in results:
            records.append(record)
            faults.add(record.faults)
            faults.delivered += record.samples
            bar.update(record.rows + sum(fault.samples for fault in record.faults))
            _check_budget(to, records, faults, budget)
    _write_quarantine(to, records)
    if not faults.total and not any(record.samples for record in records):
        raise RecipeError("the source has no rows")
    if not any(record.samples for record in records):
        raise RecipeError(f"not one row can be used:\n{faults.table()}\n{to / QUARANTINE} lists them")
    _remove_leftovers(to, records)
    return records, _tally(to, records, faults)


def _tally(to: Path, records: list[UnitRecord], faults: Faults) -> Tally:
    shards = [shard for record in records for shard in record.shards]
    kept = sum(record.samples for record in records if record.kept)
    rows, num_bytes = sum(record.rows for record in records), sum(shard.bytes for shard in shards)
    return Tally(to, faults.delivered, rows, len(shards), num_bytes, kept, faults)


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
