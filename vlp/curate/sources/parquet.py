"""Parquet files: image paths, or the encoded images themselves (plain, or as Hugging Face stores them)."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vlp.curate.sources.columns import Columns
from vlp.curate.sources.configurations import of_configuration
from vlp.curate.sources.folders import holds_images
from vlp.curate.sources.image_paths import files_named
from vlp.curate.sources.rows import JSON_KEY, Row, Rows, sources
from vlp.curate.sources.splits import chosen_splits, column_of_splits, count_splits, split_of_file
from vlp.curate.sources.tables import named, row_of
from vlp.ground.errors import first_line
from vlp.ground.paths import is_hidden
from vlp.ground.types import RecipeError

SUFFIX = ".parquet"
BATCH = 64  # rows in memory at once: pixels may be among them


@sources.register("parquet")
class Parquet:
    """Rows of a parquet file, or of all those in a folder in order of their names.

    Args:
        path: The file or the folder; all files have the columns of the first.
        columns: Names of the columns, where they are not the usual ones.
        split: Which split of a folder with several, or which rows where a column `split` names splits; they are never
            mixed unasked.
        configuration: Which configuration of a clone of the hub with several; they are never joined unasked.

    Raises:
        RecipeError: pyarrow is missing, a file is broken, or there is no column for images or captions.
    """

    caption_keys = {"txt": 1.0, f"json.{JSON_KEY}": 1.0}

    rank: ClassVar[int] = 1

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Whether it is such a file, or a folder with some and with no image beside them."""
        if path.is_file():
            return path.suffix.lower() == SUFFIX
        return not any(path.glob("*.tar")) and not holds_images(path) and bool(files_in(path))

    def __init__(self, path: Path, columns: Columns, *, split: str = "", configuration: str = ""):
        if configuration and path.is_file():
            raise RecipeError(f"--configuration {configuration}: {path} is one file; name a folder of parquet files")
        paths = [path] if path.is_file() else of_configuration(path, files_in(path), configuration)
        self.split, counts, numbers = _rows_of_splits(paths)
        chosen = chosen_splits(counts, split, path) if self.split else frozenset[str]()
        self.wanted = tuple(sorted({numbers.get(name, name) for name in chosen}))
        if not self.split and split and path.is_file():
            raise RecipeError(f"--split {split}: {path} has no splits; name a folder of parquet files")
        if not self.split and not path.is_file():
            paths = _of_split(path, paths, split)
        first = paths[0]
        schema = _open(first).schema_arrow
        names = schema.names
        self.image, self.caption = columns.image_of(names, str(first)), columns.caption_of(names, str(first))
        self.classes = _class_names(schema.metadata or {}, self.caption) or None
        self.is_of_classes = self.classes is not None or columns.names_classes(self.caption)
        self.files = [(path, self._count(path, first)) for path in paths]

    def _count(self, path: Path, first: Path) -> int:
        """Return the rows of a file.

        Raises:
            RecipeError: It has other columns than the first, or other names of classes.
        """
        file = _open(path)
        missing = sorted({self.image, self.caption, self.split} - {"", *file.schema_arrow.names})
        if missing:
            raise RecipeError(
                f"{path}: no column {', '.join(missing)}, which {first} has: pack files apart that are no parts of one "
                "data set"
            )
        if (_class_names(file.schema_arrow.metadata or {}, self.caption) or None) != self.classes:
            raise RecipeError(f"{path}: other names of classes than in {first}: pack the two apart")
        return int(file.metadata.num_rows)

    def units(self, size: int) -> Iterator[Rows]:
        """Yield the rows, at most `size` at a time; no unit spans two files."""
        before = 0
        for path, num_rows in self.files:
            for start in range(0, num_rows, size):
                stop = min(start + size, num_rows)
                yield ParquetRows(
                    path, start, stop, before + start, self.image, self.caption, self.classes or (),
                    self.split, self.wanted, self.is_of_classes,
                )  # fmt: skip
            before += num_rows


def files_in(folder: Path) -> list[Path]:
    """Return the parquet files of a folder, or of the folders below it."""
    found = [path for path in folder.rglob(f"*{SUFFIX}") if not is_hidden(path.relative_to(folder))]
    return sorted(path for path in found if path.parent == folder) or sorted(found)


def _of_split(path: Path, parts: Sequence[Path], split: str) -> list[Path]:
    """Return the files of one split, by their names and those of their folders; splits are never mixed unasked."""
    splits: dict[str, list[Path]] = {}
    for part in parts:
        splits.setdefault(split_of_file(part.relative_to(path)), []).append(part)
    if split and split not in splits:
        raise RecipeError(f"--split {split}: {path} has no such split (known: {', '.join(filter(None, splits))})")
    if len(splits) > 1 and not split:
        known = ", ".join(f"{name or 'other files'} ({len(files)})" for name, files in splits.items())
        raise RecipeError(f"{path}: several splits: {known}; choose one with --split NAME")
    return splits[split] if split else list(parts)


