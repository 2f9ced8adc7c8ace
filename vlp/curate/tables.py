"""Tables of text: CSV, TSV and JSON lines, with a column of image paths and one of captions."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from vlp.curate.columns import Columns
from vlp.curate.rows import JSON_KEY, ListedRows, Row, Rows, caption_members
from vlp.types import RecipeError

Record = Mapping[str, Any]
DELIMITERS = {".csv": ",", ".tsv": "\t"}
LINES = (".jsonl", ".ndjson")


class Table:
    """Rows of a CSV, TSV or JSONL file; paths are relative to it.

    Args:
        path: The file.
        columns: Names of the columns, where they are not the usual ones.

    Raises:
        RecipeError: Not such a file, no rows, or no column for images or captions.
    """

    caption_keys = {"txt": 1.0, f"json.{JSON_KEY}": 1.0}

    def __init__(self, path: Path, columns: Columns):
        self.path = path
        first = next(self._records(), None)
        if first is None:
            raise RecipeError(f"{path}: no rows")
        names = [name for name in first if name]
        self.image, self.caption = columns.image_of(names, str(path)), columns.caption_of(names, str(path))

    def units(self, size: int) -> Iterator[Rows]:
        """Yield the rows, `size` at a time."""
        rows = (self._row(number, record) for number, record in enumerate(self._records()))
        while chunk := list(islice(rows, size)):
            yield ListedRows(chunk)

    def _row(self, number: int, record: Record) -> Row:
        name = record.get(self.image)
        image = local_path(self.path.parent, name, f"{self.path}: row {number + 1}") if name else None
        return Row(number, str(name or f"row {number + 1}"), image, captions=caption_members(record.get(self.caption)))

    def _records(self) -> Iterator[Record]:
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as file:
                if self.path.suffix.lower() in LINES:
                    yield from (self._parse(number, line) for number, line in enumerate(file, 1) if line.strip())
                else:
                    csv.field_size_limit(sys.maxsize)
                    yield from csv.DictReader(file, delimiter=DELIMITERS[self.path.suffix.lower()])
        except (UnicodeDecodeError, csv.Error) as error:
            raise RecipeError(f"{self.path}: {error}; save the table as UTF-8") from error

    def _parse(self, number: int, line: str) -> Record:
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise RecipeError(f"{self.path}: line {number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise RecipeError(f"{self.path}: line {number}: expected a mapping, one per line")
        return record


def local_path(folder: Path, name: Any, where: str) -> Path:
    """Return the file that a table means.

    Raises:
        RecipeError: An address, or no text.
    """
    if not isinstance(name, str):
        raise RecipeError(f"{where}: an image must be a path, not {type(name).__name__}; see --columns image=NAME")
    if "://" in name:
        raise RecipeError(f"{where}: '{name}' is an address; nothing is downloaded here: fetch the images first")
    return folder / name
