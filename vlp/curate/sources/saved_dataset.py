"""A Hugging Face dataset that `save_to_disk` wrote."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from vlp.curate.sources.columns import Columns
from vlp.curate.sources.image_paths import files_named
from vlp.curate.sources.parquet import encoded
from vlp.curate.sources.rows import JSON_KEY, Row, Rows, sources
from vlp.curate.sources.splits import chosen_splits, column_of_splits, count_splits
from vlp.curate.sources.tables import named, row_of
from vlp.ground.types import RecipeError

MARK, MARK_OF_SPLITS = "dataset_info.json", "dataset_dict.json"


@sources.register("saved_dataset")
class HubDataset:
    """Rows of a saved dataset.

    Args:
        path: The folder of one split.
        columns: Names of the columns, where they are not the usual ones.
        split: Which rows of a dataset with a column `split`; several have `+` between them.

    Raises:
        RecipeError: The package is missing, the folder or its rows are of several splits, or a column is missing.
    """

    caption_keys = {"txt": 1.0, f"json.{JSON_KEY}": 1.0}

    rank: ClassVar[int] = 0

    @classmethod
    def takes(cls, path: Path) -> bool:
        """Whether it is a folder of `save_to_disk`."""
        return (path / MARK_OF_SPLITS).is_file() or ((path / MARK).is_file() and any(path.glob("*.arrow")))

    def __init__(self, path: Path, columns: Columns, *, split: str = ""):
        if (path / MARK_OF_SPLITS).is_file():
            splits = sorted(entry.name for entry in path.iterdir() if entry.is_dir())
            raise RecipeError(
                f"{path}: several splits; pack one of them: {', '.join(str(path / name) for name in splits)}"
            )
        self.path = path
        data = _open(path)
        features = data.features
        column = column_of_splits(features)
        self.split, counts = count_splits(column, _values(data, column))
        self.wanted = tuple(sorted(chosen_splits(counts, split, path)))
        self.image, self.caption = columns.image_of(features, str(path)), columns.caption_of(features, str(path))
        self.classes = tuple(getattr(features[self.caption], "names", None) or ()) or None
        self.is_of_classes = self.classes is not None or columns.names_classes(self.caption)

    def units(self, size: int) -> Iterator[Rows]:
        """Yield the rows, `size` at a time."""
        num_rows = len(_open(self.path))
        for start in range(0, num_rows, size):
            yield HubRows(
                self.path, start, min(start + size, num_rows), self.image, self.caption, self.classes or (),
                self.split, self.wanted, self.is_of_classes,
            )  # fmt: skip


@dataclass(frozen=True)
class HubRows:
    """The rows `start` to `stop`, read where they are needed."""

    path: Path
    start: int
    stop: int
    image: str
    caption: str
    classes: tuple[str, ...] = ()
    split: str = ""
    wanted: tuple[str, ...] = ()
    is_of_classes: bool = False

    def __iter__(self) -> Iterator[Row]:
        data = _open(self.path, self.image)
        for number in range(self.start, self.stop):
            record: dict[str, Any] = data[number]
            if self.split and str(_name_of(data, self.split, record[self.split])) not in self.wanted:
                continue
            content, name = encoded(record[self.image])
            where = f"row {number + 1}"
            caption = named(record[self.caption], self.classes)
            yield row_of(number, self.path, name, caption, where, data=content, is_class=self.is_of_classes)

    def fingerprint(self) -> str:
        """Return a checksum of the range, and of sizes and times of the files and of the images that rows name."""
        files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(self.path.iterdir())]
        images = list(files_named(self.path, self._names()))
        known = repr((self, files, *([images] if images else ())))
        return hashlib.sha256(known.encode(errors="surrogateescape")).hexdigest()

    def _names(self) -> Iterator[str]:
        """Yield what rows call images that they do not hold."""
        import pyarrow as pa

        column = _open(self.path, self.image).with_format("arrow")[self.start : self.stop][self.image]
        for chunk in column.chunks:
            if pa.types.is_struct(chunk.type):
                is_held = chunk.field("bytes").is_valid()
                yield from chunk.field("path").filter(pa.compute.invert(is_held)).to_pylist()
            elif pa.types.is_string(chunk.type):
                yield from chunk.to_pylist()


def _values(data: Any, column: str) -> Iterator[Any]:
    yield from (_name_of(data, column, value) for value in (data[column] if column else ()))


def _name_of(data: Any, column: str, value: Any) -> Any:
    """Return what stands in a cell, by its name where the column has names for its numbers."""
    return named(value, getattr(data.features[column], "names", None) or ())


def _open(path: Path, image: str = "") -> Any:
    try:
        from datasets import Image, load_from_disk
    except ImportError as error:
        raise RecipeError(
            f"{path}: a dataset of Hugging Face's save_to_disk needs their package: pip install datasets; "
            "or save it with to_parquet and pack that"
        ) from error
    try:
        data = load_from_disk(str(path))
    except (OSError, ValueError, KeyError) as error:
        raise RecipeError(f"{path}: not a whole dataset ({error})") from error
    is_decoded = image and isinstance(data.features[image], Image)
    return data.cast_column(image, Image(decode=False)) if is_decoded else data
