"""Which reader a source needs."""

from __future__ import annotations

from pathlib import Path

from vlp.curate.columns import Columns
from vlp.curate.folders import Folder, walk
from vlp.curate.hub import MARK, MARK_OF_SPLITS, HubDataset
from vlp.curate.parquet import Parquet
from vlp.curate.rows import Source
from vlp.curate.tables import DELIMITED, LINES, Table
from vlp.types import RecipeError

TABLES = (*DELIMITED, *LINES, ".parquet")


def open_source(path: Path, columns: Columns) -> Source:
    """Return the reader of a folder, a table or a saved dataset.

    Raises:
        RecipeError: No such source, or none that can be packed; says what can.
    """
    path = path.expanduser()
    if path.is_dir():
        return _open_folder(path, columns)
    if not path.exists():
        raise RecipeError(f"no file or folder '{path}'")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return Parquet([path], columns)
    if suffix in TABLES:
        return Table(path, columns)
    if suffix == ".tar" or path.name.endswith((".tar.gz", ".tgz")):
        raise RecipeError(f"{path}: a shard already; write a card for it (docs/add-a-dataset.md)")
    raise RecipeError(f"{path}: expected a folder of images or a table ({', '.join(TABLES)})")


def _open_folder(path: Path, columns: Columns) -> Source:
    if (path / MARK_OF_SPLITS).is_file() or ((path / MARK).is_file() and any(path.glob("*.arrow"))):
        return HubDataset(path, columns)
    parts = sorted(path.glob("*.parquet"))
    if parts and next(walk(path), None) is None:
        return Parquet(parts, columns)
    if any(path.glob("*.tar")) and next(walk(path), None) is None:
        raise RecipeError(f"{path}: shards already; write a card for them (docs/add-a-dataset.md)")
    return Folder(path, columns)
