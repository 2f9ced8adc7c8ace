"""Pack one unit of a source: some thousand rows into a shard, with a record that lets a later pack skip it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlp.curate.sources.rows import Row, Rows
from vlp.curate.sources.writer import ShardWriter, Written
from vlp.data.faults import BadSampleError, Fault
from vlp.ground.files import write_text

RECORDS = ".pack"


@dataclass(frozen=True)
class Unit:
    """Rows that end up in shards of their own, whichever process packs them.

    Args:
        number: Place of the unit in the source.
        source: What the quarantine file calls the data set.
    """

    folder: Path
    number: int
    rows: Rows
    caption_keys: Mapping[str, float]
    max_bytes: int
    source: str

    @property
    def stem(self) -> str:
        """Name of its shards and its record, without suffix."""
        return f"{self.number:06d}"


@dataclass(frozen=True)
class UnitRecord:
    """What became of a unit.

    Args:
        fingerprint: Checksum of the rows that it was made of.
        captions: How many samples have each kind of caption.
        rows: Rows of the source that were packed.
        kept: Whether an earlier pack had finished it; not part of the file.
    """

    fingerprint: str
    shards: tuple[Written, ...]
    faults: tuple[Fault, ...]
    captions: Mapping[str, int]
    rows: int
    kept: bool = False

    @property
    def samples(self) -> int:
        """Samples packed."""
        return sum(shard.samples for shard in self.shards)


def pack_unit(unit: Unit) -> UnitRecord:
    """Write the shards of a unit and its record, or return the record of an earlier pack of the same rows."""
    path = unit.folder / RECORDS / f"{unit.stem}.json"
    fingerprint = unit.rows.fingerprint()
    known = _read_record(path)
    if known is not None and known.fingerprint == fingerprint and _are_whole(unit.folder, known):
        return known
    path.unlink(missing_ok=True)
    faults: list[Fault] = []
    captions: Counter[str] = Counter()
    rows = 0
    with ShardWriter(unit.folder, unit.stem, unit.max_bytes) as writer:
        for row in unit.rows:
            try:
                members = row.members(unit.caption_keys)
            except BadSampleError as bad:
                faults.append(_fault(unit, row, bad))
                continue
            writer.write(key_of(row), members)
            rows += row.num_rows
            captions[_caption_key(members, unit.caption_keys)] += 1
    record = UnitRecord(fingerprint, tuple(writer.written), tuple(faults), dict(captions), rows)
    write_text(path, json.dumps({key: value for key, value in asdict(record).items() if key != "kept"}))
    return record


def key_of(row: Row) -> str:
    """Return the key of a row's sample."""
    return f"{row.number:09d}"


def _fault(unit: Unit, row: Row, bad: BadSampleError) -> Fault:
    detail = bad.detail if row.name in bad.detail else f"{row.name}: {bad.detail}"
    return Fault(unit.source, bad.reason, f"{unit.stem}.tar", key_of(row), row.number, detail, row.num_rows)


def _caption_key(members: Mapping[str, bytes], keys: Mapping[str, float]) -> str:
    """Return the key of the card that finds the caption; a checked sample has one."""
    return next(key for key in keys if key.split(".")[0] in members)


def _read_record(path: Path) -> UnitRecord | None:
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        shards = tuple(Written(**shard) for shard in values["shards"])
        faults = tuple(Fault(**fault) for fault in values["faults"])
        return UnitRecord(values["fingerprint"], shards, faults, values["captions"], values["rows"], kept=True)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _are_whole(folder: Path, record: UnitRecord) -> bool:
    paths = [(folder / shard.name, shard.bytes) for shard in record.shards]
    return all(path.is_file() and path.stat().st_size == size for path, size in paths)
