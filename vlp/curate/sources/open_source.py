"""Which reader a source needs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from vlp.curate.sources.columns import Columns
from vlp.curate.sources.delimited import check_encoding
from vlp.curate.sources.folders import Folder, walk
from vlp.curate.sources.parquet import Parquet
from vlp.curate.sources.rows import Source
from vlp.curate.sources.saved_dataset import MARK, MARK_OF_SPLITS, HubDataset
from vlp.curate.sources.tables import DELIMITED, JSON, LINES, Table, is_table
from vlp.ground.types import RecipeError

TABLES = (*DELIMITED, *LINES, JSON, ".parquet")
SPLIT = re.compile(r"(.+?)(-\d+-of-\d+)?\.parquet")


def open_source(path: Path, columns: Columns, split: str = "", encoding: str = "") -> Source:
    """Return the reader of a folder, a table or a saved dataset.

    Args:
        split: Which split of a dataset with several.
        encoding: Of a CSV or TSV, where it is neither UTF-8 nor UTF-16.

    Raises:
        RecipeError: No such source, or none that can be packed; says what can.
    """
    path, encoding = path.expanduser(), check_encoding(encoding)
    if encoding and (path.is_dir() or path.suffix.lower() not in (*DELIMITED, ".txt")):
        raise RecipeError(f"--encoding {encoding}: {path} is no table of lines ({', '.join(DELIMITED)})")
    source = _open_folder(path, columns, split) if path.is_dir() else None
    if split and not isinstance(source, Parquet):
        raise RecipeError(f"--split {split}: {path} has no splits; name a folder of parquet files")
    if source is not None:
        return source
    if not path.exists():
        raise RecipeError(f"no file or folder '{path}'")
    if not path.is_file():
        raise RecipeError(f"{path}: neither a file nor a folder")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return Parquet([path], columns)
    if is_table(path):
        return Table(path, columns, encoding)
    if suffix == ".tar" or path.name.endswith((".tar.gz", ".tgz")):
        raise RecipeError(f"{path}: a shard already; write a card for it (docs/add-a-dataset.md)")
    raise RecipeError(f"{path}: expected a folder of images or a table ({', '.join(TABLES)})")


def _open_folder(path: Path, columns: Columns, split: str) -> Source:
    if (path / MARK_OF_SPLITS).is_file() or ((path / MARK).is_file() and any(path.glob("*.arrow"))):
        return HubDataset(path, columns)
    has_images = next(walk(path), None) is not None
    if any(path.glob("*.tar")) and not has_images:
        raise RecipeError(
            f"{path}: shards already (img2dataset writes them so); they need a card alone, {path.name}.yaml:\n"
            f"  name: {path.name}\n  shards: {path}/*.tar\n  captions: {{txt: 1.0}}"
        )
    parts = sorted(path.glob("*.parquet")) or sorted(path.rglob("*.parquet"))
    if parts and not has_images:
        return Parquet(_of_split(path, parts, split), columns)
    return Folder(path, columns)


def _of_split(path: Path, parts: Sequence[Path], split: str) -> list[Path]:
    """Return the files of one split, by the names that the hub gives them; splits are never mixed unasked."""
    splits: dict[str, list[Path]] = {}
    for part in parts:
        found = SPLIT.fullmatch(part.name)
        name = found[1] if found and found[2] else ""
        splits.setdefault(name, []).append(part)
    if split and split not in splits:
        raise RecipeError(f"--split {split}: {path} has no such split (known: {', '.join(filter(None, splits))})")
    if len(splits) > 1 and not split:
        known = ", ".join(f"{name or 'other files'} ({len(files)})" for name, files in splits.items())
        raise RecipeError(f"{path}: several splits: {known}; choose one with --split NAME")
    return splits[split] if split else list(parts)
