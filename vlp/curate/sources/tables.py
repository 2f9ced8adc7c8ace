"""Tables of text: CSV, TSV and JSON lines, with a column of image paths and one of captions."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vlp.curate.sources.columns import Columns
from vlp.curate.sources.delimited import has_columns, read_delimited, separator_of
from vlp.curate.sources.image_paths import NUMBER, find_folder, local_path
from vlp.curate.sources.rows import JSON_KEY, Row, Rows, caption_members, listed_units, sources
from vlp.curate.sources.spelled_lists import listed
from vlp.curate.sources.splits import chosen_splits, column_of_splits, count_splits
from vlp.data.pixels.decode import EXTENSIONS
from vlp.ground.randomness import hash64
from vlp.ground.types import RecipeError

DELIMITED = (".csv", ".tsv")
LINES = (".jsonl", ".ndjson")
JSON = ".json"
FIRST_ROWS = 10
NOTHING = {"nan", "-nan", "null", "none", "n/a", "na", "#n/a", "<na>"}
SUFFIXES = tuple(f".{extension}" for extension in EXTENSIONS)


@dataclass(frozen=True)
class TableRecord:
    """A row as it stands in its file, or what is wrong with it."""

    line: int
    values: Mapping[str, Any]
    fault: str = ""


@sources.register("table")
class Table:
    """Rows of a CSV, TSV, JSON or JSONL file; paths are relative to it, and rows of one image become one sample.

    Args:
        path: The file.
        columns: Names of the columns, where they are not the usual ones.
        encoding: Of a CSV or TSV, where it is neither UTF-8 nor UTF-16.
        split: Which rows of a table with a column `split`; several have `+` between them.

    Raises:
        RecipeError: Not such a file, no rows, no column for images or captions, or rows of several splits.
    """

    caption_keys = {"txt": 1.0, f"json.{JSON_KEY}": 1.0}

    rank: ClassVar[int] = 2

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Whether it is a table by its name, or a text whose first line names columns."""
        suffix = path.suffix.lower()
        return path.is_file() and (suffix in (*DELIMITED, *LINES, JSON) or (suffix == ".txt" and has_columns(path)))

    def __init__(self, path: Path, columns: Columns, *, encoding: str = "", split: str = ""):
        self.path = path
        self.encoding = encoding
        if encoding and path.suffix.lower() not in (*DELIMITED, ".txt"):
            raise RecipeError(f"--encoding {encoding}: {path} is no table of lines ({', '.join(DELIMITED)})")
        heads = list(islice((record for record in self._records() if not record.fault), FIRST_ROWS))
        if not heads:
            why = next((f" (line {record.line}: {record.fault})" for record in self._records()), "")
            raise RecipeError(f"{path}: no rows{why}")
        names = [name for name in self._names(heads[0]) if name]
        if any(map(is_image, names)):
            head = "path<TAB>caption" if separator_of(path, encoding) == "\t" else "path,caption"
            raise RecipeError(
                f"{path}: the first line names no columns ({', '.join(names)}): put one such as {head} above it"
            )
        self.image, self.caption = columns.image_of(names, str(path)), columns.caption_of(names, str(path))
        self.is_of_classes = columns.names_classes(self.caption)
        named_so = (head.values.get(self.image) for head in heads)
        told = [name for name in named_so if isinstance(name, str) and name and "://" not in name]
        self.is_numbered = bool(told) and all(NUMBER.search(name) for name in told)
        self.folder = find_folder(path.parent, [self._cut(name) for name in told])
        self._check_images(heads)
        self.split, self.wanted = self._find_splits(names, split)

    def units(self, size: int) -> Iterator[Rows]:
        """Yield the rows, `size` at a time."""
        return listed_units(self._rows(), size)

    def _names(self, first: TableRecord) -> Sequence[str]:
        """Return the names of the columns as they stand there, some perhaps twice."""
        if self.path.suffix.lower() in (*LINES, JSON):
            return tuple(first.values)
        return next(read_delimited(self.path, separator_of(self.path, self.encoding), self.encoding)).fields

    def _rows(self) -> Iterator[Row]:
        """Yield the rows; those of one image together, where the first of them stands."""
        together, told = self._together(), set[str]()
        for number, record in enumerate(self._records()):
            name = self._name(record)
            if not self._is_wanted(record) or (_is_name(name) and name in told):
                continue
            rows = together.pop(name, [record]) if _is_name(name) else [record]
            if len(rows) > 1:
                told.add(name)
            yield self._row(number, name, rows)

    def _row(self, number: int, name: Any, records: Sequence[TableRecord]) -> Row:
        first = records[0]
        said = f"line {first.line}"
        if first.fault:
            return Row(number, said, fault=("bad_row", f"{said}: {first.fault}"))
        texts = [listed(record.values.get(self.caption)) for record in records]
        caption = texts[0] if len(texts) == 1 else _merged(texts)
        if not self.is_of_classes:
            caption = [text for text in caption if not says_nothing(text)] if len(texts) > 1 else caption
        return row_of(number, self.folder, name, caption, said, num_rows=len(records), is_class=self.is_of_classes)

    def _name(self, record: TableRecord) -> Any:
        return self._cut(record.values.get(self.image))

    def _cut(self, name: Any) -> Any:
        return NUMBER.sub("", name) if self.is_numbered and isinstance(name, str) else name

    def _is_wanted(self, record: TableRecord) -> bool:
        return record.fault != "" or not self.split or str(record.values.get(self.split)) in self.wanted

    def _find_splits(self, names: Sequence[str], split: str) -> tuple[str, frozenset[str]]:
        """Return the column that names splits, and which of them are read; no column where there are none."""
        column = column_of_splits(names)
        values = (record.values.get(column) for record in self._records() if not record.fault)
        column, counts = count_splits(column, values)
        return column, chosen_splits(counts, split, self.path)

    def _together(self) -> dict[str, list[TableRecord]]:
        """Return the rows of each image that may have several; holds eight bytes of every other row meanwhile."""
        names = (self._name(record) for record in self._records() if self._is_wanted(record))
        hashes = np.fromiter((_hash(name) for name in names if _is_name(name)), np.uint64)
        values, counts = np.unique(hashes, return_counts=True)
        several = set(values[counts > 1].tolist())
        found: dict[str, list[TableRecord]] = {}
        for record in self._records() if several else ():
            name = self._name(record)
            if _is_name(name) and self._is_wanted(record) and _hash(name) in several:
                found.setdefault(name, []).append(record)
        return found

    def _check_images(self, heads: Sequence[TableRecord]) -> None:
        """Refuse a column as a whole whose first rows hold no paths."""
        mistakes: list[RecipeError] = []
        for record in heads:
            try:
                local_path(self.folder, self._name(record), f"{self.path}: line {record.line}")
            except RecipeError as error:
                mistakes.append(error)
            else:
                return
        raise mistakes[0]

    def _records(self) -> Iterator[TableRecord]:
        if self.path.suffix.lower() in LINES:
            yield from self._read_json_lines()
            return
        if self.path.suffix.lower() == JSON:
            yield from self._list
            return
        names: tuple[str, ...] = ()
        for line in read_delimited(self.path, separator_of(self.path, self.encoding), self.encoding):
            if not names:
                if line.fault:
                    way = "with line ends of Unix or Windows" if "new-line" in line.fault else "as UTF-8"
                    raise RecipeError(f"{self.path}: line {line.number}: {line.fault}; save the table {way}")
                names = line.fields
            else:
                yield TableRecord(line.number, dict(zip(names, line.fields, strict=False)), line.fault)

    @cached_property
    def _list(self) -> list[TableRecord]:
        """The rows of a JSON document, which is read whole."""
        return list(_read_json(self.path))

    def _read_json_lines(self) -> Iterator[TableRecord]:
        try:
            with self.path.open("rb") as file:
                for number, data in enumerate(file, 1):
                    if data.strip():
                        yield _parse(number, data)
        except OSError as error:
            raise RecipeError(f"{self.path}: {error.strerror}") from error