def _rows_of_splits(paths: Sequence[Path]) -> tuple[str, Counter[str], dict[str, str]]:
    """Return the column that names splits, the rows of each, and the numbers that stand for names.

    All are empty where no value is called as splits are.
    """
    schema = _open(paths[0]).schema_arrow
    column = column_of_splits(schema.names)
    names = _class_names(schema.metadata or {}, column)
    values = (named(value, names) for path in paths for value in _values(path, column))
    return *count_splits(column, values), {name: str(number) for number, name in enumerate(names)}


def _values(path: Path, column: str) -> Iterator[Any]:
    """Yield what stands in a column, up to where a file is damaged: its rows say so when they are read."""
    with contextlib.suppress(Exception):  # pyarrow raises its own, OSError and ValueError over damaged bytes
        for batch in _open(path).iter_batches(BATCH, columns=[column], use_threads=False):
            yield from batch.column(0).to_pylist()


@dataclass(frozen=True)
class ParquetRows:
    """The rows `start` to `stop` of a file, read where they are needed."""

    path: Path
    start: int
    stop: int
    number: int
    image: str
    caption: str
    classes: tuple[str, ...] = ()
    split: str = ""
    wanted: tuple[str, ...] = ()
    is_of_classes: bool = False

    def __iter__(self) -> Iterator[Row]:
        for place, record in enumerate(self._records()):
            number, where = self.number + place, f"{self.path.name}: row {self.start + place + 1}"
            if isinstance(record, str):
                yield Row(number, where, fault=("bad_row", f"{where}: {record}"))
                continue
            if self.split and str(record[self.split]) not in self.wanted:
                continue
            data, name = encoded(record[self.image])
            caption = named(record[self.caption], self.classes)
            yield row_of(number, self.path.parent, name, caption, where, data=data, is_class=self.is_of_classes)

    def fingerprint(self) -> str:
        """Return a checksum of the range, and of sizes and times of the file and of the images that it names."""
        status = self.path.stat()
        files = list(files_named(self.path.parent, self._names()))
        identity = repr((self, status.st_size, status.st_mtime_ns, *([files] if files else ())))
        return hashlib.sha256(identity.encode(errors="surrogateescape")).hexdigest()

    def _names(self) -> Iterator[str]:
        """Yield what rows call their images, without those of groups of rows that hold all of theirs."""
        file = _open(self.path)
        leaves = {column.path: place for place, column in enumerate(map(file.schema.column, range(len(file.schema))))}
        name, data = f"{self.image}.path", leaves.get(f"{self.image}.bytes")
        column = name if name in leaves else self.image
        if data is None and (column not in leaves or file.schema.column(leaves[column]).logical_type.type != "STRING"):
            return
        for group, low, high in self._groups(file):
            held = None if data is None else file.metadata.row_group(group).column(data).statistics
            if held is None or not held.has_null_count or held.null_count:
                records = self._read_group(file, group, low, high, [column])
                yield from (encoded(record[self.image])[1] for record in records if not isinstance(record, str))

    def _records(self) -> Iterator[dict[str, Any] | str]:
        """Yield the rows, and why one cannot be read: a damaged group of rows costs those behind the damage in it."""
        file, columns = _open(self.path), sorted({self.image, self.caption, self.split} - {""})
        for group, low, high in self._groups(file):
            yield from self._read_group(file, group, low, high, columns)

    def _groups(self, file: Any) -> Iterator[tuple[int, int, int]]:
        """Yield each group of rows with rows of the range, and which of its own those are."""
        end = 0
        for group in range(file.num_row_groups):
            begin, end = end, end + file.metadata.row_group(group).num_rows
            low, high = max(self.start, begin), min(self.stop, end)
            if low < high:
                yield group, low - begin, high - begin

    def _read_group(
        self, file: Any, group: int, low: int, high: int, columns: Sequence[str]
    ) -> Iterator[dict[str, Any] | str]:
        place = given = 0
        why = "the file ends before it"
        try:
            for batch in file.iter_batches(BATCH, [group], columns, use_threads=False):
                first, last = max(low - place, 0), min(high - place, len(batch))
                rows = batch.slice(first, last - first).to_pylist() if first < last else []
                given += len(rows)
                yield from rows
                place += len(batch)
        except Exception as error:  # pyarrow raises its own, OSError and ValueError over damaged bytes
            why = first_line(error)
        yield from [f"the parquet file is damaged ({why})"] * (high - low - given)


def _class_names(metadata: Mapping[bytes, bytes], column: str) -> tuple[str, ...]:
    """Return the names of classes that Hugging Face keeps in the schema, by number; none for other columns."""
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()


def encoded(value: Any) -> tuple[bytes | None, str]:
    """Return the bytes and the name in a cell: a path, bytes, or Hugging Face's pair of both."""
    if isinstance(value, dict):
        return value.get("bytes"), str(value.get("path") or "")
    if isinstance(value, bytes):
        return value, ""
    return None, value or ""


def _open(path: Path) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise RecipeError(f"{path}: parquet needs pyarrow: pip install 'vlp[data]'") from error
    try:
        return ParquetFile(path)
    except (OSError, ValueError, ArrowException) as error:  # names of columns that are no UTF-8, too
        raise RecipeError(f"{path}: not a whole parquet file ({error})") from error
