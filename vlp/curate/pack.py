"""Folders and tables to WebDataset shards, unit by unit: any number of processes writes the same bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from vlp.curate.packing import Limits, Tally, claimed, pack_units
from vlp.curate.sources.columns import Columns
from vlp.curate.sources.open_source import open_source
from vlp.curate.sources.rows import Source
from vlp.curate.sources.unit import Unit, UnitRecord
from vlp.data.shards.cards import is_record
from vlp.ground.cores import usable_cores
from vlp.ground.files import write_whole


@dataclass(frozen=True)
class Packed(Tally):
    """What a pack did, and the card that it wrote."""

    card: Path

    def __str__(self) -> str:
        return f"{super().__str__()}\nin a recipe: 'data.train={{{self.folder.name}: {{card: {self.card}}}}}'"


def pack(
    source: Path,
    to: Path,
    *,
    columns: str = "",
    limits: str = "",
    workers: int | None = None,
    split: str = "",
    configuration: str = "",
    encoding: str = "",
) -> Packed:
    """Write a source as shards with a card; what an earlier, interrupted pack finished is kept.

    Args:
        source: A folder of images or of documents, a table, a saved Hugging Face dataset, or a card.
        to: Folder for shards and card; its name becomes the name of the data set.
        columns: Names of the columns, as `Columns.parse` reads them.
        limits: Sizes and budget, as `Limits.changed` reads them.
        workers: Processes; all cores when absent.
        split: Which split of a dataset with several.
        configuration: Which configuration of a clone of the hub with several.
        encoding: Of a CSV or TSV, where it is neither UTF-8 nor UTF-16.

    Raises:
        RecipeError: A mistake in the arguments or the source, too many bad rows, or an interruption.
    """
    given, bounds = Columns.parse(columns), Limits().changed(limits)
    opened = open_source(source, given, split=split, configuration=configuration, encoding=encoding)
    to = to.expanduser().resolve()
    units = (
        Unit(to, number, rows, opened.caption_keys, bounds.megabytes * 1_000_000, to.name)
        for number, rows in enumerate(opened.units(bounds.samples))
    )
    with claimed(to, _settings(source, given, bounds, split=split, configuration=configuration, encoding=encoding)):
        records, tally = pack_units(units, to, bounds.bad, usable_cores() if workers is None else workers)
        return Packed(**vars(tally), card=_write_card(to, records, opened))


def _settings(source: Path, columns: Columns, limits: Limits, **chosen: str) -> dict[str, Any]:
    """Return what shapes the shards: two packs that differ in it do not share a folder."""
    return {
        "source": str(source.expanduser().resolve()),
        "columns": columns.given(),
        "samples": limits.samples,
        "megabytes": limits.megabytes,
        **{name: word for name, word in chosen.items() if word},
    }


def _write_card(to: Path, records: list[UnitRecord], source: Source) -> Path:
    """Write the card, keeping keys and comments that somebody added to an earlier one."""
    path = to / f"{to.name}.yaml"
    yaml = YAML()
    yaml.width = 120
    card = yaml.load(path) if path.exists() else {"licence": "", "home": ""}
    captions: Counter[str] = Counter()
    for record in records:
        captions.update(record.captions)
    documents = next(filter(is_record, captions), None)  # whole records are no captions
    shares = getattr(source, "captions", None) or dict.fromkeys(sorted(captions), 1.0)
    regions = getattr(source, "regions", None)
    card |= {
        "name": to.name,
        "shards": "*.tar",
        "samples": sum(record.samples for record in records),
        **({"documents": documents} if documents else {"captions": shares}),
        **({"regions": regions} if regions else {}),
        "sha256": {shard.name: shard.sha256 for record in records for shard in record.shards},
    }
    with write_whole(path) as file:
        yaml.dump(card, file)
    return path