def is_image(text: str) -> bool:
    """Whether a text is the name of an image, with the number of its caption or without."""
    return NUMBER.sub("", text).lower().endswith(SUFFIXES)


def _read_json(path: Path) -> Iterator[TableRecord]:
    """Read a list of mappings, or COCO's or Karpathy's lists of images and sentences.

    Raises:
        RecipeError: Anything else.
    """
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path}: not JSON ({error})"[:500]) from error
    rows = _rows_of_images(content) if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise RecipeError(f"{path}: expected a list of mappings such as {{image: ..., caption: ...}}, or COCO's form")
    for number, row in enumerate(rows, 1):
        yield TableRecord(number, row) if isinstance(row, dict) else TableRecord(number, {}, "not a mapping")


def _rows_of_images(content: Mapping[str, Any]) -> Any:
    """Return rows of COCO's captions (images, annotations) or Karpathy's splits (images with sentences)."""
    images, notes = content.get("images"), content.get("annotations")
    if not isinstance(images, list) or not all(isinstance(image, dict) for image in images):
        return None
    if isinstance(notes, list):
        names = {image.get("id"): image.get("file_name") for image in images if _is_id(image.get("id"))}
        return [
            {"image": names.get(note["image_id"]), "caption": note.get("caption")}
            for note in notes
            if isinstance(note, dict) and _is_id(note.get("image_id"))
        ]
    return [
        {
            "image": "/".join(filter(None, (image.get("filepath"), image.get("filename")))),
            "caption": _sentences(image),
            **({"split": image["split"]} if "split" in image else {}),
        }
        for image in images
    ]


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str)


def _sentences(image: Mapping[str, Any]) -> list[Any]:
    told = image.get("sentences")
    return [each.get("raw") if isinstance(each, dict) else each for each in told] if isinstance(told, list) else []


def _parse(number: int, data: bytes) -> TableRecord:
    try:
        values = json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        return TableRecord(number, {}, f"not JSON ({error})"[:300])
    return TableRecord(number, values) if isinstance(values, dict) else TableRecord(number, {}, "not a mapping")


def _hash(name: str) -> int:
    return hash64(name.encode(errors="replace"))


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name != ""


def _merged(captions: Sequence[Any]) -> list[Any]:
    """Return the captions of all rows of an image, without those that say nothing."""
    listed = [text for each in captions for text in (each if isinstance(each, list) else [each])]
    return [text for text in listed if text is not None and text != ""]


def row_of(
    number: int,
    folder: Path,
    name: Any,
    caption: Any,
    where: str,
    *,
    data: bytes | None = None,
    num_rows: int = 1,
    is_class: bool = False,
) -> Row:
    """Return the row that names its image, or holds it; what is no path is a fault of the row.

    Args:
        folder: What paths are relative to.
        where: What the row is called without a name.
        is_class: Whether the caption is the name or the number of a class, which may be called `none`.
    """
    if not is_class and says_nothing(caption):
        said = f"{where}: '{caption}' is how programs write that there is no caption"
        return Row(number, str(name or where), fault=("missing_caption", said), num_rows=num_rows)
    try:
        image = None if name in (None, "") or data is not None else local_path(folder, name, where)
    except RecipeError as error:
        return Row(number, where, fault=("missing_image", str(error)), num_rows=num_rows)
    return Row(number, str(name or where), image, data, caption_members(caption), num_rows=num_rows)


def says_nothing(caption: Any) -> bool:
    """Whether a text is what pandas and others write where there is none."""
    return isinstance(caption, str) and caption.strip().lower() in NOTHING


def named(value: Any, classes: Sequence[str]) -> Any:
    """Return the name of a class where its number stands; leave anything else."""
    is_number = isinstance(value, int) and not isinstance(value, bool)
    return classes[value] if is_number and 0 <= value < len(classes) else value
